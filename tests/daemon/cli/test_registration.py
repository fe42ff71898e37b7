"""dcp-daemon register: with flags, and with questions in a real terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
import tomllib
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from daemon.cli.model_servers import address_of as ollama_address
from daemon.cli.model_servers import find as find_ollama
from tests.daemon.fake_server import GOOD_KEY, FakeServer, fake_server
from tests.daemon.test_main import run
from tests.support.openai_server import Script, openai_server

_ROOT = Path(__file__).parents[3]
FLAGS = ("--name", "Node", "--email", "me@example.com", "--gpu-model", "RTX 4090")


def settings(state: Path) -> dict[str, Any]:
    """The contents of the settings file."""
    return tomllib.loads((state / ".config" / "dcp-daemon" / "config.toml").read_text())


class Terminal:
    """A command in its own terminal, and a person who reads and types."""

    def __init__(self, *arguments: str, state: Path, **environ: str) -> None:
        self._arguments = arguments
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(state),
            "DCP_STATE_DIR": str(state / "dcp"),
            "TERM": "dumb",
        } | environ
        self.shown = ""

    async def __aenter__(self) -> Terminal:
        self._own, theirs = pty.openpty()
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "daemon", *self._arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=_ROOT,
            env=self._environ,
            start_new_session=True,
        )
        os.close(theirs)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        self.close()

    def close(self) -> None:
        """Closes the terminal."""
        if self._own >= 0:
            os.close(self._own)
            self._own = -1

    async def sees(self, text: str) -> None:
        """Waits until this text is shown after the texts that were seen before."""
        async with asyncio.timeout(30):
            while text not in self.shown:
                try:
                    more = await asyncio.to_thread(os.read, self._own, 4096)
                except OSError:  # the command has closed its side of the terminal
                    more = b""
                assert more, f"it ended without {text!r}: {self.shown}"
                self.shown += more.decode()
        self.shown = self.shown.partition(text)[2]

    async def types(self, text: str) -> None:
        """Types a line."""
        os.write(self._own, text.encode() + b"\n")

    async def answers(self, question: str, text: str) -> None:
        """Waits for a question and answers it."""
        await self.sees(question)
        await self.types(text)

    async def end(self) -> int:
        """Its exit status."""
        async with asyncio.timeout(30):
            return await self.process.wait()


async def test_flags_write_a_file_that_run_and_doctor_read(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    async with fake_server() as server:
        more = ("--server", server.address, "--model", f"a/b={model}")
        status, _, err = await run("register", *FLAGS, *more, state=tmp_path)
        assert (status, err) == (0, "")
        written = settings(tmp_path)
        assert written["server"] == server.address
        assert written["models"] == {"a/b": str(model)}
        assert written["state_dir"] == str(tmp_path / "dcp")
        _, out, _ = await run("doctor", state=tmp_path)
    assert f"ok   server {server.address} answers" in out
    assert "ok   model a/b" in out
    assert "config.toml" in out


async def test_without_a_terminal_every_missing_flag_is_named(tmp_path: Path) -> None:
    status, out, err = await run("register", state=tmp_path)
    assert (status, out) == (2, "")
    assert "not a terminal, so no questions can be asked: give --name, --email" in err
    status, _, err = await run("register", "--name", "Node", state=tmp_path)
    assert "give --email" in err


async def test_other_settings_are_replaced_only_with_force(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "dcp-daemon"
    folder.mkdir(parents=True)
    mine = '# mine\nserver = "127.0.0.1:1"\nmax_temp_c = 80\n'
    (folder / "config.toml").write_text(mine)
    (folder / "config.toml").chmod(0o644)
    async with fake_server() as server:
        flags = ("register", *FLAGS, "--server", server.address)
        status, _, err = await run(*flags, state=tmp_path)
        assert status == 2
        assert "exists and says something else: --force replaces it" in err
        assert server.registrations == []
        assert (folder / "config.toml").read_text() == mine
        assert (await run(*flags, "--force", state=tmp_path))[0] == 0
    assert settings(tmp_path)["server"] == server.address
    assert settings(tmp_path)["max_temp_c"] == 80
    assert (folder / "config.toml.old").read_text() == mine


async def test_nothing_is_registered_if_the_settings_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with fake_server() as server:
        place = ("--config", str(tmp_path / "file" / "config.toml"))
        status, _, err = await run(*place, "register", *FLAGS, "--server", server.address, state=tmp_path)
        assert server.registrations == []
    assert status == 2
    assert "Traceback" not in err


async def answer_server_question(terminal: Terminal, server: FakeServer) -> None:
    await terminal.answers("Server, as host:port [127.0.0.1:50051]: ", "nonsense")
    await terminal.sees("DCP_SERVER must be host:port")
    await terminal.answers("Server, as host:port", server.address)


async def test_terminal_asks_for_missing_values_and_again_after_wrong_ones(tmp_path: Path) -> None:
    async with fake_server() as server, Terminal("register", state=tmp_path) as terminal:
        await answer_server_question(terminal, server)
        await terminal.answers("Name that renters see [My node]: ", "Riyadh RTX Node")
        await terminal.answers("E-mail address: ", "me")
        await terminal.sees("'me' is not an e-mail address")
        await terminal.answers("E-mail address: ", "taken@example.com")
        await terminal.answers("Telephone", "12")
        await terminal.sees("starts with + and the country")
        await terminal.answers("Telephone", "")
        await terminal.sees("this e-mail address is taken (EMAIL_TAKEN)")
        await terminal.answers("Name that renters see [Riyadh RTX Node]: ", "")
        await terminal.answers("E-mail address [taken@example.com]: ", "me@example.com")
        await terminal.answers("Telephone", "+966500000000")
        await terminal.sees("registered provider 42")
        assert await terminal.end() == 0
        (request,) = server.registrations
    assert (request.name, request.email, request.phone) == (
        "Riyadh RTX Node",
        "me@example.com",
        "+966500000000",
    )
    assert settings(tmp_path)["server"] == server.address
    assert json.loads((tmp_path / "dcp" / "identity.json").read_text())["api_key"] == GOOD_KEY


async def test_server_on_another_machine_is_asked_for_with_its_certificate_authorities(
    tmp_path: Path,
) -> None:
    async with Terminal("register", state=tmp_path) as terminal:
        await terminal.answers("Server, as host:port", "market.example.com:50051")
        await terminal.answers("File of the certificate authorities", str(tmp_path / "nowhere.pem"))
        await terminal.sees("which is not a file that can be read")


@pytest.mark.parametrize(("answer", "is_replaced"), [("n", False), ("yes", True)])
async def test_terminal_asks_before_settings_are_replaced(
    tmp_path: Path, answer: str, is_replaced: bool
) -> None:
    folder = tmp_path / ".config" / "dcp-daemon"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('log_level = "debug"\n')
    (folder / "config.toml").chmod(0o644)
    async with fake_server() as server:
        arguments = ("register", *FLAGS, "--phone", "", "--server", server.address)
        async with Terminal(*arguments, state=tmp_path) as terminal:
            await terminal.answers("replace it? [y/N]: ", answer)
            await terminal.sees("registered provider 42")
            assert await terminal.end() == 0
    assert ("server" in settings(tmp_path)) is is_replaced
    assert settings(tmp_path)["log_level"] == "debug"


FIELDS = ("register", *FLAGS, "--phone", "")
# An Ollama that the machine of these tests may have is not to be found.
NO_OLLAMA = {"OLLAMA_HOST": "127.0.0.1:1"}


@pytest.mark.parametrize(
    ("environ", "saved"),
    [
        ({"DCP_ATTACHED_URL": "http://127.0.0.1:1/v1"}, {"attached_url": "http://127.0.0.1:1/v1"}),
        ({"DCP_CONTAINER_IMAGES": "busybox,ghcr.io/a/*"}, {"container_images": "busybox,ghcr.io/a/*"}),
        (
            {"DCP_ENGINE_MODELS": "a/b=/m/b", "DCP_ENGINE_IMAGE": "vllm/vllm-openai:v1"},
            {"engine_models": ["a/b=/m/b"], "engine_image": "vllm/vllm-openai:v1"},
        ),
    ],
)
async def test_no_model_is_asked_for_if_other_work_is_configured_and_that_is_saved(
    tmp_path: Path, environ: dict[str, str], saved: dict[str, Any]
) -> None:
    environ = {"DCP_MODELS": "", "DCP_MAX_TEMP_C": "80", "DCP_ALIASES": "pub/a=own-a"} | environ
    async with fake_server() as server:
        arguments = (*FIELDS, "--server", server.address)
        async with Terminal(*arguments, state=tmp_path, **NO_OLLAMA, **environ) as terminal:
            await terminal.sees("no model is asked for: there is ")
            await terminal.sees("registered provider 42")
            assert await terminal.end() == 0
    written = settings(tmp_path)
    expected = {"models": "", "max_temp_c": "80", "aliases": {"pub/a": "own-a"}, **saved}
    assert expected.items() <= written.items()
    # Without the environment the file alone says the same.
    _, out, err = await run("doctor", state=tmp_path)
    assert "no model to serve" not in out + err


async def test_terminal_offers_the_ollama_that_runs(tmp_path: Path) -> None:
    script = Script(models=[{"id": "llama3.2:latest"}, {"id": "phi"}])
    with openai_server(script, at_root=True) as url:
        async with fake_server() as server:
            arguments = (*FIELDS, "--server", server.address)
            environ = {"DCP_MODELS": "", "OLLAMA_HOST": url.removesuffix("/v1")}
            async with Terminal(*arguments, state=tmp_path, **environ) as terminal:
                await terminal.answers(
                    f"Ollama answers at {url} with llama3.2:latest, phi: serve its models? [Y/n]: ", ""
                )
                await terminal.sees("registered provider 42")
                assert await terminal.end() == 0
    assert settings(tmp_path)["attached_url"] == url


async def test_terminal_takes_the_address_of_a_model_server_for_a_model(tmp_path: Path) -> None:
    async with fake_server() as server:
        arguments = (*FIELDS, "--server", server.address)
        environ = {"DCP_MODELS": "", "DCP_ATTACHED_API_KEY": "hush", **NO_OLLAMA}
        async with Terminal(*arguments, state=tmp_path, **environ) as terminal:
            await terminal.answers("or the http:// address of a model server", "http://")
            await terminal.sees("DCP_ATTACHED_URL must be")
            await terminal.answers("Model to serve", "http://127.0.0.1:1/v1")
            await terminal.sees("DCP_ATTACHED_API_KEY is not saved there")
            assert await terminal.end() == 0
    path = tmp_path / ".config" / "dcp-daemon" / "config.toml"
    assert settings(tmp_path)["attached_url"] == "http://127.0.0.1:1/v1"
    assert "hush" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("", "127.0.0.1:11434"),
        ("0.0.0.0", "127.0.0.1:11434"),
        (":9", "127.0.0.1:9"),
        ("http://localhost:80", "localhost:80"),
        ("[::1]:7", "[::1]:7"),
        ("[::]:7", "127.0.0.1:7"),
        ("127.0.0.1:http", "127.0.0.1:11434"),
    ],
)
def test_ollama_is_looked_for_where_its_own_variable_says(host: str, address: str) -> None:
    assert ollama_address(host) == address


def test_ollama_of_another_machine_is_not_asked() -> None:
    assert ollama_address("ollama.example.com") == "ollama.example.com:11434"
    assert find_ollama({"OLLAMA_HOST": "ollama.example.com:11434"}) is None


async def test_end_of_input_registers_nothing(tmp_path: Path) -> None:
    async with fake_server() as server:
        async with Terminal("register", "--server", server.address, state=tmp_path) as terminal:
            await terminal.sees("Name that renters see")
            await terminal.types("\x04")
            await terminal.sees("the input ended before everything was answered; nothing was registered")
            assert await terminal.end() == 2
        assert server.registrations == []
