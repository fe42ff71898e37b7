"""Owns the commands of inputs: what was uploaded for jobs, upload it, delete it, how much may be kept."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer
from dcp_client import objects
from dcp_client.cli.context import first, here, usage
from dcp_client.cli.show import moment, size
from dcp_client.cli.texts import say

inputs = typer.Typer(
    help="List, upload and delete what jobs read at /input, and see how much may be kept.\n\n\b\nExamples:\n"
    "  dcp inputs upload data/\n"
    "  dcp inputs list\n"
    "  dcp inputs quota\n"
)


@inputs.command("list")
def list_inputs(ctx: typer.Context, limit: int = typer.Option(20, help="How many to show; 0: all.")) -> None:
    """List what you have uploaded for jobs, the newest first.

    \b
    Examples:
      dcp inputs list
      dcp inputs list --limit 0 --json
    """
    at = here(ctx)
    with at.client("renter") as client:
        found = first(client.inputs(), limit)
    rows = [
        (each.input_id, each.name, size(each.size_bytes), _state(each), moment(each.expires_at))
        for each in found
    ]
    head = (say("Input"), say("Name"), say("Size"), say("Status"), say("Kept until"))
    at.screen.answer(
        [dict(x.raw) for x in found], lambda: at.screen.table(head, rows, say("Nothing was uploaded."))
    )


def _state(each: objects.InputRecord) -> str:
    """The status, with what is wrong or how much is there."""
    if each.problem:
        return say("not fetched: {problem}", problem=each.problem)
    if each.status == objects.InputStatus.UPLOADING:
        return say("{done} of {total}", done=size(each.received_bytes), total=size(each.size_bytes))
    return each.status


@inputs.command("upload")
def upload_input(
    ctx: typer.Context,
    source: Path = typer.Argument(..., help="A file or a folder."),
    path: Optional[str] = typer.Option(
        None, help="Where it shall lie below /input. Default: under its own name."
    ),
) -> None:
    """Upload a file or a folder for later jobs. What your account has already is not sent again.

    An upload that broke off goes on where it was. dcp run --input does the same by itself; the answer with
    --json is what "inputs" of POST /api/jobs/submit takes.

    \b
    Examples:
      dcp inputs upload data/
      dcp inputs upload --json weights.bin
    """
    at = here(ctx)
    if not source.exists():
        raise usage(say("{file} is not a file or a folder", file=str(source)))
    with at.client("renter") as client, at.screen.progress(str(source)) as show:
        found = client.upload(source, path, on_progress=show)
    rows = [(str(each["input_id"]), f"/input/{each.get('path', '')}") for each in found]
    head = (say("Input"), say("Place"))
    at.screen.answer(
        [dict(each) for each in found], lambda: at.screen.table(head, rows, say("Nothing was uploaded."))
    )


@inputs.command("delete")
def delete_inputs(
    ctx: typer.Context, input_id: list[str] = typer.Argument(..., help="The id of an input; several can be.")
) -> None:
    """Delete inputs. An input of a job that has not ended is kept.

    \b
    Example:
      dcp inputs delete input-4f1c...
    """
    at = here(ctx)
    with at.client("renter") as client:
        for each in input_id:
            client.api.delete_input(each)
    at.screen.answer({"deleted": list(input_id)}, lambda: at.screen.note(say("Done.")))


@inputs.command("quota")
def show_quota(ctx: typer.Context) -> None:
    """Show how much is kept for your account, and how much may be.

    \b
    Example:
      dcp inputs quota
    """
    at = here(ctx)
    with at.client("renter") as client:
        renter = client.wallet()
        count = sum(1 for _ in client.inputs())
    stored, limit = renter.stored_bytes, renter.stored_bytes_limit
    answer = {"stored_bytes": stored, "stored_bytes_limit": limit, "inputs": count}
    at.screen.answer(
        answer,
        lambda: at.screen.facts(
            [
                (say("Kept"), size(stored)),
                (say("At most"), size(limit) if limit else say("no limit")),
                (say("Free"), size(max(0, limit - stored)) if limit else ""),
                (say("Inputs"), count),
            ]
        ),
    )
