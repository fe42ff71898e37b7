"""Owns the language of the command: English in the code, Arabic by English text in `locales/ar.json`.

The environment's locale chooses. It knows no command.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

from dcp_client.reading import loads

_chosen: dict[str, Mapping[str, str]] = {"texts": {}}


def mark(text: str) -> str:
    """A text that is translated where it is used; the test of the translations finds it by this call."""
    return text


def say(text: str, **values: object) -> str:
    """The text in the chosen language, else in English. Replaces `{name}` by its value."""
    translated = _chosen["texts"].get(text, text)
    return translated.format(**values) if values else translated


def choose(environ: Mapping[str, str]) -> None:
    """Chooses the language by the variables of a locale."""
    locale = next((environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environ.get(name)), "")
    _chosen["texts"] = arabic() if locale.partition(".")[0].partition("_")[0] == "ar" else {}


def is_english() -> bool:
    """Whether the texts are those of the code."""
    return not _chosen["texts"]


def arabic() -> Mapping[str, str]:
    """The Arabic texts by English text."""
    file = resources.files("dcp_client") / "locales" / "ar.json"
    texts: dict[str, str] = loads(file.read_bytes())
    return texts
