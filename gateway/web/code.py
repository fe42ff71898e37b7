"""Owns the colour of code on the pages: each token gets a class, and the style sheet its colour.

It knows languages of code only by their names, and nothing of what the code does.
"""

from __future__ import annotations

from functools import cache

from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

_ALIASES = {"curl": "bash", "dcp": "bash", "sh": "bash"}
# Classes of our own prefix, so that no token takes the style of a part of the page.
_FORMATTER = HtmlFormatter(nowrap=True, classprefix="c-")


@cache
def coloured(code: str, language: str) -> Markup:
    """The code as markup with a class for each token; plain text in a language without a lexer."""
    try:
        lexer = get_lexer_by_name(_ALIASES.get(language, language), stripnl=False, ensurenl=False)
    except ClassNotFound:
        return escape(code)
    return Markup(highlight(code, lexer, _FORMATTER).rstrip("\n"))  # noqa: S704  # Pygments escapes the code
