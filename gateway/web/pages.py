"""Owns the routes of the pages, their files and the OpenAPI document, and the choice of their language.

`site` draws each of them once per process, when it is requested first. It knows no single RPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from google.protobuf.descriptor import FileDescriptor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.config import Address
from gateway.errors import ApiError
from gateway.languages import ENGLISH, LANGUAGES, Language

if TYPE_CHECKING:
    from gateway.web.documents import Document
    from gateway.web.site import Site

LANGUAGE_NAME = "lang"
_REMEMBER = f"Path=/; Max-Age={365 * 86400}; SameSite=Lax"
PATHS = ("/", "/docs", "/log-in", "/invitation", "/renter", "/provider", "/operator")
"""The pages."""
_JSON = ("/openapi.json", "/docs/search.json", "/docs/form.json")

Endpoint = Callable[[Request], Awaitable[Response]]


def page_routes(files: Sequence[FileDescriptor], daemon_server: Address) -> list[Route]:
    """The routes of the pages, their files and the OpenAPI document.

    ``daemon_server`` is the server as daemons reach it; without a host, it is on the host of the page.
    """
    drawn = _Drawn(tuple(files), daemon_server)
    return [
        *(Route(path, _for_programs(path, drawn)) for path in _JSON),
        Route("/llms.txt", _for_programs("/llms.txt", drawn)),
        Route("/static/{version}/{name}", _static(drawn)),
        *(Route(path, _page(path, drawn)) for path in PATHS),
        Route("/docs/{place:path}", _part_of_docs(drawn)),
    ]


class _Drawn:
    """The site, of which each part is drawn when it is needed first, in a thread and one at a time."""

    def __init__(self, files: tuple[FileDescriptor, ...], daemon_server: Address) -> None:
        self._files = files
        self._daemon_server = daemon_server
        self._site: Site | None = None
        self._drawing = asyncio.Lock()

    async def site(self) -> Site:
        """The site."""
        if self._site is None:
            async with self._drawing:
                self._site = await asyncio.to_thread(self._load)
        return self._site

    async def document(self, path: str, code: str) -> Document | None:
        """What is at a path in a language; None if nothing is."""
        site = await self.site()
        if site.is_ready(path, code):
            return site.document(path, code)
        async with self._drawing:
            return await asyncio.to_thread(site.document, path, code)

    def _load(self) -> Site:
        from gateway.web.site import site

        return site(self._files, self._daemon_server)


def _for_programs(path: str, drawn: _Drawn) -> Endpoint:
    async def for_programs(request: Request) -> Response:
        code = request.query_params.get(LANGUAGE_NAME, ENGLISH.code)
        is_known = code in LANGUAGES and path in _JSON
        document = await drawn.document(path, code if is_known else ENGLISH.code)
        if document is None:
            raise _no_page()
        return document.answer(request)

    for_programs.__name__ = path.strip("/")
    return for_programs


def _page(path: str, drawn: _Drawn) -> Endpoint:
    async def page(request: Request) -> Response:
        return await _in_language(path, drawn, request)

    page.__name__ = path.strip("/") or "home"
    return page


def _part_of_docs(drawn: _Drawn) -> Endpoint:
    async def part_of_docs(request: Request) -> Response:
        return await _in_language("/docs/" + request.path_params["place"], drawn, request)

    return part_of_docs


async def _in_language(path: str, drawn: _Drawn, request: Request) -> Response:
    document = await drawn.document(path, choose_language(request).code)
    if document is None:
        raise _no_page()
    headers = {"vary": "accept-encoding, accept-language, cookie"}
    requested = request.query_params.get(LANGUAGE_NAME, "")
    if requested in LANGUAGES:
        headers["set-cookie"] = f"{LANGUAGE_NAME}={requested}; {_REMEMBER}"
    return document.answer(request, headers)


def _no_page() -> ApiError:
    return ApiError("ROUTE_NOT_FOUND", "There is no such page; /docs lists all.")


def _static(drawn: _Drawn) -> Endpoint:
    async def static(request: Request) -> Response:
        site = await drawn.site()
        found = site.static.get(request.path_params["name"])
        if found is None or request.path_params["version"] != site.version:
            raise ApiError("ROUTE_NOT_FOUND", "There is no such file; reload the page that refers to it.")
        return found.answer(request)

    return static


def choose_language(request: Request) -> Language:
    """The language of the query, else of the cookie, else of the browser, else English."""
    wanted = [request.query_params.get(LANGUAGE_NAME, ""), request.cookies.get(LANGUAGE_NAME, "")]
    for item in request.headers.get("accept-language", "").split(","):
        wanted.append(item.split(";")[0].strip().split("-")[0].lower())
    return next((LANGUAGES[code] for code in wanted if code in LANGUAGES), ENGLISH)
