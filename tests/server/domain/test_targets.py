"""The rules of targets: which URLs and addresses of strangers the server may connect to."""

from __future__ import annotations

import pytest

from server.domain.errors import DomainError
from server.domain.targets import check_url, is_public


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "185.199.108.153", "192.0.1.1", "192.88.98.255", "192.175.49.0", "100.128.0.1"),
        *("2606:4700:4700::1111", "2001:200::1", "2001:4860:4860::8888", "2620:4f:8001::1", "2a00:1450::1"),
        *("::ffff:8.8.8.8", "3ffe::1"),
    ],
)
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
        *("0.1.2.3", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "239.1.1.1"),
        *("192.0.0.1", "192.0.0.8", "192.0.0.9", "192.0.0.10", "192.0.0.170", "192.0.0.171"),
        *("192.88.99.1", "192.88.99.2", "192.31.196.1", "192.52.193.1", "192.175.48.1", "::ffff:192.88.99.1"),
        *("64:ff9b::808:808", "64:ff9b:1::808:808", "2002:808:808::1", "2001:0:808:808::1", "::8.8.8.8"),
        *("100::1", "100:0:0:1::1", "2001:1::1", "2001:1::2", "2001:1::3", "2001:2::1", "2001:3::1"),
        *("2001:4:112::1", "2001:10::1", "2001:20::1", "2001:30::1", "2001:1ff:ffff::1", "3fff:fff::1"),
        *("2620:4f:8000::1", "3fff::1", "5f00::1", "fdff::1", "febf::1", "feff::1", "ff0e::1", "4000::1"),
    ],
)
def test_other_addresses_are_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "url", ["https://renter.example/e", "https://renter.example:8443/e?a=1", "https://1.1.1.1/"]
)
def test_address_of_the_internet_is_taken(url: str) -> None:
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
def test_other_addresses_are_refused_by_the_field(url: str) -> None:
    with pytest.raises(DomainError) as caught:
        check_url(url, allow_private=False)
    assert (caught.value.reason, caught.value.facts["field"]) == ("INVALID_FIELD", "url")


def test_development_takes_private_addresses_over_http() -> None:
    check_url("http://127.0.0.1:9000/events", allow_private=True)
    with pytest.raises(DomainError):
        check_url("ftp://127.0.0.1/", allow_private=True)
