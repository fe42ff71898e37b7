"""Chunks of a chat as lines of JSON. What only goes on with a text is joined: most of a line is no text."""

from __future__ import annotations

import json
from typing import Any

Values = dict[str, Any]

MAX_JOINED = 8192
"""Characters of one line's text."""
_JOINED = ("content", "reasoning_content")


class Lines:
    """Writes chunks as lines, and joins those that differ only in their text as long as none has to leave."""

    def __init__(self) -> None:
        self._waiting: Values | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether a line waits for more of its text."""
        return self._waiting is not None

    def add(self, chunk: Values) -> bytes:
        """Takes a chunk; returns the lines that are whole."""
        if self._waiting is not None and _join(self._waiting, chunk):
            return b""
        lines = self.rest()
        if _text_of(chunk) is None:
            return lines + _line(chunk)
        self._waiting = chunk
        return lines

    def rest(self) -> bytes:
        """The line that waits."""
        waiting, self._waiting = self._waiting, None
        return _line(waiting) if waiting is not None else b""


def _line(chunk: Values) -> bytes:
    # A lone surrogate cannot travel as UTF-8, and one must not end a job.
    return json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"


def _text_of(chunk: Values) -> tuple[object, str] | None:
    """Of a chunk with nothing but a text: the choice that it belongs to, and the name of the text."""
    choices = chunk["choices"]
    if len(choices) != 1 or not isinstance(delta := choices[0].get("delta"), dict):
        return None
    rest = {name for name, value in choices[0].items() if value is not None} - {"index", "delta"}
    said = [name for name, value in delta.items() if value is not None and name != "role"]
    if rest or len(said) != 1 or said[0] not in _JOINED or not isinstance(delta[said[0]], str):
        return None
    return choices[0].get("index"), said[0]


def _join(first: Values, second: Values) -> bool:
    """Adds the text of the second to the first, if it only goes on with it."""
    if (kind := _text_of(first)) is None or _text_of(second) != kind:
        return False
    delta, name = first["choices"][0]["delta"], kind[1]
    if len(delta[name]) >= MAX_JOINED:
        return False
    first["choices"][0] = {
        **first["choices"][0],
        "delta": {name: delta[name] + second["choices"][0]["delta"][name]},
    }
    return True
