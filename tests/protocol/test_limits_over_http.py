"""A rate limit through gateway and server, from the request to the headers of the error."""

from __future__ import annotations

from pathlib import Path

from tests.support.whole_stack import running_stack


async def test_caller_over_the_limit_learns_how_long_to_wait_and_then_is_admitted(tmp_path: Path) -> None:
    path = "/api/renters/available-providers"
    async with running_stack(tmp_path, DCP_LIMIT_ADDRESS="4") as stack:
        for _ in range(4):
            assert (await stack.http.get(path)).status_code == 200
        refused = await stack.http.get(path)
        assert refused.status_code == 429
        error = refused.json()
        assert (error["code"], error["retry_after_seconds"], error["limit"]) == (
            "RATE_LIMITED",
            15,
            "address",
        )
        assert refused.headers["retry-after"] == "15"
        assert refused.headers["ratelimit"] == '"address";r=0;t=15'
        assert refused.headers["ratelimit-policy"] == '"address";q=4;w=60'
        stack.clock.advance(15)
        assert (await stack.http.get(path)).status_code == 200


async def test_registrations_by_http_are_limited_by_the_callers_address(tmp_path: Path) -> None:
    async with running_stack(tmp_path, DCP_LIMIT_REGISTRATIONS="2") as stack:
        answers = [
            await stack.http.post(
                "/api/renters/register", json={"name": "R", "email": f"r{number}@example.com"}
            )
            for number in range(3)
        ]
        assert [answer.status_code for answer in answers] == [201, 201, 429]
        assert answers[-1].headers["ratelimit-policy"] == '"registration";q=2;w=60'
