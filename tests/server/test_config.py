"""The server's settings: every bad value is refused in one line that names the variable."""

from __future__ import annotations

import ipaddress
from decimal import Decimal
from pathlib import Path

import pytest
import trustme

from common.tracing import TraceSettings
from server.config import VARIABLES, Config, ConfigError, MailSettings
from server.domain.limits import Limits
from server.domain.payouts import PayoutTerms
from server.domain.storage import StorageLimits

DEFAULTS = Config("sqlite:///dcp.sqlite3", "127.0.0.1:50051", None, False, None, "INFO", 2097152)


def test_nothing_set_gives_the_defaults() -> None:
    assert Config.from_env({"PATH": "/bin"}) == DEFAULTS


def test_empty_variable_is_unset() -> None:
    assert Config.from_env({variable.name: "" for variable in VARIABLES}) == DEFAULTS


def test_values_of_variables_are_read_in_their_units(tmp_path: Path) -> None:
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
            "DCP_METRICS_LISTEN": "[::1]:9464",
            "DCP_TRACES": "http://127.0.0.1:4318",
            "DCP_TRACES_SAMPLED": "0.5",
            "DCP_LOG_FORMAT": "json",
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
            "DCP_RECOVERY_HOURS": "720",
            "DCP_SAR_PER_USD": "3.751",
            "DCP_SMTP_URL": "smtps://user%40x:p%2Fw@mail.example",
            "DCP_MAIL_FROM": "accounts@market.example",
            "DCP_PUBLIC_URL": "https://market.example/",
        }
    )
    assert config == Config(
        *("postgresql://u@h/n", "0.0.0.0:1", "0123456789abcdef" * 2, True, (key, cert), "DEBUG", 1024),
        Limits(1, 2, 3, 0, 5, 1_000_000),
        tuple(ipaddress.ip_network(text) for text in ("10.1.2.3", "10.8.0.0/16", "2001:db8::/32")),
        storage_limits=StorageLimits(7, 0, 5000),
        payouts=PayoutTerms(0, 8760, 1),
        canary_percent=0,
        recovery_hours=720,
        metrics_listen=("::1", 9464),
        traces=TraceSettings("http://127.0.0.1:4318/v1/traces", 0.5),
        log_format="json",
        sar_per_usd=Decimal("3.751"),
        mail=MailSettings(
            "mail.example",
            465,
            True,
            "accounts@market.example",
            "https://market.example",
            "user@x",
            "p/w",
        ),
        public_url="https://market.example",
    )


FLIPPED = {"true": "false", "false": "true"}


NUMBERS_AND_SWITCHES = {
    each.name: each.default for each in VARIABLES if each.default.isdecimal() or each.default in FLIPPED
}


@pytest.mark.parametrize("name", NUMBERS_AND_SWITCHES)
def test_number_or_switch_changes_what_is_configured(name: str) -> None:
    default = NUMBERS_AND_SWITCHES[name]
    others = {"DCP_TRACES": "http://127.0.0.1:4318"}
    changed = Config.from_env(others | {name: FLIPPED.get(default) or str(int(default) - 1)})
    assert changed != Config.from_env(others)


MAIL = {"DCP_MAIL_FROM": "accounts@market.example", "DCP_PUBLIC_URL": "https://market.example"}


def test_mail_server_and_its_password_can_be_in_a_file(tmp_path: Path) -> None:
    place = tmp_path / "smtp"
    place.write_text("smtp://u:p@mail.example\n")
    mail = Config.from_env(MAIL | {"DCP_SMTP_URL_FILE": str(place)}).mail
    assert mail is not None
    assert (mail.host, mail.port, mail.implicit_tls, mail.user, mail.password) == (
        "mail.example",
        587,
        False,
        "u",
        "p",
    )
    assert "password" not in repr(mail)
    place.write_text("\n")
    with pytest.raises(ConfigError, match="DCP_SMTP_URL_FILE"):
        Config.from_env(MAIL | {"DCP_SMTP_URL_FILE": str(place)})


@pytest.mark.parametrize("name", ["DCP_ADMIN_TOKEN", "DCP_DATABASE_URL"])
def test_secret_can_be_in_a_file(name: str, tmp_path: Path) -> None:
    secret = "postgresql://u:sesame@h/n-of-thirty-two-characters"
    place = tmp_path / "secret"
    place.write_text(f"{secret}\n")
    config = Config.from_env({f"{name}_FILE": str(place)})
    assert secret in (config.admin_token, config.database_url)
    with pytest.raises(ConfigError, match=f"{name} and {name}_FILE: set only one of them"):
        Config.from_env({name: secret, f"{name}_FILE": str(place)})
    place.write_text("\n")
    with pytest.raises(ConfigError, match=f"{name}_FILE: the first line of .* is empty"):
        Config.from_env({f"{name}_FILE": str(place)})
    with pytest.raises(ConfigError, match=f"{name}_FILE: cannot read"):
        Config.from_env({f"{name}_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    "url",
    [
        "mail.example",
        "http://u:sesame@mail.example",
        "smtp://u@mail.example",
        "smtp://u:ses@me@mail.example",
        "smtp://u:sesame@mail.example:x",
        "smtp://u:sesame@mail.example/inbox",
        "smtp://u:sesame@",
    ],
)
def test_bad_mail_server_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="DCP_SMTP_URL: is not smtp://") as caught:
        Config.from_env(MAIL | {"DCP_SMTP_URL": url})
    assert "ses" not in str(caught.value)


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
        ({"DCP_METRICS_LISTEN": "9464"}, "DCP_METRICS_LISTEN"),
        ({"DCP_TRACES": "127.0.0.1:4318"}, "DCP_TRACES"),
        ({"DCP_TRACES_SAMPLED": "2"}, "DCP_TRACES_SAMPLED"),
        ({"DCP_LOG_FORMAT": "xml"}, "DCP_LOG_FORMAT"),
        ({"DCP_MAX_OUTPUT_BYTES": "1023"}, "DCP_MAX_OUTPUT_BYTES"),
        ({"DCP_MAX_OUTPUT_BYTES": "5242881"}, "DCP_MAX_OUTPUT_BYTES"),
        ({"DCP_MAX_OUTPUT_BYTES": "2 MiB"}, "DCP_MAX_OUTPUT_BYTES"),
        ({"DCP_MAX_OUTPUT_BYTES": "-2000"}, "DCP_MAX_OUTPUT_BYTES"),
        ({"DCP_MAX_OUTPUT_BYTES": "9" * 5000}, "DCP_MAX_OUTPUT_BYTES"),
        ({"DCP_JOB_TEXT_DAYS": "0"}, "DCP_JOB_TEXT_DAYS"),
        ({"DCP_MAX_RENTER_BYTES": "-1"}, "DCP_MAX_RENTER_BYTES"),
        ({"DCP_MAX_PROVIDER_BYTES": "1 GiB"}, "DCP_MAX_PROVIDER_BYTES"),
        ({"DCP_RECOVERY_HOURS": "721"}, "DCP_RECOVERY_HOURS"),
        *(
            ({"DCP_SAR_PER_USD": text}, "DCP_SAR_PER_USD: .* such as 3.75")
            for text in ("0", "0.0", "-3.75", "3,75", "10000", "1e3", "3.7500001", "nan", "٣", "9" * 5000)
        ),
        ({"DCP_SMTP_URL": "smtp://m", "DCP_PUBLIC_URL": "https://m"}, "DCP_MAIL_FROM"),
        (
            {"DCP_SMTP_URL": "smtp://m", "DCP_MAIL_FROM": "<a@m>", "DCP_PUBLIC_URL": "https://m"},
            "DCP_MAIL_FROM",
        ),
        ({"DCP_SMTP_URL": "smtp://m", "DCP_MAIL_FROM": "a@m"}, "DCP_PUBLIC_URL"),
        (
            {"DCP_SMTP_URL": "smtp://m", "DCP_MAIL_FROM": "a@m", "DCP_PUBLIC_URL": "m.test"},
            "DCP_PUBLIC_URL",
        ),
        ({"DCP_SMTP_URL": "smtp://m", "DCP_SMTP_URL_FILE": "f"}, "DCP_SMTP_URL and DCP_SMTP_URL_FILE"),
        ({"DCP_SMTP_URL_FILE": "/no/such/file"}, "DCP_SMTP_URL_FILE: .*No such file"),
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
