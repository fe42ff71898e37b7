"""Owns the composition of the gateway: combines channel, routes and documents into one application.

It decides nothing about a request and starts no process: `__main__` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fastapi import FastAPI
from google.protobuf.descriptor import FileDescriptor
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from gateway.channel import Channel
from gateway.config import Address
from gateway.doors import doors
from gateway.edge import Edge, refuse_unrouted
from gateway.exchanges import Exchanges
from gateway.limits import DEADLINE_SECONDS
from gateway.readiness import Readiness, healthz
from gateway.routes import Resource, api_routes, discover, run_route
from gateway.table import Table
from gateway.web.pages import page_routes

# The server as the pages name it to providers: on the page's host, at the default port.
ON_THIS_HOST = Address("", 50051)


class Application(FastAPI):
    """The gateway's application. Routes of the API come from a table; FastAPI has the pages and the rest.

    A request of the API passes none of FastAPI's layers: they would look at more than a hundred routes, one
    after the other, and do nothing else for it.
    """

    def __init__(
        self,
        api: Table[Resource],
        duty: Callable[[], Awaitable[None]],
        exchanges: Exchanges | None = None,
    ) -> None:
        """``duty`` is what goes on while it is served; whoever serves it runs it."""
        super().__init__(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
        self.duty = duty
        self._api = api
        self._run = Edge(run_route, exchanges)
        self.add_middleware(Edge, exchanges=exchanges)
        self.add_exception_handler(HTTPException, refuse_unrouted)

    @property
    def paths(self) -> list[str]:
        """The paths of all routes."""
        return [*self._api.patterns, *(getattr(route, "path", "") for route in self.router.routes)]

    @property
    def templates(self) -> dict[object, str]:
        """The paths of the routes that are not the API's, by what they call."""
        return {getattr(route, "endpoint", None): getattr(route, "path", "") for route in self.router.routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one exchange."""
        found = self._api.find(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await super().__call__(scope, receive, send)
            return
        scope["route"], scope["path_params"] = found
        await self._run(scope, receive, send)


def build_app(
    channel: Channel,
    *,
    files: Sequence[FileDescriptor] | None = None,
    daemon_server: Address = ON_THIS_HOST,
    deadline_seconds: float = DEADLINE_SECONDS,
    exchanges: Exchanges | None = None,
) -> Application:
    """Builds the ASGI application over the channel. The caller remains responsible for closing it.

    ``files`` are the protos whose RPCs are served; the default is all of dcp.v1. ``daemon_server`` is the
    address that the pages tell providers. ``exchanges`` records what is served; None: nothing does.
    """
    files = discover() if files is None else files
    behind = doors(channel, deadline_seconds)
    api = api_routes(channel, files, deadline_seconds, behind.served, behind.heard)
    app = Application(api, behind.duty, exchanges)
    app.router.routes.extend(page_routes(files, daemon_server))
    app.add_route("/healthz", healthz)
    app.add_route("/readyz", Readiness(channel).readyz)
    return app
