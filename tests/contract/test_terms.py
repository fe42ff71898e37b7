"""Own rates, settings and the public history through the whole stack, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_money import JOB, Scene
from tests.support.amounts import exact
from tests.support.whole_stack import running_daemon, running_stack


@pytest.mark.parametrize("base", ["/api", "/api/dc1"])
async def test_price_list_quote_hold_and_bill_of_an_own_rate_agree_to_the_halala(
    tmp_path: Path, base: str
) -> None:
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        own = {"x-provider-key": scene.provider_key}
        body = {"job_type": "llm-inference", "halala_per_minute": 137}
        answer = await stack.post(f"{base}/providers/rates", body, **own)
        assert answer["rates"][0] == {
            "job_type": "llm-inference",
            "halala_per_minute": 137,
            "own": True,
            "platform_halala_per_minute": 150,
            "least_halala_per_minute": 75,
            "most_halala_per_minute": 450,
        }
        assert (await stack.get(f"{base}/providers/rates", own))["rates"] == answer["rates"]
        async with running_daemon(stack, scene.provider_key, scene.engine):
            (listed,) = (await stack.get(f"{base}/renters/available-providers", {}))["providers"]
            rate = listed["rates_halala_per_minute"]["llm-inference"]
            job_id = await scene.submit()
            wallet = await scene.wallet()
            assert (rate, wallet["held_halala"], wallet["balance_halala"]) == (137, 411, 4589)
            await stack.post(f"{base}/providers/rates", body | {"halala_per_minute": 300}, **own)
            await scene.until_first_output(job_id)
            stack.clock.advance(75)
            scene.gate.set()
            job = await stack.until_job(job_id, "completed")
        assert job["cost_halala"] == 411
        assert job["billing"] == exact(
            {
                "hold_halala": 411,
                "actual_cost_halala": 172,  # 171.25, rounded up once
                "refund_halala": 239,
                "provider_halala": 129,
                "platform_halala": 43,
                "billed_seconds": 75.0,
                "rate_halala_per_minute": 137,
                "price": {"sar_per_hour": "82.2"},
            }
        )
        assert (await scene.earnings())["maturing_halala"] == 129
        assert (await scene.proof())["balanced"] is True
        (past,) = (await stack.get(f"{base}/providers/{scene.provider_id}/history", {}))["attempts"]
        assert (past["job_type"], past["outcome"], past["counts"]) == ("llm-inference", "succeeded", "for")
        assert past["run_seconds"] == 75.0
        assert "job_id" not in past
        me = (await stack.get(f"{base}/providers/me", own))["provider"]
        assert (me["reliability"], me["reliability_attempts"]) == (1.0, 1)


@pytest.mark.parametrize(
    ("body", "status", "code", "field", "words"),
    [
        (
            {"job_type": "llm-inference", "halala_per_minute": 451},
            409,
            "RATE_OUT_OF_BOUNDS",
            "halala_per_minute",
            "from 75 to 450",
        ),
        ({"job_type": "llm-inference"}, 400, "INVALID_FIELD", "halala_per_minute", "platform_rate"),
        ({"halala_per_minute": 150}, 400, "INVALID_FIELD", "job_type", "required"),
        ({"job_type": "mining", "halala_per_minute": 150}, 400, "INVALID_FIELD", "job_type", "llm-inference"),
    ],
)
async def test_wrong_rate_is_refused_with_the_field_and_the_remedy(
    tmp_path: Path, body: dict[str, Any], status: int, code: str, field: str, words: str
) -> None:
    async with running_stack(tmp_path) as stack:
        _, key = await stack.register("provider", "p@example.com")
        answer = await stack.http.post("/api/providers/rates", json=body, headers={"x-provider-key": key})
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (status, code, field)
        assert words in answer.json()["error"]


async def test_provider_outside_its_hours_is_shown_with_the_time_when_they_begin(tmp_path: Path) -> None:
    """The time is Friday, 11:00 in Riyadh."""
    settings = {
        "timezone": "Asia/Riyadh",
        "hours": [{"days": ["saturday", "sunday"], "start": "08:00", "end": "24:00"}],
        "max_temp_c": 80,
        "vram_reserve_mib": 0,
    }
    async with running_stack(tmp_path) as stack:
        scene = Scene(stack)
        await scene.prepare()
        own = {"x-provider-key": scene.provider_key}
        async with running_daemon(stack, scene.provider_key, scene.engine):
            answer = await stack.post("/api/providers/settings", settings, **own)
            assert answer == {"success": True, "settings": settings}
            assert (await stack.get("/api/providers/settings", own))["settings"] == settings
            refused = await stack.http.post(
                "/api/jobs/submit",
                json={**JOB, "provider_id": scene.provider_id},
                headers={"x-renter-key": scene.renter_key},
            )
            assert refused.status_code == 409
            error = refused.json()
            assert (error["code"], error["status"]) == ("PROVIDER_UNAVAILABLE", "outside_hours")
            assert error["advice"] == "leave provider_id out"
            assert "takes jobs again on Saturday at 08:00 Asia/Riyadh" in error["error"]
            (listed,) = (await stack.get("/api/renters/available-providers", {}))["providers"]
            assert (listed["accepting_jobs"], listed["opens_at"]) == (False, "2027-01-16T05:00:00.000Z")
            await stack.post("/api/providers/settings", {}, **own)
            job_id = await scene.submit()
            scene.gate.set()
            await stack.until_job(job_id, "completed")
