"""Owns what every command has at hand: the screen, what `dcp login` kept, and clients with the right key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any, Optional, TypeVar

import typer
from dcp_client import Client
from dcp_client.cli import exits
from dcp_client.cli.keeping import Keeping
from dcp_client.cli.show import Screen
from dcp_client.cli.texts import say
from dcp_client.errors import SettingError
from dcp_client.settings import DEFAULT_URL

T = TypeVar("T")


class Here:
    """What a command has at hand."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.screen = Screen()
        self.keeping = Keeping(environ)

    @property
    def url(self) -> str:
        """The address of the market."""
        return self.environ.get("DCP_API_URL") or self.keeping.url or DEFAULT_URL

    @contextmanager
    def client(self, role: Optional[str] = None) -> Iterator[Client]:
        """A client with the key of a role; with any key, or none, for public routes."""
        key = self.environ.get("DCP_API_KEY") or self._kept(role)
        if role is not None and not key:
            names = {"renter": say("a renter"), "provider": say("a provider"), "admin": say("an operator")}
            raise MissingKeyError(
                say("you are not logged in as {role}: run dcp login, or set DCP_API_KEY", role=names[role])
            )
        with Client(self.url, key) as client:
            yield client

    def _kept(self, role: Optional[str]) -> str:
        # A key belongs to the address that it was kept for.
        if self.url != self.keeping.url:
            return ""
        return self.keeping.key(role) if role else ""


class MissingKeyError(SettingError):
    """A command needs a key and there is none."""


def here(ctx: typer.Context) -> Here:
    """What the command has at hand."""
    found = ctx.find_root().obj
    assert isinstance(found, Here)
    return found


def asked(at: Here, question: str, default: str = "") -> str:
    """What a person at a terminal answers, else the default."""
    if not at.screen.is_interactive:
        return default
    at.screen.note(f"{question} [{default}]: " if default else f"{question}: ")
    return input().strip() or default


def first(items: Iterable[T], limit: int) -> list[T]:
    """The first items; all of them with 0."""
    return list(islice(items, limit) if limit else items)


def halala(text: str, name: str) -> int:
    """An amount that a person wrote in SAR, as halala."""
    try:
        amount = Decimal(text) * 100
        is_right = amount == amount.to_integral_value() and 0 < amount < 10**12
    except InvalidOperation:
        is_right = False
    if not is_right:
        raise usage(say("{name}: {given} is not an amount in SAR such as 12.50", name=name, given=repr(text)))
    return int(amount)


def usage(text: str) -> SettingError:
    """The error of a wrong command line."""
    return SettingError(text)


def without_none(**values: Any) -> Any:
    """The values that are set."""
    return {name: value for name, value in values.items() if value is not None}


def unsuccessful() -> typer.Exit:
    """The end of a command whose work did not succeed; what went wrong is shown already."""
    return typer.Exit(exits.UNSUCCESSFUL)
