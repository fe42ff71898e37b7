"""Owns the words of typer itself in the chosen language: headings and marks of the help, errors of usage.

Newer versions of typer pass few of their texts through gettext, so what they write is translated line by
line; a sentence that is not known here stays English. It knows no command.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from typing import Any, Optional

from dcp_client.cli.texts import is_english, mark, say

_SENTENCES = (
    mark("Usage: {what}"),
    mark("Options:"),
    mark("Arguments:"),
    mark("Commands:"),
    mark("Error: {what}"),
    mark("Try '{command}' for help."),
    mark("Missing command."),
    mark("Missing argument {what}."),
    mark("Missing option {what}."),
    mark("No such command {what}."),
    mark("No such command {what}. Did you mean {others}?"),
    mark("No such option: {what}"),
    mark("No such option: {what} (Possible options: {others})"),
    mark("No such option: {what} Did you mean {others}?"),
    mark("Option {what} requires an argument."),
    mark("Got unexpected extra argument ({what})"),
    mark("Got unexpected extra arguments ({what})"),
    mark("Invalid value for {what}: {why}"),
    mark("{what} is not a valid integer."),
    mark("{what} is not a valid float."),
    mark("{what} is not a valid int."),
)
_MARKS = (
    mark("[required]"),
    mark("[default: {what}]"),
    mark("Show this message and exit."),
)
HELP_OF_TYPER = (
    mark("Install completion for the current shell."),
    mark("Show completion for the current shell, to copy it or customize the installation."),
)
_UNITS = {
    **dict.fromkeys(("--cap", "--in-total", "--max-cost", "--max-price", "--per-day", "--per-month"), "SAR"),
    **dict.fromkeys(("--refund",), "SAR"),
    **dict.fromkeys(("--body", "--errors", "--file", "--key-file"), "FILE"),
    **dict.fromkeys(("--provider", "--resume"), "ID"),
    **dict.fromkeys(("--from", "--to"), "DATE"),
    "--env": "NAME=VALUE",
    "--grace-seconds": "SECONDS",
    "--gpus": "COUNT",
    "--input": "PATH",
    "--limit": "COUNT",
    "--min-speed": "TOKENS",
    "--output": "PATH",
    "--reference": "TEXT",
    "--reason": "TEXT",
    "--note": "TEXT",
    "--system": "TEXT",
    "--temperature": "NUMBER",
    "--watch": "SECONDS",
    "--vram": "GB",
}
_LEAST_COLUMNS = 52
"""On a narrower terminal an option's text stands below it; typer itself would write lines of 50 columns."""
_TYPE = re.compile(r" <\w+>$")
_FIELD = re.compile(r"\\\{(\w+)\\\}")


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(_FIELD.sub(r"(?P<\1>.+?)", re.escape(template)))


_LINES = [(template, _pattern(template)) for template in _SENTENCES]
_PARTS = [(template, _pattern(template)) for template in _MARKS]


def translated(text: str) -> str:
    """What typer writes, in the chosen language."""
    return "\n".join(_line(line) for line in text.split("\n"))


def _line(line: str) -> str:
    if is_english():
        return line
    stripped = line.strip()
    # The longest template is the most specific one.
    found = [(template, match) for template, each in _LINES if (match := each.fullmatch(stripped))]
    if found:
        template, match = max(found, key=lambda one: len(one[0]))
        values = {name: _line(value) for name, value in match.groupdict().items()}
        return line[: len(line) - len(line.lstrip())] + say(template, **values)
    for template, pattern in _PARTS:
        line = pattern.sub(lambda match, template=template: say(template, **match.groupdict()), line)  # type: ignore[misc]
    return line


def value_of(param: Any) -> Optional[str]:
    """The name of a value in the help and in errors, which tells its unit; typer would name its type."""
    if getattr(param, "is_flag", False):
        return None
    if param.param_type_name == "option":
        name: str = param.opts[-1]
        return _UNITS.get(name) or name.rpartition("-")[2].upper()
    name = param.name.upper() + ("..." if param.nargs != 1 else "")
    return name if param.required else f"[{name}]"


def speak(command: Any) -> None:
    """Lets the help of a command speak the chosen language."""
    context = command.context_class
    formatter = context.formatter_class

    class Formatter(formatter):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **values: Any) -> None:
            super().__init__(*args, **values)
            columns = shutil.get_terminal_size().columns
            self.is_narrow = columns < _LEAST_COLUMNS
            if self.is_narrow:
                self.width = columns

        def write_usage(self, prog: str, args: str = "", prefix: Optional[str] = None) -> None:
            if self.is_narrow:
                self._write("", f"{prefix or 'Usage: '}{prog} {args}")
            else:
                super().write_usage(prog, args, prefix)

        def write_dl(self, rows: Any, *args: Any, **values: Any) -> None:
            # Some versions of typer append a type to a name that has one, or escape [required] for rich.
            rows = [(_TYPE.sub("", term), text.replace("\\[", "[")) for term, text in rows]
            if self.is_narrow:
                for term, text in rows:
                    self._write("", term)
                    self._write("  ", text)
            else:
                # Whole texts are translated: a sentence that is broken into lines would not be found.
                super().write_dl([(term, _line(text)) for term, text in rows], *args, **values)

        def _write(self, indent: str, text: str) -> None:
            width = self.width - len(indent)
            for line in textwrap.wrap(_line(text), width, break_long_words=False, break_on_hyphens=False):
                self.write(f"{indent}{line}\n")

        def getvalue(self) -> str:
            return translated(super().getvalue())

    command.context_class = type("Context", (context,), {"formatter_class": Formatter})
