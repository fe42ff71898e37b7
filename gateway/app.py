"""Owns the composition of the gateway: combines channel, routes and documents into one application.

It decides nothing about a request and starts no process: `__main__` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from fastapi import FastAPI
from google.protobuf.descriptor import FileDescriptor
from starlette.exceptions import HTTPException

from gateway.config import Address, Config
from gateway.edge import Edge, refuse_unrouted
from gateway.limits import DEADLINE_SECONDS
from gateway.readiness import Readiness, healthz
from gateway.routes import api_routes, discover
from gateway.web.pages import page_routes

# Requests wait for the server, so the gateway reconnects fast after a restart of it; gateways are few,
# unlike daemons, so this cannot become a storm. The environment's HTTP proxies are not used: they are
# meant for the web, not for the connection to our own server.
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.enable_http_proxy", 0),
)


# The server as the pages name it to providers: on the page's host, at the default port.
ON_THIS_HOST = Address("", 50051)


def open_channel(config: Config) -> grpc.aio.Channel:
    """Returns a channel to the server, which connects on first use. Needs a running event loop."""
    if config.tls_ca is None:
        return grpc.aio.insecure_channel(str(config.server), options=CHANNEL_OPTIONS)
    certificates = grpc.ssl_channel_credentials(config.tls_ca.read_bytes())
    return grpc.aio.secure_channel(str(config.server), certificates, options=CHANNEL_OPTIONS)


def build_app(
    channel: grpc.aio.Channel,
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
