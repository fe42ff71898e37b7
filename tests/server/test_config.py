"""The server's settings: every bad value is refused in one line that names the variable."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
import trustme

from server.config import VARIABLES, Config, ConfigError
from server.domain.limits import Limits
from server.domain.payouts import PayoutTerms
from server.domain.storage import StorageLimits

DEFAULTS = Config("sqlite:///dcp.sqlite3", "127.0.0.1:50051", None, False, None, "INFO", 2097152)


def test_nothing_set_gives_the_defaults() -> None:
    assert Config.from_env({"PATH": "/bin"}) == DEFAULTS


def test_empty_variable_is_unset() -> None:
    assert Config.from_env({variable.name: "" for variable in VARIABLES}) == DEFAULTS


def test_every_variable_is_read(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("localhost")
    cert, key = issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()
    (tmp_path / "cert").write_bytes(cert)
    (tmp_path / "key").write_bytes(key)
    config = Config.from_env(
        {
            "DCP_DATABASE_URL": "postgresql://u@h/n",
            "DCP_GRPC_LISTEN": "0.0.0.0:1",
            "DCP_ADMIN_TOKEN": "0123456789abcdef0123456789abcdef",
            "DCP_SANDBOX_TOPUP": "true",
            "DCP_TLS_CERT": str(tmp_path / "cert"),
            "DCP_TLS_KEY": str(tmp_path / "key"),
            "DCP_LOG_LEVEL": "Debug",
            "DCP_MAX_OUTPUT_BYTES": "1024",
            "DCP_LIMIT_KEY": "1",
            "DCP_LIMIT_ADDRESS": "2",
            "DCP_LIMIT_REGISTRATIONS": "3",
            "DCP_LIMIT_FAILED_KEYS": "0",
            "DCP_MAX_OPEN_JOBS": "5",
            "DCP_MAX_STREAMS": "1000000",
            "DCP_TRUSTED_PROXIES": "10.1.2.3, 10.8.0.0/16,2001:db8::/32",
            "DCP_JOB_TEXT_DAYS": "7",
            "DCP_MAX_RENTER_BYTES": "0",
            "DCP_MAX_PROVIDER_BYTES": "5000",
            "DCP_PAYOUT_MATURES_HOURS": "0",
            "DCP_NEW_PAYOUT_MATURES_HOURS": "8760",
            "DCP_DISPUTE_DAYS": "1",
            "DCP_CANARY_PERCENT": "0",
        }
    )
    assert config == Config(
        *("postgresql://u@h/n", "0.0.0.0:1", "0123456789abcdef" * 2, True, (key, cert), "DEBUG", 1024),
        Limits(1, 2, 3, 0, 5, 1_000_000),
        tuple(ipaddress.ip_network(text) for text in ("10.1.2.3", "10.8.0.0/16", "2001:db8::/32")),
        storage_limits=StorageLimits(7, 0, 5000),
        payouts=PayoutTerms(0, 8760, 1),
        canary_percent=0,
    )


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:5", "[::1]:65535", "127.9.9.9:1"])
def test_loopback_needs_no_tls(listen: str) -> None:
    assert Config.from_env({"DCP_GRPC_LISTEN": listen}).listen == listen


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"DCP_GRPC_LISTEN": "50051"}, "DCP_GRPC_LISTEN"),
        ({"DCP_LIMIT_KEY": "-1"}, "DCP_LIMIT_KEY"),
        ({"DCP_LIMIT_ADDRESS": "many"}, "DCP_LIMIT_ADDRESS"),
        ({"DCP_LIMIT_REGISTRATIONS": "1.5"}, "DCP_LIMIT_REGISTRATIONS"),
        ({"DCP_LIMIT_FAILED_KEYS": "1000001"}, "DCP_LIMIT_FAILED_KEYS"),
        ({"DCP_MAX_OPEN_JOBS": "9" * 5000}, "DCP_MAX_OPEN_JOBS"),
        ({"DCP_MAX_STREAMS": "١"}, "DCP_MAX_STREAMS"),
        ({"DCP_TRUSTED_PROXIES": "gateway.example.com"}, "DCP_TRUSTED_PROXIES"),
        ({"DCP_NEWEST_DAEMON": "latest"}, "DCP_NEWEST_DAEMON"),
        ({"DCP_TRUSTED_PROXIES": "10.8.0.1/16"}, "DCP_TRUSTED_PROXIES"),
        ({"DCP_GRPC_LISTEN": ":50051"}, "DCP_GRPC_LISTEN"),
        ({"DCP_GRPC_LISTEN": "127.0.0.1:"}, "DCP_GRPC_LISTEN"),
        ({"DCP_GRPC_LISTEN": "127.0.0.1:http"}, "DCP_GRPC_LISTEN"),
        ({"DCP_GRPC_LISTEN": "127.0.0.1:65536"}, "DCP_GRPC_LISTEN"),
        ({"DCP_GRPC_LISTEN": "127.0.0.1:-1"}, "DCP_GRPC_LISTEN"),
        ({"DCP_GRPC_LISTEN": "0.0.0.0:50051"}, "DCP_GRPC_LISTEN"),
        ({"DCP_GRPC_LISTEN": "[::]:50051"}, "DCP_GRPC_LISTEN"),
        ({"DCP_GRPC_LISTEN": "example.com:50051"}, "DCP_GRPC_LISTEN"),
        ({"DCP_ADMIN_TOKEN": "short"}, "DCP_ADMIN_TOKEN: .*at least 32 .*token_urlsafe"),
        ({"DCP_ADMIN_TOKEN": "x" * 31}, "DCP_ADMIN_TOKEN"),
        ({"DCP_ADMIN_TOKEN": "pässwörtchen" * 3}, "DCP_ADMIN_TOKEN"),
        ({"DCP_ADMIN_TOKEN": "with\nnewline" * 3}, "DCP_ADMIN_TOKEN"),
        ({"DCP_SANDBOX_TOPUP": "yes"}, "DCP_SANDBOX_TOPUP"),
        ({"DCP_CANARY_PERCENT": "101"}, "DCP_CANARY_PERCENT"),
        ({"DCP_SANDBOX_TOPUP": "TRUE"}, "DCP_SANDBOX_TOPUP"),
        ({"DCP_LOG_LEVEL": "loud"}, "DCP_LOG_LEVEL"),
        ({"DCP_MAX_OUTPUT_BYTES": "1023"}, "DCP_MAX_OUTPUT_BYTES"),
        ({"DCP_MAX_OUTPUT_BYTES": "5242881"}, "DCP_MAX_OUTPUT_BYTES"),
        ({"DCP_MAX_OUTPUT_BYTES": "2 MiB"}, "DCP_MAX_OUTPUT_BYTES"),
        ({"DCP_MAX_OUTPUT_BYTES": "-2000"}, "DCP_MAX_OUTPUT_BYTES"),
        ({"DCP_MAX_OUTPUT_BYTES": "9" * 5000}, "DCP_MAX_OUTPUT_BYTES"),
        ({"DCP_JOB_TEXT_DAYS": "0"}, "DCP_JOB_TEXT_DAYS"),
        ({"DCP_MAX_RENTER_BYTES": "-1"}, "DCP_MAX_RENTER_BYTES"),
        ({"DCP_MAX_PROVIDER_BYTES": "1 GiB"}, "DCP_MAX_PROVIDER_BYTES"),
        ({"DCP_TLS_CERT": "/dev/null"}, "DCP_TLS_KEY"),
        ({"DCP_TLS_KEY": "/dev/null"}, "DCP_TLS_CERT"),
        ({"DCP_TLS_CERT": "/no/such/file", "DCP_TLS_KEY": "/dev/null"}, "DCP_TLS_CERT: .*No such file"),
        ({"DCP_TLS_CERT": "/dev/null", "DCP_TLS_KEY": "/no/such/file"}, "DCP_TLS_KEY: .*No such file"),
        ({"DCP_GRPC_LISTN": "127.0.0.1:1"}, "DCP_GRPC_LISTN: no such setting; did you mean DCP_GRPC_LISTEN?"),
    ],
)
def test_bad_value_is_refused_in_one_line_that_names_the_variable(
    environ: dict[str, str], named: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        Config.from_env(environ)
    assert "\n" not in str(caught.value)
    assert environ.get("DCP_ADMIN_TOKEN", "never") not in str(caught.value)
