"""Settings: their defaults, and one clear line for an invalid value."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import certifi
import pytest

from common.tracing import TraceSettings
from gateway.channel import target
from gateway.config import VARIABLES, Address, Config, ConfigError


def test_defaults_are_those_of_the_table() -> None:
    assert Config.from_env({}) == Config.from_env({v.name: v.default for v in VARIABLES})
    assert Config.from_env({}) == Config(
        Address("127.0.0.1", 8080), (Address("127.0.0.1", 50051),), None, False, "info"
    )


@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        ({}, Address("", 50051)),
        ({"DCP_SERVER": "127.0.0.1:7"}, Address("", 7)),
        ({"DCP_SERVER": "127.0.0.1:7", "DCP_PUBLIC_SERVER": "api.example:443"}, Address("api.example", 443)),
    ],
)
def test_server_that_daemons_reach_is_the_own_ones_port_or_what_is_set(
    environ: dict[str, str], shown: Address
) -> None:
    assert Config.from_env(environ).daemon_server == shown


def test_an_empty_variable_is_unset() -> None:
    assert Config.from_env({v.name: "" for v in VARIABLES}) == Config.from_env({})


def test_variables_are_read() -> None:
    ca = Path(certifi.where())
    config = Config.from_env(
        {
            "DCP_HTTP_LISTEN": "[::1]:0",
            "DCP_SERVER": "server.example:443",
            "DCP_TLS_CA": str(ca),
            "DCP_LOG_LEVEL": "debug",
            "DCP_METRICS_LISTEN": "10.0.0.7:0",
            "DCP_TRACES": "http://127.0.0.1:4318",
            "DCP_TRACES_SAMPLED": "0.5",
            "DCP_LOG_FORMAT": "json",
            "DCP_ACCESS_LOG": "false",
            "DCP_ADMIN_TOKEN": "of another program",
            "DCP_TRUSTED_PROXIES": "10.1.2.3, 2001:db8::/32",
            "DCP_MAX_CONNECTIONS": "1000",
            "DCP_MAX_ADDRESS_CONNECTIONS": "1",
            "PATH": "x",
        }
    )
    proxies = (ipaddress.ip_network("10.1.2.3"), ipaddress.ip_network("2001:db8::/32"))
    assert config == Config(
        *(Address("::1", 0), (Address("server.example", 443),), ca, False, "debug", proxies),
        max_connections=1000,
        max_address_connections=1,
        metrics_listen=("10.0.0.7", 0),
        traces=TraceSettings("http://127.0.0.1:4318/v1/traces", 0.5),
        log_format="json",
        access_log=False,
    )
    assert str(config.listen) == "[::1]:0"


@pytest.mark.parametrize(
    ("environ", "is_logged"),
    [
        ({}, False),
        ({"DCP_LOG_FORMAT": "json"}, True),
        ({"DCP_LOG_FORMAT": "json", "DCP_ACCESS_LOG": "false"}, False),
        ({"DCP_ACCESS_LOG": "true"}, True),
    ],
)
def test_requests_are_logged_for_programs_or_when_it_is_wished(
    environ: dict[str, str], is_logged: bool
) -> None:
    assert Config.from_env(environ).access_log is is_logged


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DCP_HTTP_LISTEN", "8080"),
        ("DCP_HTTP_LISTEN", ":8080"),
        ("DCP_HTTP_LISTEN", "localhost:"),
        ("DCP_HTTP_LISTEN", "localhost:65536"),
        ("DCP_HTTP_LISTEN", "localhost:-1"),
        ("DCP_HTTP_LISTEN", "localhost:٣"),
        ("DCP_HTTP_LISTEN", "::1:8080"),
        ("DCP_SERVER", "127.0.0.1:0"),
        ("DCP_SERVER", "http://127.0.0.1:50051"),
        ("DCP_TLS_CA", "/nonexistent/ca.pem"),
        ("DCP_TLS_CA", "/"),
        ("DCP_INSECURE", "yes"),
        ("DCP_PUBLIC_SERVER", "api.example"),
        ("DCP_PUBLIC_SERVER", "api.example:0"),
        ("DCP_LOG_LEVEL", "loud"),
        ("DCP_METRICS_LISTEN", ":9464"),
        ("DCP_TRACES", "127.0.0.1:4318"),
        ("DCP_TRACES_SAMPLED", "2"),
        ("DCP_LOG_FORMAT", "xml"),
        ("DCP_ACCESS_LOG", "yes"),
        ("DCP_MAX_CONNECTIONS", "0"),
        ("DCP_MAX_CONNECTIONS", "9" * 5000),
        ("DCP_MAX_ADDRESS_CONNECTIONS", "٣"),
        ("DCP_MAX_ADDRESS_CONNECTIONS", "many"),
        ("DCP_TRUSTED_PROXIES", "10.8.0.1/16"),
        ("DCP_SEVER", "127.0.0.1:1"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Config.from_env({name: value})
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_misspelt_variable_of_any_program_is_refused_with_the_right_name() -> None:
    with pytest.raises(ConfigError, match=r"DCP_GRPC_LISTNE .* did you mean DCP_GRPC_LISTEN"):
        Config.from_env({"DCP_GRPC_LISTNE": "127.0.0.1:0"})
    Config.from_env({"DCP_GRPC_LISTEN": "127.0.0.1:0"})


@pytest.mark.parametrize("server", ["10.0.0.7:50051", "server.example:50051", "[2001:db8::1]:50051"])
def test_keys_are_not_sent_unencrypted_unless_that_is_set(server: str) -> None:
    with pytest.raises(ConfigError, match="DCP_TLS_CA"):
        Config.from_env({"DCP_SERVER": server})
    assert Config.from_env({"DCP_SERVER": server, "DCP_INSECURE": "true"}).insecure


@pytest.mark.parametrize("server", ["127.0.0.1:1", "127.8.8.8:1", "localhost:1", "[::1]:1"])
def test_this_machine_needs_no_tls(server: str) -> None:
    assert target(Config.from_env({"DCP_SERVER": server}).servers) == server


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ("127.0.0.1:1, 127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2"),
    ],
)
def test_several_servers_are_named_by_their_addresses(servers: str, expected: str) -> None:
    assert target(Config.from_env({"DCP_SERVER": servers}).servers) == expected


@pytest.mark.parametrize("servers", ["localhost:1,127.0.0.1:2", "127.0.0.1:1,[::1]:2", "127.0.0.1:1,"])
def test_several_servers_that_one_channel_cannot_have_together_are_refused(servers: str) -> None:
    with pytest.raises(ConfigError, match="DCP_SERVER"):
        Config.from_env({"DCP_SERVER": servers})


def test_several_servers_with_tls_need_the_name_in_their_certificate() -> None:
    environ = {"DCP_SERVER": "10.0.0.1:1,10.0.0.2:1", "DCP_TLS_CA": certifi.where()}
    with pytest.raises(ConfigError, match="DCP_TLS_SERVER_NAME"):
        Config.from_env(environ)
    assert Config.from_env({**environ, "DCP_TLS_SERVER_NAME": "market.example"}).servers[1].host == "10.0.0.2"


@pytest.mark.parametrize("servers", ["127.0.0.1:1,10.0.0.7:2"])
def test_no_key_is_sent_unencrypted_to_one_of_several_servers(servers: str) -> None:
    with pytest.raises(ConfigError, match="DCP_TLS_CA"):
        Config.from_env({"DCP_SERVER": servers})


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "[::]:8080", "10.0.0.7:80", "gateway.example:80"])
def test_plain_http_is_served_to_other_machines_only_if_that_is_set(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"DCP_HTTP_LISTEN=.*proxy.*HTTPS.*DCP_INSECURE=true") as refused:
        Config.from_env({"DCP_HTTP_LISTEN": listen})
    assert "\n" not in str(refused.value)
    assert Config.from_env({"DCP_HTTP_LISTEN": listen, "DCP_INSECURE": "true"}).insecure
