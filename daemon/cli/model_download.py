"""Downloads a model's files from the source that the provider chose, if they fit this machine.

No source is known to it. It must not know the settings that the model is put into.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from common import documents
from daemon.engines import gguf
from daemon.engines.llamacpp import CONTEXT_TOKENS
from daemon.engines.served import needed_mib
from daemon.machine.gpus.none import machine_memory
from daemon.machine.gpus.watched import detect
from daemon.service import fetch
from daemon.service.download import Got, Wanted, download, gib

MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 500
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_MODEL_NAME = re.compile(r"[^\s,=\x00-\x1f]{1,200}")


class ModelError(Exception):
    """The model cannot be had, or does not fit; the text says why, and the remedy."""


@dataclass(frozen=True)
class Room:
    """The memory that a model may take."""

    mib: int
    whose: str
    """For a person: `the GPUs have`."""


def room(environment: Mapping[str, str]) -> Room:
    """That of the GPUs, or of the machine if none reports its memory."""
    gpus = detect(environment)
    try:
        status = gpus.read()
    finally:
        gpus.close()
    known = [gpu.gpu_vram_mib for gpu in status.all_gpus if gpu.HasField("gpu_vram_mib")]
    if known:
        return Room(sum(known), "the GPU has" if len(known) == 1 else f"the {len(known)} GPUs together have")
    return Room(machine_memory()[0] >> 20, "this machine, in which no GPU is seen, has")


@dataclass(frozen=True)
class Model:
    """What is to be downloaded."""

    name: str
    files: tuple[Wanted, ...]
    """The first is the one that is loaded."""

    @property
    def path(self) -> Path:
        """The file that DCP_MODELS names."""
        return self.files[0].target


def checked_name(name: str) -> str:
    """The public name of a model. Raises ModelError."""
    if not _MODEL_NAME.fullmatch(name):
        raise ModelError(f"--model: {name!r} is no model's name, such as Qwen/Qwen2.5-7B-Instruct")
    return name


def described(name: str, source: str, sha256: str, folder: Path) -> Model:
    """The files of a model, by the address of its file or of a manifest. Raises ModelError."""
    if sha256 and not _SHA256.fullmatch(sha256):
        raise ModelError(f"--sha256 must be 64 hexadecimal digits, not {sha256!r}")
    place = folder / re.sub(r"[^A-Za-z0-9._-]+", "--", checked_name(name)).lstrip(".")
    path = unquote(urlsplit(source).path) if "://" in source else source
    if path.endswith(".json"):
        return Model(name, tuple(_of_manifest(source, sha256, place)))
    last = path.rpartition("/")[2]
    if not _FILE_NAME.fullmatch(last) or not last.endswith(".gguf"):
        last = f"{place.name}.gguf"
    return Model(name, (Wanted(source, place / last, sha256),))


def _of_manifest(source: str, sha256: str, place: Path) -> list[Wanted]:
    try:
        text = fetch.fetch(source, MAX_MANIFEST_BYTES)
        fetch.check_digest(source, text, sha256)
        listed = documents.parse_object(text).get("files")
    except fetch.FetchError as error:
        raise ModelError(str(error)) from None
    except documents.DocumentError as error:
        raise ModelError(f"{source} is no manifest: {error}") from None
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_FILES:
        raise ModelError(f"{source} is no manifest: it has no list of 1 to {MAX_FILES} files")
    found = [_of_entry(source, entry, place) for entry in listed]
    if len({file.target for file in found}) != len(found):
        raise ModelError(f"{source} names a file twice")
    models = [file for file in found if file.target.suffix == ".gguf"]
    if not models:
        raise ModelError(f"{source} names no file that ends in .gguf")
    return [models[0], *(file for file in found if file is not models[0])]


def _of_entry(source: str, entry: object, place: Path) -> Wanted:
    if not isinstance(entry, dict):
        raise ModelError(f"{source} is no manifest: {entry!r} is not a file")
    name, sha256, size = entry.get("name"), entry.get("sha256", ""), entry.get("size")
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
        raise ModelError(f"{source}: {name!r} cannot be the name of a file")
    if not isinstance(sha256, str) or (sha256 and not _SHA256.fullmatch(sha256)):
        raise ModelError(f"{source}: the sha256 of {name} is not 64 hexadecimal digits")
    if size is not None and (not isinstance(size, int) or size < 0):
        raise ModelError(f"{source}: the size of {name} is not a number of bytes")
    where = fetch.beside(source, str(entry.get("url") or name))
    if "://" in source and "://" not in where:
        raise ModelError(f"{source}: {where} is not an address")
    return Wanted(where, place / name, sha256, size)


class Download:
    """Downloads one model, as long as it fits."""

    def __init__(self, model: Model, memory: Room, *, slots: int, anyway: bool, is_terminal: bool) -> None:
        self._model, self._memory, self._slots, self._anyway = model, memory, slots, anyway
        self._is_terminal = is_terminal
        self._before = 0
        """What the files that are whole already take."""
        self._later = 0
        """What those after this one will take, as far as that is known."""
        self._size = 0
        """What this one will take; 0: unknown."""

    def run(self) -> None:
        """Downloads what is not there yet. Raises ModelError and FetchError."""
        sizes = [file.size for file in self._model.files]
        if len(sizes) > 1 and None not in sizes:
            _say(f"{self._model.name}: {len(sizes)} files, {gib(sum(size or 0 for size in sizes))}")
        for place, file in enumerate(self._model.files):
            self._later = sum(size or 0 for size in sizes[place + 1 :])
            self._get(file)
            self._before += file.target.stat().st_size

    def _get(self, file: Wanted) -> None:
        self._size = 0
        if file.target.exists():
            found = fetch.digest_of(file.target)
            if not file.sha256 or found == file.sha256.lower():
                _say(f"{file.target} is there already, SHA-256 {found}")
                self._look(file.target)
                self.check_size(file.target.stat().st_size)
                return
        progress = Progress(file.target.name, is_terminal=self._is_terminal)
        got = download(file, check=lambda size: self._begins(file, size), peek=self._look, hear=progress.hear)
        progress.end()
        _say(_verdict(file, got))

    def _begins(self, file: Wanted, size: int | None) -> None:
        known = size if size is not None else file.size
        self._size = known or 0
        _say(
            f"{file.target.name}: {gib(known) if known is not None else 'its source does not say how large'}"
        )
        if known is not None:
            self.check_size(known)

    def check_size(self, size: int) -> None:
        """Raises ModelError if the model with a file of this size does not fit."""
        self._check((self._before + size + self._later) >> 20, 0)

    def _look(self, path: Path) -> None:
        """What the file says of itself, as soon as enough of it is there."""
        if ".gguf" not in path.name:
            return
        if not gguf.is_gguf(path):
            raise ModelError(
                f"{path.name} is not a GGUF file, which is what DCP_MODELS needs: correct --from"
            )
        if shape := gguf.shape(path):
            context = shape.bytes_per_token * CONTEXT_TOKENS * self._slots
            size = max(self._size, path.stat().st_size)
            self._check((self._before + size + self._later) >> 20, context >> 20)

    def _check(self, files_mib: int, context_mib: int) -> None:
        check_room(self._model.name, files_mib, self._memory, context_mib=context_mib, anyway=self._anyway)


def check_room(name: str, files_mib: int, memory: Room, *, context_mib: int = 0, anyway: bool) -> None:
    """Raises ModelError, with the numbers, if a model of this size does not fit and is not taken `anyway`."""
    needed = needed_mib(files_mib) + context_mib
    if needed > memory.mib and not anyway:
        raise ModelError(
            f"{name} takes about {needed} MiB (its files {files_mib} MiB, its context {context_mib} MiB, and "
            f"what it computes with), and {memory.whose} {memory.mib} MiB: choose a smaller one, or take "
            "it with --anyway"
        )


class Progress:
    """Says how far a download is: in a terminal in one line that changes, elsewhere a line for each tenth."""

    def __init__(self, what: str, *, is_terminal: bool) -> None:
        self._what, self._is_terminal, self._said = what, is_terminal, -1

    def hear(self, done: int, size: int | None) -> None:
        """So many bytes are there, of so many."""
        # Of an unknown size each GiB counts as a step.
        step = done * (100 if self._is_terminal else 10) // size if size else done >> 30
        if step == self._said:
            return
        self._said = step
        text = f"{gib(done)} of {gib(size)}, {done * 100 // size} %" if size else gib(done)
        if self._is_terminal:
            print(f"\r  {self._what}: {text}\x1b[K", end="", flush=True)  # noqa: T201
        else:
            _say(f"{self._what}: {text}")

    def end(self) -> None:
        """Ends the line."""
        if self._is_terminal and self._said >= 0:
            print(flush=True)  # noqa: T201


def _verdict(file: Wanted, got: Got) -> str:
    if got.is_verified:
        return f"{file.target}: whole, and its SHA-256 is right: {got.sha256}"
    unknown = "NOT VERIFIED, as neither --sha256 nor the source said what it must be"
    return f"{file.target}: whole, SHA-256 {got.sha256}; {unknown}"


def _say(text: str) -> None:
    print(f"  {text}", flush=True)  # noqa: T201
