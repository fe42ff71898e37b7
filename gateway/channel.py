"""Owns the way to the server: the calls that the gateway makes, and gRPC's channel for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import grpc

from gateway.config import Address, Config

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
    # A name is asked for again this often at most when a connection is lost, so that new servers are found.
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
)
# Calls go in turns to the servers that say that they serve: not to one that stops or has no database. Where
# there is only one, it is called in any case, since it says itself what it lacks.
SEVERAL = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}


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
    """Returns a channel to the servers, which connects on first use. Needs a running event loop."""
    options: list[tuple[str, Any]] = list(CHANNEL_OPTIONS)
    if len(config.servers) > 1 or config.servers[0].version is None:
        options.append(("grpc.service_config", json.dumps(SEVERAL)))
    if config.tls_ca is None:
        return grpc.aio.insecure_channel(target(config.servers), options=options)
    if config.tls_server_name:
        options.append(("grpc.ssl_target_name_override", config.tls_server_name))
    key, chain = config.own_cert or (None, None)
    certificates = grpc.ssl_channel_credentials(config.tls_ca.read_bytes(), key, chain)
    return grpc.aio.secure_channel(target(config.servers), certificates, options=options)


def target(servers: tuple[Address, ...]) -> str:
    """gRPC's name for one or several servers."""
    if len(servers) == 1:
        return str(servers[0])
    return f"ipv{servers[0].version}:{','.join(str(server) for server in servers)}"
