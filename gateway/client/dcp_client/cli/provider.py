"""Owns the commands of providers: earnings, rates, pauses and withdrawals."""

from __future__ import annotations

from typing import Optional

import typer
from dcp_client import objects
from dcp_client.cli.context import asked, first, halala, here, usage, without_none
from dcp_client.cli.show import moment, sar
from dcp_client.cli.texts import say

app = typer.Typer(
    help="For providers: earnings, rates, pauses and withdrawals.\n\n\b\nExamples:\n"
    "  dcp provider show\n"
    "  dcp provider earnings --days 30\n"
    "  dcp provider withdraw 250 --iban SA0380000000608010167519\n"
)
rates = typer.Typer(
    help="Your own rates for new jobs.\n\n\b\nExamples:\n"
    "  dcp provider rates list\n"
    "  dcp provider rates set llm-inference 1.20\n"
)

_BAR = "█"


@app.command()
def show(ctx: typer.Context) -> None:
    """Show your machine as the market sees it.

    \b
    Example:
      dcp provider show
    """
    at = here(ctx)
    with at.client("provider") as client:
        own = client.api.get_own_provider().provider or objects.Provider()
    pairs = [
        (say("Name"), own.name),
        (say("Status"), own.status),
        (say("Connected"), say("yes") if own.connected else say("no")),
        ("GPU", own.gpu_model),
        (say("Models"), ", ".join(own.models)),
        (say("Standing"), own.standing.standing if own.standing else ""),
        (
            say("Reliability"),
            own.reliability_lower if own.reliability_lower is None else f"{own.reliability_lower:.2f}",
        ),
        (say("Jobs"), own.total_jobs),
    ]
    at.screen.answer(dict(own.raw), lambda: at.screen.facts(pairs))


@app.command()
def earnings(ctx: typer.Context, days: int = typer.Option(14, help="How many days, up to today.")) -> None:
    """Show what you earned, day by day, and what you can withdraw.

    \b
    Example:
      dcp provider earnings --days 30
    """
    at = here(ctx)
    with at.client("provider") as client:
        answer = client.api.get_own_earnings(days=days)

    def draw() -> None:
        most = max((day.earned_halala for day in answer.days), default=0)
        room = max(1, min(40, at.screen.out.width - 30))
        for day in answer.days:
            bar = _BAR * (round(room * day.earned_halala / most) if most else 0)
            at.screen.line(f"{day.date}  {sar(day.earned_halala):>12}  {bar}".rstrip())
        at.screen.facts(
            [
                (say("Earned"), sar(answer.earned_halala, answer.earned_micro_halala)),
                (say("Can be withdrawn"), sar(answer.claimable_halala)),
                (say("Matures"), sar(answer.maturing_halala)),
                (say("Held by disputes"), sar(answer.held_halala)),
                (say("Jobs"), answer.jobs),
            ]
        )

    at.screen.answer(dict(answer.raw), draw)


@app.command()
def pause(ctx: typer.Context) -> None:
    """Take no new jobs. Those that run go on.

    \b
    Example:
      dcp provider pause
    """
    at = here(ctx)
    with at.client("provider") as client:
        answer = client.api.pause_own_provider()
    at.screen.answer(dict(answer.raw), lambda: at.screen.line(say("Paused: no new jobs come.")))


@app.command()
def resume(ctx: typer.Context) -> None:
    """Take jobs again after a pause.

    \b
    Example:
      dcp provider resume
    """
    at = here(ctx)
    with at.client("provider") as client:
        answer = client.api.resume_own_provider()
    at.screen.answer(dict(answer.raw), lambda: at.screen.line(say("Jobs come again.")))


@rates.command("list")
def list_rates(ctx: typer.Context) -> None:
    """List your rates, the market's, and the bounds.

    \b
    Example:
      dcp provider rates list
    """
    at = here(ctx)
    with at.client("provider") as client:
        answer = client.api.list_own_rates()
    rows = [
        (
            each.job_type,
            sar(each.halala_per_minute),
            say("yes") if each.own else say("no"),
            sar(each.platform_halala_per_minute),
            f"{sar(each.least_halala_per_minute)} – {sar(each.most_halala_per_minute)}",
        )
        for each in answer.rates
    ]
    head = (say("Type"), say("Per minute"), say("Own"), say("Market's"), say("Bounds"))
    at.screen.answer(dict(answer.raw), lambda: at.screen.table(head, rows, say("No rates.")))


@rates.command("set")
def set_rate(
    ctx: typer.Context,
    job_type: str = typer.Argument(..., help="The job type, such as llm-inference."),
    per_minute: Optional[str] = typer.Argument(None, help="SAR per minute, such as 1.20."),
    platform: bool = typer.Option(False, "--platform", help="The market's rate instead of your own."),
) -> None:
    """Set your rate of a job type for new jobs.

    \b
    Examples:
      dcp provider rates set llm-inference 1.20
      dcp provider rates set llm-inference --platform
    """
    at = here(ctx)
    if (per_minute is None) != platform:
        raise usage(say("give either an amount or --platform"))
    body = without_none(
        job_type=job_type,
        halala_per_minute=halala(per_minute, "PER_MINUTE") if per_minute else None,
        platform_rate=platform or None,
    )
    with at.client("provider") as client:
        answer = client.api.set_own_rate(body)
    at.screen.answer(dict(answer.raw), lambda: at.screen.note(say("Done.")))


@app.command()
def withdraw(
    ctx: typer.Context,
    amount: str = typer.Argument(..., help="Amount in SAR; the least is 10."),
    iban: Optional[str] = typer.Option(None, help="IBAN of a Saudi bank account. Asked for without it."),
) -> None:
    """Ask for a withdrawal of earnings to a bank account.

    \b
    Example:
      dcp provider withdraw 250 --iban SA0380000000608010167519
    """
    at = here(ctx)
    wanted = halala(amount, "AMOUNT")
    with at.client("provider") as client:
        account = iban or asked(at, "IBAN")
        if not account:
            raise usage(say("--iban is needed"))
        answer = client.api.request_withdrawal({"amount_halala": wanted, "iban": account})
    made = answer.withdrawal or objects.Withdrawal()
    text = say(
        "Withdrawal {id}: {amount}, {status}", id=made.id, amount=sar(made.amount_halala), status=made.status
    )
    at.screen.answer(dict(answer.raw), lambda: at.screen.line(text))


@app.command()
def withdrawals(ctx: typer.Context, limit: int = typer.Option(20, help="How many to show; 0: all.")) -> None:
    """List your withdrawals, the newest first.

    \b
    Example:
      dcp provider withdrawals
    """
    at = here(ctx)
    with at.client("provider") as client:
        found = first(client.api.iterate_own_withdrawals(), limit)
    rows = [
        (
            each.id,
            sar(each.amount_halala),
            each.status,
            f"…{each.iban_last4}",
            moment(each.created_at),
            each.reason,
        )
        for each in found
    ]
    head = (say("Id"), say("Amount"), say("Status"), "IBAN", say("Asked"), say("Reason"))
    at.screen.answer(
        [dict(x.raw) for x in found], lambda: at.screen.table(head, rows, say("No withdrawals."))
    )


@app.command()
def jobs(ctx: typer.Context, limit: int = typer.Option(20, help="How many to show; 0: all.")) -> None:
    """List the jobs of your machine, the newest first.

    \b
    Example:
      dcp provider jobs
    """
    at = here(ctx)
    with at.client("provider") as client:
        found = first(client.api.iterate_provider_jobs(), limit)
    rows = [
        (
            each.job_id,
            each.status,
            each.job_type,
            moment(each.started_at),
            sar(each.billing.provider_halala, each.billing.provider_micro_halala) if each.billing else "",
        )
        for each in found
    ]
    head = (say("Job"), say("Status"), say("Type"), say("Started"), say("Earned"))
    at.screen.answer([dict(x.raw) for x in found], lambda: at.screen.table(head, rows, say("No jobs.")))


@app.command()
def history(
    ctx: typer.Context,
    provider_id: int = typer.Argument(..., help="The provider's id."),
    limit: int = typer.Option(20, help="How many attempts to show; 0: all."),
) -> None:
    """Show the public history of any provider's attempts, from which its reliability follows.

    \b
    Example:
      dcp provider history 7
    """
    at = here(ctx)
    with at.client() as client:
        found = first(client.api.iterate_provider_history(provider_id), limit)
    rows = [
        (
            each.number,
            each.job_type,
            each.outcome,
            each.failure_reason or "",
            each.counts,
            moment(each.ended_at),
        )
        for each in found
    ]
    head = (say("Number"), say("Type"), say("Outcome"), say("Reason"), say("Counts"), say("Ended"))
    at.screen.answer([dict(x.raw) for x in found], lambda: at.screen.table(head, rows, say("No attempts.")))


app.add_typer(rates, name="rates")
