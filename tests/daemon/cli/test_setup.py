"""dcp-daemon setup: what it finds, asks, downloads and writes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import ssl
import stat
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from daemon.cli import model_servers
from tests.daemon.cli.test_registration import NO_OLLAMA, Terminal, settings
from tests.daemon.fake_server import GOOD_KEY, eventually, fake_server
from tests.daemon.test_main import command, run
from tests.support.file_server import FileServer, serving_file
from tests.support.openai_server import Ollama, Raw, Script, openai_server
from tests.support.private_engine import IMAGE, PrivateEngine

MIB = 1 << 20


def text(value: str) -> bytes:
    """A text as GGUF has it."""
    return struct.pack("<Q", len(value)) + value.encode()


def model_file(size: int = 5 * MIB, **numbers: int) -> bytes:
    """A GGUF file of this size whose metadata says these numbers of its architecture."""
    entries = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    entries += [text(f"llama.{name}") + struct.pack("<II", 4, value) for name, value in numbers.items()]
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries)
    return head + bytes(range(256)) * ((size - len(head)) // 256)


MODEL = model_file()
DIGEST = hashlib.sha256(MODEL).hexdigest()
BASE = ("setup", "--yes", "--no-attach")
ENVIRON = dict(NO_OLLAMA)
"""With a server that answers, as `doctor` would wait for one that does not."""


@pytest.fixture(autouse=True)
async def market() -> AsyncIterator[None]:
    async with fake_server() as server:
        ENVIRON["DCP_SERVER"] = server.address
        yield


def asking(server: FileServer, *more: str, path: str = "m.gguf") -> tuple[str, ...]:
    """The command that downloads acme/m of this server."""
    return (*BASE, "--model", "acme/m", "--from", f"http://127.0.0.1:{server.port}/{path}", *more)


def place(state: Path) -> Path:
    """Where that is to be."""
    return state / "dcp" / "models" / "acme--m" / "m.gguf"


def leftovers(state: Path) -> list[str]:
    """The files beside it."""
    return sorted(path.name for path in place(state).parent.iterdir())


async def test_model_is_downloaded_verified_and_served(tmp_path: Path) -> None:
    async with serving_file(MODEL) as server:
        _, out, err = await run(*asking(server, "--sha256", DIGEST), state=tmp_path, **ENVIRON)
    assert place(tmp_path).read_bytes() == MODEL
    assert leftovers(tmp_path) == ["m.gguf"]
    assert "m.gguf: 0.00 GiB" in out
    assert "100 %" in out
    assert f"its SHA-256 is right: {DIGEST}" in out
    assert settings(tmp_path)["models"] == {"acme/m": str(place(tmp_path))}
    path = tmp_path / ".config" / "dcp-daemon" / "config.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # It ends with what doctor finds, and with what to do next.
    assert "ok   model acme/m" in out
    assert out.rstrip().endswith("next: dcp-daemon register")
    assert "Traceback" not in err


async def test_progress_is_one_line_in_a_terminal(tmp_path: Path) -> None:
    async with (
        serving_file(MODEL) as server,
        Terminal(*asking(server), state=tmp_path, **ENVIRON) as terminal,
    ):
        await terminal.sees("\r  m.gguf: 0.00 GiB of 0.00 GiB, 100 %")
        await terminal.sees("next: dcp-daemon register")


async def test_digest_that_nobody_stated_is_shown(tmp_path: Path) -> None:
    async with serving_file(MODEL) as server:
        _, out, _ = await run(*asking(server), state=tmp_path, **ENVIRON)
    assert f"SHA-256 {DIGEST}; NOT VERIFIED" in out


@pytest.mark.parametrize("whose", ["flag", "header"])
async def test_wrong_digest_leaves_nothing(tmp_path: Path, whose: str) -> None:
    wrong = hashlib.sha256(b"else")
    async with serving_file(MODEL) as server:
        flags = ("--sha256", wrong.hexdigest()) if whose == "flag" else ()
        if whose == "header":
            server.headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(wrong.digest()).decode()}:"
        status, _, err = await run(*asking(server, *flags), state=tmp_path, **ENVIRON)
    assert status == 2
    assert f"has the SHA-256 {DIGEST}, not {wrong.hexdigest()}: nothing of it is kept" in err
    assert leftovers(tmp_path) == []
    assert not (tmp_path / ".config").exists() or not list((tmp_path / ".config" / "dcp-daemon").iterdir())


async def broken_off(server: FileServer, state: Path) -> None:
    """A download that was killed in the middle."""
    server.stalls_after = 3 * MIB
    async with command(*asking(server), state=state, **ENVIRON) as running:
        part = place(state).with_name("m.gguf.part")
        await eventually(lambda: part.exists() and part.stat().st_size >= 2 * MIB, 30)
        running.process.kill()
        await running.process.wait()
    assert not place(state).exists()


async def test_killed_download_goes_on_where_it_was(tmp_path: Path) -> None:
    async with serving_file(MODEL) as server:
        server.headers["ETag"] = '"one"'
        await broken_off(server, tmp_path)
        kept = place(tmp_path).with_name("m.gguf.part").stat().st_size
        _, out, _ = await run(*asking(server, "--sha256", DIGEST), state=tmp_path, **ENVIRON)
        assert server.asked == [("/m.gguf", ""), ("/m.gguf", f"bytes={kept}-")]
    assert kept >= 2 * MIB
    assert place(tmp_path).read_bytes() == MODEL
    assert leftovers(tmp_path) == ["m.gguf"]
    assert "is right" in out


async def test_download_begins_anew_if_the_source_changed(tmp_path: Path) -> None:
    other = MODEL[:MIB] + bytes(MIB) + MODEL[2 * MIB :]  # also in what was there already
    async with serving_file(MODEL) as server:
        server.headers["ETag"] = '"one"'
        await broken_off(server, tmp_path)
        server.content, server.headers["ETag"] = other, '"two"'
        await run(*asking(server), state=tmp_path, **ENVIRON)
        assert server.asked[1][1].startswith("bytes=")
    assert place(tmp_path).read_bytes() == other


async def test_source_that_cannot_say_whether_it_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    async with serving_file(MODEL) as server:
        await broken_off(server, tmp_path)
        await run(*asking(server), state=tmp_path, **ENVIRON)
        assert [asked for _, asked in server.asked] == ["", ""]
    assert place(tmp_path).read_bytes() == MODEL


async def test_connection_that_breaks_is_taken_up_again_at_once(tmp_path: Path) -> None:
    async with serving_file(MODEL) as server:
        server.headers["ETag"], server.breaks_after = '"one"', 2 * MIB
        await run(*asking(server, "--sha256", DIGEST), state=tmp_path, **ENVIRON)
        assert len(server.asked) == 2
        assert server.asked[1][1].startswith("bytes=")
    assert place(tmp_path).read_bytes() == MODEL


@pytest.mark.parametrize("location", ["file:///etc/hostname", "http://models.example.com/m.gguf"])
async def test_redirection_to_another_scheme_is_refused(tmp_path: Path, location: str) -> None:
    async with serving_file(MODEL) as server:
        server.location = location
        status, _, err = await run(*asking(server), state=tmp_path, **ENVIRON)
    assert status == 2
    assert f"{location} is not https" in err
    assert not place(tmp_path).exists()


async def test_what_began_encrypted_stays_so_towards_this_machine_too(tmp_path: Path) -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    environ = {**ENVIRON, "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    async with serving_file(MODEL, tls) as server, serving_file(MODEL) as other:
        source = f"https://localhost:{server.port}/m.gguf"
        server.location = f"http://127.0.0.1:{other.port}/file"
        flags = (*BASE, "--model", "acme/m", "--from", source)
        status, _, err = await run(*flags, state=tmp_path, **environ)
        assert (status, other.asked) == (2, [])
        assert f"{server.location} is not https" in err
        server.location = ""
        await run(*flags, state=tmp_path, **environ)
    assert place(tmp_path).read_bytes() == MODEL


async def test_model_that_is_too_large_is_refused_with_numbers_before_it_comes(tmp_path: Path) -> None:
    async with serving_file(MODEL) as server:
        server.headers["Content-Length"] = str(100 << 40)
        status, _, err = await run(*asking(server), state=tmp_path, **ENVIRON)
        assert status == 2
        assert "acme/m takes about 125829376 MiB (its files 104857600 MiB" in err
        assert "or take it with --anyway" in err
        # The disk has no such way out.
        status, _, err = await run(*asking(server, "--anyway"), state=tmp_path, **ENVIRON)
    assert status == 2
    assert "102400.00 GiB are still to come" in err
    assert not place(tmp_path).exists()


async def test_context_that_the_file_describes_counts(tmp_path: Path) -> None:
    shape = {"block_count": 1000, "attention.head_count": 4000, "embedding_length": 4_000_000_000}
    async with serving_file(model_file(**shape)) as server:
        status, _, err = await run(*asking(server), state=tmp_path, **ENVIRON)
    assert status == 2
    assert "its files 4 MiB, its context 31250000000 MiB" in err


async def test_page_instead_of_a_model_is_refused(tmp_path: Path) -> None:
    async with serving_file(b"<html>please log in</html>") as server:
        status, _, err = await run(*asking(server), state=tmp_path, **ENVIRON)
    assert status == 2
    assert "is not a GGUF file" in err
    assert not place(tmp_path).exists()


async def test_manifest_names_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.gguf").write_bytes(MODEL)
    (source / "notes.txt").write_bytes(b"notes")
    files = [{"name": "notes.txt"}, {"name": "m.gguf", "size": len(MODEL), "sha256": DIGEST}]
    (source / "m.json").write_text(json.dumps({"files": files}))
    arguments = (*BASE, "--model", "acme/m", "--from", str(source / "m.json"))
    _, out, err = await run(*arguments, state=tmp_path, **ENVIRON)
    assert settings(tmp_path)["models"] == {"acme/m": str(place(tmp_path))}, err
    assert leftovers(tmp_path) == ["m.gguf", "notes.txt"]
    assert f"is right: {DIGEST}" in out
    # What is there is not downloaded again.
    (source / "m.gguf").unlink()
    _, out, _ = await run(*arguments, state=tmp_path, **ENVIRON)
    assert f"is there already, SHA-256 {DIGEST}" in out


@pytest.mark.parametrize("name", ["../m.gguf", "/etc/m.gguf", ".m.gguf", "a/b.gguf", ""])
async def test_manifest_cannot_write_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.json").write_text(json.dumps({"files": [{"name": name, "url": "m.gguf"}]}))
    arguments = (*BASE, "--model", "acme/m", "--from", str(tmp_path / "m.json"))
    status, _, err = await run(*arguments, state=tmp_path, **ENVIRON)
    assert status == 2
    assert f"{name!r} cannot be the name of a file" in err


async def test_without_a_terminal_every_missing_option_is_named(tmp_path: Path) -> None:
    status, _, err = await run("setup", "--model", "acme/m", state=tmp_path, **NO_OLLAMA)
    assert status == 2
    assert "give --server, --key-file (or DCP_PROVIDER_KEY), " in err
    assert "--from, or --yes" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--from", "m.gguf"), "--from and --sha256 need --model"),
        (("--model", "a/b", "--sha256", DIGEST), "--sha256 needs --from"),
        (("--model", "a/b", "--from", "m.gguf", "--sha256", "abc"), "must be 64 hexadecimal digits"),
        (("--model", "a,b=c", "--from", "m.gguf"), "is no model's name"),
        (("--model", "a/b", "--from", "/no/such.gguf"), "/no/such.gguf cannot be copied"),
    ],
)
async def test_wrong_options_are_named(tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    status, _, err = await run(*BASE, *flags, state=tmp_path, **ENVIRON)
    assert status == 2
    assert message in err


async def test_settings_that_are_there_stay_and_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "dcp-daemon"
    folder.mkdir(parents=True)
    mine = 'server = "127.0.0.1:2"\nmax_temp_c = 80\n[models]\n"acme/old" = "/models/old.gguf"\n'
    (folder / "config.toml").write_text(mine)
    (folder / "config.toml").chmod(0o600)
    async with serving_file(MODEL) as server:
        status, out, _ = await run(*asking(server), "--dry-run", state=tmp_path, **NO_OLLAMA)
        assert status == 0
        assert f'"acme/m" = "{place(tmp_path)}"' in out
        assert (folder / "config.toml").read_text() == mine
        assert server.asked == []
        await run(*asking(server), state=tmp_path, **NO_OLLAMA)
    written = settings(tmp_path)
    assert (written["server"], written["max_temp_c"]) == ("127.0.0.1:2", 80)
    assert written["models"] == {"acme/old": "/models/old.gguf", "acme/m": str(place(tmp_path))}


async def test_key_of_a_file_is_stored_once_the_server_knows_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{GOOD_KEY}\n")
    (tmp_path / "wrong").write_text("dcp-provider-bad\n")
    async with fake_server() as server:
        flags = ("setup", "--yes", "--no-attach", "--server", server.address, "--key-file")
        status, out, err = await run(*flags, str(tmp_path / "wrong"), state=tmp_path, **ENVIRON)
        assert status == 2
        assert "the provider key cannot be used: the server refused it" in err
        _, out, err = await run(*flags, str(tmp_path / "key"), state=tmp_path, **ENVIRON)
    stored = tmp_path / "dcp" / "identity.json"
    assert json.loads(stored.read_text())["api_key"] == GOOD_KEY
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert GOOD_KEY not in out + err
    assert out.rstrip().endswith("next: dcp-daemon run")


async def test_terminal_asks_only_for_server_and_key(tmp_path: Path) -> None:
    script = Script(models=[{"id": "llama3.2:latest"}])
    with openai_server(script, at_root=True) as url:
        async with fake_server() as server:
            environ = {"OLLAMA_HOST": url.removesuffix("/v1")}
            async with Terminal("setup", "--images", "", state=tmp_path, **environ) as terminal:
                await terminal.answers("Server, as host:port", server.address)
                await terminal.answers("Provider key, which is not shown", "nonsense")
                await terminal.sees("the server refused it")
                await terminal.answers("Provider key, which is not shown", GOOD_KEY)
                await terminal.sees(f"Ollama at {url}: llama3.2:latest")
                await terminal.sees("next: dcp-daemon run")
    assert settings(tmp_path)["attached_url"] == url
    assert json.loads((tmp_path / "dcp" / "identity.json").read_text())["api_key"] == GOOD_KEY


class ContainerEngine:
    """A Docker Engine with two images, of which one has no name."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers a request."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].partition(b"?")[0]
            answers = {
                b"version": {"Version": "29.1", "ApiVersion": "1.44", "Components": [{"Name": "Engine"}]},
                b"info": {"Architecture": "x86_64"},
                b"json": [{"RepoTags": ["acme/trainer:2", "<none>:<none>"]}, {"RepoTags": None}],
            }
            body = json.dumps(answers[path.rpartition(b"/")[2]]).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
            await writer.drain()
        writer.close()


@pytest.mark.parametrize(("answer", "images"), [("y", "acme/trainer:2"), ("", None)])
async def test_images_that_are_there_are_run_only_if_the_provider_says_so(
    tmp_path: Path, answer: str, images: str | None
) -> None:
    socket = tmp_path / "engine.sock"
    listener = await asyncio.start_unix_server(ContainerEngine().serve, socket)
    environ = {"DCP_CONTAINER_SOCKET": str(socket), "DCP_PROVIDER_KEY": GOOD_KEY, **ENVIRON}
    async with listener, fake_server() as server:
        flags = ("setup", "--no-attach", "--server", server.address)
        status, _, err = await run(*flags, state=tmp_path, **environ)
        assert (status, "give --images, or --yes" in err) == (2, True)
        async with Terminal(*flags, state=tmp_path, **environ) as terminal:
            await terminal.sees(f"engine 29.1 at {socket}")
            await terminal.sees("image acme/trainer:2")
            await terminal.answers("May jobs run these 1 images, and no others? [y/N]", answer)
            await terminal.sees("next: dcp-daemon run")
    assert settings(tmp_path).get("container_images") == images


@pytest.mark.engine
async def test_real_engine_and_its_images_are_found_and_asked_about(
    tmp_path: Path, docker_engine: PrivateEngine
) -> None:
    environ = {"DCP_CONTAINER_SOCKET": str(docker_engine.socket), "DCP_PROVIDER_KEY": GOOD_KEY, **ENVIRON}
    async with fake_server() as server:
        flags = ("setup", "--no-attach", "--server", server.address)
        async with Terminal(*flags, state=tmp_path, **environ) as terminal:
            await terminal.sees(f"at {docker_engine.socket}")
            await terminal.sees(f"image {IMAGE.removeprefix('docker.io/library/')}")
            await terminal.answers("and no others? [y/N]", "y")
            await terminal.sees("next: dcp-daemon run")
    assert "busybox:test" in settings(tmp_path)["container_images"]


def test_servers_at_usual_ports_are_found_if_they_serve_a_model() -> None:
    script = Script(models=[{"id": "acme/served"}])
    with openai_server(script, at_root=True) as url:
        port = urlsplit(url).port or 0
        ports = (("vLLM", port), ("LM Studio", 1))
        assert list(model_servers.others(ports)) == [("vLLM", url, ["acme/served"])]
        script.list_answer = Raw(status=401)
        assert list(model_servers.others(ports)) == []


async def test_server_that_is_attached_already_is_not_replaced(tmp_path: Path) -> None:
    script = Script(models=[], ollama=Ollama(pull=Raw()))
    with openai_server(script, at_root=True) as url:
        environ = ENVIRON | {
            "OLLAMA_HOST": url.removesuffix("/v1"),
            "DCP_ATTACHED_URL": "http://127.0.0.1:1/v1",
        }
        status, _, err = await run(*BASE, "--model", "acme/m", state=tmp_path, **environ)
    assert status == 2
    assert "the daemon attaches one model server" in err
    assert script.requests == []


async def test_model_that_makes_embeddings_is_set_as_one(tmp_path: Path) -> None:
    async with serving_file(model_file(pooling_type=1)) as server:
        await run(*asking(server), state=tmp_path, **ENVIRON)
        assert settings(tmp_path)["embedding_models"] == "acme/m"


def layer(done: int, total: int = 1000) -> dict[str, object]:
    """How far the download of one layer is."""
    return {"status": "pulling a", "digest": "sha256:a", "total": total, "completed": done}


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([{"status": "pulling manifest"}, layer(0), layer(1000), {"status": "success"}], ""),
        ([layer(0), {"error": "file does not exist"}], "Ollama says: file does not exist"),
        ([layer(0)], "ended its answer before the model was whole"),
        ([layer(0, 100 << 40), {"status": "success"}], "acme/m takes about 125829376 MiB"),
    ],
)
async def test_ollama_downloads_a_model(
    tmp_path: Path, events: list[dict[str, object]], message: str
) -> None:
    lines = "".join(f"{json.dumps(event)}\n" for event in events)
    script = Script(models=[], ollama=Ollama(pull=Raw(lines.encode())))
    with openai_server(script, at_root=True) as url:
        environ = ENVIRON | {"OLLAMA_HOST": url.removesuffix("/v1")}
        status, out, err = await run(*BASE, "--model", "acme/m", state=tmp_path, **environ)
    assert script.requests == [{"model": "acme/m", "stream": True}]
    if message:
        assert status == 2
        assert message in err
    else:
        assert "acme/m: 0.00 GiB of 0.00 GiB, 100 %" in out
        assert settings(tmp_path)["attached_url"] == url


async def test_two_downloads_do_not_write_one_file(tmp_path: Path) -> None:
    async with serving_file(MODEL) as server:
        server.stalls_after = 3 * MIB
        async with command(*asking(server), state=tmp_path, **ENVIRON):
            part = place(tmp_path).with_name("m.gguf.part")
            await eventually(lambda: part.exists() and part.stat().st_size >= MIB, 30)
            status, _, err = await asyncio.wait_for(run(*asking(server), state=tmp_path, **ENVIRON), 60)
    assert status == 2
    assert "is being written by another download" in err


async def test_setup_without_a_key_is_gone_on_with_by_register(tmp_path: Path) -> None:
    _, out, _ = await run(*BASE, state=tmp_path, **ENVIRON)
    assert out.rstrip().endswith("next: dcp-daemon register")
    before = settings(tmp_path)
    answers = ("--name", "Node", "--email", "node@example.com")
    status, out, err = await run("register", *answers, state=tmp_path, **NO_OLLAMA)
    assert (status, err) == (0, "")
    assert settings(tmp_path) == before
    assert (tmp_path / "dcp" / "identity.json").exists()
