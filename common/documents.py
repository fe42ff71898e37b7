"""Reads JSON that another program wrote. Whatever the text is, a caller gets a value or a DocumentError."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_BYTES = 1024 * 1024


class DocumentError(ValueError):
    """The text cannot be used; the message says why, as what "it" is: "it is HTML, not JSON"."""


def parse(text: bytes | str, most_bytes: int = MAX_BYTES) -> Any:
    """The value of a JSON document, whatever its type. Raises DocumentError."""
    if len(text) > most_bytes:
        raise DocumentError(f"it is larger than {most_bytes} bytes")
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise DocumentError("its JSON is nested too deeply") from None
    except ValueError:
        raise DocumentError(_why(text)) from None


def parse_object(text: bytes | str, most_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The same for a document that must be a JSON object. Raises DocumentError."""
    document = parse(text, most_bytes)
    if not isinstance(document, dict):
        raise DocumentError("it is null" if document is None else "it is not a JSON object")
    return document


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _why(text: bytes | str) -> str:
    beginning = (text.decode("utf-8", "replace") if isinstance(text, bytes) else text).strip("\ufeff \t\r\n")
    if not beginning:
        return "it is empty"
    return "it is HTML, not JSON" if beginning.startswith("<") else "it is not JSON"
