"""Owns what the pages, their files and the OpenAPI documents contain, drawn from descriptors and templates.

It takes time to load and to draw, so `pages` does both when they are requested. It knows no requests and no
single RPC.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import resources

import orjson
from google.protobuf.descriptor import FileDescriptor
from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway import openapi
from gateway.config import Address
from gateway.dialects.table import DIALECTS
from gateway.languages import LANGUAGES, Language
from gateway.routes import BASES
from gateway.web.code import coloured
from gateway.web.documents import FOREVER, SECURITY_HEADERS, Document
from gateway.web.doors import doors
from gateway.web.finding import index
from gateway.web.forms import form_document
from gateway.web.guides import guides
from gateway.web.pages import PATHS
from gateway.web.reference import Reference, markdown

_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}
_IMPORT = re.compile(r'^import .* from "\./([^"]+)";', re.MULTILINE)


class Site:
    """All pages, files and documents. Each is drawn when it is asked for first, and kept."""

    def __init__(self, files: tuple[FileDescriptor, ...], daemon_server: Address) -> None:
        self._files = files
        self.version, self.static = _static_files()
        """The hash of the static files, which is part of their addresses; the files by name."""
        self._template = _Templates(f"/static/{self.version}")
        self._daemon_server = daemon_server
        self._apis: dict[str, openapi.Json] = {}
        self._references: dict[str, Reference] = {}
        self._drawn: dict[tuple[str, str], Document | None] = {}

    def document(self, path: str, code: str) -> Document | None:
        """What is at a path in a language, or None. The first time takes up to a second of CPU."""
        key = (path, code)
        if key not in self._drawn:
            document = self._draw(path, LANGUAGES[code])
            if document is None:
                return None  # paths that are not there are not remembered: anybody can make them up
            self._drawn[key] = document
        return self._drawn[key]

    def is_ready(self, path: str, code: str) -> bool:
        """Whether it is there already."""
        return (path, code) in self._drawn

    def _draw(self, path: str, language: Language) -> Document | None:
        if path in PATHS and path != "/docs":
            name = path.strip("/") or "home"
            return self._template(name, language, daemon_server=self._daemon_server)
        match path:
            case "/openapi.json":
                return _json(self._api(language))
            case "/llms.txt":
                return self._template.guide(self._api(language))
            case "/docs/search.json":
                return _json(index(self._reference(language), language))
            case "/docs/form.json":
                return _json(form_document(self._api(language)))
            case _:
                return self._page_of_docs(path, language)

    def _page_of_docs(self, path: str, language: Language) -> Document | None:
        reference, known = self._reference(language), guides(language.code)
        values: dict[str, object] = {"reference": reference, "guides": known, "path": path, "page": "docs"}
        if path.endswith("/"):
            return None
        name = path.removeprefix("/docs").removeprefix("/")
        if name in ("", "inference"):
            template = "docs-inference" if name else "docs"
            return self._template(template, language, doors=tuple(doors()), **values)
        if name in ("events", "errors", "objects"):
            return self._template(f"docs-{name}", language, **values)
        for guide in known:
            if path == guide.path:
                return self._template("docs-guide", language, guide=guide, **values)
        for group in reference.groups:
            if path == group.path:
                return self._template("docs-group", language, group=group, **values)
        return None

    def _api(self, language: Language) -> openapi.Json:
        if language.code not in self._apis:
            self._apis[language.code] = openapi.document(self._files, language)
        return self._apis[language.code]

    def _reference(self, language: Language) -> Reference:
        if language.code not in self._references:
            self._references[language.code] = Reference(self._api(language), language)
        return self._references[language.code]


@cache
def site(files: tuple[FileDescriptor, ...], daemon_server: Address) -> Site:
    """The site of this process."""
    return Site(files, daemon_server)


def _json(value: object) -> Document:
    return Document(orjson.dumps(value), "application/json")


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


def _modules(page: str) -> list[str]:
    """The modules that a page's script needs, so that the page can ask for all at once."""
    folder, found = resources.files("gateway.web") / "static", [f"{page}.js"]
    for module in found:  # grows meanwhile
        needed = _IMPORT.findall((folder / module).read_text("utf-8"))
        found += [each for each in dict.fromkeys(needed) if each not in found]
    return found[1:]


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
        self._jinja.filters["coloured"] = coloured
        self._jinja.globals["modules"] = _modules

    def __call__(self, name: str, language: Language, **values: object) -> Document:
        template = self._jinja.get_template(f"{name}.html")
        text = template.render(
            _=language.say,
            bases=BASES,
            language=language,
            languages=LANGUAGES.values(),
            static=self._static,
            **{"page": name, **values},
        )
        return Document(text.encode(), "text/html; charset=utf-8", headers=SECURITY_HEADERS)

    def guide(self, api: openapi.Json) -> Document:
        """The page for language models, in the form of llmstxt.org."""
        text = self._jinja.get_template("llms.txt").render(api=api, doors=DIALECTS)
        return Document(text.encode(), "text/plain; charset=utf-8", headers=SECURITY_HEADERS)
