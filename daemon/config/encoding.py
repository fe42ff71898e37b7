"""Decodes files that people edit, as editors of all systems save them. It must not know what is in them."""

from __future__ import annotations

_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class EncodingError(ValueError):
    """The bytes are not text that can be read; the message says what they are and what helps."""


def decoded(data: bytes) -> str:
    """UTF-8, with or without the mark that some editors put before it. Raises EncodingError."""
    if data.startswith(_UTF_16_MARKS) or b"\0" in data[:4]:
        raise EncodingError("is saved as UTF-16: save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EncodingError(f"is not UTF-8 (at byte {error.start}): save it as UTF-8") from None
