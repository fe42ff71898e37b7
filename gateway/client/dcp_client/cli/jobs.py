"""Owns the commands of jobs: run, list, log, output and files, cancel, why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Optional

import typer
from dcp_client import Client, objects
from dcp_client.cli.context import Here, first, halala, here, unsuccessful, usage, without_none
from dcp_client.cli.follow import Follower, preparation_text
from dcp_client.cli.shop import price_text
from dcp_client.cli.show import moment, sar, size, span
from dcp_client.cli.texts import say
from dcp_client.errors import APIError

app = typer.Typer()

_INTERPRETERS = {".py": "python", ".sh": "sh"}
_PYTHON_IMAGE = "docker.io/library/python:3.12"


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    ctx: typer.Context,
    command: list[str] = typer.Argument(
        None, help="A script (.py, .sh) with its arguments, or a command of the image after --."
    ),
    image: Optional[str] = typer.Option(None, help="Container image. Default for a .py script: python:3.12."),
    gpu: Optional[str] = typer.Option(None, help="GPU model, such as 'RTX 4090'; any is for every model."),
    gpus: Optional[int] = typer.Option(None, help="Number of GPUs. Default: 1 with --gpu, else 0."),
    minutes: Optional[float] = typer.Option(
        None, help="Longest time that it may run, in minutes. Default: the market's, at first 60."
    ),
    cap: Optional[str] = typer.Option(None, help="Most that it may cost, in SAR."),
    env: Optional[list[str]] = typer.Option(None, help="NAME=VALUE for the program; can be repeated."),
    file: Optional[list[Path]] = typer.Option(None, help="Text file to bring to /input; can be repeated."),
    input_: Optional[list[Path]] = typer.Option(
        None, "--input", help="Folder or file to bring to /input, under its name; can be repeated."
    ),
    resume: Optional[str] = typer.Option(
        None, help="Id of a job that has ended: its files lie in /input/resume."
    ),
    output: Optional[Path] = typer.Option(None, help="Folder for what the job leaves in /output."),
    provider: Optional[int] = typer.Option(None, help="Id of the provider. Without it the market chooses."),
    job_type: str = typer.Option(
        "custom_container", "--type", help="training, rendering, benchmark or custom_container."
    ),
    detach: bool = typer.Option(False, "--detach", help="Print the job's id and do not follow it."),
) -> None:
    """Run a script or an image on somebody's GPU, and follow it.

    Its log is shown as it comes, with the cost so far and the most that it can be. Ctrl-C asks whether to
    leave the job alone or to cancel it. Options come before the script; what follows it belongs to it.

    \b
    Examples:
      dcp run train.py --epochs 3
      dcp run --gpu 'RTX 4090' --output out/ --cap 20 train.py
      dcp run --input data/ --output out/ train.py
      dcp run --input data/ --output out/ --resume job-4f1c... train.py
      dcp run --image docker.io/library/alpine:3.20 -- uname -a
      job=$(dcp run --detach train.py) && dcp logs -f $job
    """
    at = here(ctx)
    for each in input_ or []:
        if not each.exists():
            raise usage(say("--input: {file} is not a file or a folder", file=str(each)))
    body = _job(command or [], image, env or [], file or [])
    spec = body["container_spec"]
    spec["gpu_count"] = gpus if gpus is not None else int(gpu is not None)
    body |= without_none(
        job_type=job_type,
        duration_minutes=minutes,
        max_cost_halala=halala(cap, "--cap") if cap else None,
        gpu_requirements={"gpu_model": gpu} if gpu and gpu != "any" else None,
        provider_id=provider,
        resume_from=resume,
    )
    with at.client("renter") as client:
        if input_:
            body["inputs"] = [one for each in input_ for one in _bring(at, client, each)]
        job = client.submit(body)  # type: ignore[arg-type]
        if detach:
            at.screen.answer(dict(job.raw), lambda: at.screen.line(job.job_id))
            return
        at.screen.note(
            say("{job} is submitted; it costs at most {amount}.", job=job.job_id, amount=sar(job.cost_halala))
        )
        _follow_to_the_end(at, client, job, output)


def _job(command: list[str], image: Optional[str], env: list[str], files: list[Path]) -> dict[str, Any]:
    """The body of a submit without what options say directly."""
    variables = dict(each.partition("=")[::2] for each in env)
    if any("=" not in each for each in env):
        raise usage(say("--env: write NAME=VALUE"))
    words = list(command)
    interpreter = _INTERPRETERS.get(Path(words[0]).suffix) if words else None
    if interpreter and Path(words[0]).is_file():
        script = Path(words[0])
        files = [script, *files]
        words = [interpreter, f"/input/{script.name}", *words[1:]]
        image = image or (_PYTHON_IMAGE if interpreter == "python" else None)
    elif interpreter and not image:
        raise usage(say("{file} is not a file", file=words[0]))
    if not image:
        raise usage(say("give a script, or --image with a command after --"))
    spec: dict[str, Any] = {"image": image}
    spec |= {"command": words} if words else {}
    spec |= {"env": variables} if variables else {}
    spec |= {"input_files": {each.name: _text_of(each) for each in files}} if files else {}
    return {"container_spec": spec}


def _bring(at: Here, client: Client, source: Path) -> list[Any]:
    """Uploads what changed of a file or a folder."""
    with at.screen.progress(str(source)) as show:
        return list(client.upload(source, on_progress=show))


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise usage(
            say("{file} is not a text in UTF-8; only texts can be brought", file=str(file))
        ) from error


def _follow_to_the_end(at: Here, client: Client, job: objects.Job, output: Optional[Path]) -> None:
    """Follows a job; then shows its bill and downloads its files."""
    ended = Follower(at, client, job, with_output=False).follow()
    if ended is None:
        return  # it goes on without us
    files = client.artifacts(ended.job_id) if ended.artifact_count else []
    paths = [str(path) for path in _download(at, client, ended.job_id, files, output)] if output else []
    if at.screen.as_json:
        at.screen.json({"job": dict(ended.raw), "files": paths})
    else:
        show_end(at, ended)
        if files and not output:
            at.screen.note(
                say("It left {count} files: dcp get {job} --output DIR", count=len(files), job=ended.job_id)
            )
    if ended.status != objects.JobState.COMPLETED:
        raise unsuccessful()


def show_end(at: Here, job: objects.Job) -> None:
    """How a job ended and what it cost, as a note."""
    bill = job.billing or objects.Billing()
    cost = sar(bill.actual_cost_halala, bill.actual_cost_micro_halala)
    text = say("{job}: {status} after {time}, {cost} charged", job=job.job_id, status=job.status,
               time=span(bill.billed_seconds), cost=cost)  # fmt: skip
    at.screen.note(text, "green" if job.status == objects.JobState.COMPLETED else "red")
    if job.failure_message:
        at.screen.note(job.failure_message, "red")


def _download(
    at: Here, client: Client, job_id: str, files: list[objects.Artifact], folder: Path
) -> list[Path]:
    paths = []
    for each in files:
        with at.screen.progress(each.name) as show:
            paths.append(client.download(job_id, each, folder, on_progress=show))
        at.screen.note(f"{paths[-1]} ({size(each.size_bytes)})")
    return paths


@app.command()
def jobs(
    ctx: typer.Context,
    job_id: Optional[str] = typer.Argument(None, help="Show only this job, with all that is known."),
    status: Optional[str] = typer.Option(
        None, help="queued, pending, assigned, running, completed, failed or cancelled."
    ),
    limit: int = typer.Option(20, help="How many to show; 0: all."),
) -> None:
    """List your jobs, the newest first.

    \b
    Examples:
      dcp jobs --status running
      dcp jobs job-4f1c...
    """
    at = here(ctx)
    with at.client("renter") as client:
        if job_id:
            job = client.job(job_id)
            at.screen.answer(dict(job.raw), lambda: _show_job(at, job))
            return
        found = first(client.jobs(**without_none(status=status)), limit)
    rows = [
        (
            each.job_id,
            each.status,
            each.job_type,
            each.model or "",
            moment(each.created_at),
            sar(each.billing.actual_cost_halala, each.billing.actual_cost_micro_halala)
            if each.billing
            else "",
        )
        for each in found
    ]
    head = (say("Job"), say("Status"), say("Type"), say("Model"), say("Submitted"), say("Charge"))
    at.screen.answer([dict(x.raw) for x in found], lambda: at.screen.table(head, rows, say("No jobs.")))


def _show_job(at: Here, job: objects.Job) -> None:
    bill = job.billing
    at.screen.facts(
        [
            (say("Job"), job.job_id),
            (say("Status"), job.status),
            (say("Type"), job.job_type),
            (say("Model"), job.model),
            (say("Provider"), job.provider_id),
            (say("Price"), price_text(job.price)),
            (say("Submitted"), moment(job.created_at)),
            (say("Started"), moment(job.started_at)),
            (say("Ended"), moment(job.ended_at)),
            (say("Attempt"), job.attempt),
            (say("Held at most"), sar(job.cost_halala)),
            (say("Charge"), sar(bill.actual_cost_halala, bill.actual_cost_micro_halala) if bill else ""),
            (say("Place in the queue"), job.queue_position),
            (say("Files"), job.artifact_count or ""),
            (say("Reason"), job.failure_message),
        ]
    )


@app.command()
def logs(
    ctx: typer.Context,
    job_id: str = typer.Argument(..., help="The job's id."),
    follow: bool = typer.Option(False, "--follow", "-f", help="Go on until the job has ended."),
) -> None:
    """Show a job's log: what it wrote to standard output and standard error.

    With -f it goes on over broken connections, without a gap or a repeat.

    \b
    Example:
      dcp logs -f job-4f1c...
    """
    at = here(ctx)
    with at.client("renter") as client:
        if not follow:
            text = client.logs(job_id)
            at.screen.answer({"job_id": job_id, "log": text}, lambda: at.screen.raw(text))
            return
        job = client.job(job_id)
        ended = Follower(at, client, job, with_output=True).follow()
        if ended is None:
            return
        at.screen.answer(dict(ended.raw), lambda: show_end(at, ended))
        if ended.status != objects.JobState.COMPLETED:
            raise unsuccessful()


@app.command()
def get(
    ctx: typer.Context,
    job_id: str = typer.Argument(..., help="The job's id."),
    output: Optional[Path] = typer.Option(None, "--output", "-o", help="Folder for the job's files."),
    partial: bool = typer.Option(
        False, "--partial", help="Also what a job wrote that failed or was cancelled."
    ),
    wait: bool = typer.Option(False, "--wait", help="Wait until the job has ended."),
) -> None:
    """Print a job's output, and download its files. Whatever broke off is continued.

    \b
    Examples:
      dcp get job-4f1c...
      dcp get job-4f1c... --output out/
    """
    at = here(ctx)
    with at.client("renter") as client:
        job = client.wait(job_id) if wait else client.job(job_id)
        files = client.artifacts(job_id) if job.artifact_count else []
        paths = [str(each) for each in _download(at, client, job_id, files, output)] if output else []
        try:
            answer = client.output(job_id, partial=partial)
        except APIError as error:
            if not paths or error.reason not in ("JOB_FAILED", "JOB_CANCELLED", "OUTPUT_ERASED"):
                raise
            at.screen.note(error.message)
            answer = objects.GetJobOutputResponse()
    if answer.availability == objects.OutputAvailability.NOT_YET:
        at.screen.note(say("{job} has not ended: it is {status}.", job=job_id, status=answer.status))

    def show() -> None:
        if answer.data and answer.type != "text":
            _write_image(at, job_id, answer, output)
        elif answer.response:
            at.screen.raw(answer.response if answer.response.endswith("\n") else f"{answer.response}\n")
        if files and not output:
            rows = [(each.name, size(each.size_bytes), each.sha256[:12]) for each in files]
            at.screen.note(say("Files, which --output DIR downloads:"))
            for row in rows:
                at.screen.note("  ".join(row))

    at.screen.answer(
        {"job": dict(job.raw), "output": dict(answer.raw), "files": paths or [dict(x.raw) for x in files]},
        show,
    )


def _write_image(at: Here, job_id: str, answer: objects.GetJobOutputResponse, folder: Optional[Path]) -> None:
    import base64

    data = base64.b64decode(answer.data or "")
    if folder is None and not at.screen.out.is_terminal:
        sys.stdout.buffer.write(data)
        return
    ending = (answer.content_type or "").partition("/")[2].partition("+")[0] or "bin"
    path = (folder or Path()) / f"{job_id}.{ending if ending.isalnum() else 'bin'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    at.screen.note(str(path))


@app.command()
def cancel(
    ctx: typer.Context,
    job_id: str = typer.Argument(..., help="The id of a job or a batch."),
    keep_files: bool = typer.Option(
        False, "--keep-files", help="Keep what it has written to /output so far, to go on from it."
    ),
) -> None:
    """Cancel a job or a batch. What it used is charged, the rest of the hold returns.

    \b
    Examples:
      dcp cancel job-4f1c...
      dcp cancel batch_4f1c...
      dcp cancel --keep-files job-4f1c... && dcp run --resume job-4f1c... train.py
    """
    at = here(ctx)
    with at.client("renter") as client:
        if job_id.startswith("batch_"):
            batch = client.batches.cancel(job_id)
            at.screen.answer(dict(batch.raw), lambda: at.screen.line(f"{job_id}: {batch.status}"))
            return
        job = client.cancel(job_id, keep_files=keep_files)
    at.screen.answer(dict(job.raw), lambda: at.screen.line(f"{job_id}: {job.status}"))


@app.command()
def why(ctx: typer.Context, job_id: str = typer.Argument(..., help="The job's id.")) -> None:
    """Explain why a job waits or failed, provider by provider.

    \b
    Example:
      dcp why job-4f1c...
    """
    at = here(ctx)
    with at.client("renter") as client:
        answer = client.why(job_id)

    def show() -> None:
        at.screen.line(answer.message)
        at.screen.facts(
            [
                (say("Status"), answer.status),
                (say("Place in the queue"), answer.queue_position),
                (say("Starts in about"), _seconds(answer.estimated_start_seconds)),
                (say("Fetched"), preparation_text(answer.preparation) if answer.preparation else ""),
            ]
        )
        rows = [
            (each.provider_id, each.code, each.message, _seconds(each.free_in_seconds))
            for each in answer.providers
        ]
        if rows:
            at.screen.table((say("Id"), say("Obstacle"), say("Meaning"), say("Free in")), rows, "")
        tries = [
            (each.attempt, each.provider_id, each.outcome, moment(each.ended_at)) for each in answer.attempts
        ]
        if tries:
            at.screen.table((say("Attempt"), say("Provider"), say("Outcome"), say("Ended")), tries, "")

    at.screen.answer(dict(answer.raw), show)


def _seconds(count: Optional[int]) -> str:
    return "" if count is None else span(count)
