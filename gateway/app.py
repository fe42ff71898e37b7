"""Owns the composition of the gateway: combines channel, routes and documents into one application.

It decides nothing about a request and starts no process: `__main__` does.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from google.protobuf.descriptor import FileDescriptor
from starlette.exceptions import HTTPException

from gateway.channel import Channel
from gateway.config import Address
from gateway.edge import Edge, refuse_unrouted
from gateway.limits import DEADLINE_SECONDS
from gateway.readiness import Readiness, healthz
from gateway.routes import api_routes, discover
from gateway.web.pages import page_routes

# The server as the pages name it to providers: on the page's host, at the default port.
ON_THIS_HOST = Address("", 50051)


def build_app(
    channel: Channel,
    *,
    files: Sequence[FileDescriptor] | None = None,
    daemon_server: Address = ON_THIS_HOST,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> FastAPI:
    """Builds the ASGI application over the channel. The caller remains responsible for closing it.

    ``files`` are the protos whose RPCs are served; the default is all of dcp.v1. ``daemon_server`` is the
    address that the pages tell providers.
    """
    files = discover() if files is None else files
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Edge)
    app.add_exception_handler(HTTPException, refuse_unrouted)
    app.router.routes.extend(api_routes(channel, files, deadline_seconds))
    app.router.routes.extend(page_routes(files, daemon_server))
    app.add_route("/healthz", healthz)
    app.add_route("/readyz", Readiness(channel).readyz)
    return app
