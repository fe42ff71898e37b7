"""Liars against the real server, each through its session: checks find them, and mark nobody else."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from server.domain.canaries import CanaryVerdict
from server.store.models import Canary as CanaryRow
from tests.server.services.test_canaries import FILLER, Machine, honest, machine, nonsense, prompt_of
from tests.server.services.test_standings import SUSPECT, standing_of
from tests.support import running_server
from tests.support.chats import answer_to
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market

STEP_SECONDS = 3600
# A liar must be found by so many of its checks.
MOST_CHECKS = 20


@pytest.fixture
async def checked(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Market]:
    """A market that checks providers."""
    async with running_server.running(sqlite_url, clock, canary_percent=1) as market:
        yield market


@dataclass(eq=False)
class Player:
    """A provider whose daemon answers each prompt by a rule."""

    machine: Machine
    says: Callable[[str], str] = honest

    @property
    def id(self) -> int:
        return self.machine.party.id

    async def answer(self) -> None:
        offer = await self.machine.daemon.expect("job_offer")
        self.machine.offers.append(offer)
        text = self.says(prompt_of(offer))
        await self.machine.daemon.start(offer.lease)
        await self.machine.daemon.output(offer.lease, 1, answer_to(offer, text))
        await self.machine.daemon.heard_nothing()
        self.machine.market.clock.advance(1)
        await self.machine.daemon.finished(offer.lease, seconds=1, last_output_seq=1)


def pending() -> list[int]:
    """The providers whose canaries have not ended."""
    waits = CanaryRow.verdict == CanaryVerdict.PENDING.value
    return [row.provider_id for row in CanaryRow.select(CanaryRow.provider_id).where(waits)]


async def play(
    market: Market,
    players: list[Player],
    is_over: Callable[[], Awaitable[bool]] | None = None,
    steps: int = 200,
) -> None:
    """Lets an hour pass again and again, in which whoever is asked answers, until it is over."""
    by_id = {player.id: player for player in players}
    for _ in range(steps):
        for _ in range(40):  # what is asked in one hour
            await market.check()
            asked = await market.sql(pending)
            for provider_id in asked:
                await by_id[provider_id].answer()
            if not asked:
                break
        await market.server.services.standings.tick()
        if is_over is not None and await is_over():
            return
        market.clock.advance(STEP_SECONDS)
        for player in players:
            await player.machine.daemon.heartbeat()
    assert is_over is None, "it never came to its end"


def are_suspect(*players: Player) -> Callable[[], Awaitable[bool]]:
    """Tells whether all of them are."""

    async def tell() -> bool:
        machines = [player.machine for player in players]
        return {await standing_of(each.market, each.party) for each in machines} == {SUSPECT}

    return tell


def another_model(prompt: str) -> str:
    """What every machine with a smaller model answers."""
    return honest(f"smaller {prompt}")


def other_build(prompt: str) -> str:
    """The same model by other kernels: in a third of the questions it parts soon."""
    number = hashlib.sha256(prompt.encode()).digest()[0]
    if number % 3:
        return honest(prompt)
    return " ".join(honest(prompt).split()[:4] + honest(f"kernels {prompt}").split())


async def test_who_lies_in_half_of_its_work_is_found_beside_many_and_two_of_another_build_are_not(
    checked: Market,
) -> None:
    chance = random.Random(5)
    many = [Player(await machine(checked)) for _ in range(16)]
    builds = [Player(await machine(checked), other_build) for _ in range(2)]
    liar = Player(await machine(checked))
    everybody = [*many, *builds, liar]
    await play(checked, everybody, steps=2)
    assert CanaryVerdict.PASSED in await liar.machine.judged()  # it is honest at first
    began = len(await liar.machine.found())
    liar.says = lambda prompt: another_model(prompt) if chance.random() < 0.5 else honest(prompt)

    await play(checked, everybody, are_suspect(liar))
    assert len(await liar.machine.found()) - began <= MOST_CHECKS
    for player in (*many, *builds):
        assert await player.machine.judged() == {CanaryVerdict.PASSED}
    await checked.assert_money_adds_up()


@pytest.mark.parametrize("says", [another_model, lambda _: FILLER, lambda prompt: nonsense(len(prompt))])
async def test_newcomers_that_agree_on_something_else_fail_beside_those_that_passed_before(
    checked: Market, says: Callable[[str], str]
) -> None:
    old = [Player(await machine(checked)) for _ in range(3)]
    await play(checked, old, steps=5)
    liars = [Player(await machine(checked), says) for _ in range(3)]
    await play(checked, [*old, *liars], are_suspect(*liars))
    for player in old:
        assert await player.machine.judged() == {CanaryVerdict.PASSED}
    for liar in liars:
        assert await liar.machine.judged() == {CanaryVerdict.FAILED}


async def test_machines_of_one_owner_do_not_speak_for_each_other(checked: Market) -> None:
    sybils = [Player(await machine(checked), another_model) for _ in range(3)]
    for sybil in sybils:
        await checked.set_provider(sybil.machine.party, network="of one owner")
    await play(checked, sybils, steps=10)
    assert [await sybil.machine.judged() for sybil in sybils] == [set()] * 3
    strangers = [Player(await machine(checked)) for _ in range(2)]
    await play(checked, [*sybils, *strangers], are_suspect(*sybils))
    for stranger in strangers:
        assert await stranger.machine.judged() == {CanaryVerdict.PASSED}


async def test_jobs_that_name_nobody_come_to_a_newcomer_after_its_first_passed_check(checked: Market) -> None:
    renter = await checked.renter()
    first = Player(await machine(checked))
    await checked.submit(renter)
    await first.answer()  # nobody else is there
    players = [first, Player(await machine(checked))]
    await play(checked, players, steps=1)
    assert [await player.machine.judged() for player in players] == [{CanaryVerdict.PASSED}] * 2
    newcomer = Player(await machine(checked))
    for _ in players:
        await checked.submit(renter)
    offers = [await player.machine.daemon.expect("job_offer") for player in players]
    for player, offer in zip(players, offers, strict=True):
        await player.machine.daemon.start(offer.lease)
    waiting = await checked.submit(renter)
    await newcomer.machine.daemon.heard_nothing()
    why = await checked.why(waiting)
    assert "Its standing is new and unchecked" in str(why)
    await players[0].machine.daemon.finished(offers[0].lease, seconds=0)
    offer = await players[0].machine.daemon.expect("job_offer")
    assert offer.lease.job_id == waiting.job_id
