"""Owns the routes of the pages, their files and the OpenAPI document, and the choice of their language.

`site` draws all of them once per process, when the first is requested. It knows no single RPC.
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
    from gateway.web.site import Site

LANGUAGE_NAME = "lang"
_REMEMBER = f"Path=/; Max-Age={365 * 86400}; SameSite=Lax"
PATHS = ("/", "/docs")
"""The pages."""

Endpoint = Callable[[Request], Awaitable[Response]]


def page_routes(files: Sequence[FileDescriptor], daemon_server: Address) -> list[Route]:
    """The routes of the pages, their files and the OpenAPI document.

    ``daemon_server`` is the server as daemons reach it; without a host, it is on the host of the page.
    """
    drawn = _Drawn(tuple(files), daemon_server)
    return [
        Route("/openapi.json", _openapi(drawn)),
        Route("/llms.txt", _guide(drawn)),
        Route("/static/{version}/{name}", _static(drawn)),
        *(Route(path, _page(path, drawn)) for path in PATHS),
    ]


class _Drawn:
    """The site, which is drawn when it is needed first, in a thread: that takes half a second of CPU."""

    def __init__(self, files: tuple[FileDescriptor, ...], daemon_server: Address) -> None:
        self._files = files
        self._daemon_server = daemon_server
        self._site: Site | None = None
        self._drawing = asyncio.Lock()

    async def site(self) -> Site:
        """The site."""
        async with self._drawing:
            if self._site is None:
                self._site = await asyncio.to_thread(self._draw)
            return self._site

    def _draw(self) -> Site:
        from gateway.web.site import draw

        return draw(self._files, self._daemon_server)


def _openapi(drawn: _Drawn) -> Endpoint:
    async def openapi_json(request: Request) -> Response:
        documents = (await drawn.site()).documents
        code = request.query_params.get(LANGUAGE_NAME, ENGLISH.code)
        return documents.get(code, documents[ENGLISH.code]).answer(request)

    return openapi_json


def _guide(drawn: _Drawn) -> Endpoint:
    async def llms_txt(request: Request) -> Response:
        return (await drawn.site()).guide.answer(request)

    return llms_txt


def _page(path: str, drawn: _Drawn) -> Endpoint:
    async def page(request: Request) -> Response:
        versions = (await drawn.site()).pages[path]
        headers = {"vary": "accept-encoding, accept-language, cookie"}
        requested = request.query_params.get(LANGUAGE_NAME, "")
        if requested in versions:
            headers["set-cookie"] = f"{LANGUAGE_NAME}={requested}; {_REMEMBER}"
        return versions[choose_language(request).code].answer(request, headers)

    page.__name__ = path.strip("/") or "home"
    return page


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
