"""`dcp-daemon pause`, `resume`, `earnings`, `rates` and `withdraw`: what a provider asks of the server.

They take the key of this machine and need no running daemon. Each asks one thing; limits, and the words of a
refusal, are the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

from dcp.v1 import jobs_pb2, options_pb2, providers_pb2, statements_pb2, terms_pb2, withdrawals_pb2

from daemon import link
from daemon.cli.status import sar
from daemon.config import identity
from daemon.config.config import Config

LONGEST_BAR = 40
_SERVICES = {
    "PauseOwnProvider": providers_pb2.DESCRIPTOR.services_by_name["ProviderService"],
    "ResumeOwnProvider": providers_pb2.DESCRIPTOR.services_by_name["ProviderService"],
    "GetOwnEarnings": statements_pb2.DESCRIPTOR.services_by_name["StatementService"],
    "SetOwnRate": terms_pb2.DESCRIPTOR.services_by_name["TermsService"],
    "ListOwnRates": terms_pb2.DESCRIPTOR.services_by_name["TermsService"],
    "RequestWithdrawal": withdrawals_pb2.DESCRIPTOR.services_by_name["WithdrawalService"],
}
_UNKNOWN = (
    "; it is not known whether the withdrawal was made: repeat the command, since no second one is made "
    "while one is open"
)
View = dict[str, Any]
Ask = Callable[[str, Any], Any]
"""The name of an RPC and its request; returns the answer."""


class AccountError(Exception):
    """What was asked is wrong, or the server refused it or did not answer."""


def run(config: Config, arguments: argparse.Namespace) -> str:
    """What a command prints. Raises AccountError, IdentityError and KeyRefusedError."""
    server = link.ServerAddress(config.server, config.tls_ca)
    key = config.provider_key or identity.load(config.state_dir).api_key

    def ask(name: str, request: Any) -> Any:
        method = _SERVICES[name].methods_by_name[name]
        try:
            return asyncio.run(_asked_twice(partial(link.ask, server, key, method, request)))
        except link.LinkBrokenError as error:
            is_unknown = name == "RequestWithdrawal" and not error.is_refusal
            raise AccountError(f"{error}{_UNKNOWN if is_unknown else ''}") from None

    look, show = _COMMANDS[arguments.command]
    view = look(ask, arguments)
    return json.dumps(view, indent=2) if arguments.json else "\n".join(show(view))


async def _asked_twice(ask: Callable[[], Awaitable[Any]]) -> Any:
    """The answer, also if the first one was lost: none does anything twice, a withdrawal by its key."""
    try:
        return await ask()
    except link.LinkBrokenError as error:
        if error.is_refusal:
            raise
        return await ask()


def _pause(ask: Ask, arguments: argparse.Namespace) -> View:
    return _state(ask("PauseOwnProvider", providers_pb2.PauseOwnProviderRequest()))


def _resume(ask: Ask, arguments: argparse.Namespace) -> View:
    return _state(ask("ResumeOwnProvider", providers_pb2.ResumeOwnProviderRequest()))


def _state(answer: Any) -> View:
    name = providers_pb2.ProviderStatus.Name(answer.status)
    return {"status": name.removeprefix("PROVIDER_STATUS_").lower()}


def _show_state(view: View) -> Iterator[str]:
    if view["status"] == "paused":
        yield "paused: no new jobs come, also after a restart; those that run finish"
    else:
        yield f"not paused any more: the market sees this machine as {view['status']}"


def _earnings(ask: Ask, arguments: argparse.Namespace) -> View:
    answer = ask("GetOwnEarnings", statements_pb2.GetOwnEarningsRequest(days=arguments.days))
    names = ("earned", "claimable", "maturing", "held", "debt")
    sums = {f"{name}_halala": getattr(answer, f"{name}_halala") for name in names}
    days = [{"date": day.date, "earned_halala": day.earned_halala, "jobs": day.jobs} for day in answer.days]
    return {"days": days, "jobs": answer.jobs, **sums}


def _show_earnings(view: View) -> Iterator[str]:
    most = max((day["earned_halala"] for day in view["days"]), default=0)
    for day in view["days"]:
        bar = "█" * (round(LONGEST_BAR * day["earned_halala"] / most) if most else 0)
        yield f"{day['date']}  {sar(day['earned_halala']):>14}  {bar}".rstrip()
    yield f"earned {sar(view['earned_halala'])} with {view['jobs']} jobs"
    yield (
        f"to withdraw {sar(view['claimable_halala'])}, maturing {sar(view['maturing_halala'])}, "
        f"held {sar(view['held_halala'])}, owed {sar(view['debt_halala'])}"
    )


def _rates(ask: Ask, arguments: argparse.Namespace) -> View:
    if arguments.job_type is None:
        answer = ask("ListOwnRates", terms_pb2.ListOwnRatesRequest())
    else:
        request = terms_pb2.SetOwnRateRequest(job_type=_job_type(arguments.job_type))
        if arguments.platform == (arguments.per_minute is not None):
            raise AccountError("give either PER_MINUTE, in SAR, or --platform")
        if arguments.platform:
            request.platform_rate = True
        else:
            request.halala_per_minute = _halala(arguments.per_minute, "PER_MINUTE")
        answer = ask("SetOwnRate", request)
    return {"rates": [_rate(each) for each in answer.rates]}


def _rate(rate: terms_pb2.OwnRate) -> View:
    return {
        "job_type": _JOB_TYPES.get(rate.job_type, str(rate.job_type)),
        "halala_per_minute": rate.halala_per_minute,
        "own": rate.own,
        "platform_halala_per_minute": rate.platform_halala_per_minute,
        "least_halala_per_minute": rate.least_halala_per_minute,
        "most_halala_per_minute": rate.most_halala_per_minute,
    }


def _show_rates(view: View) -> Iterator[str]:
    yield f"{'job type':<18}{'SAR per minute':>16}  {'':8}{'platform':>12}  bounds"
    for rate in view["rates"]:
        least, most = sar(rate["least_halala_per_minute"]), sar(rate["most_halala_per_minute"])
        yield (
            f"{rate['job_type']:<18}{sar(rate['halala_per_minute']):>16}  {'own' if rate['own'] else '':8}"
            f"{sar(rate['platform_halala_per_minute']):>12}  {least} to {most}"
        )


def _withdraw(ask: Ask, arguments: argparse.Namespace) -> View:
    request = withdrawals_pb2.RequestWithdrawalRequest(
        amount_halala=_halala(arguments.amount, "AMOUNT"),
        iban=arguments.iban,
        idempotency_key=secrets.token_hex(16),
    )
    answer = ask("RequestWithdrawal", request)
    return {
        "withdrawal_id": answer.withdrawal.id,
        "amount_halala": answer.withdrawal.amount_halala,
        "iban_last4": answer.withdrawal.iban_last4,
        "claimable_halala": answer.claimable_halala,
    }


def _show_withdrawal(view: View) -> Iterator[str]:
    yield (
        f"withdrawal {view['withdrawal_id']}: {sar(view['amount_halala'])} to the account that ends in "
        f"{view['iban_last4']}; {sar(view['claimable_halala'])} can still be withdrawn"
    )


def _halala(text: str, name: str) -> int:
    """An amount in SAR with at most two decimals."""
    try:
        amount = Decimal(text) * 100
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount != int(amount) or not 0 < amount < 10**14:
        raise AccountError(f"{name}={text!r} is no amount: write SAR, such as 250 or 1.20")
    return int(amount)


_JOB_TYPES = {
    value.number: value.GetOptions().Extensions[options_pb2.value].json
    or value.name.removeprefix("JOB_TYPE_").lower()
    for value in jobs_pb2.JobType.DESCRIPTOR.values
    if value.number
}


def _job_type(text: str) -> jobs_pb2.JobType.ValueType:
    for number, name in _JOB_TYPES.items():
        if text.replace("_", "-") == name.replace("_", "-"):
            return jobs_pb2.JobType.ValueType(number)
    raise AccountError(f"JOB_TYPE={text!r} is none of {', '.join(_JOB_TYPES.values())}")


_COMMANDS: dict[str, tuple[Callable[[Ask, argparse.Namespace], View], Callable[[View], Iterator[str]]]] = {
    "pause": (_pause, _show_state),
    "resume": (_resume, _show_state),
    "earnings": (_earnings, _show_earnings),
    "rates": (_rates, _show_rates),
    "withdraw": (_withdraw, _show_withdrawal),
}
