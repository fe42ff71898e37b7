"""Every text of the command has its Arabic, and the documents say what its help says."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dcp_client.cli import exits, program, texts
from dcp_client.cli.context import Here
from dcp_client.settings import VARIABLES
from rich.cells import cell_len

from tests.architecture.tools import ROOT

CLI = ROOT / "gateway" / "client" / "dcp_client" / "cli"


def said() -> Iterator[str]:
    """The texts that the code says or marks."""
    for path in sorted(CLI.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("say", "mark")
            if called and isinstance(node.args[0], ast.Constant):  # type: ignore[attr-defined]
                yield str(node.args[0].value)  # type: ignore[attr-defined]


def helped() -> Iterator[str]:
    """The texts of the help."""
    texts.choose({})
    for each in program.walk(program.command()):
        yield program.help_text(each.help or "")[0]
        yield from (getattr(param, "help", None) or "" for param in each.params)


def needed() -> set[str]:
    return {*said(), *helped()} - {""}


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"\{\w+\}", text))


def test_every_text_is_translated_and_no_translation_is_left_over() -> None:
    translated = texts.arabic().keys()
    assert sorted(needed() - translated) == []
    assert sorted(translated - needed()) == []


def test_translations_are_arabic_and_keep_what_is_filled_in() -> None:
    for english, arabic in texts.arabic().items():
        assert re.search(r"[\u0600-\u06ff]", arabic), english
        assert placeholders(english) == placeholders(arabic), english
        assert set(re.findall(r"--[a-z-]+|DCP_\w+", english)) == set(re.findall(r"--[a-z-]+|DCP_\w+", arabic))


@pytest.mark.parametrize(
    ("environ", "is_arabic"),
    [
        ({"LANG": "ar_SA.UTF-8"}, True),
        ({"LANG": "ar"}, True),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "ar_SA.UTF-8"}, True),
        ({"LANG": "ar_SA.UTF-8", "LC_MESSAGES": "C"}, False),
        ({"LANG": "arn_CL"}, False),
        ({}, False),
    ],
)
def test_language_is_that_of_the_locale(environ: dict[str, str], is_arabic: bool) -> None:
    texts.choose(environ)
    assert (texts.say("done") != "done") is is_arabic
    texts.choose({})


@cache
def commands(language: str = "C.UTF-8") -> dict[str, Any]:
    """Every command and group by its words, such as `dcp keys list`."""
    found: dict[str, Any] = {}

    def collect(each: Any, words: str) -> None:
        found[words] = each
        for name, inner in getattr(each, "commands", {}).items():
            collect(inner, f"{words} {name}")

    texts.choose({"LANG": language})
    collect(program.command(), "dcp")
    texts.choose({})
    return found


def helps(language: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The help of every command on a terminal of a width, in a language."""
    monkeypatch.setenv("COLUMNS", str(columns))
    found = commands(language)
    texts.choose({"LANG": language})
    shown = {
        words: str(each.get_help(each.context_class(each, info_name=words))) for words, each in found.items()
    }
    texts.choose({})
    return shown


def test_every_command_and_group_teaches_by_an_example_that_it_understands() -> None:
    for words, each in commands().items():
        if words != "dcp":
            name = words.rpartition(" ")[2]
            assert re.search(rf"Examples?:\n(?:.*\n)* .*{name}\b", each.help or ""), words
            for example in re.findall(r"^  (dcp .*)$", each.help or "", re.MULTILINE):
                assert parses(example), example


def parses(example: str) -> bool:
    """Whether the command takes an example's words, up to where a shell begins something else."""
    before = itertools.takewhile(lambda word: word not in ("|", "||", "&&", ">"), shlex.split(example))
    group: Any = program.command()
    _, *rest = before
    while hasattr(group, "commands"):
        group = group.commands[rest.pop(0)]
    group.make_context("dcp", rest, obj=Here({}))
    return True


LANGUAGES = pytest.mark.parametrize("language", ["C.UTF-8", "ar_SA.UTF-8"])


@LANGUAGES
def test_help_fits_a_terminal_of_80_columns_and_cuts_no_sentence(
    language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, shown in helps(language, 80, monkeypatch).items():
        assert [line for line in shown.splitlines() if cell_len(line) > 80] == [], words
        assert not re.search(r"<\w+>|\b(INTEGER|FLOAT)\b", shown), "a type is shown, not a unit"
        in_one_line = " ".join(shown.split())
        for inner in getattr(commands(language)[words], "commands", {}).values():
            assert " ".join(program.summary(inner.help).split()) in in_one_line, words


def is_verbatim(line: str) -> bool:
    """Whether a line of the help is one of its examples or tables, which keep their lines."""
    return line.startswith("    ")


@pytest.mark.parametrize("columns", [20, 80])
def test_arabic_help_has_no_english_sentence(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, shown in helps("ar_SA.UTF-8", columns, monkeypatch).items():
        _, _, rest = shown.partition("]\n")  # after the usage, which is words of the command
        lines = [line for line in rest.splitlines() if not is_verbatim(line)]
        assert [
            line for line in lines if re.search("[a-z]{3,} [a-z]{3,}", line.replace("dcp ", "dcp: "))
        ] == [], words


@LANGUAGES
def test_help_fits_a_terminal_of_20_columns_and_loses_no_word(
    language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = helps(language, 80, monkeypatch)
    for words, narrow in helps(language, 20, monkeypatch).items():
        assert sorted(wide[words].split()) == sorted(narrow.split()), words
        too_wide = [line for line in narrow.splitlines() if cell_len(line) > 20 and not is_verbatim(line)]
        assert [line for line in too_wide if " " in line.strip()] == [], words


def test_exit_codes_of_the_documents_are_those_of_the_program() -> None:
    page = (ROOT / "docs" / "renters.md").read_text(encoding="utf-8")
    table = page.partition("| exit code |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", table, re.MULTILINE))
    assert rows == {str(code): meaning for code, meaning in exits.MEANINGS}


def test_settings_of_the_client_are_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert all(f"| `{each.name}` |" in page.partition("## Client")[2] for each in VARIABLES)


def test_recording_was_written_by_its_script() -> None:
    page = Path(ROOT / "docs" / "terminal.md").read_text(encoding="utf-8")
    assert "$ dcp market" in page
    assert "$ dcp run" in page
    assert "$ dcp batch" in page
