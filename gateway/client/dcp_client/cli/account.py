"""Owns the commands of an account: login, registration, wallet, usage and keys."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Optional

import typer
from dcp_client import Client
from dcp_client.cli.context import Here, asked, first, halala, here, usage, without_none
from dcp_client.cli.keeping import role_of
from dcp_client.cli.show import moment, sar
from dcp_client.cli.texts import say
from dcp_client.errors import APIError
from dcp_client.settings import clean_key, clean_url

app = typer.Typer()
keys = typer.Typer(
    help="List, create, limit, replace and revoke the account's keys.\n\n\b\nExamples:\n"
    "  dcp keys list\n"
    "  dcp keys create laptop --scope inference --per-month 200\n"
)


@app.command()
def login(
    ctx: typer.Context,
    url: Optional[str] = typer.Option(None, help="Address of the market. Asked for without it."),
    key_file: Optional[Path] = typer.Option(
        None, help="File with the key; - is standard input. Asked for without it."
    ),
) -> None:
    """Keep the market's address and your key on this machine.

    The key is a renter's, a provider's or an operator's; one of each can be kept. It is asked for without
    being shown, or read from a file: never from the command line, which other users of the machine can see.
    It goes into the system's keyring if there is one that works, else into a file that only you can read.

    \b
    Examples:
      dcp login
      dcp login --url https://market.example --key-file renter.key
      pass show dcp | dcp login --url https://market.example --key-file -
    """
    at = here(ctx)
    address = _address(at, url)
    key = clean_key(_read_key(at, key_file))
    if not key:
        raise usage(say("no key was given: use --key-file"))
    with Client(address, key) as client:
        name = _who(client, role_of(key))
    place = at.keeping.keep(address, key)
    where = say("the system's keyring") if place == "keyring" else str(at.keeping.folder)
    answer = {"url": address, "role": role_of(key), "name": name, "kept_in": place}
    at.screen.answer(
        answer,
        lambda: at.screen.note(
            say("Logged in at {url} as {name}; the key is in {where}.", url=address, name=name, where=where)
        ),
    )


def _address(at: Here, url: Optional[str]) -> str:
    return clean_url(url or at.environ.get("DCP_API_URL") or asked(at, say("Address of the market"), at.url))


def _read_key(at: Here, file: Optional[Path]) -> str:
    if file is not None and str(file) != "-":
        return file.read_text(encoding="utf-8")
    if at.screen.is_interactive:
        return getpass.getpass(say("Key: "), stream=sys.stderr)
    if file is None and sys.stdin.isatty():
        raise usage(say("nobody can be asked for the key: use --key-file"))
    return sys.stdin.read(10_000)


def _who(client: Client, role: str) -> str:
    """The name of the account of a key, which must be valid. A sub-key may not be allowed to ask."""
    try:
        if role == "renter":
            return client.wallet().name
        if role == "provider":
            own = client.api.get_own_provider().provider
            return own.name if own else ""
        client.api.get_dashboard()
    except APIError as error:
        if error.reason not in ("MISSING_SCOPE", "MAIN_KEY_NEEDED"):
            raise
        return say("a sub-key")
    return say("an operator")


@app.command()
def logout(
    ctx: typer.Context,
    role: Optional[str] = typer.Option(None, help="Only this key: renter, provider or admin."),
) -> None:
    """Remove the keys that dcp login has kept. They stay valid.

    \b
    Example:
      dcp logout --role provider
    """
    at = here(ctx)
    gone = at.keeping.forget(role)
    text = say("Removed: {roles}.", roles=", ".join(gone)) if gone else say("No key was kept.")
    at.screen.answer({"removed": gone}, lambda: at.screen.note(text))


@app.command()
def whoami(ctx: typer.Context) -> None:
    """Show the market and the accounts for which keys are kept.

    \b
    Example:
      dcp whoami --json
    """
    at = here(ctx)
    own = at.environ.get("DCP_API_KEY", "")
    places = {role_of(own): "DCP_API_KEY"} if own else dict(at.keeping.roles())
    found = []
    for role, place in places.items():
        with at.client(role) as client:
            found.append({"role": role, "name": _who(client, role), "kept_in": place})
    rows = [(each["role"], each["name"], each["kept_in"]) for each in found]

    def show() -> None:
        at.screen.facts([(say("Market"), at.url)])
        at.screen.table(
            (say("Role"), say("Name"), say("Key in")), rows, say("No key is kept: run dcp login.")
        )

    at.screen.answer({"url": at.url, "accounts": found}, show)


@app.command()
def register(
    ctx: typer.Context,
    name: Optional[str] = typer.Option(None, help="Your name or your company's."),
    email: Optional[str] = typer.Option(None, help="E-mail address; one mailbox has one renter account."),
    organization: str = typer.Option("", help="Your organization's name, if there is one."),
    url: Optional[str] = typer.Option(None, help="Address of the market."),
) -> None:
    """Become a renter. The key is shown once and kept like that of dcp login.

    \b
    Example:
      dcp register --name "Acme AI" --email ai@acme.example
    """
    at = here(ctx)
    address = _address(at, url)
    name = name or asked(at, say("Name"), "")
    email = email or asked(at, say("E-mail"), "")
    if not name or not email:
        raise usage(say("--name and --email are needed"))
    with Client(address, "") as client:
        key = client.register(name, email, organization)
    place = at.keeping.keep(address, key)

    def show() -> None:
        at.screen.line(key)
        at.screen.note(say("This is your key. It is not shown again; save it where you keep passwords."))

    at.screen.answer({"url": address, "api_key": key, "kept_in": place}, show)


@app.command()
def wallet(ctx: typer.Context) -> None:
    """Show what the wallet holds, what is held for jobs, and what was spent.

    \b
    Example:
      dcp wallet
    """
    at = here(ctx)
    with at.client("renter") as client:
        renter = client.wallet()

    def show() -> None:
        at.screen.facts(
            [
                (say("Name"), renter.name),
                (say("Balance"), sar(renter.balance_halala, renter.balance_micro_halala)),
                (say("Held for jobs"), sar(renter.held_halala, renter.held_micro_halala)),
                (say("Spent"), sar(renter.spent_halala, renter.spent_micro_halala)),
                (say("Jobs"), renter.total_jobs),
            ]
        )

    at.screen.answer(dict(renter.raw), show)


@app.command()
def topup(ctx: typer.Context, amount: str = typer.Argument(..., help="Amount in SAR, such as 50.")) -> None:
    """Fill the wallet, where the market lets renters do it themselves.

    \b
    Example:
      dcp topup 50
    """
    at = here(ctx)
    with at.client("renter") as client:
        answer = client.api.top_up_own_wallet({"amount_halala": halala(amount, "AMOUNT")})
    at.screen.answer(
        dict(answer.raw), lambda: at.screen.line(say("Balance: {amount}", amount=sar(answer.balance_halala)))
    )


@app.command()
def statement(
    ctx: typer.Context, limit: int = typer.Option(20, help="How many movements to show; 0: all.")
) -> None:
    """List the movements of the wallet, the newest first.

    \b
    Example:
      dcp statement --limit 0 --json > statement.json
    """
    at = here(ctx)
    with at.client("renter") as client:
        lines = first(client.statement(), limit)
    rows = [
        (moment(line.time), line.kind, sar(line.amount_halala), sar(line.balance_halala), line.job_id)
        for line in lines
    ]
    head = (say("Time"), say("Kind"), say("Amount"), say("Balance"), say("Job"))
    at.screen.answer([dict(x.raw) for x in lines], lambda: at.screen.table(head, rows, say("No movements.")))


@app.command("usage")
def usage_(
    ctx: typer.Context,
    begin: Optional[str] = typer.Option(
        None, "--from", help="First day (UTC), such as 2026-01-31. Default: 29 days before the last."
    ),
    end: Optional[str] = typer.Option(None, "--to", help="Last day (UTC). Default: today."),
    by: Optional[list[str]] = typer.Option(None, help="How to group: day, key or model; can be repeated."),
) -> None:
    """Sum up what jobs used: by day, key and model.

    \b
    Examples:
      dcp usage --by day
      dcp usage --from 2026-01-01 --to 2026-01-31 --by key --by model
    """
    at = here(ctx)
    with at.client("renter") as client:
        found = list(client.usage(**without_none(from_=begin, to=end, group_by=by or None)))
    rows = [
        (
            row.date,
            row.key_name,
            row.model,
            row.jobs,
            row.input_tokens,
            row.output_tokens,
            f"{row.billed_seconds:.0f}",
            sar(row.charged_halala, row.charged_micro_halala),
        )
        for row in found
    ]
    head = (
        *(say("Day"), say("Key"), say("Model"), say("Jobs"), say("Tokens in"), say("Tokens out")),
        *(say("Seconds"), say("Charge")),
    )
    at.screen.answer(
        [dict(x.raw) for x in found], lambda: at.screen.table(head, rows, say("Nothing was used."))
    )


@keys.command("list")
def list_keys(ctx: typer.Context) -> None:
    """List the account's keys, without their secrets.

    \b
    Example:
      dcp keys list
    """
    at = here(ctx)
    with at.client("renter") as client:
        found = list(client.keys())
    rows = [
        (
            key.id,
            say("main key") if key.main else key.name,
            ", ".join(key.scopes),
            f"…{key.last4}",
            sar(key.used_this_month_halala or 0),
            moment(key.last_used_at),
            say("revoked") if key.revoked_at else moment(key.expires_at),
        )
        for key in found
    ]
    head = (
        say("Id"),
        say("Name"),
        say("Scopes"),
        say("Key"),
        say("This month"),
        say("Last used"),
        say("Ends"),
    )
    at.screen.answer([dict(x.raw) for x in found], lambda: at.screen.table(head, rows, say("No keys.")))


_PER_DAY = typer.Option(None, help="Most that it may spend on a day, in SAR. Default: no limit.")
_PER_MONTH = typer.Option(None, help="Most that it may spend in a month, in SAR. Default: no limit.")
_IN_TOTAL = typer.Option(None, help="Most that it may ever spend, in SAR. Default: no limit.")


@keys.command("create")
def create_key(
    ctx: typer.Context,
    name: str = typer.Argument(..., help="A name, to know the key by."),
    scope: list[str] = typer.Option(
        ["inference"], help="What it may do: inference, billing or read; can be repeated."
    ),
    days: Optional[float] = typer.Option(None, help="Days until it ends. Default: never."),
    per_day: Optional[str] = _PER_DAY,
    per_month: Optional[str] = _PER_MONTH,
    in_total: Optional[str] = _IN_TOTAL,
    model: Optional[list[str]] = typer.Option(None, help="Only this model; can be repeated."),
) -> None:
    """Create a sub-key. It is shown only once.

    \b
    Example:
      dcp keys create laptop --scope inference --scope read --per-month 200
    """
    at = here(ctx)
    body = without_none(
        name=name,
        scopes=list(scope),
        expires_in_seconds=int(days * 86400) if days else None,
        allowed_models=model or None,
        **_budgets(per_day, per_month, in_total),
    )
    with at.client("renter") as client:
        answer = client.api.create_key(body)
    at.screen.answer(dict(answer.raw), lambda: at.screen.line(answer.api_key))


def _budgets(
    per_day: Optional[str], per_month: Optional[str], in_total: Optional[str]
) -> dict[str, Optional[int]]:
    return {
        "budget_halala_per_day": halala(per_day, "--per-day") if per_day else None,
        "budget_halala_per_month": halala(per_month, "--per-month") if per_month else None,
        "budget_halala_total": halala(in_total, "--in-total") if in_total else None,
    }


@keys.command("limits")
def limit_key(
    ctx: typer.Context,
    key_id: int = typer.Argument(..., help="The key's id."),
    per_day: Optional[str] = _PER_DAY,
    per_month: Optional[str] = _PER_MONTH,
    in_total: Optional[str] = _IN_TOTAL,
    model: Optional[list[str]] = typer.Option(None, help="Only this model; can be repeated."),
) -> None:
    """Replace the limits of a sub-key. What is left out has no limit.

    \b
    Example:
      dcp keys limits 12 --per-day 10
    """
    at = here(ctx)
    body = without_none(allowed_models=model or None, **_budgets(per_day, per_month, in_total))
    with at.client("renter") as client:
        answer = client.api.set_key_limits(key_id, body)
    at.screen.answer(dict(answer.raw), lambda: at.screen.note(say("Done.")))


@keys.command("revoke")
def revoke_key(ctx: typer.Context, key_id: int = typer.Argument(..., help="The key's id.")) -> None:
    """Revoke a key. It works no more, at once.

    \b
    Example:
      dcp keys revoke 12
    """
    at = here(ctx)
    with at.client("renter") as client:
        answer = client.api.revoke_key(key_id)
    at.screen.answer(dict(answer.raw), lambda: at.screen.note(say("Done.")))


@keys.command("rotate")
def rotate_key(
    ctx: typer.Context,
    grace_seconds: Optional[int] = typer.Option(
        None, help="Seconds that the old key still works; 0 if it has leaked. Default: 86400, a day."
    ),
) -> None:
    """Replace the main key. The new one is shown once and kept.

    \b
    Example:
      dcp keys rotate --grace-seconds 0
    """
    at = here(ctx)
    with at.client("renter") as client:
        answer = client.api.rotate_renter_key(without_none(grace_seconds=grace_seconds))
    at.keeping.keep(at.url, answer.api_key)
    at.screen.answer(dict(answer.raw), lambda: at.screen.line(answer.api_key))


app.add_typer(keys, name="keys")
