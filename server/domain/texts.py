"""Texts that others see: names, models, reasons. None may be invisible or turn the text around it.

What a person types is refused with the character named; what a daemon reports is cleaned, so that no session
ends because of it. Letters of every script, marks on them, and symbols are left as they are, and so is what
joins or separates letters where it is visible:

- U+200C (ZWNJ) and U+200D (ZWJ) in words, where RFC 5892 allows them: between joining letters of Arabic and
  its relatives, and after a virama;
- U+200D and U+FE0F inside emoji.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import idna

from server.domain.errors import DomainError, invalid_field

REPLACEMENT = "\ufffd"
"""Stands in a cleaned text for each character that it may not have."""
_LINES = "\n\t"
_ZWJ, _ZWNJ = "\u200d", "\u200c"
_EMOJI_STYLES = "\ufe0e\ufe0f"
_KEYCAP = "\u20e3"
# Controls, surrogates, private use, separators of lines, and format characters: bidirectional controls, zero
# width, tags. Marks that stand in front of Arabic numbers are format characters, but visible.
_INVISIBLE_CATEGORIES = frozenset(("Cc", "Cf", "Co", "Cs", "Zl", "Zp"))
_VISIBLE_FORMATS = frozenset(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
# What Unicode calls ignorable in other categories: fillers of Hangul, variation selectors, joiners without a
# shape; and two characters that are drawn as nothing.
_IGNORABLE = (
    *((0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2065, 0x2065)),
    *((0x2800, 0x2800), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8)),
    *((0x1D159, 0x1D159), (0xE0000, 0xE0FFF)),
)


def unseemly(text: str, *, lines: bool = False) -> int | None:
    """The position of the first character that a text which others see may not have; None if there is none.

    ``lines`` allows line ends and tabs. A mark without a letter before it counts as well.
    """
    if text.isascii() and text.isprintable():
        return None
    return next((at for at, is_seemly in enumerate(_judged(text, lines)) if not is_seemly), None)


def check_shown(text: str, field: str, *, lines: bool = False) -> None:
    """Raises INVALID_FIELD if a text that others see has a character that it may not have."""
    at = unseemly(text, lines=lines)
    if at is not None:
        raise _not_allowed(text[at], field)


def cleaned(text: str, *, lines: bool = False) -> str:
    """The text with U+FFFD in place of each character that it may not have."""
    if unseemly(text, lines=lines) is None:
        return text
    judged = zip(text, _judged(text, lines), strict=True)
    return "".join(char if is_seemly else REPLACEMENT for char, is_seemly in judged)


def _not_allowed(char: str, field: str) -> DomainError:
    if unicodedata.category(char).startswith("M") and not _is_ignorable(char):
        return invalid_field(field, f"has the mark U+{ord(char):04X} with no letter before it; remove it")
    return invalid_field(
        field,
        f"must not contain the character U+{ord(char):04X}, which is invisible or turns text; remove it",
    )


def _judged(text: str, lines: bool) -> Iterator[bool]:
    """Whether the text may have each of its characters."""
    has_base = False  # whether a mark would stand on something
    for at, char in enumerate(text):
        is_mark = unicodedata.category(char).startswith("M") and not _is_ignorable(char)
        is_seemly = has_base if is_mark else _is_seemly(text, at, lines)
        yield is_seemly
        has_base = is_seemly and not char.isspace()


def _is_seemly(text: str, at: int, lines: bool) -> bool:
    """The same for one character that is not a mark."""
    char = text[at]
    if char in (_ZWJ, _ZWNJ):
        return _joins(text, at)
    if char in _EMOJI_STYLES:
        return _styles(text, at)
    if unicodedata.category(char) in _INVISIBLE_CATEGORIES or _is_ignorable(char):
        return char in _VISIBLE_FORMATS or (lines and char in _LINES)
    return True


def _joins(text: str, at: int) -> bool:
    """Whether a joiner is visible: by RFC 5892 in a word, or between the parts of an emoji."""
    try:
        if idna.valid_contextj(text, at):
            return True
    except ValueError:  # a neighbour that this version of Unicode does not know
        return False
    before = text[:at].rstrip(_EMOJI_STYLES + "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")
    parts = before[-1:], text[at + 1 : at + 2]
    return text[at] == _ZWJ and all(part and unicodedata.category(part) == "So" for part in parts)


def _styles(text: str, at: int) -> bool:
    """Whether a selector of emoji or text style follows a symbol, or is part of a keycap."""
    before, after = text[at - 1 : at] if at else "", text[at + 1 : at + 2]
    if not before:
        return False
    if before in "0123456789#*":
        return after == _KEYCAP
    return unicodedata.category(before) in ("So", "Sm") and not _is_ignorable(before)


def _is_ignorable(char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in _IGNORABLE)
