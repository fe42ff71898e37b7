"""Owns the gateway's settings: their names, defaults and checks.

It is the only module of the gateway that reads the environment. It does not know how the settings are used.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dcp.settings import SETTINGS

from common.addresses import Network, host_port
from common.logs import FORMAT_MEANING, FORMATS, JSON, TEXT
from common.nearest import did_you_mean
from common.telemetry import LISTEN_MEANING, is_loopback, parse_listen
from common.tracing import SAMPLED, SAMPLED_MEANING, TRACES_MEANING, TraceSettings, parse_settings
from gateway.limits import MAX_ADDRESS_CONNECTIONS, MAX_CONNECTIONS

MOST_CONNECTIONS = 1_000_000
LOG_LEVELS = ("debug", "info", "warning", "error")


class Variable(NamedTuple):
    """An environment variable of this program, as --help and docs/reference print it."""

    name: str
    default: str
    meaning: str


VARIABLES = (
    Variable(
        "DCP_HTTP_LISTEN",
        "127.0.0.1:8080",
        "Where HTTP listens, host:port; port 0 selects a free port. Other than loopback addresses: "
        "only with DCP_INSECURE=true.",
    ),
    Variable(
        "DCP_SERVER",
        "127.0.0.1:50051",
        "Address of the server's gRPC, host:port. Several servers: their IP addresses, separated by commas, "
        "or one name that DNS has all of them for; calls go to those that serve, in turns.",
    ),
    Variable(
        "DCP_TLS_SERVER_NAME",
        "",
        "The name in the servers' certificate. Needed with TLS and several addresses.",
    ),
    Variable(
        "DCP_TLS_CA",
        "",
        "Certificate authorities (PEM) that the server's certificate is checked against. "
        "Unset: plain text, to loopback addresses only.",
    ),
    Variable(
        "DCP_GATEWAY_CERT",
        "",
        "The gateway's own certificate chain (PEM), for servers with DCP_GATEWAY_LISTEN.",
    ),
    Variable("DCP_GATEWAY_KEY", "", "The private key of the gateway's own certificate (PEM)."),
    Variable(
        "DCP_INSECURE",
        "false",
        "true: keys travel between hosts in plain text, to the server and from HTTP clients. "
        "Only for networks that you trust.",
    ),
    Variable(
        "DCP_PUBLIC_SERVER",
        "",
        "Address of the server's gRPC as daemons reach it, host:port; the home page shows it. "
        "Unset: the page's host and the port of DCP_SERVER.",
    ),
    Variable(
        "DCP_TRUSTED_PROXIES",
        "",
        "Addresses and networks of the proxies before the gateway, separated by commas; "
        "their X-Forwarded-For is believed.",
    ),
    Variable(
        "DCP_MAX_CONNECTIONS",
        str(MAX_CONNECTIONS),
        "Most HTTP connections in all. The system's limit of open files can allow fewer.",
    ),
    Variable(
        "DCP_MAX_ADDRESS_CONNECTIONS",
        str(MAX_ADDRESS_CONNECTIONS),
        "Most HTTP connections from one address (IPv6: one /64; one /48 has 8 times as many), "
        "except from trusted proxies.",
    ),
    Variable("DCP_METRICS_LISTEN", "", LISTEN_MEANING),
    Variable("DCP_TRACES", "", TRACES_MEANING),
    Variable("DCP_TRACES_SAMPLED", SAMPLED, SAMPLED_MEANING),
    Variable(
        "DCP_LOG_LEVEL", "info", "Least severe messages that are logged: debug, info, warning or error."
    ),
    Variable("DCP_LOG_FORMAT", TEXT, FORMAT_MEANING),
    Variable(
        "DCP_ACCESS_LOG",
        "",
        "true: each request is logged at level info with its method, path template, status, time, bytes, "
        "account and id; never with a query, a key or a body. Unset: only with DCP_LOG_FORMAT=json.",
    ),
)


class ConfigError(Exception):
    """A variable has an invalid value. The text names the variable and the remedy in one line."""


class Address(NamedTuple):
    """A host and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def version(self) -> int | None:
        """4 or 6 for an IP address, None for a name."""
        try:
            return ipaddress.ip_address(self.host).version
        except ValueError:
            return None

    @property
    def is_loopback(self) -> bool:
        """Whether the address never leaves this machine."""
        return is_loopback(self.host)


@dataclass(frozen=True)
class Config:
    """The settings of one gateway process."""

    listen: Address
    """Where HTTP is served; port 0 selects a free port. DCP_HTTP_LISTEN, default 127.0.0.1:8080."""

    servers: tuple[Address, ...]
    """The servers that the gateway calls. DCP_SERVER, default 127.0.0.1:50051."""

    tls_ca: Path | None = None
    """The CA certificates that verify the server's certificate. DCP_TLS_CA, default none: no TLS."""

    insecure: bool = False
    """Whether keys may travel between machines without TLS. DCP_INSECURE, default false."""

    log_level: str = "info"
    """The lowest level that is logged. DCP_LOG_LEVEL, default info."""

    trusted_proxies: tuple[Network, ...] = ()
    """Networks of proxies whose X-Forwarded-For is trusted. DCP_TRUSTED_PROXIES, default none."""

    max_connections: int = MAX_CONNECTIONS
    """Most HTTP connections in all. DCP_MAX_CONNECTIONS, default 10,000."""

    max_address_connections: int = MAX_ADDRESS_CONNECTIONS
    """Most HTTP connections from one address. DCP_MAX_ADDRESS_CONNECTIONS, default 256."""

    public_server: Address | None = None
    """The server as daemons reach it. DCP_PUBLIC_SERVER, default none: the page's host is shown."""

    own_cert: tuple[bytes, bytes] | None = None
    """The gateway's own key and certificate chain, PEM. DCP_GATEWAY_KEY, DCP_GATEWAY_CERT, default none."""

    tls_server_name: str = ""
    """The name in the servers' certificate. DCP_TLS_SERVER_NAME, default: that of DCP_SERVER."""
    log_format: str = TEXT
    """How lines of the log are written. DCP_LOG_FORMAT, default text."""

    access_log: bool = False
    """Whether each request is logged. DCP_ACCESS_LOG, default only with DCP_LOG_FORMAT=json."""

    metrics_listen: tuple[str, int] | None = None
    """Where Prometheus reads metrics. DCP_METRICS_LISTEN, default none: nothing is measured."""

    traces: TraceSettings | None = None
    """Where traces are sent. DCP_TRACES and DCP_TRACES_SAMPLED, default none: nothing is traced."""

    @property
    def daemon_server(self) -> Address:
        """The server as daemons reach it; without a host, it is on the host of the page."""
        return self.public_server or Address("", self.servers[0].port)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Config:
        """Reads and checks the variables; an empty variable counts as unset. Raises ConfigError."""
        refuse_unknown(environ)
        given = {v.name: environ.get(v.name) or v.default for v in VARIABLES}
        config = cls(
            listen=_address("DCP_HTTP_LISTEN", given["DCP_HTTP_LISTEN"], least_port=0),
            servers=_servers(given["DCP_SERVER"]),
            tls_server_name=given["DCP_TLS_SERVER_NAME"],
            own_cert=_pair(given["DCP_GATEWAY_CERT"], given["DCP_GATEWAY_KEY"]),
            tls_ca=_file("DCP_TLS_CA", given["DCP_TLS_CA"]),
            insecure=_choice("DCP_INSECURE", given["DCP_INSECURE"], ("true", "false")) == "true",
            log_level=_choice("DCP_LOG_LEVEL", given["DCP_LOG_LEVEL"].lower(), LOG_LEVELS),
            public_server=_public_server(given["DCP_PUBLIC_SERVER"]),
            trusted_proxies=_networks("DCP_TRUSTED_PROXIES", given["DCP_TRUSTED_PROXIES"]),
            log_format=_choice("DCP_LOG_FORMAT", given["DCP_LOG_FORMAT"], FORMATS),
            access_log=_access_log(given["DCP_ACCESS_LOG"], given["DCP_LOG_FORMAT"]),
            metrics_listen=_metrics_listen(given["DCP_METRICS_LISTEN"]),
            traces=_traces(given),
            max_connections=_count("DCP_MAX_CONNECTIONS", given["DCP_MAX_CONNECTIONS"]),
            max_address_connections=_count(
                "DCP_MAX_ADDRESS_CONNECTIONS", given["DCP_MAX_ADDRESS_CONNECTIONS"]
            ),
        )
        if not (config.insecure or config.listen.is_loopback):
            raise ConfigError(
                f"DCP_HTTP_LISTEN={config.listen} is not a loopback address and keys would travel "
                "unencrypted: listen on 127.0.0.1 behind a proxy on this machine that serves HTTPS, "
                "or, on a network that you trust, set DCP_INSECURE=true"
            )
        if config.own_cert and not config.tls_ca:
            raise ConfigError("DCP_GATEWAY_CERT: needs DCP_TLS_CA, without which the gateway speaks no TLS")
        if config.tls_ca and len(config.servers) > 1 and not config.tls_server_name:
            raise ConfigError(
                "DCP_TLS_SERVER_NAME: set it to the name in the servers' certificate, since DCP_SERVER has "
                "several addresses"
            )
        if not (config.tls_ca or config.insecure or all(server.is_loopback for server in config.servers)):
            raise ConfigError(
                f"DCP_SERVER={given['DCP_SERVER']} is another machine and keys would be sent unencrypted: "
                "set DCP_TLS_CA to its CA certificates, or DCP_INSECURE=true"
            )
        return config


def refuse_unknown(environ: Mapping[str, str]) -> None:
    """Raises ConfigError for a DCP_ variable that no program of DCP has."""
    for name in sorted(environ):
        if name.startswith("DCP_") and name not in SETTINGS:
            remedy = did_you_mean(name, SETTINGS, "correct its name or unset it (see --help)")
            raise ConfigError(f"{name} is not a variable of DCP: {remedy}")


def _address(name: str, text: str, least_port: int) -> Address:
    found = host_port(text, least_port)
    if found is None:
        raise ConfigError(f"{name}={text!r} is not an address: write host:port, such as 127.0.0.1:8080")
    return Address(*found)


def _pair(cert: str, key: str) -> tuple[bytes, bytes] | None:
    if bool(cert) != bool(key):
        raise ConfigError("DCP_GATEWAY_CERT and DCP_GATEWAY_KEY: set both or neither")
    if not cert:
        return None
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key)
        return Path(key).read_bytes(), Path(cert).read_bytes()
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            "DCP_GATEWAY_CERT and DCP_GATEWAY_KEY: must be readable files with a certificate chain and its "
            f"key in PEM ({error.strerror or type(error).__name__})"
        ) from None


def _servers(text: str) -> tuple[Address, ...]:
    servers = tuple(_address("DCP_SERVER", part.strip(), least_port=1) for part in text.split(","))
    kinds = {server.version for server in servers}
    if len(servers) > 1 and (None in kinds or len(kinds) > 1):
        raise ConfigError(
            f"DCP_SERVER={text!r}: write several servers as IP addresses of one kind, such as "
            "10.0.0.1:50051,10.0.0.2:50051, or as one name that DNS has all of them for"
        )
    return servers


def _access_log(text: str, log_format: str) -> bool:
    if not text:
        return log_format == JSON
    return _choice("DCP_ACCESS_LOG", text, ("true", "false")) == "true"


def _metrics_listen(text: str) -> tuple[str, int] | None:
    try:
        return parse_listen(text)
    except ValueError as error:
        raise ConfigError(f"DCP_METRICS_LISTEN={error}") from None


def _traces(given: Mapping[str, str]) -> TraceSettings | None:
    try:
        return parse_settings(given)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _public_server(text: str) -> Address | None:
    return _address("DCP_PUBLIC_SERVER", text, least_port=1) if text else None


def _choice(name: str, text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise ConfigError(f"{name}={text!r} is not allowed: set it to one of {', '.join(allowed)}")
    return text


def _count(name: str, text: str) -> int:
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(MOST_CONNECTIONS))
    if not is_number or not 1 <= int(text) <= MOST_CONNECTIONS:
        raise ConfigError(f"{name}={text!r} is not a number from 1 to {MOST_CONNECTIONS}")
    return int(text)


def _networks(name: str, text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(f"{name}: {error}: write networks such as 10.1.2.3,10.8.0.0/16") from None


def _file(name: str, text: str) -> Path | None:
    if not text:
        return None
    try:
        ssl.create_default_context(cafile=text)
        return Path(text)
    except ssl.SSLError:
        raise ConfigError(
            f"{name}={text!r} contains no PEM certificates: choose a file with certificates in PEM"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{name}={text!r} cannot be read ({error.strerror}): choose a readable file"
        ) from None
