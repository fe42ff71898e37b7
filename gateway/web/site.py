"""Owns what the pages, their files and the OpenAPI documents contain, drawn from descriptors and templates.

It takes some time to load and to draw, so `pages` does both when the first of them is requested. It knows
neither requests nor a single RPC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import orjson
from google.protobuf.descriptor import FileDescriptor
from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway import openapi
from gateway.config import Address
from gateway.dialects.table import DIALECTS
from gateway.languages import ENGLISH, LANGUAGES, Language
from gateway.routes import BASES
from gateway.web.documents import FOREVER, SECURITY_HEADERS, Document
from gateway.web.reference import Reference, markdown

_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Site:
    """All pages, files and documents, ready to be sent."""

    version: str
    """The hash of the static files, which is part of their addresses."""
    static: Mapping[str, Document]
    documents: Mapping[str, Document]
    """The OpenAPI document by language."""
    pages: Mapping[str, Mapping[str, Document]]
    """The pages by path and language."""
    guide: Document
    """What the API is, for language models."""


@cache
def draw(files: tuple[FileDescriptor, ...], daemon_server: Address) -> Site:
    """Renders the site once per process, which takes 0.3 s of CPU."""
    version, static = _static_files()
    apis = {code: openapi.document(files, language) for code, language in LANGUAGES.items()}
    page = _Templates(f"/static/{version}")
    return Site(
        version,
        static,
        documents={code: Document(orjson.dumps(api), "application/json") for code, api in apis.items()},
        pages={
            "/": {
                code: page("home", language, daemon_server=daemon_server)
                for code, language in LANGUAGES.items()
            },
            "/docs": {
                code: page("docs", language, reference=Reference(apis[code], language))
                for code, language in LANGUAGES.items()
            },
        },
        guide=page.guide(apis[ENGLISH.code]),
    )


def _static_files() -> tuple[str, dict[str, Document]]:
    """The static files by name, and a hash of all, which is part of their addresses."""
    folder = resources.files("gateway.web") / "static"
    bodies = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    digest = hashlib.sha256()
    for name in sorted(bodies):
        digest.update(name.encode() + b"\0" + bodies[name] + b"\0")
    types = {name: _MEDIA_TYPES[name.rsplit(".", 1)[-1]] for name in bodies}
    return digest.hexdigest()[:16], {
        name: Document(body, types[name], FOREVER) for name, body in bodies.items()
    }


class _Templates:
    """Renders a page in a language."""

    def __init__(self, static: str) -> None:
        self._static = static
        self._jinja = Environment(
            loader=PackageLoader("gateway.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._jinja.filters["markdown"] = markdown

    def __call__(self, name: str, language: Language, **values: object) -> Document:
        template = self._jinja.get_template(f"{name}.html")
        text = template.render(
            _=language.say,
            bases=BASES,
            language=language,
            languages=LANGUAGES.values(),
            page=name,
            static=self._static,
            **values,
        )
        return Document(text.encode(), "text/html; charset=utf-8", headers=SECURITY_HEADERS)

    def guide(self, api: openapi.Json) -> Document:
        """The page for language models, in the form of llmstxt.org."""
        text = self._jinja.get_template("llms.txt").render(api=api, doors=DIALECTS)
        return Document(text.encode(), "text/plain; charset=utf-8", headers=SECURITY_HEADERS)
