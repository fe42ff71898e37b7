"""The daemon's local socket: who may ask, what it answers, and that no caller can block it."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from daemon.cli import control

ANSWERS: control.Answers = {"status": lambda _: {"is": "well"}}


async def ask(folder: Path, question: str = "status") -> dict[str, Any]:
    return await asyncio.to_thread(control.ask, folder, question)


async def test_question_is_answered_and_only_the_owner_may_use_the_socket(tmp_path: Path) -> None:
    async with control.serve(tmp_path, ANSWERS):
        assert await ask(tmp_path) == {"is": "well"}
        mode = control.socket_path(tmp_path).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not control.socket_path(tmp_path).exists()


async def test_answer_gets_what_is_asked_about(tmp_path: Path) -> None:
    answers: control.Answers = {"drain": lambda request: {"gpu": request["gpu"]}}
    async with control.serve(tmp_path, answers):
        assert await asyncio.to_thread(control.ask, tmp_path, "drain", gpu="1") == {"gpu": "1"}


async def test_folder_with_a_long_name_can_have_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120) / ("y" * 120)
    folder.mkdir(parents=True)
    async with control.serve(folder, ANSWERS):
        assert await ask(folder) == {"is": "well"}


async def test_question_without_a_running_daemon_is_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(control.NotRunningError, match="no daemon runs on"):
            await ask(folder)


async def test_socket_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(control.socket_path(tmp_path)))
    dead.close()
    with pytest.raises(control.NotRunningError):
        await ask(tmp_path)
    async with control.serve(tmp_path, ANSWERS):
        assert await ask(tmp_path) == {"is": "well"}


async def test_unknown_questions_and_malformed_input_are_refused(tmp_path: Path) -> None:
    async with control.serve(tmp_path, ANSWERS):
        assert await ask(tmp_path, "explode") == {"error": "ask for one of status"}
        for noise in (b"\xff\n", b"[]\n", b'{"do": []}\n', b"x" * 5000 + b"\n", b""):
            reader, writer = await asyncio.open_unix_connection(control.socket_path(tmp_path))
            writer.write(noise)
            writer.write_eof()
            async with asyncio.timeout(10):
                assert len(await reader.read()) < 200
            writer.close()
        assert await ask(tmp_path) == {"is": "well"}


async def test_silent_callers_do_not_block_the_next_for_ever(tmp_path: Path) -> None:
    async with control.serve(tmp_path, ANSWERS):
        silent = [
            await asyncio.open_unix_connection(control.socket_path(tmp_path))
            for _ in range(control.MAX_CALLERS)
        ]
        # A caller over the limit is refused at once instead of queued.
        with pytest.raises(control.NotRunningError):
            await ask(tmp_path)
        for _, writer in silent:
            writer.close()
            await writer.wait_closed()
        assert await ask(tmp_path) == {"is": "well"}
