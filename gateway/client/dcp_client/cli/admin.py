"""Owns the commands of operators: figures, withdrawals, disputes, and the proof of the ledger."""

from __future__ import annotations

from typing import Optional

import typer
from dcp_client import objects
from dcp_client.cli.context import Here, first, halala, here, unsuccessful, without_none
from dcp_client.cli.show import moment, sar
from dcp_client.cli.texts import say

app = typer.Typer(
    help="For operators: figures, withdrawals, disputes and the proof of the ledger.\n\n\b\nExamples:\n"
    "  dcp admin dashboard\n"
    "  dcp admin withdrawals list\n"
)
withdrawals = typer.Typer(
    help="Withdrawal requests of providers.\n\n\b\nExamples:\n"
    "  dcp admin withdrawals list\n"
    "  dcp admin withdrawals pay 3 --reference SARIE-20260131-17\n"
)
disputes = typer.Typer(
    help="Disputed charges.\n\n\b\nExamples:\n"
    "  dcp admin disputes list --status open\n"
    '  dcp admin disputes decide 5 uphold --note "The answer is filler."\n'
)
operators = typer.Typer(
    help="The people who run the market.\n\n\b\nExamples:\n"
    "  dcp admin operators list\n"
    "  dcp admin operators invite Sara --role finance\n"
)


@app.command()
def dashboard(ctx: typer.Context) -> None:
    """Show the market's figures.

    \b
    Example:
      dcp admin dashboard
    """
    at = here(ctx)
    with at.client("admin") as client:
        answer = client.api.get_dashboard()
    stats = answer.stats or objects.DashboardStats()
    pairs = [
        (say("Providers"), f"{stats.online_now} / {stats.total_providers}"),
        (say("Renters"), stats.total_renters),
        (say("Jobs"), f"{stats.active_jobs} / {stats.total_jobs}"),
        (say("Charged"), sar(stats.charged_halala)),
        (say("Fees"), sar(stats.fee_halala)),
        (say("Fees today"), sar(stats.fee_today_halala)),
        (say("Held for jobs"), sar(stats.held_halala)),
        (say("Can be withdrawn"), sar(stats.claimable_halala)),
        (say("Held by disputes"), sar(stats.disputed_halala)),
        (say("Discards today"), stats.discards_today),
    ]
    at.screen.answer(dict(answer.raw), lambda: at.screen.facts(pairs))


@app.command()
def proof(ctx: typer.Context) -> None:
    """Prove that the ledger balances. The exit code is 1 if it does not.

    \b
    Example:
      dcp admin proof || mail -s 'ledger' ops@market.example
    """
    at = here(ctx)
    with at.client("admin") as client:
        answer = client.api.prove_ledger()

    def show() -> None:
        at.screen.line(
            say("The ledger balances.") if answer.balanced else say("The ledger does not balance.")
        )
        for line in answer.discrepancies:
            at.screen.line(line)
        at.screen.facts(
            [
                (say("Transfers"), answer.transfers),
                (say("Open holds"), f"{answer.open_holds}, {sar(answer.open_holds_halala)}"),
                (say("Can be withdrawn"), sar(answer.claimable_halala)),
            ]
        )

    at.screen.answer(dict(answer.raw), show)
    if not answer.balanced:
        raise unsuccessful()


@app.command()
def discards(ctx: typer.Context, limit: int = typer.Option(20, help="How many to show; 0: all.")) -> None:
    """List what daemons reported and the server did not know.

    \b
    Example:
      dcp admin discards
    """
    at = here(ctx)
    with at.client("admin") as client:
        found = first(client.api.iterate_discards(), limit)
    rows = [
        (each.id, each.kind, each.provider_id, each.job_id, each.detail, each.times, moment(each.last_at))
        for each in found
    ]
    head = (say("Id"), say("Kind"), say("Provider"), say("Job"), say("Detail"), say("Times"), say("Last"))
    at.screen.answer([dict(x.raw) for x in found], lambda: at.screen.table(head, rows, say("Nothing.")))


@withdrawals.command("list")
def list_withdrawals(
    ctx: typer.Context, limit: int = typer.Option(20, help="How many to show; 0: all.")
) -> None:
    """List withdrawal requests, the newest first.

    \b
    Example:
      dcp admin withdrawals list
    """
    at = here(ctx)
    with at.client("admin") as client:
        found = first(client.api.iterate_withdrawals(), limit)
    rows = [
        (each.id, each.provider_id, sar(each.amount_halala), each.status, moment(each.created_at))
        for each in found
    ]
    head = (say("Id"), say("Provider"), say("Amount"), say("Status"), say("Asked"))
    at.screen.answer(
        [dict(x.raw) for x in found], lambda: at.screen.table(head, rows, say("No withdrawals."))
    )


@withdrawals.command("show")
def show_withdrawal(
    ctx: typer.Context, withdrawal_id: int = typer.Argument(..., help="Its id, as the list shows it.")
) -> None:
    """Show a withdrawal with the bank account to pay.

    \b
    Example:
      dcp admin withdrawals show 3
    """
    at = here(ctx)
    with at.client("admin") as client:
        answer = client.api.get_withdrawal(withdrawal_id)
    made = answer.withdrawal or objects.Withdrawal()
    pairs = [
        (say("Id"), made.id),
        (say("Provider"), made.provider_id),
        (say("Amount"), sar(made.amount_halala)),
        (say("Status"), made.status),
        ("IBAN", answer.iban),
        (say("Reference"), made.reference),
    ]
    at.screen.answer(dict(answer.raw), lambda: at.screen.facts(pairs))


@withdrawals.command("process")
def process(
    ctx: typer.Context, withdrawal_id: int = typer.Argument(..., help="Its id, as the list shows it.")
) -> None:
    """Mark a withdrawal as ordered at the bank.

    \b
    Example:
      dcp admin withdrawals process 3
    """
    at = here(ctx)
    with at.client("admin") as client:
        answer = client.api.process_withdrawal(withdrawal_id)
    at.screen.answer(dict(answer.raw), lambda: at.screen.note(say("Done.")))


@withdrawals.command("pay")
def pay(
    ctx: typer.Context,
    withdrawal_id: int = typer.Argument(..., help="Its id, as the list shows it."),
    reference: str = typer.Option(..., help="The bank's reference of the transfer."),
) -> None:
    """Mark a withdrawal as paid.

    \b
    Example:
      dcp admin withdrawals pay 3 --reference SARIE-20260131-17
    """
    at = here(ctx)
    with at.client("admin") as client:
        answer = client.api.pay_withdrawal(withdrawal_id, {"reference": reference})
    at.screen.answer(dict(answer.raw), lambda: at.screen.note(say("Done.")))


@withdrawals.command("reject")
def reject(
    ctx: typer.Context,
    withdrawal_id: int = typer.Argument(..., help="Its id, as the list shows it."),
    reason: str = typer.Option(..., help="What the provider is told."),
) -> None:
    """Reject a withdrawal. The money returns to the provider's earnings.

    \b
    Example:
      dcp admin withdrawals reject 3 --reason "The account is somebody else's."
    """
    at = here(ctx)
    with at.client("admin") as client:
        answer = client.api.reject_withdrawal(withdrawal_id, {"reason": reason})
    at.screen.answer(dict(answer.raw), lambda: at.screen.note(say("Done.")))


@disputes.command("list")
def list_disputes(
    ctx: typer.Context,
    status: Optional[str] = typer.Option(None, help="Only those with this status, such as open."),
    limit: int = typer.Option(20, help="How many to show; 0: all."),
) -> None:
    """List disputes, the newest first.

    \b
    Example:
      dcp admin disputes list --status open
    """
    at = here(ctx)
    with at.client("admin") as client:
        found = first(client.api.iterate_disputes(status=status), limit)
    rows = [
        (each.id, each.job_id, each.status, sar(each.charged_halala), moment(each.created_at), each.reason)
        for each in found
    ]
    head = (say("Id"), say("Job"), say("Status"), say("Charge"), say("Opened"), say("Reason"))
    at.screen.answer([dict(x.raw) for x in found], lambda: at.screen.table(head, rows, say("No disputes.")))


@disputes.command("decide")
def decide(
    ctx: typer.Context,
    dispute_id: int = typer.Argument(..., help="Its id, as the list shows it."),
    decision: str = typer.Argument(..., help="uphold or reject."),
    note: str = typer.Option(..., help="Why; both parties see it."),
    refund: Optional[str] = typer.Option(
        None, help="Part of the charge that is refunded, in SAR. Default: all."
    ),
) -> None:
    """Decide a dispute, once and for all.

    \b
    Example:
      dcp admin disputes decide 5 uphold --note "The answer is filler."
    """
    at = here(ctx)
    body = without_none(
        decision=decision, note=note, refund_halala=halala(refund, "--refund") if refund else None
    )
    with at.client("admin") as client:
        answer = client.api.decide_dispute(dispute_id, body)
    at.screen.answer(dict(answer.raw), lambda: at.screen.note(say("Done.")))


@operators.command("list")
def list_operators(
    ctx: typer.Context, limit: int = typer.Option(20, help="How many to show; 0: all.")
) -> None:
    """List operators, the newest first.

    \b
    Example:
      dcp admin operators list
    """
    at = here(ctx)
    with at.client("admin") as client:
        found = first(client.api.iterate_operators(), limit)
    rows = [
        (each.id, each.name, each.role, each.passkeys, moment(each.invited_until), moment(each.removed_at))
        for each in found
    ]
    head = (say("Id"), say("Name"), say("Role"), say("Passkeys"), say("Invited until"), say("Removed"))
    at.screen.answer([dict(x.raw) for x in found], lambda: at.screen.table(head, rows, say("No operators.")))


@operators.command("invite")
def invite(
    ctx: typer.Context,
    name: str = typer.Argument(..., help="The name, as the audit log shows it."),
    role: str = typer.Option("support", help="support, finance or admin."),
    email: Optional[str] = typer.Option(None, help="The e-mail address, for other operators."),
) -> None:
    """Invite an operator; prints a link that works once, within a day.

    \b
    Example:
      dcp admin operators invite Sara --role finance
    """
    at = here(ctx)
    with at.client("admin") as client:
        answer = client.api.invite_operator(without_none(name=name, role=role, email=email))
    _show_link(at, answer)


@operators.command("invite-again")
def invite_again(
    ctx: typer.Context, operator_id: int = typer.Argument(..., help="Its id, as the list shows it.")
) -> None:
    """Invite an operator again who lost their passkeys. The old passkeys and sessions end at once.

    \b
    Example:
      dcp admin operators invite-again 3
    """
    at = here(ctx)
    with at.client("admin") as client:
        answer = client.api.invite_operator_again(operator_id)
    _show_link(at, answer)


def _show_link(
    at: Here, answer: objects.InviteOperatorResponse | objects.InviteOperatorAgainResponse
) -> None:
    link = answer.link or ""
    # Without DCP_PUBLIC_URL the server knows only the path.
    link = link if "://" in link else at.url.rstrip("/") + link

    def show() -> None:
        at.screen.line(link)
        at.screen.note(say("Give this link only to the operator. It works once, within a day."))

    at.screen.answer(dict(answer.raw), show)


@operators.command("role")
def set_role(
    ctx: typer.Context,
    operator_id: int = typer.Argument(..., help="Its id, as the list shows it."),
    role: str = typer.Argument(..., help="support, finance or admin."),
) -> None:
    """Give an operator another role. The operator must log in again.

    \b
    Example:
      dcp admin operators role 3 support
    """
    at = here(ctx)
    with at.client("admin") as client:
        answer = client.api.set_operator_role(operator_id, {"role": role})
    at.screen.answer(dict(answer.raw), lambda: at.screen.note(say("Done.")))


@operators.command("remove")
def remove_operator(
    ctx: typer.Context, operator_id: int = typer.Argument(..., help="Its id, as the list shows it.")
) -> None:
    """Remove an operator. Passkeys and sessions end at once.

    \b
    Example:
      dcp admin operators remove 3
    """
    at = here(ctx)
    with at.client("admin") as client:
        answer = client.api.remove_operator(operator_id)
    at.screen.answer(dict(answer.raw), lambda: at.screen.note(say("Done.")))


app.add_typer(withdrawals, name="withdrawals")
app.add_typer(operators, name="operators")
app.add_typer(disputes, name="disputes")
