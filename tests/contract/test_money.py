"""The contract's sums of money through the whole stack, on a manual clock."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from dcp.v1 import jobs_pb2

from daemon.engines import EngineError
from scripts.market import UNLIMITED
from tests.support.amounts import exact
from tests.support.fake_engine import ScriptedEngine
from tests.support.whole_stack import ADMIN, Stack, running_daemon, running_stack

OF_TIME = ("total_halala", "today_halala", "this_week_halala")
EARNED_NOTHING = {
    **dict.fromkeys((*OF_TIME, "claimable_halala", "maturing_halala", "held_halala"), 0),
    **dict.fromkeys(("disputed_halala", "debt_halala"), 0),
    "maturing_hours": 168,
}
JOB = {
    "job_type": "llm-inference",
    "duration_minutes": 3,
    "params": {"model": "test/model", "prompt": "Summarize DCP in three bullets"},
}


class Scene:
    """A renter with 50 SAR, a provider, and an engine that waits in the middle of its answer."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.gate = asyncio.Event()
        self.engine = ScriptedEngine(["Model ", self.gate, "output"])

    async def prepare(self) -> None:
        self.provider_id, self.provider_key = await self.stack.register("provider", "p@example.com")
        self.renter_id, self.renter_key = await self.stack.register("renter", "r@example.com")
        path = f"/api/admin/renters/{self.renter_id}/credit"
        await self.stack.post(path, {"amount_halala": 5000}, **ADMIN)

    async def submit(self, **change: Any) -> str:
        body = {**JOB, "provider_id": self.provider_id, **change}
        answer = await self.stack.post("/api/jobs/submit", body, **{"x-renter-key": self.renter_key})
        return str(answer["job"]["job_id"])

    async def until_first_output(self, job_id: str) -> None:
        """Waits until the run has started and the server has its first output."""
        async with asyncio.timeout(10):
            while not (await self.stack.until_job(job_id, "running"))["output_bytes"]:
                await asyncio.sleep(0.01)

    async def wallet(self) -> dict[str, Any]:
        return dict((await self.stack.get("/api/renters/me", {"x-renter-key": self.renter_key}))["renter"])

    async def earnings(self) -> dict[str, Any]:
        me = await self.stack.get("/api/providers/me", {"x-provider-key": self.provider_key})
        return dict(me["provider"]["earnings"])

    async def proof(self) -> dict[str, Any]:
        return await self.stack.get("/api/admin/ledger/proof", ADMIN)


async def test_the_contracts_example_is_true(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        async with running_daemon(stack, scene.provider_key, scene.engine):
            job_id = await scene.submit()
            held = await scene.wallet()
            assert (held["balance_halala"], held["held_halala"]) == (4550, 450)
            await scene.until_first_output(job_id)
            stack.clock.advance(75)
            scene.gate.set()
            job = await stack.until_job(job_id, "completed")
        assert job["billing"] == exact(
            {
                "hold_halala": 450,
                "actual_cost_halala": 188,
                "refund_halala": 262,
                "provider_halala": 141,
                "platform_halala": 47,
                "billed_seconds": 75.0,
                "rate_halala_per_minute": 150,
                "price": {"sar_per_hour": "90"},
            }
        )
        headers = {"x-renter-key": scene.renter_key}
        output = await stack.get(f"/api/jobs/{job_id}/output", headers)
        assert (output["type"], output["response"]) == ("text", "Model output")
        assert output["billing"]["actual_cost_halala"] == 188
        wallet = await scene.wallet()
        assert (wallet["balance_halala"], wallet["held_halala"], wallet["spent_halala"]) == (4812, 0, 188)
        earned = dict.fromkeys((*OF_TIME, "maturing_halala"), 141)
        assert await scene.earnings() == exact(EARNED_NOTHING | earned)
        stats = (await stack.get("/api/admin/dashboard", ADMIN))["stats"]
        assert (stats["charged_halala"], stats["payout_halala"], stats["fee_halala"]) == (188, 141, 47)
        proof = await scene.proof()
        assert proof["balanced"] is True
        assert (proof["transfers"], proof["postings_sum_halala"], proof["open_holds"]) == (5, 0, 0)


async def test_cancel_while_running_charges_the_time_run(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        async with running_daemon(stack, scene.provider_key, scene.engine):
            job_id = await scene.submit()
            await scene.until_first_output(job_id)
            stack.clock.advance(20)
            await stack.post(f"/api/jobs/{job_id}/cancel", {}, **{"x-renter-key": scene.renter_key})
            job = await stack.until_job(job_id, "cancelled")
        assert job["billing"]["actual_cost_halala"] == 50
        assert job["failure_reason"] == "CANCELLED"
        assert scene.engine.cancelled == [job_id]
        gone = await stack.http.get(f"/api/jobs/{job_id}/output", headers={"x-renter-key": scene.renter_key})
        assert (gone.status_code, gone.json()["code"]) == (410, "JOB_CANCELLED")
        assert (gone.json()["charged_halala"], gone.json()["refunded_halala"]) == (50, 400)
        assert (await scene.proof())["balanced"] is True


async def test_a_run_past_its_duration_is_stopped_and_charged_its_hold(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        async with running_daemon(stack, scene.provider_key, scene.engine):
            job_id = await scene.submit()
            await scene.until_first_output(job_id)
            stack.clock.advance(185)
            job = await stack.until_job(job_id, "failed")
        assert job["failure_reason"] == "DURATION_LIMIT"
        assert job["billing"]["actual_cost_halala"] == 450
        assert job["billing"]["billed_seconds"] == 180.0
        assert (await scene.proof())["balanced"] is True


async def test_max_cost_is_never_passed(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        async with running_daemon(stack, scene.provider_key, scene.engine):
            job_id = await scene.submit(max_cost_halala=100)
            assert (await scene.wallet())["held_halala"] == 100
            await scene.until_first_output(job_id)
            stack.clock.advance(60)
            job = await stack.until_job(job_id, "failed")
        assert job["failure_reason"] == "DURATION_LIMIT"
        assert job["billing"]["actual_cost_halala"] == 100
        assert job["billing"]["billed_seconds"] == 40.0


@pytest.mark.parametrize("when", ["while preparing", "while running"])
async def test_an_engine_that_breaks_costs_nothing(tmp_path: Path, when: str) -> None:
    broken = EngineError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, "the model server broke down")
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        engine = (
            ScriptedEngine(prepare_error=broken)
            if when == "while preparing"
            else ScriptedEngine(["Model ", scene.gate, broken])
        )
        async with running_daemon(stack, scene.provider_key, engine):
            job_id = await scene.submit()
            if when == "while running":
                await scene.until_first_output(job_id)
                stack.clock.advance(75)
                scene.gate.set()
            job = await stack.until_job(job_id, "failed")
        assert job["failure_reason"] == "ENGINE_FAILED"
        assert job["billing"]["actual_cost_halala"] == 0
        assert (await scene.wallet())["balance_halala"] == 5000
        assert await scene.earnings() == exact(EARNED_NOTHING)


async def test_a_job_without_output_answers_204(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        async with running_daemon(stack, scene.provider_key, ScriptedEngine([])):
            job_id = await scene.submit()
            await stack.until_job(job_id, "completed")
        response = await stack.http.get(
            f"/api/jobs/{job_id}/output", headers={"x-renter-key": scene.renter_key}
        )
        assert (response.status_code, response.content) == (204, b"")


async def test_the_second_job_waits_for_the_first(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        async with running_daemon(stack, scene.provider_key, scene.engine):
            first = await scene.submit()
            await scene.until_first_output(first)
            second = await scene.submit(provider_id=None)
            assert (await stack.until_job(second, "queued"))["attempt"] == 0
            scene.gate.set()
            await stack.until_job(first, "completed")
            await stack.until_job(second, "completed")
        assert scene.engine.jobs == [first, second]


async def test_two_hundred_submits_at_once_spend_what_the_wallet_can_pay(
    tmp_path: Path, database_url: str
) -> None:
    """The wallet pays for exactly 37 jobs of 450 halala, and 123 halala remain."""
    async with running_stack(tmp_path, prove=True, DCP_DATABASE_URL=database_url, **UNLIMITED) as stack:
        renter_id, key = await stack.register("renter", "r@example.com")
        path = f"/api/admin/renters/{renter_id}/credit"
        await stack.post(path, {"amount_halala": 37 * 450 + 123}, **ADMIN)
        headers = {"x-renter-key": key}
        answers = await asyncio.gather(
            *(stack.http.post("/api/jobs/submit", json=JOB, headers=headers) for _ in range(200))
        )
        accepted = [answer.json()["job"]["job_id"] for answer in answers if answer.status_code == 201]
        refused = [answer.json() for answer in answers if answer.status_code == 402]
        assert (len(accepted), len(set(accepted)), len(refused)) == (37, 37, 163)
        assert {error["code"] for error in refused} == {"INSUFFICIENT_BALANCE"}
        assert {(error["balance_halala"], error["shortfall_halala"]) for error in refused} == {(123, 327)}
        wallet = (await stack.get("/api/renters/me", headers))["renter"]
        assert (wallet["balance_halala"], wallet["held_halala"], wallet["total_jobs"]) == (123, 37 * 450, 37)
        proof = await stack.get("/api/admin/ledger/proof", ADMIN)
        assert (proof["balanced"], proof["open_holds"]) == (True, 37)


async def test_repeated_credit_under_one_key_counts_once(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        renter_id, _ = await stack.register("renter", "r@example.com")
        path = f"/api/admin/renters/{renter_id}/credit"
        keyed = {**ADMIN, "Idempotency-Key": "invoice-7"}
        first = await stack.post(path, {"amount_halala": 500}, **keyed)
        assert await stack.post(path, {"amount_halala": 500}, **keyed) == first
        assert first["balance_halala"] == 500
        other = await stack.http.post(path, json={"amount_halala": 501}, headers=keyed)
        assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_CLASH")
