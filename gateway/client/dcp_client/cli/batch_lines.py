"""Owns the lines of a batch's file on this machine: their check, and the batch lines made of simple ones.

It reads one line at a time, since a file may have 200 MB. It asks no market.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Optional

from dcp_client.batching import ENDPOINTS
from dcp_client.cli.texts import say
from dcp_client.reading import MalformedError, loads

MOST_LINES = 50_000
MOST_BYTES = 200_000_000
_MOST_LINE_BYTES = 8 << 20
_MOST_CUSTOM_ID = 512
_MOST_ERRORS = 20
_BOM = b"\xef\xbb\xbf"


class BatchFileError(OSError):
    """The file of a batch cannot be sent; the text names each wrong line by its number."""


@dataclass
class Prepared:
    """A file of batch lines that is ready to be sent."""

    path: Path
    sha256: str
    endpoint: str
    models: dict[str, int] = field(default_factory=dict)
    """The models that it asks for, each with the number of its first line."""


@dataclass(frozen=True)
class Defaults:
    """What simple lines do not say."""

    model: Optional[str]
    max_tokens: int


class _WrongLineError(Exception):
    """What is wrong with a line."""


def prepared(source: Path, target: Path, defaults: Defaults) -> Prepared:
    """Checks a file and writes it as batch lines. Raises BatchFileError and OSError."""
    reader = _Reader(defaults)
    errors: list[str] = []
    wrong = number = size = 0
    digest = hashlib.sha256()
    with source.open("rb") as file, target.open("wb") as written:
        for number, data in enumerate(_lines(file), 1):
            if number > MOST_LINES:
                raise BatchFileError(
                    say("{file} has more than {most} lines: split it", file=source, most=f"{MOST_LINES:,}")
                )
            try:
                line = reader.read(number, data)
            except _WrongLineError as error:
                wrong += 1
                if len(errors) < _MOST_ERRORS:
                    errors.append("  " + say("line {number}: {error}", number=number, error=error))
                continue
            size += len(line)
            if size > MOST_BYTES:
                raise BatchFileError(
                    say("{file} has more than {most} bytes: split it", file=source, most=f"{MOST_BYTES:,}")
                )
            digest.update(line)
            written.write(line)
    if not number:
        raise BatchFileError(say("{file} is empty: write a request into each line", file=source))
    if wrong:
        if wrong > len(errors):
            errors.append("  " + say("and {count} more", count=wrong - len(errors)))
        head = say("{file} has wrong lines, so nothing was sent:", file=source)
        raise BatchFileError("\n".join([head, *errors]))
    return Prepared(target, digest.hexdigest(), reader.endpoint, reader.models)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_MOST_LINE_BYTES + 2):
        yield line
        while not line.endswith(b"\n") and len(line) > _MOST_LINE_BYTES:
            # The rest of a line that is too long, which is reported already.
            line = file.readline(_MOST_LINE_BYTES + 2)


class _Reader:
    """Reads the lines of one file."""

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults
        self._is_json = False
        self._seen: dict[bytes, int] = {}
        self.endpoint = ""
        self.models: dict[str, int] = {}

    def read(self, number: int, data: bytes) -> bytes:
        """The batch line of a line. Raises _WrongLineError."""
        if number == 1:
            data = data[len(_BOM) :] if data.startswith(_BOM) else data
            self._is_json = data.lstrip().startswith(b"{")
        if len(data) > _MOST_LINE_BYTES + 1:
            raise _WrongLineError(say("it has more than {most} MiB", most=_MOST_LINE_BYTES >> 20))
        if not data.strip():
            raise _WrongLineError(say("it is empty: remove it"))
        values = self._values(data)
        if "body" in values:
            line = self._whole(values)
            raw = data.rstrip(b"\r\n") if line is None else _text(line)
        else:
            values = self._simple(number, values)
            raw = _text(values)
        self._note(number, values)
        return raw + b"\n"

    def _values(self, data: bytes) -> dict[str, Any]:
        if not self._is_json:
            try:
                return {"prompt": data.decode().strip()}
            except UnicodeDecodeError:
                raise _WrongLineError(say("it is not a text in UTF-8")) from None
        try:
            values = loads(data)
        except MalformedError:
            raise _WrongLineError(say("it is not JSON")) from None
        if not isinstance(values, dict):
            raise _WrongLineError(say("it is not a JSON object"))
        return values

    def _whole(self, values: dict[str, Any]) -> Optional[dict[str, Any]]:
        """Checks a batch line; returns it if something had to be added."""
        if values.get("method") != "POST":
            raise _WrongLineError(say("method must be POST"))
        if values.get("url") not in ENDPOINTS:
            raise _WrongLineError(say("url must be one of {endpoints}", endpoints=", ".join(ENDPOINTS)))
        if not isinstance(values["body"], dict):
            raise _WrongLineError(say("body must be an object"))
        if values["body"].get("stream"):
            raise _WrongLineError(say("body.stream must be left out: the answers come in a file"))
        if "model" in values["body"] or self._defaults.model is None:
            return None
        values["body"]["model"] = self._defaults.model
        return values

    def _simple(self, number: int, values: dict[str, Any]) -> dict[str, Any]:
        """The batch line of a prompt, or of messages."""
        rest = {
            name: value for name, value in values.items() if name not in ("custom_id", "prompt", "system")
        }
        if "messages" not in values:
            prompt, system = values.get("prompt"), values.get("system")
            if not isinstance(prompt, str) or not prompt.strip():
                raise _WrongLineError(say("it needs a prompt that is a text, messages, or a body"))
            before = [{"role": "system", "content": system}] if system else []
            rest["messages"] = [*before, {"role": "user", "content": prompt}]
        rest.setdefault("max_tokens", self._defaults.max_tokens)
        if self._defaults.model is not None:
            rest.setdefault("model", self._defaults.model)
        custom_id = values.get("custom_id", f"line-{number}")
        return {"custom_id": custom_id, "method": "POST", "url": ENDPOINTS[0], "body": rest}

    def _note(self, number: int, values: dict[str, Any]) -> None:
        custom_id, url, model = values.get("custom_id"), values["url"], values["body"].get("model")
        if not isinstance(custom_id, str) or not custom_id.strip() or len(custom_id) > _MOST_CUSTOM_ID:
            raise _WrongLineError(
                say("custom_id must be a text of 1 to {most} characters", most=_MOST_CUSTOM_ID)
            )
        digest = hashlib.sha256(custom_id.encode(errors="surrogatepass")).digest()
        first = self._seen.setdefault(digest, number)
        if first != number:
            raise _WrongLineError(say("custom_id is that of line {first}: give each its own", first=first))
        self.endpoint = self.endpoint or url
        if url != self.endpoint:
            raise _WrongLineError(say("url must be {endpoint}, as in line 1", endpoint=self.endpoint))
        if not isinstance(model, str) or not model.strip():
            raise _WrongLineError(say("it names no model: write one into it, or give --model"))
        self.models.setdefault(model.strip(), number)


def _text(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode(errors="backslashreplace")
