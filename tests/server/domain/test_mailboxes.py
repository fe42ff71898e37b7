"""Which addresses are one mailbox."""

from __future__ import annotations

import pytest

from server.domain.mailboxes import barred, mailbox
from server.rpc.validate import mailbox_of


@pytest.mark.parametrize(
    ("address", "box"),
    [
        ("Sara.Ali@Example.COM", "sara.ali@example.com"),
        ("sara+gpu@example.com", "sara@example.com"),
        ("sara+a+b@example.com", "sara@example.com"),
        ("S.a.r.a+x@googlemail.com", "sara@gmail.com"),
        ("s.ara@proton.me", "sara@proton.me"),
        ("sara@pm.me", "sara@pm.me"),
        ("+sara@example.com", "+sara@example.com"),
        ("sara@BÜCHER.example", "sara@bücher.example"),
        ("sara@xn--bcher-kva.example", "sara@bücher.example"),
        ("سارة+عمل@example.com", "سارة@example.com"),
    ],
)
def test_ways_to_write_an_address_are_one_mailbox(address: str, box: str) -> None:
    assert mailbox_of(address) == box
    assert mailbox(box) == box


def test_dots_and_domains_count_elsewhere() -> None:
    assert mailbox_of("s.ara@example.com") != mailbox_of("sara@example.com")
    assert mailbox_of("sara@proton.me") != mailbox_of("sara@pm.me")


def test_barred_mailbox_contains_no_address() -> None:
    assert "sara" not in barred("sara@example.com")
    assert barred("sara@example.com") != barred("omar@example.com")
