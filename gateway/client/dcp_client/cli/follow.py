"""Owns what is shown of a running job: its log, and a line with its state and the cost so far.

Ctrl-C asks what to do with the job; where nobody can be asked, the job goes on. It submits nothing.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timezone
from decimal import Decimal
from typing import Optional

import typer
from dcp_client import Client, JobEvent, objects
from dcp_client.cli import exits
from dcp_client.cli.context import Here
from dcp_client.cli.show import plain, sar, size, span
from dcp_client.cli.texts import say
from dcp_client.errors import APIError
from rich.cells import cell_len
from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_REDRAWS_PER_SECOND = 2
_LEAST_BAR, _LONGEST_BAR = 10, 40


class Follower:
    """Follows a job until it has ended."""

    def __init__(self, at: Here, client: Client, job: objects.Job, with_output: bool) -> None:
        """``with_output``: show the output as well, which for a container is a part of the log."""
        self._at = at
        self._client = client
        self._job = job
        self._with_output = with_output and job.job_type in ("llm-inference", "vllm_serve")
        self._state = job.status
        self._began: Optional[datetime] = None
        self._after: Optional[str] = None
        self._preparation: Optional[objects.JobPreparation] = None
        self._rest = ""
        """A line of the log that has no end yet, while a line with the cost is shown below the log."""

    def follow(self) -> Optional[objects.Job]:
        """The ended job; None if it goes on without us."""
        while True:
            try:
                with self._status_line() as live:
                    return self._read(live)
            except KeyboardInterrupt:
                decision = ask_after_interrupt(self._at, self._job.job_id)
                if decision == "c":
                    self._cancel()
                elif decision == "d":
                    self._at.screen.note(say("It goes on: dcp logs -f {job}", job=self._job.job_id))
                    if not self._at.screen.is_interactive:
                        raise typer.Exit(exits.INTERRUPTED) from None
                    return None

    def _status_line(self) -> AbstractContextManager[Optional[Live]]:
        # A model writes words and not lines, which could not go above a line that stands below.
        if self._with_output or not self._at.screen.out.is_terminal or self._at.screen.as_json:
            return nullcontext(None)
        return Live(
            get_renderable=self._status,
            console=self._at.screen.out,
            refresh_per_second=_REDRAWS_PER_SECOND,
            transient=True,
        )

    def _read(self, live: Optional[Live]) -> objects.Job:
        for event in self._client.stream(self._job.job_id, after=self._after):
            self._after = event.id or self._after
            self._show(event, live)
            if event.job is not None:
                self._flush(live)
                return event.job
        return self._client.job(self._job.job_id)

    def _show(self, event: JobEvent, live: Optional[Live]) -> None:
        data = event.data
        if isinstance(data, objects.JobStateEvent):
            if data.status != self._state and live is None and not self._at.screen.as_json:
                self._at.screen.note(f"{self._job.job_id}: {data.status}")
            self._state, self._preparation = data.status, None
            if data.status == objects.JobState.RUNNING:
                self._began = data.at
        elif isinstance(data, objects.JobPreparation):
            begins = self._preparation is None or self._preparation.step != data.step
            if begins and live is None and not self._at.screen.as_json:
                self._at.screen.note(f"{self._job.job_id}: {preparation_text(data)}")
            self._preparation = data
        elif isinstance(data, objects.JobAttemptEvent):
            self._flush(live)
            self._at.screen.note(say("The attempt gave no result; the job begins anew."), "yellow")
        elif event.kind == "log" or (event.kind == "output" and self._with_output):
            self._write(event.text, live)

    def _write(self, text: str, live: Optional[Live]) -> None:
        if self._at.screen.as_json:
            return  # the answer has room for one value; dcp logs has the log
        if live is None:
            self._at.screen.raw(text)
            return
        # A line with the cost stands below, so only whole lines go above it.
        lines, newline, self._rest = (self._rest + text).rpartition("\n")
        if newline:
            live.console.print(Text(plain(lines)))

    def _flush(self, live: Optional[Live]) -> None:
        if self._rest and live is not None:
            live.console.print(Text(plain(self._rest)))
        self._rest = ""

    def _status(self) -> RenderableType:
        """The line below the log."""
        cap = sar(self._job.cost_halala)
        if self._preparation is not None:
            return _bar(self._preparation, self._at.screen.out.width)
        if self._began is None:
            return Text(say("{status} · at most {cap}", status=self._state, cap=cap), style="dim")
        seconds = (datetime.now(timezone.utc) - self._began).total_seconds()
        price = self._job.price.sar_per_hour if self._job.price else None
        if price is None:
            text = say("{status} {time} · at most {cap}", status=self._state, time=span(seconds), cap=cap)
        else:
            cost = min(self._job.cost_halala, int(price * 100 * Decimal(max(0, int(seconds))) / 3600))
            text = say("{status} {time} · {cost} of at most {cap}", status=self._state, time=span(seconds),
                       cost=sar(cost), cap=cap)  # fmt: skip
        return Text(text, style="dim", overflow="ellipsis")

    def _cancel(self) -> None:
        try:
            self._client.cancel(self._job.job_id)
        except APIError as error:
            if error.reason != "JOB_ALREADY_FINAL":
                raise


def preparation_text(found: objects.JobPreparation) -> str:
    """How far a provider is with what it fetches for a job."""
    names = {objects.PreparationStep.INPUTS: say("inputs"), objects.PreparationStep.IMAGE: say("image")}
    name = names.get(found.step, found.step)
    if not found.total_bytes:
        return say("{name}: {done} so far", name=name, done=size(found.done_bytes))
    done, total = size(found.done_bytes), size(found.total_bytes)
    return say("{name}: {done} of {total}", name=name, done=done, total=total)


def _bar(found: objects.JobPreparation, width: int) -> RenderableType:
    text = Text(preparation_text(found), style="dim", overflow="ellipsis")
    room = width - cell_len(text.plain) - 1
    if not found.total_bytes or room < _LEAST_BAR:
        return text
    grid = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=found.total_bytes, completed=found.done_bytes, width=min(_LONGEST_BAR, room))
    grid.add_row(bar, text)
    return grid


def ask_after_interrupt(at: Here, name: str) -> str:
    """What to do after Ctrl-C with what runs on: `d`etach, `c`ancel, or nothing."""
    if not at.screen.is_interactive:
        return "d"
    at.screen.note(say("\n{job} runs on. [d]etach, [c]ancel, Enter: go on", job=name), "bold")
    try:
        return sys.stdin.readline().strip().lower()[:1]
    except KeyboardInterrupt:
        return "d"
