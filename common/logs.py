"""The log's lines, the same for every program: as text for people, or each as one JSON object for programs.

A message says what happened and then `key=value`; as JSON each such value is a member of its own. Within a
request every line has the request's id, and as JSON that of its trace. Keys, prompts and outputs are logged
by nobody, so nothing is removed here.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")

FORMATS = TEXT, JSON = "text", "json"
FORMAT_MEANING = (
    "How lines of the log are written: text, or json (one object a line, with time, level, logger, message, "
    "the ids of the request and its trace, and each key=value)."
)
"""What DCP_LOG_FORMAT means."""
_PLAIN = "%(asctime)s %(levelname)s %(name)s %(message)s"
_FIELD = re.compile(r"(\w+)=%[-#0 +\d.]*[a-zA-Z]")
_DIRECTIVE = re.compile(r"%(?:%|[-#0 +\d.]*[a-zA-Z])")
_PAIRS = re.compile(r"\w+=\S+(?: \w+=\S+)*")
_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_trace_id: ContextVar[str] = ContextVar("trace_id", default="")


def is_request_id(text: str) -> bool:
    """Whether a text can be a request's id: what others chose is logged only if it is harmless."""
    return _VALID_ID.fullmatch(text) is not None


def begin_request(request_id: str) -> None:
    """Every line of the present task, and of those that it starts, belongs to this request from now on."""
    _request_id.set(request_id)


def begin_trace(trace_id: str) -> None:
    """Every line of the present task, and of those that it starts, belongs to this trace; empty: to none."""
    _trace_id.set(trace_id)


def present_request() -> str:
    """The id of the request that lines belong to now; empty outside of one."""
    return _request_id.get()


def carried(work: Callable[[], T]) -> Callable[[], T]:
    """The work, whose lines in another thread belong to the present request and its trace."""
    request_id, trace_id = _request_id.get(), _trace_id.get()
    if not request_id and not trace_id:
        return work

    def within() -> T:
        token, trace_token = _request_id.set(request_id), _trace_id.set(trace_id)
        try:
            return work()
        finally:
            _request_id.reset(token)
            _trace_id.reset(trace_token)

    return within


def formatter(format_: str, plain: str = _PLAIN) -> logging.Formatter:
    """Writes lines in one of FORMATS; ``plain`` is the form of those that are text."""
    return JsonLines() if format_ == JSON else TextLines(plain)


class TextLines(logging.Formatter):
    """Lines for people."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line, with the request's id if the message has none."""
        line = super().formatMessage(record)
        request_id = _request_id.get()
        return f"{line} request_id={request_id}" if request_id and "request_id=" not in line else line


class JsonLines(logging.Formatter):
    """One JSON object for each record, in one line whatever it holds."""

    def format(self, record: logging.LogRecord) -> str:
        """The object: the fields of the message never take the place of the others."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := _request_id.get():
            entry["request_id"] = request_id
        if trace_id := _trace_id.get():
            entry["trace_id"] = trace_id
        entry = {**_fields(record), **entry}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        # In ASCII: some programs end a line at characters that JSON allows in a text.
        return json.dumps(entry, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The values that a message names, with their types."""
    if not isinstance(record.args, tuple) or not record.args:
        return {}
    fields: dict[str, Any] = {}
    for name, place in _places(str(record.msg)):
        if place >= len(record.args):
            continue
        value = record.args[place]
        if name:
            fields[name] = _plain(value)
        elif isinstance(value, str) and _PAIRS.fullmatch(value):
            # Where something is, which several messages of a module say in the same words.
            fields = dict(pair.split("=", 1) for pair in value.split(" ")) | fields
    return fields


def _plain(value: object) -> object:
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


@lru_cache(maxsize=1024)
def _places(message: str) -> tuple[tuple[str, int], ...]:
    """The place of each value among the arguments, with its name in the message; empty without one."""
    ends = {found.end(): found[1] for found in _FIELD.finditer(message)}
    directives = [found.end() for found in _DIRECTIVE.finditer(message) if found[0] != "%%"]
    return tuple((ends.get(end, ""), place) for place, end in enumerate(directives))
