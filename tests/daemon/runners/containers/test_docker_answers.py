"""A container engine whose answers make no sense cannot be used; it is never a fault of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from daemon.runners.containers.docker import Docker, DockerUnavailableError

VERSION = b'{"ApiVersion": "1.41", "Version": "20"}'


@pytest.fixture
def said() -> list[bytes]:
    return []


@pytest.fixture
async def docker(tmp_path: Path, said: list[bytes]) -> AsyncIterator[Docker]:
    """A client of an engine that answers every request, except for its version, with what was said last."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = VERSION if b"/version" in head.split(b"\r\n")[0] else said[-1]
        kind = b"Content-Type: application/json\r\nConnection: close\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (kind, len(body), body))
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    socket = tmp_path / "engine.sock"
    server = await asyncio.start_unix_server(answer, path=str(socket))
    client = Docker(str(socket))
    yield client
    await client.close()
    server.close()


BRACKETS = b"[" * 200_000


@pytest.mark.parametrize("body", [BRACKETS, b"{not json}", b"\xff"])
async def test_answer_that_makes_no_sense_is_an_engine_that_cannot_be_used(
    docker: Docker, said: list[bytes], body: bytes
) -> None:
    said.append(body)
    with pytest.raises(DockerUnavailableError):
        await docker.inspect_image("busybox:1")
    with pytest.raises(DockerUnavailableError):
        await docker.containers_with("dcp.owner=1")


@pytest.mark.parametrize("line", [BRACKETS[:100_000] + b"\n", b"null\n", b"x" * 2_000_000])
async def test_progress_of_a_pull_that_makes_no_sense_ends_the_pull(
    docker: Docker, said: list[bytes], line: bytes
) -> None:
    said.append(line)
    with pytest.raises(DockerUnavailableError):
        await docker.pull("busybox:1", 1 << 20)
