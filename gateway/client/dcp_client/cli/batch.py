"""Owns the commands of batches: `batch` for a file of requests, `batches` for what was made of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, Optional

import typer
from dcp_client import BatchResult, Client, objects
from dcp_client.batching import ENDED
from dcp_client.cli import exits
from dcp_client.cli.batch_lines import BatchFileError, Defaults, Prepared, prepared
from dcp_client.cli.batch_states import BatchState, Entry, fresh_entry
from dcp_client.cli.context import Here, first, halala, here, unsuccessful, usage, without_none
from dcp_client.cli.follow import ask_after_interrupt
from dcp_client.cli.show import moment, sar
from dcp_client.cli.texts import say
from dcp_client.errors import APIError
from rich.progress import TextColumn

app = typer.Typer()

_MAX_TOKENS = 1024
_SHOWN_ERRORS = 10


@app.command()
def batch(
    ctx: typer.Context,
    file: Path = typer.Argument(..., help="The file: a request, a prompt or a line of text in each line."),
    output: Optional[Path] = typer.Option(
        None, "--output", "-o", help="File for the answers. Default: standard output."
    ),
    errors: Optional[Path] = typer.Option(None, help="File for the lines that gave no answer."),
    max_cost: Optional[str] = typer.Option(None, help="Most that the batch may cost, in SAR."),
    model: Optional[str] = typer.Option(None, help="The model of the lines that name none."),
    max_tokens: int = typer.Option(
        _MAX_TOKENS, help="Most tokens of an answer, for simple lines that do not say."
    ),
    detach: bool = typer.Option(False, "--detach", help="Print the batch's id and do not follow it."),
    new: bool = typer.Option(False, "--new", help="Make another batch of a file that has one."),
) -> None:
    """Answer all the requests in a file, within a day and below other work.

    A line is a request of OpenAI's batches, an object with a prompt ("prompt", and "system", "max_tokens" and
    the like), or plain text. All lines are checked before anything is sent. Started again for the same file,
    also after Ctrl-C or a crash, it goes on with the same batch. Ctrl-C asks whether to leave the batch alone
    or to cancel it. The exit code is 1 if a line gave no answer.

    \b
    Examples:
      dcp batch prompts.jsonl --output answers.jsonl --max-cost 20
      dcp batch prompts.jsonl --output answers.jsonl --errors errors.jsonl
      dcp batch --model Qwen/Qwen3-8B questions.txt > answers.jsonl
      dcp batch --detach prompts.jsonl
    """
    at = here(ctx)
    if not file.is_file():
        raise usage(say("{file} is not a file", file=file))
    most = halala(max_cost, "--max-cost") if max_cost else None
    with tempfile.TemporaryDirectory() as scratch:
        ready = prepared(file, Path(scratch) / file.name, Defaults(model, max_tokens))
        with at.client("renter") as client:
            state = BatchState(at.environ, at.url, ready.sha256)
            with state.held():
                found = None if new else _known(at, client, state)
                if found is None:
                    found = _made(at, client, state, ready, fresh_entry(**without_none(max_cost_halala=most)))
            if detach:
                batch_id, raw = found.id, dict(found.raw)
                at.screen.answer(raw, lambda: at.screen.line(batch_id))
                return
            ended = _follow(at, client, found)
            if ended is not None:
                _finish(at, client, ended, output, errors)


def _known(at: Here, client: Client, state: BatchState) -> Optional[objects.Batch]:
    """The batch that was made of this file already; None without one that this account can use."""
    for entry in reversed(state.entries()):
        try:
            if "batch_id" in entry:
                found = client.batches.get(entry["batch_id"])
            elif "file_id" in entry:
                # Whether its creation was answered is not known: the key finds out.
                found = _created(client, state, entry)
            else:
                continue
        except APIError as error:
            if error.status != 404:
                raise
            continue  # of another account, or gone
        if found.status == objects.BatchStatus.FAILED:
            continue  # nothing of it ran
        at.screen.note(say("This file has a batch, which goes on: {batch}", batch=found.id))
        return found
    return None


def _made(at: Here, client: Client, state: BatchState, ready: Prepared, entry: Entry) -> objects.Batch:
    served = {each.id for each in client.models()}
    missing = [
        "  " + say("line {number}: no provider serves the model {model} now", number=number, model=repr(name))
        for name, number in ready.models.items()
        if name not in served
    ]
    if missing:
        remedy = say("Nothing was sent. dcp models lists the models that are served.")
        raise BatchFileError("\n".join([remedy, *missing[:_SHOWN_ERRORS]]))
    with at.screen.progress(ready.path.name) as show:
        uploaded = client.batches.upload(ready.path, on_progress=show)
    entry = {**entry, "file_id": uploaded.id, "endpoint": ready.endpoint}
    state.save(entry)
    found = _created(client, state, entry)
    at.screen.note(say("{batch} is submitted.", batch=found.id))
    return found


def _created(client: Client, state: BatchState, entry: Entry) -> objects.Batch:
    found = client.batches.create(
        entry["file_id"],
        entry["endpoint"],
        max_cost_halala=entry.get("max_cost_halala"),
        idempotency_key=entry["key"],
    )
    state.save({**entry, "batch_id": found.id})
    return found


def _follow(at: Here, client: Client, found: objects.Batch) -> Optional[objects.Batch]:
    """The ended batch; None if it goes on without us."""
    while True:
        try:
            with _shown(at) as show:
                return client.batches.wait(found.id, on_progress=show)
        except KeyboardInterrupt:
            decision = ask_after_interrupt(at, found.id)
            if decision == "c":
                _cancel(client, found.id)
            elif decision == "d":
                at.screen.note(say("{batch} goes on: start the command again to follow it", batch=found.id))
                if not at.screen.is_interactive:
                    raise typer.Exit(exits.INTERRUPTED) from None
                return None


def _cancel(client: Client, batch_id: str) -> None:
    try:
        client.batches.cancel(batch_id)
    except APIError as error:
        if error.reason != "BATCH_NOT_OPEN":
            raise


@contextmanager
def _shown(at: Here) -> Iterator[Callable[[objects.Batch], None]]:
    """Shows how far a batch is: a bar on a terminal, else a line for each state."""
    is_terminal = at.screen.err.is_terminal
    last = [""]
    with at.screen.bar(TextColumn("{task.fields[facts]}")) as bar:
        task = bar.add_task("", total=None, facts="")

        def show(now: objects.Batch) -> None:
            if not is_terminal:
                if now.status != last[0] and not at.screen.as_json:
                    at.screen.note(f"{now.id}: {now.status}")
                last[0] = now.status
                return
            counts = now.request_counts or objects.BatchCounts()
            bar.update(
                task,
                description=now.status,
                total=counts.total or None,
                completed=counts.completed + counts.failed,
                facts=_facts(now),
            )

        yield show


def _facts(now: objects.Batch) -> str:
    counts = now.request_counts or objects.BatchCounts()
    return say(
        "{done} of {total} done, {failed} failed · {cost}",
        done=counts.completed,
        total=counts.total,
        failed=counts.failed,
        cost=sar(now.charged_halala, now.charged_micro_halala),
    )


def _finish(
    at: Here, client: Client, ended: objects.Batch, output: Optional[Path], errors: Optional[Path]
) -> None:
    """Writes what became of the lines; tells how the batch ended."""
    counts = ended.request_counts or objects.BatchCounts()
    if output is not None:
        _write(client.batches.output(ended.id), output)
    elif not at.screen.as_json:
        for each in client.batches.output(ended.id):
            at.screen.raw(_line(each))
    if errors is not None:
        _write(client.batches.errors(ended.id), errors)
    elif counts.failed:
        for each in first(client.batches.errors(ended.id), _SHOWN_ERRORS):
            at.screen.note(f"{each.custom_id}: {each.error_code}: {each.error_message}", "red")
        if counts.failed > _SHOWN_ERRORS:
            at.screen.note(say("and {count} more", count=counts.failed - _SHOWN_ERRORS), "red")
    for fault in ended.errors.data if ended.errors else []:
        where = say("line {number}: {error}", number=fault.line, error=fault.message)
        at.screen.note(where if fault.line else fault.message, "red")
    is_good = ended.status == objects.BatchStatus.COMPLETED and not counts.failed
    at.screen.note(f"{ended.id}: {ended.status}, {_facts(ended)}", "green" if is_good else "red")
    if at.screen.as_json:
        paths = {"output": str(output) if output else None, "errors": str(errors) if errors else None}
        at.screen.json({"batch": dict(ended.raw), **paths})
    if not is_good:
        raise unsuccessful()


def _write(results: Iterable[BatchResult], path: Path) -> None:
    """Writes lines to a file, which has its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8", newline="\n") as file:
        for each in results:
            file.write(_line(each))
    part.replace(path)


def _line(result: BatchResult) -> str:
    return json.dumps(dict(result.raw), ensure_ascii=False) + "\n"


@app.command()
def batches(
    ctx: typer.Context,
    batch_id: Optional[str] = typer.Argument(None, help="Show only this batch."),
    limit: int = typer.Option(20, help="How many to show; 0: all."),
) -> None:
    """List your batches, the newest first.

    \b
    Examples:
      dcp batches
      dcp batches batch_4f1c... --json
    """
    at = here(ctx)
    with at.client("renter") as client:
        if batch_id:
            one = client.batches.get(batch_id)
            at.screen.answer(dict(one.raw), lambda: _show(at, one))
            return
        found = first(client.batches.list(), limit)
    rows = [(x.id, x.status, _facts(x), moment(_time(x.created_at))) for x in found]
    head = (say("Batch"), say("Status"), say("Progress"), say("Submitted"))
    at.screen.answer([dict(x.raw) for x in found], lambda: at.screen.table(head, rows, say("No batches.")))


def _show(at: Here, one: objects.Batch) -> None:
    ended = max(filter(None, (one.completed_at, one.failed_at, one.expired_at, one.cancelled_at)), default=0)
    at.screen.facts(
        [
            (say("Batch"), one.id),
            (say("Status"), one.status),
            (say("Progress"), _facts(one)),
            (say("Submitted"), moment(_time(one.created_at))),
            (say("Ended"), moment(_time(ended)) if one.status in ENDED else ""),
            (say("Reason"), one.stop_reason),
        ]
    )


def _time(seconds: int) -> Optional[datetime]:
    return datetime.fromtimestamp(seconds, timezone.utc) if seconds else None
