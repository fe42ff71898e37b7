"""Owns the routes of the pages, their files and the OpenAPI document, and the choice of their language.

Everything is rendered once per process, from the descriptors and the templates. It knows no single RPC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import orjson
from google.protobuf.descriptor import FileDescriptor
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import openapi
from gateway.config import Address
from gateway.errors import ApiError
from gateway.languages import ENGLISH, LANGUAGES, Language
from gateway.routes import BASES
from gateway.web.documents import FOREVER, SECURITY_HEADERS, Document
from gateway.web.reference import Reference, markdown

LANGUAGE_NAME = "lang"
_REMEMBER = f"Path=/; Max-Age={365 * 86400}; SameSite=Lax"
_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class _Site:
    """All pages, files and documents, ready to be sent."""

    version: str
    """The hash of the static files, which is part of their addresses."""
    static: Mapping[str, Document]
    documents: Mapping[str, Document]
    """The OpenAPI document by language."""
    pages: Mapping[str, Mapping[str, Document]]
    """The pages by path and language."""


def page_routes(files: Sequence[FileDescriptor], daemon_server: Address) -> list[Route]:
    """The routes of the pages, their files and the OpenAPI document.

    ``daemon_server`` is the server as daemons reach it; without a host, it is on the host of the page.
    """
    site = _draw(tuple(files), daemon_server)
    return [
        Route("/openapi.json", _openapi(site.documents)),
        Route("/static/{version}/{name}", _static(site.version, site.static)),
        *(Route(path, _page(path, versions)) for path, versions in site.pages.items()),
    ]


@cache
def _draw(files: tuple[FileDescriptor, ...], daemon_server: Address) -> _Site:
    """Renders the site once per process, which takes 0.3 s of CPU."""
    version, static = _static_files()
    apis = {code: openapi.document(files, language) for code, language in LANGUAGES.items()}
    draw = _Templates(f"/static/{version}")
    return _Site(
        version,
        static,
        documents={code: Document(orjson.dumps(api), "application/json") for code, api in apis.items()},
        pages={
            "/": {
                code: draw("home", language, daemon_server=daemon_server)
                for code, language in LANGUAGES.items()
            },
            "/docs": {
                code: draw("docs", language, reference=Reference(apis[code], language))
                for code, language in LANGUAGES.items()
            },
        },
    )


def _openapi(documents: Mapping[str, Document]) -> Endpoint:
    async def openapi_json(request: Request) -> Response:
        code = request.query_params.get(LANGUAGE_NAME, ENGLISH.code)
        return documents.get(code, documents[ENGLISH.code]).answer(request)

    return openapi_json


def _page(path: str, versions: Mapping[str, Document]) -> Endpoint:
    async def page(request: Request) -> Response:
        headers = {"vary": "accept-encoding, accept-language, cookie"}
        requested = request.query_params.get(LANGUAGE_NAME, "")
        if requested in versions:
            headers["set-cookie"] = f"{LANGUAGE_NAME}={requested}; {_REMEMBER}"
        return versions[choose_language(request).code].answer(request, headers)

    page.__name__ = path.strip("/") or "home"
    return page


def _static(version: str, files: Mapping[str, Document]) -> Endpoint:
    async def static(request: Request) -> Response:
        found = files.get(request.path_params["name"])
        if found is None or request.path_params["version"] != version:
            raise ApiError("ROUTE_NOT_FOUND", "There is no such file; reload the page that refers to it.")
        return found.answer(request)

    return static


def choose_language(request: Request) -> Language:
    """The language of the query, else of the cookie, else of the browser, else English."""
    wanted = [request.query_params.get(LANGUAGE_NAME, ""), request.cookies.get(LANGUAGE_NAME, "")]
    for item in request.headers.get("accept-language", "").split(","):
        wanted.append(item.split(";")[0].strip().split("-")[0].lower())
    return next((LANGUAGES[code] for code in wanted if code in LANGUAGES), ENGLISH)


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
