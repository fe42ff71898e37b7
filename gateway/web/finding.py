"""Owns the index that the documents' search reads: one entry for each thing that a reader can look for.

The page loads it when somebody begins to search, and looks through it in the browser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gateway.languages import ENGLISH, Language
from gateway.web.doors import doors
from gateway.web.guides import guides
from gateway.web.reference import Reference, Row

Entry = dict[str, Any]


def index(reference: Reference, language: Language) -> list[Entry]:
    """The entries: what each is, its title, its address and its words in lower case."""
    return [
        *_guides(language),
        *_doors(language),
        *_operations(reference),
        *_others(reference, language),
    ]


def _entry(kind: str, title: str, address: str, *words: str) -> Entry:
    text = " ".join(" ".join((title, *words)).replace("`", "").lower().split())
    return {"kind": kind, "title": title.replace("`", ""), "address": address, "words": text}


def _guides(language: Language) -> Iterator[Entry]:
    """The sections in the language, then those that only the English guides have."""
    translated = guides(language.code)
    known = {f"{guide.path}#{section.anchor}" for guide in translated for section in guide.sections}
    for guide in (*translated, *(() if language is ENGLISH else guides())):
        is_own = guide.language == language.code
        for section in guide.sections:
            address = f"{guide.path}#{section.anchor}"
            if guide not in translated and address in known:
                continue
            name = language.say(guide.title) if guide in translated else guide.title
            title = name if section.level == 1 else f"{name}: {section.title}"
            entry = _entry("guide", title, address, section.text)
            yield entry if is_own else {**entry, "lang": guide.language}


def _doors(language: Language) -> Iterator[Entry]:
    title = language.say("Chats and embeddings")
    for door in doors():
        programs = (sample.name for sample in door.samples)
        yield _entry(
            "endpoint", f"{door.method} {door.path}", f"/docs/inference#{door.slug}", title, *programs
        )


def _operations(reference: Reference) -> Iterator[Entry]:
    for group in reference.groups:
        for operation in group.operations:
            codes = [code for error in operation.errors for code in error.codes]
            words = (operation.path, operation.method, group.title, *codes, *_names(operation.rows))
            yield _entry("endpoint", operation.summary, f"{group.path}#{operation.slug}", *words)


def _others(reference: Reference, language: Language) -> Iterator[Entry]:
    for code, text in reference.all_errors.items():
        yield _entry("error", code, f"/docs/errors#{code}", re.sub(r"[\[\]]", "", text))
    for shape in reference.shapes:
        meanings = [row.meaning for row in shape.rows]
        address = f"/docs/objects#type-{shape.name}"
        yield _entry("object", shape.name, address, shape.meaning, *_names(shape.rows), *meanings)
    for event in reference.events:
        yield _entry(
            "event", event.name, f"/docs/events#{event.slug}", event.meaning, language.say("Webhook events")
        )


def _names(rows: tuple[Row, ...]) -> Iterator[str]:
    return (row.name for row in rows)
