"""Owns the guides of docs/ as pages: their Markdown, the ids of their headings and where their links lead.

A release has the guides in this package, a clone of the repository in docs/; docs/ar translates what most
readers need first. It knows no endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from gateway.languages import ENGLISH
from gateway.web.code import coloured

NAMES = ("renters", "providers", "clients", "operators", "settings")
"""The guides that are shown, in the order of their readers' number."""

_INSTALLED = Path(__file__).with_name("guides")
_CLONE = Path(__file__).parents[2] / "docs"
_FILES = {"settings": "reference/settings.md"}
# Above a translated heading: the file and the heading that it translates.
_TWIN = re.compile(r"^<!-- (\S+)#(\S+) -->\n", re.MULTILINE)
_NOTE = "Written by `scripts/generate`; do not edit.\n"
_SETTING = re.compile(r"[A-Z][A-Z0-9_]+")
_PAGES = {
    "reference/routes.md": "/docs",
    "reference/errors.md": "/docs/errors",
    "reference/settings.md": "/docs/guides/settings",
    "../README.md": "/docs",
}
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_RENDERER = RendererHTML()


@dataclass(frozen=True)
class Section:
    """A heading of a guide and the text up to the next one."""

    anchor: str
    title: str
    level: int
    text: str


@dataclass(frozen=True)
class Guide:
    """A guide, ready to be put into a page."""

    name: str
    title: str
    body: Markup
    sections: tuple[Section, ...]
    language: str = ENGLISH.code
    """The code of the language in which it is written."""

    @property
    def path(self) -> str:
        """Its address on this site."""
        return f"/docs/guides/{self.name}"


@cache
def guides(code: str = ENGLISH.code) -> tuple[Guide, ...]:
    """All guides in a language, and in English those that have no translation."""
    return tuple(_read(name, code) for name in NAMES)


def _read(name: str, code: str) -> Guide:
    folder = _INSTALLED if _INSTALLED.is_dir() else _CLONE
    translated = folder / code / f"{name}.md"
    if code != ENGLISH.code and translated.is_file():
        return _guide(name, translated.read_text(encoding="utf-8"), code)
    text = (folder / _FILES.get(name, f"{name}.md")).read_text(encoding="utf-8")
    return _guide(name, text.replace(_NOTE, ""), ENGLISH.code)


def _guide(name: str, text: str, code: str) -> Guide:
    anchors = [anchor for _, anchor in _TWIN.findall(text)]
    tokens = _MARKDOWN.parse(_TWIN.sub("", text))
    sections = (*_sections(tokens, anchors), *_rows(tokens))
    for token in tokens:
        token.children = _with_own_links(token.children, code) if token.children else token.children
    body = Markup("".join(_drawn(tokens)))  # noqa: S704  # HTML is off
    return Guide(name, sections[0].title, body, sections, code)


def _drawn(tokens: list[Token]) -> Iterator[str]:
    """The markup of each token: code in colour, and tables in boxes that fit the page."""
    for at, token in enumerate(tokens):
        if token.type == "fence":
            code = coloured(token.content.rstrip("\n"), token.info.split(" ")[0] or "text")
            yield f'<pre dir="ltr" tabindex="0" role="group" aria-label="Code"><code>{code}</code></pre>\n'
        elif token.type == "inline":
            yield _RENDERER.renderInline(token.children or [], _MARKDOWN.options, {})
        else:
            yield _RENDERER.render(tokens[at : at + 1], _MARKDOWN.options, {})


def _sections(tokens: list[Token], anchors: list[str]) -> Iterator[Section]:
    """The sections, whose headings get the ids that GitHub gives them, or those of what they translate."""
    starts = [at for at, token in enumerate(tokens) if token.type == "heading_open"]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(tokens)], strict=True)):
        title = _plain(tokens[start + 1])
        anchor = anchors[number] if anchors else re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        tokens[start].attrSet("id", anchor)
        inner = tokens[start + 3 : end]
        text = " ".join(_plain(token) if token.type == "inline" else token.content for token in inner)
        yield Section(anchor, title, int(tokens[start].tag[1]), " ".join(text.split()))


def _rows(tokens: list[Token]) -> Iterator[Section]:
    """The rows of tables that begin with a setting, which get its name as their id."""
    seen: set[str] = set()
    for at, token in enumerate(tokens):
        if token.type == "tr_open" and tokens[at + 1].type == "td_open":
            name = _plain(tokens[at + 2])
            if name in seen or not (name.startswith("DCP_") and _SETTING.fullmatch(name)):
                continue
            seen.add(name)
            token.attrSet("id", name)
            yield Section(name, name, 3, " ".join(_plain(tokens[at + cell]) for cell in (5, 8)))


def _plain(token: Token) -> str:
    return "".join(" " if child.type == "softbreak" else child.content for child in token.children or ())


def _with_own_links(children: list[Token], code: str) -> list[Token]:
    """Links to other guides lead to their pages; links to what this site does not have are plain text."""
    kept, is_open = [], True
    for child in children:
        if child.type == "link_open":
            address = _address(str(child.attrGet("href") or ""), code)
            is_open = bool(address)
            child.attrSet("href", address)
        if child.type not in ("link_open", "link_close") or is_open:
            kept.append(child)
    return kept


def _address(link: str, code: str) -> str:
    file, _, anchor = link.partition("#")
    place = f"#{anchor}" if anchor else ""
    if not file or file.startswith(("https://", "http://")):
        return link
    name = file.removeprefix("../").removesuffix(".md")
    if name in NAMES:
        # A translation links to the English guide beside it for what it leaves out.
        is_whole = code != ENGLISH.code and file.startswith("../")
        return f"/docs/guides/{name}?lang={ENGLISH.code if is_whole else code}{place}"
    return _PAGES.get(file, "")
