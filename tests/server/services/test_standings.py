"""What a provider's standing allows, and how it follows from what others did."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from dcp.v1 import (
    accounts_pb2,
    admin_pb2,
    jobs_pb2,
    providers_pb2,
    renters_pb2,
    sessions_pb2,
    standing_pb2,
)

from server.domain.levels import NEWCOMERS_PERCENT, Unasked
from server.domain.money import micros, whole_halala
from server.domain.payouts import PayoutTerms
from server.domain.standing import NEW_VALUE, network
from server.store import standing, withdrawals
from server.store.models import Job, Provider, ProviderCustomer, ProviderStanding, Renter, Withdrawal
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Daemon, Market, Party, refusal

pytestmark = pytest.mark.in_turns

DAY = 24 * 3600.0
NEW, PROVEN = standing_pb2.STANDING_NEW, standing_pb2.STANDING_PROVEN
SUSPECT, BANNED = standing_pb2.STANDING_SUSPECT, standing_pb2.STANDING_BANNED


@pytest.fixture
async def weekly(database_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """A running server on each kind of database, whose payouts of new providers mature for a week."""
    async with running_server.running(database_url, clock, payouts=PayoutTerms()) as market:
        yield market


async def assess(market: Market) -> None:
    """Assesses the providers that are due, a minute later."""
    market.clock.advance(61)
    await market.server.services.standings.tick()


async def own(market: Market, provider: Party) -> providers_pb2.Provider:
    request = providers_pb2.GetOwnProviderRequest()
    return (await market.provider_service.GetOwnProvider(request, metadata=provider.metadata)).provider


async def standing_of(market: Market, provider: Party) -> Any:
    return (await own(market, provider)).standing.standing


def missing(provider: providers_pb2.Provider) -> dict[str, tuple[int, int]]:
    name = standing_pb2.StandingReason.Name
    return {
        name(lack.code).removeprefix("STANDING_REASON_"): (lack.has, lack.needs)
        for lack in provider.standing.missing
    }


async def listed(market: Market, **query: Any) -> list[renters_pb2.AvailableProvider]:
    request = renters_pb2.ListAvailableProvidersRequest(**query)
    return list((await market.renter_service.ListAvailableProviders(request)).providers)


async def paid_job(market: Market, renter: Party, provider: Party, daemon: Daemon, minutes: int = 3) -> None:
    await daemon.heartbeat()
    _, lease = await market.running_job(renter, provider, daemon, output=b"Hello.", duration_minutes=minutes)
    market.clock.advance(60 * minutes)
    await daemon.heartbeat()
    await daemon.finished(lease, seconds=60 * minutes, last_output_seq=1)
    await daemon.heartbeat()


async def test_a_new_daemon_that_says_it_has_a_thousand_slots_gets_four_jobs_at_once(
    any_market: Market,
) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter(100_000)
    daemon = await market.daemon(provider, slots=1000)
    submitted = [await market.submit(renter) for _ in range(10)]
    for _ in range(4):
        await daemon.expect("job_offer")
    await daemon.heard_nothing()
    await market.vouch(provider)
    await market.later(1)
    for _ in range(6):
        await daemon.expect("job_offer")
    assert len(submitted) == 10


async def test_what_a_new_provider_lacks_is_shown_to_it_and_what_it_may_to_renters(
    any_market: Market,
) -> None:
    market = any_market
    provider = await market.provider()
    await market.daemon(provider)
    assert not (await own(market, provider)).HasField("standing")  # not assessed yet
    await market.server.services.standings.tick()
    profile = await own(market, provider)
    assert profile.standing.standing == NEW
    assert missing(profile) == {
        "TOO_YOUNG": (0, 7),
        "FEW_CUSTOMERS": (0, 3),
        "LITTLE_PAID": (0, 1000),
        "RELIABILITY_UNPROVEN": (0, 70),
    }
    assert profile.standing.lifted_to == PROVEN
    assert "7 must pass" in profile.standing.missing[0].message
    (shown,) = await listed(market)
    assert (shown.standing.slots, shown.standing.value_halala) == (4, whole_halala(NEW_VALUE))
    assert not shown.HasField("reliability")
    assert shown.reliability_lower == 0


async def test_a_job_that_held_all_that_a_standing_allows_leaves_room_when_it_ends(
    any_market: Market,
) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter(10_000_000)
    daemon = await market.daemon(provider)
    await market.server.services.standings.tick()
    await market.submit(renter, duration_minutes=NEW_VALUE // micros(15) + 1)
    lease = (await daemon.expect("job_offer")).lease
    await daemon.start(lease)
    await daemon.output(lease, 1, b"Hello.")
    await daemon.finished(lease, seconds=1, last_output_seq=1)
    await daemon.heartbeat()
    await market.submit(renter)
    await daemon.expect("job_offer")


async def test_jobs_that_name_nobody_wait_for_a_proven_provider_that_is_busy(any_market: Market) -> None:
    market = any_market
    known, unknown, renter = await market.provider(), await market.provider(), await market.renter(20_000)
    await market.vouch(known)
    proven, new = await market.daemon(known, slots=1), await market.daemon(unknown, slots=1000)
    await market.submit(renter)
    await proven.expect("job_offer")
    waiting = await market.submit(renter)
    await market.later(1)
    await new.heard_nothing()
    seen = {entry.provider_id: entry for entry in (await market.why(waiting)).providers}
    assert seen[unknown.id].code == jobs_pb2.OBSTACLE_STANDING_TOO_LOW
    assert "new" in seen[unknown.id].message
    assert seen[known.id].code == jobs_pb2.OBSTACLE_BUSY
    proven.cut()
    await market.later(1)
    await new.expect("job_offer")  # the best that is there now


async def test_a_job_that_names_a_new_provider_goes_to_it_beside_a_proven_one(market: Market) -> None:
    known, unknown, renter = await market.provider(), await market.provider(), await market.renter()
    await market.vouch(known)
    await market.daemon(known)
    new = await market.daemon(unknown)
    await market.submit(renter, unknown)
    await new.expect("job_offer")


async def test_jobs_that_are_drawn_for_newcomers_go_to_a_new_provider_first(
    any_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = any_market
    known, unknown, renter = await market.provider(), await market.provider(), await market.renter(20_000)
    await market.vouch(known)
    proven, new = await market.daemon(known, slots=9), await market.daemon(unknown, slots=1)
    monkeypatch.setattr("server.services.jobs.secrets.randbelow", lambda _: NEWCOMERS_PERCENT - 1)
    await market.submit(renter)
    await new.expect("job_offer")
    await market.submit(renter)  # the new one is busy
    await proven.expect("job_offer")
    drawn = await market.sql(lambda: [row.unasked for row in Job.select()])
    assert drawn == [Unasked.NEWCOMERS] * 2
    monkeypatch.setattr("server.services.jobs.secrets.randbelow", lambda _: NEWCOMERS_PERCENT)
    await market.submit(renter)
    await proven.expect("job_offer")


async def test_a_renter_can_demand_a_standing_and_wait_for_it(any_market: Market) -> None:
    market = any_market
    known, unknown, renter = await market.provider(), await market.provider(), await market.renter(20_000)
    new = await market.daemon(unknown)
    job = await market.submit(renter, min_standing=PROVEN, wait_for_supply=True)
    await market.later(1)
    await new.heard_nothing()
    await market.vouch(known)
    proven = await market.daemon(known)
    assert (await proven.expect("job_offer")).lease.job_id == job.job_id
    await market.submit(renter, min_standing=NEW)
    await new.expect("job_offer")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"min_standing": SUSPECT}, "ask for new, proven or trusted"),
        ({"min_standing": BANNED}, "ask for new, proven or trusted"),
        ({"min_standing": PROVEN, "provider_id": 1}, "leave it out"),
    ],
)
async def test_a_standing_that_cannot_be_demanded_is_refused(market: Market, changes: Any, says: str) -> None:
    provider, renter = await market.provider(), await market.renter()
    await market.daemon(provider)
    refused = await refusal(market.submit(renter, **changes))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "min_standing")
    assert says in refused.message


async def test_the_list_of_providers_can_be_narrowed_by_standing(any_market: Market) -> None:
    market = any_market
    known, unknown = await market.provider(), await market.provider()
    for provider in (known, unknown):
        await market.daemon(provider)
    await market.vouch(known)
    await assess(market)
    for provider in (known, unknown):
        await (await market.daemon(provider)).heartbeat()
    await market.tick()
    assert [entry.id for entry in await listed(market, min_standing=PROVEN)] == [known.id]
    assert [entry.id for entry in await listed(market, min_standing=NEW)] == [known.id, unknown.id]


async def test_open_holds_of_a_new_provider_are_bounded_but_one_job_is_always_allowed(
    any_market: Market,
) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter(100_000)
    daemon = await market.daemon(provider, slots=4)
    minutes = whole_halala(NEW_VALUE) // 150 + 10
    large = await market.submit(renter, duration_minutes=minutes)
    assert large.cost_halala > whole_halala(NEW_VALUE)
    lease = (await daemon.expect("job_offer")).lease
    other = await market.submit(renter)
    await daemon.heard_nothing()
    ((found),) = (await market.why(other)).providers
    assert found.code == jobs_pb2.OBSTACLE_VALUE_AT_RISK
    named = await market.submit(renter, provider)  # its renter chose the risk
    assert (await daemon.expect("job_offer")).lease.job_id == named.job_id
    await daemon.start(lease)
    await daemon.finished(lease)
    assert (await daemon.expect("job_offer")).lease.job_id == other.job_id


async def test_several_jobs_that_one_session_takes_at_once_stay_within_the_bound(any_market: Market) -> None:
    market = any_market
    renter = await market.renter(100_000)
    half = whole_halala(NEW_VALUE) // 150 // 2
    for _ in range(4):
        await market.submit(renter, duration_minutes=half, wait_for_supply=True)
    daemon = await market.daemon(await market.provider(), slots=4)
    for _ in range(2):
        await daemon.expect("job_offer")
    await market.later(1)
    await daemon.heard_nothing()


async def test_a_provider_rises_by_independent_customers_time_and_work(weekly: Market) -> None:
    market = weekly
    provider = await market.provider()
    daemon = await market.daemon(provider)
    for _ in range(4):
        await paid_job(market, await market.renter(50_000), provider, daemon, minutes=4)
    await assess(market)
    profile = await own(market, provider)
    assert missing(profile) == {"TOO_YOUNG": (0, 7), "RELIABILITY_UNPROVEN": (51, 70)}
    assert profile.earnings.maturing_hours == 168
    renter = await market.renter(100_000)
    for _ in range(6):
        await paid_job(market, renter, provider, daemon)
    market.clock.advance(7 * DAY)
    await market.daemon(provider)
    await assess(market)
    profile = await own(market, provider)
    assert (profile.standing.standing, profile.earnings.maturing_hours) == (PROVEN, 24)
    assert not profile.standing.HasField("slots")
    await market.server.services.payouts.tick()
    assert (await own(market, provider)).earnings.claimable_halala > 0


async def test_own_accounts_of_a_provider_are_no_customers(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    daemon = await market.daemon(provider)
    renters = [await market.renter(20_000) for _ in range(4)]
    for renter in renters:
        await paid_job(market, renter, provider, daemon)
    await market.set_provider(provider, network="the owner's")
    for renter in renters[:2]:
        await market.set_renter(renter, network="the owner's")
    for renter in renters[2:]:
        await market.set_renter(renter, network="another")
    await assess(market)
    await assess(market)
    paid = await market.sql(lambda: [row.paid_micros for row in ProviderCustomer.select()])
    assert len(paid) == 4
    assert missing(await own(market, provider))["FEW_CUSTOMERS"] == (1, 3)


async def test_customers_are_read_once_and_the_sum_is_what_the_provider_was_paid(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter(50_000)
    daemon = await market.daemon(provider)
    for _ in range(3):
        await paid_job(market, renter, provider, daemon)
        await assess(market)
        await assess(market)
    rows = await market.sql(lambda: [(row.renter_id, row.paid_micros) for row in ProviderCustomer.select()])
    earned = (await own(market, provider)).earnings.claimable_micro_halala
    assert rows == [(renter.id, earned)]


async def test_a_deleted_renter_is_no_customer_any_more(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter(20_000)
    daemon = await market.daemon(provider)
    await paid_job(market, renter, provider, daemon)
    await assess(market)
    await assess(market)
    assert missing(await own(market, provider))["FEW_CUSTOMERS"] == (1, 3)
    await market.set_renter(renter, state="deleted")
    await market.sql(lambda: standing.make_due([provider.id]))
    await assess(market)
    assert missing(await own(market, provider))["FEW_CUSTOMERS"] == (0, 3)


async def test_providers_that_withdraw_to_one_account_have_one_owner(any_market: Market) -> None:
    market = any_market
    one, other = await market.provider(), await market.provider()
    await market.set_provider(other, network="shared")
    iban = "SA0380000000608010167519"

    await market.sql(lambda: [withdrawals.insert(each.id, 100, iban, 1) for each in (one, other)])
    marks = (await market.sql(lambda: standing.owners([one.id])))[one.id].marks
    assert "network shared" in marks


async def test_withdrawals_without_an_account_number_link_nobody(any_market: Market) -> None:
    market = any_market
    one, other = await market.provider(), await market.provider()
    await market.set_provider(other, network="of another")
    await market.sql(lambda: [withdrawals.insert(each.id, 100, "", 1) for each in (one, other)])
    marks = (await market.sql(lambda: standing.owners([one.id])))[one.id].marks
    assert "network of another" not in marks


async def test_look_for_owners_costs_what_the_withdrawals_of_an_account_are_not_their_square(
    market: Market,
) -> None:
    one, other = await market.provider(), await market.provider()

    def steps() -> int:
        """The steps of SQLite's machine, by hundreds."""
        connection, count = Withdrawal._meta.database.connection(), 0

        def stepped() -> int:
            nonlocal count
            count += 1
            return 0

        connection.set_progress_handler(stepped, 100)
        standing.owners([one.id])
        connection.set_progress_handler(None, 0)
        return count

    def withdraw(times: int) -> int:
        for each in (one, other):
            for _ in range(times):
                withdrawals.insert(each.id, 100, "SA0380000000608010167519", 1)
                Withdrawal.update(state="paid").execute()
        return steps()

    few = await market.sql(lambda: withdraw(200))
    many = await market.sql(lambda: withdraw(600))  # 800 now
    assert 0 < many < 6 * few


async def test_a_provider_that_fails_most_of_its_jobs_is_suspect_and_its_payouts_wait(weekly: Market) -> None:
    market = weekly
    provider, renter = await market.provider(), await market.renter(50_000)
    daemon = await market.daemon(provider)
    for _ in range(4):
        _, lease = await market.running_job(renter, provider, daemon)
        await daemon.finished(lease, outcome=sessions_pb2.RUN_OUTCOME_FAILED)
        await daemon.heartbeat()
    await assess(market)
    profile = await own(market, provider)
    assert profile.standing.standing == SUSPECT
    assert [reason.code for reason in profile.standing.reasons] == [standing_pb2.STANDING_REASON_UNRELIABLE]
    assert not profile.earnings.HasField("maturing_hours")


async def test_suspension_is_a_ban_and_its_end_brings_the_standing_back(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    await market.vouch(provider)
    assert await standing_of(market, provider) == PROVEN
    await market.account_service.SuspendProvider(
        accounts_pb2.SuspendProviderRequest(provider_id=provider.id, reason="r"),
        metadata=market.admin_metadata,
    )
    await assess(market)
    assert await standing_of(market, provider) == BANNED
    await market.account_service.UnsuspendProvider(
        accounts_pb2.UnsuspendProviderRequest(provider_id=provider.id), metadata=market.admin_metadata
    )
    await assess(market)
    assert await standing_of(market, provider) == PROVEN


async def test_vouching_is_decided_once_and_recorded(any_market: Market) -> None:
    market = any_market
    provider = await market.provider()
    await market.vouch(provider)
    assert (await refusal(market.vouch(provider))).reason == "WRONG_STATE"
    ended = await market.account_service.VouchForProvider(
        accounts_pb2.VouchForProviderRequest(provider_id=provider.id, vouched=False, reason="It moved."),
        metadata=market.admin_metadata,
    )
    assert ended.standing.standing == NEW
    entries = (
        await market.admin_service.ListAuditEntries(
            admin_pb2.ListAuditEntriesRequest(), metadata=market.admin_metadata
        )
    ).entries
    assert [entry.action for entry in entries[:2]] == ["provider.unvouch", "provider.vouch"]
    unknown = accounts_pb2.VouchForProviderRequest(provider_id=99, vouched=True, reason="r")
    refused = await refusal(market.account_service.VouchForProvider(unknown, metadata=market.admin_metadata))
    assert refused.reason == "PROVIDER_NOT_FOUND"


async def test_assessments_write_nothing_while_nothing_changes(market: Market) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)
    await assess(market)

    def rows() -> list[dict[str, Any]]:
        query: Any = ProviderStanding.select()
        return list(query.dicts())

    before = await market.sql(rows)
    for _ in range(5):
        await daemon.heartbeat()
        await assess(market)
    assert await market.sql(rows) == before


def secret() -> bytes:
    return b"secret"


def test_a_network_is_a_prefix_that_nobody_can_read_and_private_addresses_have_none() -> None:
    assert network("8.8.8.8", secret) == network("8.8.8.200", secret) != network("8.8.9.8", secret)
    assert network("2600:1:2:3::1", secret) == network("2600:1:2:ffff::9", secret)
    assert network("2600:1:2:3::1", secret) != network("2600:1:3:3::1", secret)
    assert network("::ffff:8.8.8.8", secret) == network("8.8.8.8", secret)
    assert network("8.8.8.8", secret) != network("8.8.8.8", lambda: b"another")
    for address in ("127.0.0.1", "10.0.0.1", "::1", "fe80::1", "", "not an address", "unix:/run/x"):
        assert network(address, secret) is None


async def test_registration_keeps_the_network_of_the_caller_and_no_address(market: Market) -> None:
    registration, mailbox = market.server.services.registration, "n@example.com"
    provider = await registration.provider(
        name="P", email=mailbox, mailbox=mailbox, gpu_model="", os="", phone="", address="8.8.8.8"
    )
    renter = await registration.renter(
        name="R", email=mailbox, mailbox=mailbox, organization="", phone="", address="8.8.8.9"
    )
    kept = await market.sql(
        lambda: (Provider.get_by_id(provider.id).network, Renter.get_by_id(renter.id).network)
    )
    assert kept[0] == kept[1]
    assert kept[0] is not None
    assert "8.8" not in kept[0]
