"""Statements, spending and earnings: every line, as JSON and as CSV, and sums that match the ledger."""

from __future__ import annotations

import csv
import io
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from dcp.v1 import jobs_pb2, providers_pb2, statements_pb2

from server.domain.money import micros
from server.domain.statements import EVER, Line
from server.rpc.statements import csv_text
from server.store.models import DaySum, Hold, Transfer, tuples
from tests.support.plans import recorded, walks
from tests.support.running_server import Daemon, Market, Party, refusal

DAY_SECONDS = 24 * 60 * 60
EVERY_TYPE = [jobs_pb2.JOB_TYPE_LLM_INFERENCE, jobs_pb2.JOB_TYPE_TRAINING]


async def statement(market: Market, renter: Party, **filters: Any) -> statements_pb2.ListOwnLedgerResponse:
    request = statements_pb2.ListOwnLedgerRequest(**filters)
    return await market.statement_service.ListOwnLedger(request, metadata=renter.metadata)


async def statement_rows(market: Market, renter: Party, **filters: Any) -> list[dict[str, str]]:
    request = statements_pb2.GetOwnLedgerCsvRequest(**filters)
    answer = await market.statement_service.GetOwnLedgerCsv(request, metadata=renter.metadata)
    return list(csv.DictReader(io.StringIO(unmarked(answer.csv), newline="")))


async def spending(market: Market, renter: Party, days: int) -> statements_pb2.GetOwnSpendingResponse:
    request = statements_pb2.GetOwnSpendingRequest(days=days)
    return await market.statement_service.GetOwnSpending(request, metadata=renter.metadata)


async def earnings(market: Market, provider: Party, days: int) -> statements_pb2.GetOwnEarningsResponse:
    request = statements_pb2.GetOwnEarningsRequest(days=days)
    return await market.statement_service.GetOwnEarnings(request, metadata=provider.metadata)


async def earned(market: Market, provider: Party) -> tuple[int, int, int, int]:
    """The profile's earnings: in all, this week, today, and the part that can be withdrawn."""
    answer = await market.provider_service.GetOwnProvider(
        providers_pb2.GetOwnProviderRequest(), metadata=provider.metadata
    )
    shown = answer.provider.earnings
    return shown.total_halala, shown.this_week_halala, shown.today_halala, shown.claimable_halala


async def charged_job(
    market: Market, renter: Party, provider: Party, daemon: Daemon, seconds: float, **changes: Any
) -> jobs_pb2.Job:
    """A job that ran for these seconds and was charged for them."""
    await daemon.heartbeat()  # keeps the provider live after the clock moved
    job, lease = await market.running_job(renter, provider, daemon, output=b"Hello.", **changes)
    market.clock.advance(seconds)
    await daemon.finished(lease, seconds=seconds)
    return await market.job(job)


async def parties(market: Market) -> tuple[Party, Party, Daemon]:
    provider = await market.provider()
    daemon = await market.daemon(provider, job_types=EVERY_TYPE)
    return await market.renter(5000), provider, daemon


async def test_statement_lists_every_change_of_the_wallet_with_the_balance_after_it(
    any_market: Market,
) -> None:
    market = any_market
    renter, provider, daemon = await parties(market)
    await market.renter(700)
    job = await charged_job(market, renter, provider, daemon, 75)
    cancelled = await market.submit(renter)
    await market.cancel(cancelled, renter)
    waiting = await market.submit(renter)
    shown = [
        (
            statements_pb2.TransferKind.Name(line.kind).removeprefix("TRANSFER_KIND_"),
            line.amount_halala,
            line.balance_halala,
            line.charged_halala if line.HasField("charged_halala") else None,
            line.job_id,
        )
        for line in (await statement(market, renter)).lines
    ]
    assert shown == [
        ("HOLD", -450, 4362, None, waiting.job_id),
        ("REFUND", 450, 4812, None, cancelled.job_id),
        ("HOLD", -450, 4362, 0, cancelled.job_id),
        ("REFUND", 262, 4812, None, job.job_id),
        ("HOLD", -450, 4550, 188, job.job_id),
        ("CREDIT", 5000, 5000, None, ""),
    ]
    assert (await market.wallet(renter))[0] == shown[0][2]
    newest = (await statement(market, renter)).lines[0]
    assert (newest.job_type, newest.model) == ("llm-inference", "test/model")
    assert newest.description == "held for a llm-inference job"
    assert newest.time.ToMilliseconds() == round(market.clock.now() * 1000)


async def test_pages_of_the_statement_have_no_gap_and_no_duplicate(any_market: Market) -> None:
    market = any_market
    renter = await market.renter()
    for _ in range(3):
        await market.submit(renter)
    whole = list((await statement(market, renter)).lines)
    seen: list[statements_pb2.LedgerLine] = []
    page = await statement(market, renter, page_size=2)
    await market.submit(renter)  # newer than every page that is fetched from here on
    while True:
        seen += page.lines
        if not page.HasField("next_before_id"):
            break
        page = await statement(market, renter, page_size=2, before_id=page.next_before_id)
    assert seen == whole
    assert len(whole) == 4


def unmarked(text: str) -> str:
    """The text of a CSV file without its byte order mark, which stands at its beginning and nowhere else."""
    assert (text[:1], text.count("\ufeff")) == ("\ufeff", 1)
    return text[1:]


async def test_statement_of_a_renter_without_money_is_empty(market: Market) -> None:
    renter = await market.renter(0)
    assert not (await statement(market, renter)).lines
    assert await statement_rows(market, renter) == []
    assert (await spending(market, renter, 1)).spent_halala == 0


async def test_csv_has_the_same_lines_as_the_statement(any_market: Market) -> None:
    market = any_market
    renter, provider, daemon = await parties(market)
    await charged_job(market, renter, provider, daemon, 75.5)
    rows = await statement_rows(market, renter)
    for row, line in zip(rows, (await statement(market, renter)).lines, strict=True):
        assert int(row["id"]) == line.id
        assert int(row["amount_halala"]) == line.amount_halala
        assert int(row["balance_halala"]) == line.balance_halala
        assert row["charged_halala"] == (str(line.charged_halala) if line.HasField("charged_halala") else "")
        assert (row["job_id"], row["job_type"], row["model"]) == (line.job_id, line.job_type, line.model)
        at = datetime.fromisoformat(row["time"])
        assert (at.utcoffset(), at) == (UTC.utcoffset(None), line.time.ToDatetime(UTC))
    older = await statement_rows(market, renter, before_id=int(rows[0]["id"]), max_lines=1)
    assert older == [rows[1]]


@pytest.mark.parametrize("model", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\uff1d1"])
async def test_model_that_a_spreadsheet_would_evaluate_is_escaped_in_the_csv(
    market: Market, model: str
) -> None:
    renter = await market.renter()
    await market.submit(renter, params=jobs_pb2.JobParams(model=model, prompt="x"))
    held, credited = await statement_rows(market, renter)
    assert held["model"] == f"'{model}"
    assert (held["amount_halala"], credited["amount_halala"]) == ("-450", "5000")
    assert (await statement(market, renter)).lines[0].model == model


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_text_in_a_csv_never_begins_a_formula(first: str) -> None:
    texts = [f"{first}1", "محمد", "a,b", 'say "x"', "two\r\nlines", "\U0001f680", ""]
    text = csv_text(["name", "amount"], [(field, -5) for field in texts])
    rows = list(csv.reader(io.StringIO(unmarked(text), newline="")))
    assert rows == [["name", "amount"], [f"'{first}1", "-5"], *([field, "-5"] for field in texts[1:])]


async def test_spending_by_day_and_type_adds_up_to_what_the_wallet_spent(any_market: Market) -> None:
    market = any_market
    renter, provider, daemon = await parties(market)
    other = await market.renter()
    market.clock.advance(DAY_SECONDS - market.clock.now() % DAY_SECONDS)  # midnight in UTC
    first = market.clock.now()
    await charged_job(market, renter, provider, daemon, 75)
    await charged_job(market, other, provider, daemon, 75)
    await charged_job(market, renter, provider, daemon, 60, job_type=jobs_pb2.JOB_TYPE_TRAINING)
    market.clock.advance(first + DAY_SECONDS - 0.001 - 30 - market.clock.now())
    await charged_job(market, renter, provider, daemon, 30)  # ends in the last millisecond of its day
    market.clock.advance(0.001)
    await charged_job(market, renter, provider, daemon, 45)
    await market.cancel(await market.submit(renter), renter)

    report = await spending(market, renter, 3)
    today = datetime.fromtimestamp(market.clock.now(), UTC).date()
    assert report.days[0].date == today.isoformat()
    assert [(day.spent_halala, day.jobs) for day in report.days] == [(113, 1), (188 + 75 + 250, 3), (0, 0)]
    assert report.days[1].by_job_type == {"llm-inference": 263, "training": 250}
    assert report.by_job_type == {"llm-inference": 376, "training": 250}
    assert (report.spent_halala, report.jobs) == (626, 4)
    profile = await market.server.services.renters.profile(renter.id)
    assert profile.spent_micros == report.spent_micro_halala
    assert sum(line.charged_halala for line in (await statement(market, renter)).lines) == report.spent_halala
    assert (await spending(market, renter, 1)).spent_halala == 113
    await market.assert_money_adds_up()


async def test_earnings_by_day_and_type_add_up_to_the_providers_payouts(any_market: Market) -> None:
    market = any_market
    renter, provider, daemon = await parties(market)
    rival = await market.provider()
    rivals_daemon = await market.daemon(rival, job_types=EVERY_TYPE)
    market.clock.advance(DAY_SECONDS - market.clock.now() % DAY_SECONDS)
    await charged_job(market, renter, provider, daemon, 75)  # 188 halala, of which 141 are the provider's
    await charged_job(market, renter, rival, rivals_daemon, 75)
    await charged_job(market, renter, provider, daemon, 60, job_type=jobs_pb2.JOB_TYPE_TRAINING)
    market.clock.advance(DAY_SECONDS)
    await charged_job(market, renter, provider, daemon, 45)
    await daemon.heartbeat()
    await market.cancel(await market.submit(renter, provider), renter)

    report = await earnings(market, provider, 3)
    today = datetime.fromtimestamp(market.clock.now(), UTC).date()
    assert report.days[0].date == today.isoformat()
    assert [(day.earned_halala, day.jobs) for day in report.days] == [(84, 1), (141 + 187, 2), (0, 0)]
    assert report.days[1].by_job_type == {"llm-inference": 141, "training": 187}
    assert report.by_job_type == {"llm-inference": 225, "training": 187}
    assert (report.earned_halala, report.earned_micro_halala, report.jobs) == (413, 413_250_000, 3)
    assert (await earnings(market, rival, 3)).earned_halala == 141
    assert (await earned(market, provider))[0] == 413
    assert (await earnings(market, await market.provider(), 30)).earned_halala == 0


async def test_rows_of_an_older_server_count_by_the_type_of_their_job(any_market: Market) -> None:
    """A server of before schema 0016 runs beside this one until the upgrade is over, and stores no type."""
    market = any_market
    renter, provider = await market.renter(), await market.provider()
    daemon = await market.daemon(provider)
    for _ in range(2):
        await charged_job(market, renter, provider, daemon, 75)
    expected = (await spending(market, renter, 9), await earnings(market, provider, 9))
    assert expected[0].jobs == expected[1].jobs == 2

    def write_as_an_older_server() -> None:
        hold = Hold.select().first()
        Hold.update(job_type="").where(Hold.job_id == hold.job_id).execute()
        payout = Transfer.select().where(Transfer.kind == "payout").first().__data__
        # Transfers never change, so this is one more payout, without its type.
        values = payout | {"id": None, "job_type": None}
        Transfer.insert({k: v for k, v in values.items() if v is not None}).execute()

    await market.sql(write_as_an_older_server)
    assert await spending(market, renter, 9) == expected[0]
    again = await earnings(market, provider, 9)
    assert (again.jobs, again.earned_halala) == (3, expected[1].earned_halala * 3 // 2)
    assert list(again.by_job_type) == ["llm-inference"]


async def figures(market: Market, renter: Party, provider: Party) -> tuple[Any, ...]:
    """Everything that a renter and a provider see of their past days."""
    own_renter = await market.server.services.renters.profile(renter.id)
    own_provider = await market.server.services.providers.profile(provider.id)
    return (
        *(await spending(market, renter, 30), await earnings(market, provider, 30)),
        *(own_renter.spent_micros, own_renter.total_jobs, await earned(market, provider)),
        own_provider.total_jobs,
    )


async def add_up(market: Market) -> list[tuple[Any, ...]]:
    """Does the duty; returns what it has stored, without the marks of days."""
    await market.server.services.statements.tick()
    query = DaySum.select(DaySum.what, DaySum.part, DaySum.number, DaySum.micros, DaySum.day, DaySum.owner_id)
    rows = await market.sql(lambda: sorted(tuples(query)))
    return [row[:4] for row in rows if row[-1]]


async def test_past_days_are_added_up_once_and_change_no_figure(
    any_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = any_market
    renter, provider, daemon = await parties(market)
    market.clock.advance(DAY_SECONDS - market.clock.now() % DAY_SECONDS)
    await charged_job(market, renter, provider, daemon, 75)
    await charged_job(market, renter, provider, daemon, 60, job_type=jobs_pb2.JOB_TYPE_TRAINING)
    await market.cancel(await market.submit(renter), renter)
    market.clock.advance(DAY_SECONDS)
    await charged_job(market, renter, provider, daemon, 30)
    before = await figures(market, renter, provider)
    assert await add_up(market) == []  # a transaction of yesterday may still be open
    market.clock.advance(DAY_SECONDS)
    with recorded(market.server._database, monkeypatch) as statements:
        first = [
            ("earned", "llm-inference", 1, micros(141)),
            ("earned", "training", 1, micros(375) // 2),
            ("ran", "", 2, 0),
            ("spent", "llm-inference", 1, micros(188)),
            ("spent", "training", 1, micros(250)),
            ("submitted", "", 3, 0),
        ]
        assert await add_up(market) == await add_up(market) == first
    assert await walks(market.server._database, statements) == {}
    assert before[2:] == (micros(513), 4, (384, 384, 56, 384), 3)
    after = await figures(market, renter, provider)
    assert (after[2:4], after[4][0], after[5]) == (before[2:4], before[4][0], before[5])
    assert [list(report.days)[1:] for report in after[:2]] == [
        list(report.days)[:-1] for report in before[:2]
    ]
    # What was added up is not read again, and what follows is.
    await market.sql(lambda: Hold.update(resolved_ms=1).where(Hold.charge_micros == micros(188)).execute())
    await charged_job(market, renter, provider, daemon, 30)
    later = await figures(market, renter, provider)
    assert (later[2:4], later[4][0], later[5]) == ((micros(513 + 75), 5), 441, 4)
    others = await figures(market, await market.renter(), await market.provider())
    assert others[2:] == (0, 0, (0, 0, 0, 0), 0)


async def test_days_of_an_older_server_are_added_up_by_the_type_of_their_job(any_market: Market) -> None:
    market = any_market
    renter, provider, daemon = await parties(market)
    await charged_job(market, renter, provider, daemon, 75)
    await market.sql(lambda: Hold.update(job_type="").execute())
    market.clock.advance(3 * DAY_SECONDS)
    assert ("spent", "llm-inference", 1, micros(188)) in await add_up(market)


async def test_days_that_were_added_up_while_a_clock_was_wrong_are_added_up_again(any_market: Market) -> None:
    market = any_market
    renter, provider, daemon = await parties(market)
    await charged_job(market, renter, provider, daemon, 75)
    market.clock.advance(90 * DAY_SECONDS)
    await add_up(market)
    market.clock.set_back(89 * DAY_SECONDS)
    await charged_job(market, renter, provider, daemon, 75)
    await add_up(market)
    assert (await figures(market, renter, provider))[2] == micros(2 * 188)
    market.clock.advance(3 * DAY_SECONDS)
    assert [row for row in await add_up(market) if row[0] == "spent"] == [
        ("spent", "llm-inference", 1, micros(188))
    ] * 2
    assert (await figures(market, renter, provider))[2] == micros(2 * 188)


async def test_file_is_written_in_the_reading_thread(market: Market) -> None:
    """Ten thousand lines take half a second, in which the event loop must answer others."""
    renter, wrote = await market.renter(), list[str]()

    def write(rows: list[Line]) -> str:
        wrote.append(threading.current_thread().name)
        return str(len(rows))

    assert await market.server.services.statements.file(renter.id, None, EVER, 9, write) == "1"
    assert wrote[0].startswith("db")


async def test_earnings_week_begins_on_monday_and_the_day_at_midnight(any_market: Market) -> None:
    market = any_market
    renter, provider, daemon = await parties(market)
    now = datetime.fromtimestamp(market.clock.now(), UTC)
    to_monday = (7 - now.weekday()) * DAY_SECONDS - market.clock.now() % DAY_SECONDS
    market.clock.advance(to_monday - 0.001 - 60)
    await charged_job(market, renter, provider, daemon, 60)  # ends in the last millisecond of Sunday
    assert await earned(market, provider) == (112, 112, 112, 112)
    market.clock.advance(0.001)
    assert await earned(market, provider) == (112, 0, 0, 112)
    await charged_job(market, renter, provider, daemon, 60)
    market.clock.advance(DAY_SECONDS)
    await charged_job(market, renter, provider, daemon, 30)
    assert await earned(market, provider) == (281, 168, 56, 281)
    market.clock.advance(5 * DAY_SECONDS)  # Sunday
    assert await earned(market, provider) == (281, 168, 0, 281)


@pytest.mark.parametrize("days", [0, 367, -1])
async def test_spending_and_earnings_go_back_at_most_a_year(market: Market, days: int) -> None:
    for report in (
        spending(market, await market.renter(), days),
        earnings(market, await market.provider(), days),
    ):
        refused = await refusal(report)
        assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "days")


async def test_statement_of_a_month_has_its_lines_alone(any_market: Market) -> None:
    market = any_market
    renter, provider, daemon = await parties(market)
    await charged_job(market, renter, provider, daemon, 60)
    first = datetime.fromtimestamp(market.clock.now(), UTC).date().isoformat()
    market.clock.advance(2 * DAY_SECONDS)
    await charged_job(market, renter, provider, daemon, 60)
    second = datetime.fromtimestamp(market.clock.now(), UTC).date().isoformat()
    whole = (await statement(market, renter)).lines
    later = [line for line in whole if line.time.ToDatetime().date().isoformat() == second]
    earlier = whole[len(later) :]
    assert later
    assert earlier
    assert list((await statement(market, renter, **{"from": second})).lines) == later
    assert list((await statement(market, renter, to=first)).lines) == earlier
    assert list((await statement(market, renter, **{"from": first, "to": second})).lines) == list(whole)
    page = await statement(market, renter, to=first, page_size=1)
    rest = await statement(market, renter, to=first, before_id=page.next_before_id)
    assert [*page.lines, *rest.lines] == earlier
    rows = await statement_rows(market, renter, **{"from": second, "to": second})
    assert [row["id"] for row in rows] == [str(line.id) for line in later]
    refused = await refusal(statement(market, renter, **{"from": second, "to": first}))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "from")
