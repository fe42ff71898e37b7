"""Owns the command `dcp` as a whole: its parts, `--json`, the language of its help, and how errors end it."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Optional

import typer
from dcp_client.calls import USER_AGENT
from dcp_client.cli import account, admin, batch, exits, inputs, jobs, provider, shop, talk, texts, words
from dcp_client.cli.context import Here, MissingKeyError
from dcp_client.cli.texts import mark, say
from dcp_client.errors import APIError, ConnectionFailedError, DCPError
from typer.main import get_command

_JSON_HELP = mark("Write the answer as JSON, for programs.")
_HELP = mark("Rent GPUs of a DCP marketplace, or lend yours.")
_EXAMPLES = "\n\n\b\n"
"""Comes before the examples of a help; what follows it is shown line by line."""
_FIRST_STEPS = (
    ("dcp register", mark("become a renter, or")),
    ("dcp login", mark("keep a key that you have")),
    ("dcp market", mark("see who is there")),
    ("dcp ask 'What is a GPU?'", mark("ask a model")),
    ("dcp run train.py", mark("run a script")),
)


def root() -> typer.Typer:
    """The command with all its commands."""
    app = typer.Typer(
        name="dcp", help=_HELP, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    # Added without a name, their commands are dcp's own.
    for part in (account, shop, talk, jobs, batch):
        app.add_typer(part.app)
    app.add_typer(inputs.inputs, name="inputs")
    app.add_typer(provider.app, name="provider")
    app.add_typer(admin.app, name="admin")
    return app


def command() -> Any:
    """The command as it is run: with `--json` everywhere, in the chosen language."""
    whole = get_command(root())
    for each in walk(whole):
        words.speak(each)
        if not hasattr(each, "commands"):
            each.params.append(_json_option())
        each.help = translated_help(each.help or "")
        each.short_help = summary(each.help)
        if each is whole:
            each.params.append(_version_option())
        for param in each.params:
            param.metavar = words.value_of(param)
            if getattr(param, "help", None):
                param.help = say(param.help)
    whole.epilog = epilog()
    return whole


def help_text(text: str) -> tuple[str, str]:
    """A help's paragraphs, each in one line, and its examples."""
    paragraphs, _, examples = text.partition(_EXAMPLES)
    return re.sub(r"(?<!\n)\n(?!\n)", " ", paragraphs), examples


def translated_help(text: str) -> str:
    """A help in the chosen language. Its examples are the same in all."""
    paragraphs, examples = help_text(text)
    head, _, lines = examples.partition("\n")
    shown = f"{_EXAMPLES}{say('Examples:') if head == 'Examples:' else say('Example:')}\n{lines}"
    return (say(paragraphs) if paragraphs else "") + (shown if examples else "")


def summary(text: str) -> str:
    """The first sentence of a help, whole: typer itself would cut it where a line ends."""
    return re.split(r"(?<=[.؟])\s", text, maxsplit=1)[0]


def epilog() -> str:
    """The end of the help: how to begin, and the exit codes."""
    steps = "".join(f"  {step:<26}{say(about)}\n" for step, about in _FIRST_STEPS)
    codes = "".join(f"  {code:>3}  {say(meaning)}\n" for code, meaning in exits.MEANINGS)
    variables = say("DCP_API_URL and DCP_API_KEY replace what dcp login keeps.")
    return f"\b\n{say('Begin with:')}\n{steps}\n{variables}\n\n\b\n{say('Exit codes:')}\n{codes}"


def walk(group: Any) -> Iterator[Any]:
    """A command and all below it."""
    yield group
    for each in getattr(group, "commands", {}).values():
        yield from walk(each)


def _json_option() -> Any:
    def choose(ctx: typer.Context, value: bool) -> None:
        if value:
            ctx.find_root().obj.screen.as_json = True

    return _flag("--json", _JSON_HELP, choose)


def _version_option() -> Any:
    def show(ctx: typer.Context, value: bool) -> None:
        if value:
            ctx.find_root().obj.screen.line(USER_AGENT.replace("/", " "))
            raise typer.Exit()

    return _flag("--version", mark("Show the version."), show, is_eager=True)


def _flag(
    name: str, about: str, callback: Callable[[typer.Context, bool], None], is_eager: bool = False
) -> Any:
    """An option as typer makes it for a command: its classes differ from version to version."""
    app = typer.Typer(add_completion=False)
    option = typer.Option(
        False,
        name,
        help=about,
        callback=callback,
        is_eager=is_eager,
        expose_value=False,
        show_default=False,
    )

    @app.command()
    def only(value: bool = option) -> None: ...

    (made,) = (each for each in get_command(app).params if name in each.opts)
    return made


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs the command; returns the exit code. An error is one sentence, never a traceback."""
    texts.choose(environ)
    at = Here(environ)
    try:
        result = command().main(args=list(arguments), prog_name="dcp", standalone_mode=False, obj=at)
        return result if isinstance(result, int) else exits.OK
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        _silence()
        return exits.OK
    except (DCPError, OSError) as error:
        _report(at, error)
        return exits.CREDENTIAL if isinstance(error, MissingKeyError) else exits.code_of(error)
    except Exception as error:
        return _usage(error)


def _report(at: Here, error: Exception) -> None:
    if at.screen.as_json:
        facts: dict[str, Any] = {"error": str(error), "code": type(error).__name__}
        if isinstance(error, APIError):
            facts = {**error.facts.raw, "error": error.message, "code": error.reason}
        at.screen.err.print(_one_line(facts), soft_wrap=True)
        return
    at.screen.error(str(error))
    if isinstance(error, ConnectionFailedError) and error.is_unknown:
        at.screen.note(
            say(
                "Look before you repeat it: dcp statement lists movements of the wallet, dcp jobs and "
                "dcp batches list what was created, dcp provider withdrawals lists withdrawals."
            )
        )
    if isinstance(error, APIError):
        advice = error.facts.advice
        field = error.field if error.field and error.field not in error.message else ""
        known = [f"{say('Field')}: {field}" if field else "", advice or ""]
        for line in filter(None, known):
            at.screen.note(line)
        if remedy := _REMEDIES.get(error.reason):
            at.screen.note(say(remedy))


_REMEDIES = {
    "INVALID_CREDENTIAL": mark("Run dcp login with a key that is valid."),
    "MISSING_CREDENTIAL": mark("Run dcp login, or set DCP_API_KEY."),
    "INSUFFICIENT_BALANCE": mark(
        "dcp wallet shows the balance; dcp topup fills it where the market allows it."
    ),
    "JOB_NOT_FOUND": mark("dcp jobs lists your jobs."),
    "INPUT_NOT_FOUND": mark("dcp inputs list lists what you have uploaded."),
    "RENTER_STORAGE_FULL": mark("dcp inputs quota shows what is free; dcp inputs delete makes room."),
    "BATCH_NOT_FOUND": mark("dcp batches lists your batches."),
}


def _one_line(values: Mapping[str, Any]) -> str:
    import json

    return json.dumps(values, ensure_ascii=False)


def _usage(error: Exception) -> int:
    """The end of a wrong command line, which typer explains. Raises what is none."""
    show: Optional[Any] = getattr(error, "show", None)
    if show is not None:
        shown = io.StringIO()
        show(file=shown)
        sys.stderr.write(words.translated(shown.getvalue()))
        return int(getattr(error, "exit_code", exits.USAGE))
    if type(error).__name__ == "Abort":
        return exits.INTERRUPTED
    if type(error).__name__ == "Exit":
        return int(getattr(error, "exit_code", exits.OK))
    raise error


def _silence() -> None:
    """A reader such as `head` has gone; nothing more is to be said."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
