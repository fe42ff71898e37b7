"""Addresses as settings and proxies write them."""

from __future__ import annotations

import pytest

from common.addresses import host_port


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("market.example:50051", ("market.example", 50051)),
        ("[::1]:0", ("::1", 0)),
        *(
            (text, None)
            for text in ("", ":80", "a", "a:", "a:x", "a:-1", "a:65536", "a:\u0661", "::1:80", "a\n:1")
        ),
    ],
)
def test_host_and_port_are_read_or_refused(text: str, found: tuple[str, int] | None) -> None:
    assert host_port(text) == found


def test_least_port_is_asked_for() -> None:
    assert host_port("a:0", least_port=1) is None
