"""Asks a person in a terminal, explains what is wrong with an answer, and asks again.

It must not know what the questions are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Check = Callable[[str], str]
"""Takes an answer; returns it as it is to be used, or raises ValueError with what is wrong, for a person."""


class NoAnswerError(Exception):
    """There is no person to answer."""


class Questions:
    """Puts questions where there is a terminal; elsewhere only defaults and flags count."""

    def __init__(self, is_terminal: bool, ask: Callable[[str], str] = input) -> None:
        self.is_terminal = is_terminal
        self._ask = ask

    def ask(self, question: str, check: Check, default: str = "") -> str:
        """A good answer; an empty one means the default. Raises NoAnswerError at the input's end."""
        while True:
            shown = f"{question} [{default}]: " if default else f"{question}: "
            try:
                answer = self._ask(shown).strip() or default
            except EOFError:
                raise NoAnswerError("the input ended before everything was answered") from None
            try:
                return check(answer)
            except ValueError as error:
                print(f"  {error}")  # noqa: T201

    def agree(self, question: str, *, usually: bool = False) -> bool:
        """Whether the person says yes. An empty answer means what is usual, anything else a no."""
        answer = self.ask(f"{question} [{'Y/n' if usually else 'y/N'}]", str.lower)
        return usually if not answer else answer in ("y", "yes")


def missing_flags(flags: Sequence[tuple[str, object]]) -> str:
    """The message when there is no terminal to ask in; empty when every flag has a value."""
    missing = [flag for flag, value in flags if not value]
    if not missing:
        return ""
    return f"this is not a terminal, so no questions can be asked: give {', '.join(missing)}"
