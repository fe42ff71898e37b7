"""Requests to addresses that users chose: which are refused, and how long they may take."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
import trustme

from server.outbound import Outbound
from tests.support.webhook_receiver import receiving

NOT_PUBLIC = "the host's name resolves to an address that is not public"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1", "0.0.0.0"]
)
async def test_private_address_is_refused_before_anything_is_sent(host: str) -> None:
    """Also as a name that resolves to it, in unusual notations, or embedded in an IPv6 address."""
    async with receiving() as receiver:
        answer = await Outbound(allow_private=False).post(f"http://{host}:{receiver.port}/", {}, b"{}")
        assert (answer.status_code, answer.error) == (None, NOT_PUBLIC)
        assert receiver.connections == 0


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fd00:ec2::254]", "10.255.255.1", "[::1]", "192.168.0.1"]
)
async def test_non_public_networks_are_refused(host: str) -> None:
    answer = await Outbound(allow_private=False).post(f"http://{host}/latest/meta-data", {}, b"{}")
    assert answer.error == NOT_PUBLIC


async def test_name_is_resolved_once_and_the_checked_address_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that resolves to another address the second time cannot bypass the check."""
    looked_up: list[str] = []
    real = socket.getaddrinfo

    def lookup(host: str | bytes, port: int, *rest: int, **more: int) -> object:
        looked_up.append(host.decode() if isinstance(host, bytes) else host)
        leads_to = "127.0.0.1" if looked_up.count("renter.example") == 1 else "127.0.0.2"
        return real(leads_to, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    async with receiving() as receiver:
        answer = await Outbound(allow_private=True).post(f"http://renter.example:{receiver.port}/", {}, b"{}")
        assert answer.is_good
        assert looked_up.count("renter.example") == 1
        assert receiver.received[0].headers["host"] == f"renter.example:{receiver.port}"


async def test_redirect_is_not_followed() -> None:
    async with receiving(307) as receiver:
        receiver.location = "http://169.254.169.254/latest/meta-data"
        answer = await Outbound(allow_private=True).post(receiver.url, {}, b"{}")
        assert (answer.status_code, answer.error) == (
            307,
            "the host answered with a redirect, which is not followed",
        )
        assert receiver.connections == 1


async def test_request_without_an_answer_times_out() -> None:
    async with receiving(None) as receiver:
        async with asyncio.timeout(20):
            answer = await Outbound(allow_private=True, timeout_seconds=0.05).post(receiver.url, {}, b"{}")
        assert (answer.status_code, answer.error) == (None, "no answer within 0.05 s")


@pytest.mark.parametrize(("status", "is_good"), [(200, True), (204, True), (404, False), (500, False)])
async def test_only_a_2xx_status_is_success(status: int, is_good: bool) -> None:
    async with receiving(status) as receiver:
        answer = await Outbound(allow_private=True).post(receiver.url, {}, b"{}")
        assert (answer.status_code, answer.is_good) == (status, is_good)


async def test_unreachable_host_is_reported_in_plain_words() -> None:
    async with receiving() as receiver:
        port = receiver.port
    answer = await Outbound(allow_private=True).post(f"http://127.0.0.1:{port}/", {}, b"{}")
    assert answer.error == "the host cannot be reached"
    answer = await Outbound(allow_private=True).post("http://no-such-host.invalid/", {}, b"{}")
    assert answer.error == "the host cannot be reached"


async def test_tls_and_host_header_use_the_name_while_connecting_to_the_address() -> None:
    authority = trustme.CA()
    server_side, client_side = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    authority.issue_cert("localhost").configure_cert(server_side)
    authority.configure_trust(client_side)
    named: list[str | None] = []
    server_side.sni_callback = lambda _socket, name, _context: named.append(name)
    async with receiving(tls=server_side) as receiver:
        url = f"https://localhost:{receiver.port}/events"
        assert (await Outbound(allow_private=True, trust=client_side).post(url, {}, b"{}")).is_good
        assert named == ["localhost"]
        assert receiver.received[0].headers["host"] == f"localhost:{receiver.port}"
        untrusted = await Outbound(allow_private=True).post(url, {}, b"{}")
        assert untrusted.error == "the host's certificate was not accepted"
        assert len(receiver.received) == 1
