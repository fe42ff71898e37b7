"""Every text of the command has its Arabic, and the documents say what its help says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dcp_client.cli import exits, program, texts
from dcp_client.settings import VARIABLES

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


def test_every_command_teaches_by_an_example_that_it_understands() -> None:
    commands = {}
    whole = program.command()

    def collect(group: object, words: tuple[str, ...]) -> None:
        for name, each in getattr(group, "commands", {}).items():
            if hasattr(each, "commands"):
                collect(each, (*words, name))
            else:
                commands[" ".join((*words, name))] = each

    collect(whole, ("dcp",))
    for name, each in commands.items():
        assert re.search(rf"Examples?:\n(?:.*\n)* .*{name}\b", each.help or ""), name


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
