"""``dcp-server health``: asks the server of these settings on this machine whether it serves.

It must not open the database: the running server says whether that answers.
"""

from __future__ import annotations

import socket
import ssl
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.health import own_address, report
from server.config import Config

_ANSWER_SECONDS = 3.0


def run(config: Config, wait_seconds: float) -> int:
    """Prints how the server is; exit status 0 if it serves within ``wait_seconds``, else 1."""
    return report(partial(_fault, config), wait_seconds)


def _fault(config: Config) -> str:
    host, _, port = config.listen.rpartition(":")
    address = (own_address(host.strip("[]")), int(port))
    try:
        with _open(address, config.tls is not None) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            answer = check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_SECONDS)
    except OSError as error:  # ssl.SSLError is one too
        return f"{config.listen} cannot be reached: {error}"
    except grpc.RpcError as error:
        return f"{config.listen} does not answer: {error.code().name}"
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return "it is stopping, or its database does not answer"
    return ""


def _open(address: tuple[str, int], has_tls: bool) -> grpc.Channel:
    host, port = address
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    options: list[tuple[str, object]] = [("grpc.enable_http_proxy", 0)]
    if not has_tls:
        return grpc.insecure_channel(target, options=options)
    certificate, name = _presented(address)
    options.append(("grpc.ssl_target_name_override", name))
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(certificate), options=options)


def _presented(address: tuple[str, int]) -> tuple[bytes, str]:
    """The certificate that the server presents, as PEM, and a name in it. Raises OSError.

    It is believed: the question stays on this machine and has no secret. The file of DCP_TLS_CERT may already
    hold the next certificate, and need not name this machine's loopback address.
    """
    pem = ssl.get_server_certificate(address, timeout=_ANSWER_SECONDS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags = ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=pem)
    with (
        socket.create_connection(address, timeout=_ANSWER_SECONDS) as plain,
        context.wrap_socket(plain) as connection,
    ):
        certificate: dict[str, Any] = connection.getpeercert() or {}
    names = [str(name) for _, name in certificate.get("subjectAltName", ())]
    return pem.encode(), names[0] if names else ""
