"""The rules of webhooks: addresses, signatures, and the times of attempts."""

from __future__ import annotations

import pytest

from server.domain.errors import DomainError
from server.domain.webhooks import GIVE_UP_SECONDS, check_url, is_public, next_attempt_ms, sign


@pytest.mark.parametrize("address", ["1.1.1.1", "185.199.108.153", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0"),
        *("169.254.169.254", "169.254.170.2", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::7f00:1"),
        *("64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1"),
    ],
)
def test_other_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "url", ["https://renter.example/e", "https://renter.example:8443/e?a=1", "https://1.1.1.1/"]
)
def test_public_https_url_is_accepted(url: str) -> None:
    check_url(url, allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        *("", "renter.example", "https://", "https:///path", "ftp://renter.example", "file:///etc/passwd"),
        *("http://renter.example", "https://user:pass@renter.example", "https://user@renter.example"),
        *("https://renter.example/#part", "https://مثال.example", "https://renter.example/a b"),
        *(
            "https://renter.example:0/",
            "https://renter.example:99999/",
            "https://[::1",
            "https://a\\@b.example/",
        ),
        *("https://127.0.0.1/", "https://[::1]/", "https://[::ffff:169.254.169.254]/", "https://10.0.0.8/"),
        *("https://169.254.169.254/latest/meta-data", "https://localhost/", "https://a.localhost/"),
    ],
)
def test_other_urls_are_refused_with_the_field(url: str) -> None:
    with pytest.raises(DomainError) as caught:
        check_url(url, allow_private=False)
    assert (caught.value.reason, caught.value.facts["field"]) == ("INVALID_FIELD", "url")


def test_development_setting_accepts_private_addresses_over_http() -> None:
    check_url("http://127.0.0.1:9000/events", allow_private=True)
    with pytest.raises(DomainError):
        check_url("ftp://127.0.0.1/", allow_private=True)


def test_signature_is_the_hmac_of_the_time_and_the_body() -> None:
    """The figure is from `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac whsec-test`."""
    assert (
        sign("whsec-test", "1700000000", b'{"a":1}')
        == "v1=fed7a1a6c799a6367d73724d76bc70c16678908a32a879cd1ded6565ac05cece"
    )


def test_attempts_become_rarer_and_end_after_two_hours() -> None:
    now_ms, attempts, waits = 0, 0, []
    while True:
        attempts += 1
        after = next_attempt_ms(0, attempts, now_ms)
        if after is None:
            break
        waits.append(after - now_ms)
        now_ms = after
    assert waits == sorted(waits)
    assert waits[0] == 10_000
    assert GIVE_UP_SECONDS * 1000 - max(waits) < now_ms <= GIVE_UP_SECONDS * 1000
    assert attempts > 8
