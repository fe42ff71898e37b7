"""Owns the words of typer itself in the chosen language: headings and marks of the help, errors of usage.

Newer versions of typer pass few of their texts through gettext, so what they write is translated line by
line; a sentence that is not known here stays English. It knows no command.
"""

from __future__ import annotations

import re
from typing import Any

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
_FIELD = re.compile(r"\\\{(\w+)\\\}")


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(_FIELD.sub(r"(?P<\1>.+?)", re.escape(template)))


_LINES = [(template, _pattern(template)) for template in _SENTENCES]
_PARTS = [(template, _pattern(template)) for template in _MARKS]


def translated(text: str) -> str:
    """What typer writes, in the chosen language."""
    return text if is_english() else "\n".join(_line(line) for line in text.split("\n"))


def _line(line: str) -> str:
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


def speak(command: Any) -> None:
    """Lets the help of a command speak the chosen language."""
    context = command.context_class
    formatter = context.formatter_class

    class Formatter(formatter):  # type: ignore[misc, valid-type]
        def getvalue(self) -> str:
            return translated(super().getvalue())

    command.context_class = type("Context", (context,), {"formatter_class": Formatter})
