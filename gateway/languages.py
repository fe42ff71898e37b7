"""Owns the languages of what people read: pages, and the texts of the OpenAPI document.

English is what the code and the protos are written in, and the key of every translation: a text
that changed has none until somebody translates it again, and a test names it. It knows no page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

import orjson


@dataclass(frozen=True)
class Language:
    """One language."""

    code: str
    """As in `lang` of HTML."""
    name: str
    """As its own speakers write it."""
    direction: str
    """`ltr` or `rtl`."""
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Translations by English text."""

    def say(self, text: str, **values: object) -> str:
        """The text in this language, with `{name}` replaced by values; in English where it has none."""
        said = self.texts.get(text, text)
        return said.format(**values) if values else said


def _catalogue(code: str) -> Mapping[str, str]:
    """The translations of all files in the language's folder."""
    catalogue: dict[str, str] = {}
    for file in (resources.files("gateway") / "locales" / code).iterdir():
        catalogue |= orjson.loads(file.read_bytes())
    return catalogue


ENGLISH = Language("en", "English", "ltr")
ARABIC = Language("ar", "العربية", "rtl", _catalogue("ar"))
LANGUAGES: Mapping[str, Language] = {language.code: language for language in (ENGLISH, ARABIC)}
