"""Owns which characters a setting may have: none that cannot be seen. They come along with a copied text.

It must not know what any setting means.
"""

from __future__ import annotations

import unicodedata

from daemon.config.file import ConfigError

_INVISIBLE = frozenset(("Cc", "Cf", "Co", "Cs", "Zl", "Zp"))
# Between the items of a list, and between arguments.
_BETWEEN = "\t\r\n"
# These travel in a header or are an address: ASCII, in one word.
WORDS = frozenset(
    ("DCP_SERVER", "DCP_PROVIDER_KEY", "DCP_ATTACHED_URL", "DCP_ATTACHED_API_KEY", "DCP_UPDATE_PUBLIC_KEY")
)


def clean(name: str, text: str) -> str:
    """The text of a setting, without white space around it. Raises ConfigError that names a character."""
    text = text.strip()
    at = fault_at(text, is_word=name in WORDS)
    if at is not None:
        raise ConfigError(f"{name} has {described(text, at)}; remove it")
    return text


def fault_at(text: str, *, is_word: bool) -> int | None:
    """The position of the first character that the text may not have; `is_word`: it must be one of ASCII."""
    if is_word:
        return next((at for at, char in enumerate(text) if not "!" <= char <= "~"), None)
    return next((at for at, char in enumerate(text) if not _is_visible(char)), None)


def described(text: str, at: int) -> str:
    """A character of a text, which is not shown itself: it may be a secret."""
    name = unicodedata.name(text[at], "")
    return f"the character U+{ord(text[at]):04X}{f' ({name})' if name else ''} at position {at + 1}"


def _is_visible(char: str) -> bool:
    return char in _BETWEEN or unicodedata.category(char) not in _INVISIBLE
