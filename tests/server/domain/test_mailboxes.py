"""Addresses of one mailbox have one form, and those of two never do."""

from __future__ import annotations

import pytest

from server.domain.mailboxes import mailbox


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("Some.One@Example.com", "some.one@example.com"),
        ("some.one+dcp@example.com", "some.one@example.com"),
        ("some.one+a+b@example.com", "some.one@example.com"),
        ("s.o.m.e@gmail.com", "some@gmail.com"),
        ("S.ome+x@GoogleMail.com", "some@gmail.com"),
        ("someone@example.com", "someone@example.com"),
        ("+tag@example.com", "+tag@example.com"),
        ('"a+b"@example.com', '"a+b"@example.com'),
        ("a@b.gmail.com", "a@b.gmail.com"),
    ],
)
def test_mailbox_of_an_address(address: str, expected: str) -> None:
    assert mailbox(address) == expected
    assert mailbox(expected) == expected


def test_dots_count_where_their_provider_counts_them() -> None:
    assert mailbox("some.one@example.com") != mailbox("someone@example.com")
