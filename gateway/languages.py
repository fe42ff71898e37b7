"""Owns the languages of the texts that people read: the pages and the OpenAPI document.

The code and the protos are written in English, and the English text is the key of its translations.
A changed text has no translation until someone adds it, and a test names it. It knows no page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

import orjson


@dataclass(frozen=True)
class Language:
    """A language and its translations."""

    code: str
    """The value of the HTML attribute `lang`."""
    name: str
    """The name of the language in that language."""
    direction: str
    """`ltr` or `rtl`."""
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Translations by English text."""

    def say(self, text: str, **values: object) -> str:
        """The text in this language, or in English without a translation. Replaces `{name}` by its value."""
        translated = self.texts.get(text, text)
        return translated.format(**values) if values else translated


def _catalogue(code: str) -> Mapping[str, str]:
    """The translations from all files in the language's folder."""
    catalogue: dict[str, str] = {}
    for file in (resources.files("gateway") / "locales" / code).iterdir():
        catalogue |= orjson.loads(file.read_bytes())
    return catalogue


ENGLISH = Language("en", "English", "ltr")
ARABIC = Language("ar", "العربية", "rtl", _catalogue("ar"))
LANGUAGES: Mapping[str, Language] = {language.code: language for language in (ENGLISH, ARABIC)}
