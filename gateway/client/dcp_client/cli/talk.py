"""Owns the commands that talk with a model: `ask` for one answer, `chat` for a conversation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Optional

import typer
from dcp_client import Client, objects
from dcp_client.cli.context import Here, here, usage
from dcp_client.cli.show import sar
from dcp_client.cli.texts import say
from dcp_client.errors import DCPError

app = typer.Typer()

# Without a bound the hold is for the whole context of the model.
_MAX_TOKENS = 1024


@app.command()
def ask(
    ctx: typer.Context,
    question: list[str] = typer.Argument(
        None, help="The question. Standard input, if it is a pipe, comes after it."
    ),
    model: Optional[str] = typer.Option(None, help="The model. Default: the one that most providers serve."),
    system: Optional[str] = typer.Option(None, help="How the model shall answer."),
    max_tokens: int = typer.Option(_MAX_TOKENS, help="Most tokens of the answer."),
    temperature: Optional[float] = typer.Option(
        None, help="Randomness, from 0 to 2. Default: the model server's."
    ),
) -> None:
    """Ask a model one question and print its answer as it comes.

    \b
    Examples:
      dcp ask "What is a GPU?"
      git diff | dcp ask "Review this change."
      dcp ask --model Qwen/Qwen3-8B --temperature 0 "2 + 2?"
    """
    at = here(ctx)
    text = " ".join(question or [])
    if not sys.stdin.isatty() and (piped := sys.stdin.read()).strip():
        text = f"{text}\n\n{piped}" if text else piped
    if not text.strip():
        raise usage(say('ask something: dcp ask "What is a GPU?"'))
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    with at.client("renter") as client:
        chosen = model or _default_model(at, client)
        answer = _Answer(at, client)
        answer.stream(chosen, messages, max_tokens, temperature)
        if at.screen.as_json:
            at.screen.json(
                {"model": chosen, "job_id": answer.job_id, "answer": answer.text, "job": answer.bill()}
            )


@app.command()
def chat(
    ctx: typer.Context,
    model: Optional[str] = typer.Option(None, help="The model. Default: the one that most providers serve."),
    system: Optional[str] = typer.Option(None, help="How the model shall answer."),
    max_tokens: int = typer.Option(_MAX_TOKENS, help="Most tokens of an answer."),
    temperature: Optional[float] = typer.Option(
        None, help="Randomness, from 0 to 2. Default: the model server's."
    ),
) -> None:
    """Talk with a model.

    Each line is a message; /new begins anew, /model NAME changes the model, Ctrl-D ends. Ctrl-C stops an
    answer; what was delivered is paid for. After each answer its cost is shown.

    \b
    Example:
      dcp chat --model Qwen/Qwen3-8B
    """
    at = here(ctx)
    beginning: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    messages = list(beginning)
    with at.client("renter") as client:
        chosen = model or _default_model(at, client)
        at.screen.note(say("You talk with {model}. Ctrl-D ends.", model=chosen))
        for line in _lines(at):
            if line == "/new":
                messages = list(beginning)
            elif line.startswith("/model "):
                chosen = line.partition(" ")[2].strip()
            elif line.startswith("/"):
                at.screen.note(say("/new begins anew, /model NAME changes the model, Ctrl-D ends."))
            else:
                messages.append({"role": "user", "content": line})
                answer = _Answer(at, client)
                try:
                    answer.stream(chosen, messages, max_tokens, temperature)
                except KeyboardInterrupt:
                    at.screen.raw("\n")
                except DCPError as error:
                    at.screen.error(str(error))
                if answer.text:
                    messages.append({"role": "assistant", "content": answer.text})
                    answer.show_cost()
                else:
                    messages.pop()


def _lines(at: Here) -> Iterator[str]:
    """The lines that a person types, until Ctrl-D or Ctrl-C."""
    while True:
        try:
            line = _read_line(at).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line


def _read_line(at: Here) -> str:
    if at.screen.is_interactive:
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  # history and editing of lines
        return input("> ")
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _default_model(at: Here, client: Client) -> str:
    served = client.models()
    if not served:
        raise usage(say("no model is served now; dcp models shows when there is one"))
    at.screen.note(say("Model: {model}", model=served[0].id))
    return served[0].id


class _Answer:
    """An answer that is shown as it comes."""

    def __init__(self, at: Here, client: Client) -> None:
        self._at = at
        self._client = client
        self.text = ""
        self.job_id = ""

    def stream(
        self, model: str, messages: list[dict[str, str]], max_tokens: int, temperature: Optional[float]
    ) -> None:
        """Shows the pieces until the end."""

        def note_job(job_id: str) -> None:
            self.job_id = job_id

        pieces = self._client.chat.stream(
            model, messages, max_tokens=max_tokens, temperature=temperature, on_job=note_job
        )
        for piece in pieces:
            self.text += piece
            if not self._at.screen.as_json:
                self._at.screen.raw(piece)
        if not self._at.screen.as_json and not self.text.endswith("\n"):
            self._at.screen.raw("\n")

    def bill(self) -> Optional[dict[str, object]]:
        """The job of the answer, if the key may see it."""
        try:
            return dict(self._client.job(self.job_id).raw) if self.job_id else None
        except DCPError:
            return None

    def show_cost(self) -> None:
        """What the answer cost, as a note."""
        job = objects.Job.from_json(self.bill() or {})
        if job.billing and job.usage:
            cost = sar(job.billing.actual_cost_halala, job.billing.actual_cost_micro_halala)
            self._at.screen.note(
                say("{cost}, {tokens} tokens", cost=cost, tokens=job.usage.completion_tokens or 0)
            )
