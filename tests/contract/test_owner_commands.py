"""`dcp-daemon pause`, `resume`, `earnings`, `rates` and `withdraw` as programs, against a real server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from dcp.v1 import providers_pb2

from server.domain.money import micros
from server.store.models import Withdrawal as WithdrawalRow
from tests.daemon.test_main import run
from tests.server.services.test_withdrawals import IBAN, credit_earnings
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market, Party
from tests.support.tcp_proxy import Cut, Pass, TcpProxy


class Owner:
    """A provider's owner at the machine; no daemon runs."""

    def __init__(self, market: Market, provider: Party, folder: Path, address: str = "") -> None:
        address = address or market.server.address
        self._environ = {"DCP_SERVER": address, "DCP_PROVIDER_KEY": provider.key}
        self._folder = folder

    async def said(self, *words: str) -> str:
        """What a command that succeeds says."""
        code, out, err = await run(*words, state=self._folder, **self._environ)
        assert code == 0, err
        return out

    async def asked(self, *words: str) -> Any:
        """The same for programs."""
        return json.loads(await self.said(*words, "--json"))

    async def refused(self, *words: str) -> str:
        """Why a command fails."""
        code, out, err = await run(*words, state=self._folder, **self._environ)
        assert (code, out, len(err.splitlines())) == (1, "", 1), err
        return err


async def test_owner_pauses_sees_earnings_sets_rates_and_withdraws(
    sqlite_url: str, clock: ManualClock, tmp_path: Path
) -> None:
    async with running_server.running(sqlite_url, clock) as market:
        provider = await market.provider()
        owner = Owner(market, provider, tmp_path)

        async def status() -> str:
            asked = providers_pb2.GetOwnProviderRequest()
            own = await market.provider_service.GetOwnProvider(asked, metadata=provider.metadata)
            return providers_pb2.ProviderStatus.Name(own.provider.status)

        assert "no new jobs come" in await owner.said("pause")
        assert await status() == "PROVIDER_STATUS_PAUSED"
        assert (await owner.asked("resume"))["status"] == "offline"
        assert await status() == "PROVIDER_STATUS_OFFLINE"

        await credit_earnings(market, provider, 5000)
        told = await owner.asked("earnings", "--days", "3")
        assert (len(told["days"]), told["claimable_halala"]) == (3, 5000)
        shown = await owner.said("earnings", "--days", "3")
        assert "to withdraw 50.00 SAR" in shown
        assert "days" in await owner.refused("earnings", "--days", "400")

        rates = {each["job_type"]: each for each in (await owner.asked("rates", "training", "3.00"))["rates"]}
        assert (rates["training"]["own"], rates["training"]["halala_per_minute"]) == (True, 300)
        assert not rates["llm-inference"]["own"]
        assert "3.00 SAR  own" in await owner.said("rates")
        await owner.said("rates", "training", "--platform")
        assert not any(each["own"] for each in (await owner.asked("rates"))["rates"])
        assert "training" in await owner.refused("rates", "knitting", "3")
        assert "PER_MINUTE" in await owner.refused("rates", "training", "3.001")
        assert "--platform" in await owner.refused("rates", "training")

        assert "EARNINGS_TOO_LOW" in await owner.refused("withdraw", "50.01", "--iban", IBAN)
        made = await owner.asked("withdraw", "20", "--iban", IBAN)
        assert (made["amount_halala"], made["iban_last4"], made["claimable_halala"]) == (2000, "7519", 3000)
        assert "WITHDRAWAL_OPEN" in await owner.refused("withdraw", "10", "--iban", IBAN)


async def test_withdrawal_whose_answer_was_lost_is_made_once(
    sqlite_url: str, clock: ManualClock, tmp_path: Path
) -> None:
    """The proxy lets the request through and loses the answer; the command sends it again."""
    async with running_server.running(sqlite_url, clock) as market:
        provider = await market.provider()
        await credit_earnings(market, provider, 5000)
        with TcpProxy(market.server.address) as proxy:
            owner = Owner(market, provider, tmp_path, proxy.address)
            proxy.switch(Cut(IBAN[-4:].encode(), is_silent=True))
            asking = asyncio.create_task(owner.asked("withdraw", "20", "--iban", IBAN))
            while not await withdrawals(market):
                await asyncio.sleep(0.05)
            proxy.switch(Pass())
            made = await asking
        assert await withdrawals(market) == [(made["withdrawal_id"], micros(2000))]
        assert made["claimable_halala"] == 3000


async def test_withdrawal_whose_answers_are_lost_again_says_that_a_repeat_does_no_harm(
    sqlite_url: str, clock: ManualClock, tmp_path: Path
) -> None:
    async with running_server.running(sqlite_url, clock) as market:
        provider = await market.provider()
        await credit_earnings(market, provider, 5000)
        with TcpProxy(market.server.address) as proxy:
            owner = Owner(market, provider, tmp_path, proxy.address)
            proxy.switch(Cut(IBAN[-4:].encode()))
            assert "not known whether the withdrawal was made" in await owner.refused(
                "withdraw", "20", "--iban", IBAN
            )
            proxy.switch(Pass())
            assert "WITHDRAWAL_OPEN" in await owner.refused("withdraw", "20", "--iban", IBAN)
        assert [amount for _, amount in await withdrawals(market)] == [micros(2000)]


async def withdrawals(market: Market) -> list[tuple[int, int]]:
    """The id and the amount of each withdrawal."""
    return await market.sql(lambda: [(row.id, row.amount_micros) for row in WithdrawalRow.select()])


async def test_unknown_key_is_told_in_a_line(sqlite_url: str, clock: ManualClock, tmp_path: Path) -> None:
    async with running_server.running(sqlite_url, clock) as market:
        environ = {"DCP_SERVER": market.server.address, "DCP_PROVIDER_KEY": "dcp-provider-" + "x" * 43}
        code, _, err = await run("pause", state=tmp_path, **environ)
        assert code == 2
        assert "INVALID_CREDENTIAL" in err
