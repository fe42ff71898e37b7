"""What the server's programs have in common: faults at the start, the end, what they leave out."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Sequence

from common import telemetry
from common.telemetry import Metric
from server.config import ConfigError
from server.domain.errors import CopyError, DatabaseAwayError, DatabaseUrlError
from server.version import CURRENT


def collect_seldom() -> None:
    """Makes the garbage collector look less often: a full look stops a large server for most of a second.

    What exists at the start is never looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def exit_status(name: str, run: Callable[[], int]) -> int:
    """Runs a program. A fault at its start is one line on the error stream.

    Status 2 says that a setting is wrong, 1 that the database is away: to start again later helps.
    """
    try:
        return run()
    except DatabaseAwayError as error:
        sys.stderr.write(f"{name}: DCP_DATABASE_URL: {error}\n")
        return 1
    except ConfigError as error:
        fault = str(error)
    except CopyError as error:
        fault = str(error)
    except DatabaseUrlError as error:
        fault = f"DCP_DATABASE_URL: {error}"
    sys.stderr.write(f"{name}: {fault}\n")
    return 2


def measuring(listen: tuple[str, int] | None, metrics: Sequence[Metric], program: str) -> telemetry.Telemetry:
    """What a program measures with, served where the setting says. Raises ConfigError."""
    try:
        return telemetry.opened(listen, metrics, program, CURRENT)
    except OSError as error:
        raise ConfigError(telemetry.refusal(listen, error)) from None


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set from now on."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    return stopped


def leave_out_drivers(database_url: str) -> None:
    """Keeps peewee from loading PostgreSQL's driver, which takes long, in a process that uses SQLite.

    Call it before anything imports peewee.
    """
    if database_url.startswith("sqlite:"):
        sys.modules.setdefault("psycopg", None)  # type: ignore[arg-type]
