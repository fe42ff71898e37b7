"""Owns the way to the server: the calls that the gateway makes, and gRPC's channel for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import grpc

from gateway.config import Config

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


class Channel(Protocol):
    """What the gateway needs of a grpc.aio channel; a server in the same process has one without a wire.

    A method is called with a request, ``metadata`` and ``timeout``. A call is awaited, or its stream read
    with ``read`` and ended with ``cancel``; it raises AioRpcError.
    """

    def unary_unary(
        self, method: str, request_serializer: Any = ..., response_deserializer: Any = ...
    ) -> Callable[..., Any]:
        """A method that responds once."""

    def unary_stream(
        self, method: str, request_serializer: Any = ..., response_deserializer: Any = ...
    ) -> Callable[..., Any]:
        """A method that responds with a stream."""


def open_channel(config: Config) -> grpc.aio.Channel:
    """Returns a channel to the server, which connects on first use. Needs a running event loop."""
    if config.tls_ca is None:
        return grpc.aio.insecure_channel(str(config.server), options=CHANNEL_OPTIONS)
    certificates = grpc.ssl_channel_credentials(config.tls_ca.read_bytes())
    return grpc.aio.secure_channel(str(config.server), certificates, options=CHANNEL_OPTIONS)
