"""The gateway as a process: its ready line, its end, and the settings that it refuses."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from dcp.v1 import jobs_pb2

from gateway.config import VARIABLES
from tests.support.gateway_server import FakeServer

COMMAND = (sys.executable, "-m", "gateway")


def environment(**variables: str) -> dict[str, str]:
    """This process's environment variables, without those of DCP and with these."""
    return {k: v for k, v in os.environ.items() if not k.startswith("DCP_")} | variables


@asynccontextmanager
async def started(**variables: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Starts a gateway and waits until it is ready; returns it and its base address."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, env=environment(DCP_HTTP_LISTEN="127.0.0.1:0", **variables), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        word, _, base = (await process.stdout.readline()).decode().strip().partition(" ")
        assert word == "ready"
        yield process, base
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def refused(**variables: str) -> str:
    """The error message of a gateway that exits with 2."""
    ended = subprocess.run(
        COMMAND, env=environment(**variables), capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    return ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_prints_its_address_and_exits_with_0_on_a_signal(
    server: FakeServer, number: signal.Signals
) -> None:
    async with started(DCP_SERVER=server.address) as (process, base), httpx.AsyncClient() as client:
        assert (await client.get(f"{base}/healthz")).json() == {"status": "ok"}
        answer = await client.get(f"{base}/api/jobs/job-1")
        assert (answer.status_code, "server" in answer.headers) == (200, False)
        process.send_signal(number)
        rest, _ = await process.communicate()
        assert (process.returncode, rest) == (0, b"")


async def test_a_running_request_ends_before_the_process_does(server: FakeServer) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def answer(_: object) -> jobs_pb2.GetJobResponse:
        arrived.set()
        await go.wait()
        return jobs_pb2.GetJobResponse()

    server.answers["GetJob"] = answer
    async with started(DCP_SERVER=server.address) as (process, base), httpx.AsyncClient() as client:
        request = asyncio.create_task(client.get(f"{base}/api/jobs/job-1"))
        await arrived.wait()
        process.send_signal(signal.SIGTERM)
        go.set()
        assert (await request).status_code == 200
        assert await process.wait() == 0


async def test_over_a_real_connection_a_large_upload_is_refused(server: FakeServer) -> None:
    async def upload() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield b" " * (1 << 16)

    async with started(DCP_SERVER=server.address) as (_, base), httpx.AsyncClient() as client:
        answer = await client.post(f"{base}/api/renters/topup", content=upload())
        assert (answer.status_code, answer.json()["code"]) == (413, "BODY_TOO_LARGE")
        assert (await client.get(f"{base}/healthz")).status_code == 200


SMUGGLED = b"POST /api/renters/topup HTTP/1.1\r\nhost: x\r\nx-renter-key: k2\r\ncontent-length: 0\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
UPGRADES = [
    {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQCAAAAAAIAAAAA"},
    {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"},
    {"connection": "upgrade", "upgrade": "TLS/1.2"},
]


async def exchanged(base: str, sent: bytes) -> bytes:
    """All bytes that the gateway sends on a connection until it closes it."""
    host, _, port = base.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    if not sent.endswith(LAST):
        writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


async def test_body_of_a_request_that_offers_an_upgrade_is_its_body_and_never_a_request(
    server: FakeServer,
) -> None:
    body = b'{"amount_halala": 5, "x": "' + SMUGGLED.replace(b"\r\n", b"__") + b'"}'
    async with started(DCP_SERVER=server.address) as (_, base):
        for offered in UPGRADES:
            for content in (b'{"amount_halala": 5}', body, SMUGGLED):
                server.calls.clear()
                head = {"host": "x", "x-renter-key": "k1", "content-length": str(len(content)), **offered}
                lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
                request = f"POST /api/renters/topup HTTP/1.1\r\n{lines}\r\n".encode() + content
                answer = await exchanged(base, request + LAST)
                assert answer.count(b"HTTP/1.1 ") == 2, answer
                assert answer.endswith(b'{"status":"ok"}')
                amounts = [call.request.amount_halala for call in server.calls]
                assert amounts == ([5] if content == b'{"amount_halala": 5}' else []), (offered, content)


async def test_body_that_is_shorter_than_announced_is_not_carried_out(server: FakeServer) -> None:
    async with started(DCP_SERVER=server.address) as (_, base):
        head = (
            b"POST /api/renters/topup HTTP/1.1\r\nhost: x\r\nx-renter-key: k\r\ncontent-length: 100\r\n\r\n"
        )
        for sent in (b"", b"{}", b'{"amount_halala": 5}'):
            await exchanged(base, head + sent)
    assert server.calls == []


@pytest.mark.parametrize(
    ("trusted", "forwarded"),
    [("", "127.0.0.1"), ("10.0.0.0/8", "127.0.0.1"), ("127.0.0.0/8", "192.0.2.1")],
)
async def test_forwarded_address_is_trusted_only_from_configured_proxies(
    server: FakeServer, trusted: str, forwarded: str
) -> None:
    settings = {"DCP_SERVER": server.address, "DCP_TRUSTED_PROXIES": trusted, "FORWARDED_ALLOW_IPS": "*"}
    async with started(**settings) as (_, base), httpx.AsyncClient() as client:
        await client.get(f"{base}/api/jobs/job-1", headers={"x-forwarded-for": "203.0.113.9, 192.0.2.1"})
    assert [call.metadata["x-forwarded-for"] for call in server.calls] == [forwarded]


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in refused(DCP_HTTP_LISTEN=address)


def test_an_unknown_variable_is_refused() -> None:
    assert "DCP_SEVER" in refused(DCP_SEVER="127.0.0.1:1")


def test_help_lists_the_variables() -> None:
    ended = subprocess.run(
        [*COMMAND, "--help"], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert all(variable.name in ended.stdout for variable in VARIABLES)


async def test_plain_http_to_other_machines_is_served_with_a_warning(server: FakeServer) -> None:
    settings = environment(DCP_HTTP_LISTEN="0.0.0.0:0", DCP_INSECURE="true", DCP_SERVER=server.address)
    process = await asyncio.create_subprocess_exec(
        *COMMAND, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    warning = (await process.stderr.readline()).decode()
    assert (await process.stdout.readline()).startswith(b"ready ")
    process.terminate()
    await process.communicate()
    for word in ("WARNING", "DCP_HTTP_LISTEN=0.0.0.0:0", "HTTPS", "DCP_INSECURE"):
        assert word in warning


def files_of(soft: int) -> str:
    """A command that runs another one with this soft limit of open files."""
    return f"import os, resource, sys; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; \
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, hard)); os.execv(sys.executable, sys.argv[1:])"


async def test_more_connections_than_the_usual_limit_of_open_files_are_served(server: FakeServer) -> None:
    """The soft limit is raised at the start: here it would be full at 64 files."""
    settings = environment(DCP_HTTP_LISTEN="127.0.0.1:0", DCP_SERVER=server.address)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", files_of(64), *COMMAND), env=settings, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    base = (await process.stdout.readline()).decode().strip().removeprefix("ready ")
    host, _, port = base.removeprefix("http://").rpartition(":")
    streams = [await asyncio.open_connection(host, int(port)) for _ in range(100)]
    for _, writer in streams:
        writer.write(LAST)
    answers = [await asyncio.wait_for(reader.read(), 10) for reader, _ in streams]
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    for _, writer in streams:
        writer.close()
    process.terminate()
    await process.communicate()
