"""Texts that others see: which characters they may have, and what becomes of the others."""

from __future__ import annotations

import pytest

from server.domain.errors import DomainError
from server.domain.texts import check_shown, cleaned, unseemly

GOOD = [
    *(
        "",
        "NVIDIA RTX 4090",
        "a b",
        "x\u00a0y",
        "Ångström",
        "A\u030angstro\u0308m",
        "東京\u3000GPU",
        "한국어",
    ),
    *(
        "شركة الحوسبة",
        "مُحَمَّد",
        "می\u200cخواهم",
        "نمی\u200cدانم",
        "٪٥",
        "\u0600٤٢",
        "श्री",
        "क्\u200dष",
        "क्\u200cष",
    ),
    *(
        "ภาษาไทย",
        "Tiếng Việt",
        "עברית",
        "🚀 fast",
        "👩\u200d💻",
        "👩🏽\u200d💻",
        "👨\u200d👩\u200d👧",
        "🏳\ufe0f\u200d🌈",
    ),
    *("❤\ufe0f", "❤\ufe0f\u200d🔥", "1\ufe0f\u20e3", "#\ufe0f\u20e3", "🇸🇦", "±1 ≤ 2", "a" + "\u0301" * 3000),
]
BAD = [
    ("Slow\u200b", 0x200B),
    ("\u202eNVIDIA\u202c", 0x202E),
    ("a\u2066b\u2069", 0x2066),
    ("a\u200e", 0x200E),
    ("a\u200f", 0x200F),
    ("\u061cم", 0x61C),
    ("\x1b[31mred", 0x1B),
    ("a\x9b31m", 0x9B),
    ("a\x7f", 0x7F),
    ("a\0", 0),
    ("a\u00adb", 0xAD),
    ("a\u2060b", 0x2060),
    ("\ufeffa", 0xFEFF),
    ("a\u2028b", 0x2028),
    ("a\u3164", 0x3164),
    ("\u115f", 0x115F),
    ("a\u1160", 0x1160),
    ("a\uffa0", 0xFFA0),
    ("\u2800", 0x2800),
    ("a\u034f", 0x34F),
    ("a\u180e", 0x180E),
    ("a\U000e0041", 0xE0041),
    ("🏴\U000e0067\U000e007f", 0xE0067),
    ("a\U000e0100", 0xE0100),
    ("a\ue000", 0xE000),
    ("a\ud800", 0xD800),
    ("\u0301", 0x301),
    ("a \u0301", 0x301),
    ("\u0301\u0302", 0x301),
    ("Slow\u200c", 0x200C),
    ("Sl\u200cow", 0x200C),
    ("دا\u200cر", 0x200C),
    ("می\u200c", 0x200C),
    ("Sl\u200dow", 0x200D),
    ("👩\u200d", 0x200D),
    ("\u200d💻", 0x200D),
    ("Slow\ufe0f", 0xFE0F),
    ("Slow1\ufe0f", 0xFE0F),
    ("\ufe0f", 0xFE0F),
    ("a\ufe00", 0xFE00),
]


@pytest.mark.parametrize("text", GOOD)
def test_what_people_write_is_left_as_it_is(text: str) -> None:
    assert unseemly(text) is None
    check_shown(text, "name")
    assert cleaned(text) == text


@pytest.mark.parametrize(("text", "character"), BAD)
def test_invisible_and_turning_characters_are_named_or_replaced(text: str, character: int) -> None:
    with pytest.raises(DomainError) as caught:
        check_shown(text, "name")
    assert (caught.value.reason, caught.value.facts["field"]) == ("INVALID_FIELD", "name")
    assert f"U+{character:04X}" in str(caught.value)
    clean = cleaned(text)
    assert unseemly(clean) is None
    assert len(clean) == len(text)
    assert chr(character) not in clean


def test_line_ends_are_allowed_only_where_a_text_has_lines() -> None:
    assert unseemly("a\n\tb", lines=True) is None
    assert unseemly("a\nb") == 1
    assert cleaned("a\r\nb\x1b[0m", lines=True) == "a\ufffd\nb\ufffd[0m"
