"""`dcp-daemon setup`: from an installed daemon and its key to a machine that earns.

It looks what there is, asks only for what it cannot see, downloads a model if one was named, and writes the
file of settings. It must not know how any of that is done, or what the settings mean.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from daemon import link
from daemon.cli import container_checks, control, model_download, model_servers
from daemon.cli.gpu_checks import described
from daemon.cli.model_download import ModelError, Progress
from daemon.cli.questions import NoAnswerError, Questions, missing_flags
from daemon.cli.server_question import ask_for_server, needs_authorities, usual_authorities
from daemon.cli.status import printable
from daemon.config import identity
from daemon.config import text as config_text
from daemon.config.characters import described as described_character
from daemon.config.characters import fault_at
from daemon.config.config import VARIABLES, Config, ModelFile, config_path, load
from daemon.config.file import read_file
from daemon.config.identity import Identity, IdentityError
from daemon.engines import gguf
from daemon.machine.gpus.watched import detect
from daemon.service import unit
from daemon.service.fetch import FetchError

_REGISTER = "dcp-daemon register"
_OF_SERVER = frozenset({"DCP_SERVER", "DCP_TLS_CA", "DCP_INSECURE"})


class SetupError(Exception):
    """This machine cannot be set up so; the text names the remedy."""


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Sets the machine up, and says on the way what it found and did. Raises SetupError and ConfigError."""
    try:
        _Setup(arguments, environ).run()
    except NoAnswerError as error:
        raise SetupError(f"{error}; nothing was changed") from None
    except (ModelError, FetchError, model_servers.PullError) as error:
        raise SetupError(printable(str(error))) from None


def next_command(config: Config) -> str:
    """What a person runs after it."""
    if config.provider_key is None and not identity.identity_path(config.state_dir).exists():
        return _REGISTER
    try:
        pid = control.ask(config.state_dir, "status").get("pid")
    except (control.NotRunningError, PermissionError):
        return unit.start_command()
    return f"systemctl reload {unit.NAME}" if unit.is_installed() else f"kill -HUP {pid}"


@dataclass(frozen=True)
class _Engine:
    """A container engine, and what it has."""

    name: str
    socket: Path
    images: list[str]


class _Setup:
    def __init__(self, arguments: argparse.Namespace, environ: Mapping[str, str]) -> None:
        self._given = arguments
        self._questions = Questions(sys.stdin.isatty() and not arguments.yes)
        self._path = config_path(environ, arguments.config)
        self._environ = dict(environ) | _settings_of(arguments)
        self._file = read_file(self._path, [variable.name for variable in VARIABLES])
        self._in_file = dict(self._file.settings) if self._file else {}

    def run(self) -> None:
        if (self._given.source or self._given.sha256) and not self._given.model:
            raise SetupError("--from and --sha256 need --model, the public name of what is downloaded")
        if self._given.sha256 and not self._given.source:
            raise SetupError("--sha256 needs --from: Ollama verifies what it downloads itself")
        config = self._settle_server()
        engine = self._look_around(config)
        self._check_flags(config, engine)
        new = self._settle_key(config)
        self._settle_images(config, engine)
        added = self._settle_model(config)
        config = load(self._environ, self._given.config, must_exist=False)
        if added is not None:
            kept = self._named_models(config)
            config = replace(config, models=(*(each for each in kept if each.name != added.name), added))
            if added.embeds:
                self._note_embedding(added.name)
        self._write(config, new)

    # --- server and key ---

    def _settle_server(self) -> Config:
        """The configuration with a server, which is asked for if nothing says it."""
        says = self._in_file | {name: text for name, text in self._environ.items() if text}
        if "DCP_SERVER" not in says or needs_authorities(says):
            known = {name: text for name, text in says.items() if name in _OF_SERVER}
            if self._questions.is_terminal:
                ask_for_server(self._questions, known, self._registered_server() or Config.server)
            elif not self._given.yes and "DCP_SERVER" not in known:
                known["DCP_SERVER"] = ""  # named with all else that is missing
            else:
                known.setdefault("DCP_SERVER", self._registered_server() or Config.server)
            if known["DCP_SERVER"] and needs_authorities(known) and (usual := usual_authorities()):
                known["DCP_TLS_CA"] = usual
            self._environ |= known
        return load(self._environ, self._given.config, must_exist=False)

    def _registered_server(self) -> str:
        settings = {**self._environ, "DCP_SERVER": Config.server}
        try:
            return identity.load(load(settings, self._given.config, must_exist=False).state_dir).server
        except IdentityError:
            return ""

    def _check_flags(self, config: Config, engine: _Engine | None) -> None:
        """Without a terminal everything that would be asked must be there. Raises SetupError."""
        if self._questions.is_terminal or self._given.yes:
            return
        flags = [
            ("--server", self._environ.get("DCP_SERVER") or self._in_file.get("DCP_SERVER")),
            ("--key-file (or DCP_PROVIDER_KEY)", self._given.key_file or self._has_key(config)),
            ("--images", not self._must_ask_for_images(config, engine)),
            ("--from", not self._given.model or self._given.source),
        ]
        if answer := missing_flags(flags):
            raise SetupError(f"{answer}, or --yes to take what is usual")

    def _has_key(self, config: Config) -> bool:
        return bool(config.provider_key) or identity.identity_path(config.state_dir).exists()

    def _settle_key(self, config: Config) -> Identity | None:
        """The identity that is to be stored; None: there is one, or no key yet."""
        if identity.identity_path(config.state_dir).exists():
            return None
        if self._given.key_file or config.provider_key:
            key = config.provider_key if not self._given.key_file else _key_in(self._given.key_file)
            try:
                return self._identity(config, key or "")
            except ValueError as error:
                raise SetupError(f"the provider key cannot be used: {error}") from None
        found: list[Identity] = []

        def check(text: str) -> str:
            if text:
                found.append(self._identity(config, text))
            return text

        if self._questions.is_terminal:
            hidden = Questions(True, getpass.getpass)
            hidden.ask("Provider key, which is not shown; empty: this machine is not registered yet", check)
        if not found:
            _say(f"no provider key: {_REGISTER} makes one")
        return found[0] if found else None

    def _identity(self, config: Config, key: str) -> Identity:
        """Who the server knows by this key. Raises ValueError, for a person, and SetupError."""
        if (at := fault_at(key, is_word=True)) is not None:
            raise ValueError(f"it has {described_character(key, at)}")
        try:
            answer = asyncio.run(link.own_provider(link.ServerAddress(config.server, config.tls_ca), key))
        except link.KeyRefusedError as error:
            raise ValueError(f"the server refused it ({error})") from None
        except link.LinkBrokenError as error:
            raise SetupError(f"the server did not say whether the key is good: {error}") from None
        _say(f"key: provider {answer.provider.id}, {answer.provider.name}")
        return Identity(answer.provider.id, key, config.server)

    # --- what there is ---

    def _look_around(self, config: Config) -> _Engine | None:
        for text in _gpus(config):
            _say(text)
        engine = self._find_engine(config)
        _say(f"containers: {engine.name} at {engine.socket}" if engine else "containers: no engine answers")
        return engine

    def _find_engine(self, config: Config) -> _Engine | None:
        user = self._environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
        others = ("/run/podman/podman.sock", f"{user}/docker.sock", f"{user}/podman/podman.sock")
        is_set = "DCP_CONTAINER_SOCKET" in self._in_file or self._environ.get("DCP_CONTAINER_SOCKET")
        for socket in (config.container_socket, *([] if is_set else map(Path, others))):
            if _is_socket(socket) and (found := asyncio.run(container_checks.images_of(socket))):
                return _Engine(found[0], socket, found[1])
        return None

    def _must_ask_for_images(self, config: Config, engine: _Engine | None) -> bool:
        is_known = config.containers.images or self._given.images is not None
        is_known = is_known or "DCP_CONTAINER_IMAGES" in self._in_file
        return bool(engine and engine.images and not is_known)

    def _settle_images(self, config: Config, engine: _Engine | None) -> None:
        if engine and self._must_ask_for_images(config, engine) and self._questions.is_terminal:
            for image in engine.images[:20]:
                _say(f"image {image}")
            if self._questions.agree(f"May jobs run these {len(engine.images[:20])} images, and no others?"):
                self._environ["DCP_CONTAINER_IMAGES"] = ",".join(engine.images[:20])
        if engine and self._environ.get("DCP_CONTAINER_IMAGES") and engine.socket != config.container_socket:
            self._environ["DCP_CONTAINER_SOCKET"] = str(engine.socket)

    # --- the model ---

    def _settle_model(self, config: Config) -> ModelFile | None:
        """Downloads the model that was named; without one, takes the model server that runs."""
        name = self._given.model
        if name and self._given.source:
            return self._download(config, name)
        ollama = model_servers.find(self._environ)
        if name:
            self._pull(config, name, ollama)
        elif self._given.attach and not config.attached_url and not self._named_models(config):
            servers = [*([ollama] if ollama and ollama.models else []), *model_servers.others()]
            for server in servers:
                _say(f"{server.name} at {server.url}: {', '.join(server.models[:10])}")
            if servers:
                self._environ["DCP_ATTACHED_URL"] = servers[0].url
        return None

    def _named_models(self, config: Config) -> tuple[ModelFile, ...]:
        """Those of the settings, without the bundled one that is served only where there is no other."""
        is_named = "DCP_MODELS" in self._environ or "DCP_MODELS" in self._in_file
        has_table = self._file is not None and self._file.models is not None
        return config.models if is_named or has_table else ()

    def _download(self, config: Config, name: str) -> ModelFile:
        folder = self._given.folder or config.state_dir / "models"
        model = model_download.described(
            name, self._given.source, self._given.sha256 or "", folder.absolute()
        )
        if self._given.dry_run:
            for file in model.files:
                _say(f"would download {file.source} to {file.target}")
            return ModelFile(name, model.path)
        config_text.check_writable(self._path)
        made = [] if folder.exists() else [folder.absolute()]
        model_download.Download(
            model,
            model_download.room(config.engine_environment),
            slots=config.engine_slots,
            anyway=self._given.anyway,
            is_terminal=sys.stdout.isatty(),
        ).run()
        _give(config.state_dir, *made, model.path.parent, *model.path.parent.iterdir())
        return ModelFile(name, model.path, embeds=gguf.has_pooling(model.path))

    def _note_embedding(self, name: str) -> None:
        says = self._in_file | {key: text for key, text in self._environ.items() if text}
        names = [each.strip() for each in says.get("DCP_EMBEDDING_MODELS", "").split(",") if each.strip()]
        self._environ["DCP_EMBEDDING_MODELS"] = ",".join(dict.fromkeys([*names, name]))

    def _pull(self, config: Config, name: str, ollama: model_servers.ModelServer | None) -> None:
        model_download.checked_name(name)
        if ollama is None:
            raise SetupError(
                "no Ollama answers that could download it: give --from, an https address or a file"
            )
        if config.attached_url not in (None, ollama.url):
            raise SetupError(
                f"DCP_ATTACHED_URL is {config.attached_url}, and this Ollama is at {ollama.url}: the daemon "
                "attaches one model server; take that setting away, or give --from"
            )
        if name not in ollama.models and f"{name}:latest" not in ollama.models:
            question = f"Have the Ollama at {ollama.url} download {name}?"
            if self._questions.is_terminal and not self._questions.agree(question, usually=True):
                raise SetupError("no model was downloaded: give --from, an https address or a file")
            if self._given.dry_run:
                _say(f"would have the Ollama at {ollama.url} download {name}")
            else:
                self._have_pulled(config, name, ollama.url)
        self._environ["DCP_ATTACHED_URL"] = ollama.url

    def _have_pulled(self, config: Config, name: str, url: str) -> None:
        memory = model_download.room(config.engine_environment)
        progress = Progress(name, is_terminal=sys.stdout.isatty())

        def hear(done: int, total: int) -> None:
            model_download.check_room(name, total >> 20, memory, anyway=self._given.anyway)
            progress.hear(done, total)

        model_servers.pull(url, name, hear)
        progress.end()
        _say(f"Ollama has {name}, and has verified its digests")

    # --- the end ---

    def _write(self, config: Config, new: Identity | None) -> None:
        text = config_text.render(config, self._path, self._environ)
        if self._given.dry_run:
            print(f"would write {self._path}:\n{text}", end="")  # noqa: T201
            return
        config_text.check_writable(self._path)
        if new is not None:
            _say(f"its key is stored in {identity.save(config.state_dir, new)}")
        # The service's user must read what root wrote; nobody else needs to.
        is_of_service = config.state_dir.exists() and config.state_dir.stat().st_uid != os.geteuid()
        config_text.write(self._path, text, mode=0o644 if is_of_service else 0o600)
        _say(f"settings are in {self._path}")
        for name in (*config_text.SECRETS, "DCP_MODELS"):
            if self._environ.get(name):
                _say(f"{name} is set in the environment, which wins over that file")


def _settings_of(arguments: argparse.Namespace) -> dict[str, str]:
    """What the flags set, as the environment would."""
    settings = {
        "DCP_SERVER": arguments.server,
        "DCP_TLS_CA": arguments.tls_ca,
        "DCP_INSECURE": "true" if arguments.insecure else "",
        "DCP_CONTAINER_IMAGES": arguments.images,
    }
    return {name: text for name, text in settings.items() if text}


def _gpus(config: Config) -> Iterator[str]:
    gpus = detect(config.engine_environment)
    try:
        status = gpus.read()
    finally:
        gpus.close()
    for gpu in status.all_gpus:
        yield f"GPU: {described(gpu)}"
    if not status.all_gpus:
        yield f"GPU: none ({gpus.reason or 'the driver lists none'}); models run on the processor"


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _key_in(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        raise SetupError(f"--key-file: {path} cannot be read") from None


def _give(state_dir: Path, *paths: Path) -> None:
    """Gives what root made to the service's user, whose folder this is."""
    if os.geteuid() != 0 or not state_dir.exists():
        return
    owner = state_dir.stat()
    for path in paths:
        os.chown(path, owner.st_uid, owner.st_gid)


def _say(text: str) -> None:
    print(f"  {printable(text)}", flush=True)  # noqa: T201
