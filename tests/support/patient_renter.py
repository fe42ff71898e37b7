"""A renter that repeats requests whose response was lost, and a check of the whole market's ledger.

Both use only the public API of the market.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from scripts.market import Market

T = TypeVar("T")

FINAL = frozenset({"completed", "failed", "cancelled"})
WAIT_SECONDS = 120.0
# Most looks are requests, which keep a whole market busy: so they become rarer while nothing comes.
POLL_SECONDS, MAX_POLL_SECONDS = 0.02, 0.1
# Statuses that mean "repeat the request"; any other 5xx is a fault.
_AGAIN = frozenset({429, 503, 504})


class NeverError(AssertionError):
    """The expected result did not arrive in time."""


def eventually(what: str, look: Callable[[], T | None], seconds: float = WAIT_SECONDS) -> T:
    """Calls ``look`` until it returns something. Raises NeverError."""
    deadline, pause = time.monotonic() + seconds, POLL_SECONDS
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(pause)
        pause = min(1.2 * pause, MAX_POLL_SECONDS)
    raise NeverError(what)


class Renter:
    """A renter with money."""

    def __init__(self, market: Market, email: str, credit_halala: int) -> None:
        self._market = market
        self.id, key = market.register_renter("Renter", email)
        self.credited_halala = market.credit(self.id, credit_halala)
        self._headers = {"x-renter-key": key}

    def ask_once(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        """Sends a request once; it can fail."""
        return self._market.http.request(method, path, json=body, headers={**self._headers, **headers})

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        """Repeats a request until it gets a response."""

        def answer() -> httpx.Response | None:
            try:
                response = self.ask_once(method, path, body, **headers)
            except httpx.TransportError:
                return None
            return None if response.status_code in _AGAIN else response

        response = eventually(f"an answer to {method} {path}", answer)
        assert response.status_code < 500, response.text
        return response

    def submit(self, model: str, prompt: str, *, key: str = "", **changes: Any) -> str:
        """Submits a job and returns its id."""
        headers = {"idempotency-key": key} if key else {}
        response = self.ask("POST", "/api/jobs/submit", request(model, prompt, **changes), **headers)
        assert response.status_code == 201, response.text
        return str(response.json()["job"]["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it is now."""
        answer: dict[str, Any] = self.ask("GET", f"/api/jobs/{job_id}").json()["job"]
        return answer

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        """All leases of the job."""
        answer: list[dict[str, Any]] = self.ask("GET", f"/api/jobs/{job_id}/why").json()["attempts"]
        return answer

    def output(self, job_id: str) -> str:
        """The whole output of a completed job."""
        response = self.ask("GET", f"/api/jobs/{job_id}/output")
        assert response.status_code == 200, response.text
        return str(response.json()["response"])

    def until(self, job_id: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Waits until the condition holds for the job; returns the job."""

        def look() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if condition(job) else None

        try:
            return eventually("", look)
        except NeverError:
            raise NeverError(f"stayed {self.job(job_id)}") from None

    def until_it_writes(self, job_id: str) -> dict[str, Any]:
        """Waits until some output has arrived while the job still runs; returns the job."""
        job = self.until(job_id, lambda job: job["output_bytes"] > 0 or job["status"] in FINAL)
        assert job["status"] == "running", job
        return job

    def until_final(self, job_id: str) -> dict[str, Any]:
        """Waits until the job has ended; returns it."""
        return self.until(job_id, lambda job: job["status"] in FINAL)

    def wallet(self) -> tuple[int, int]:
        """The balance and the sum of open holds, in halala."""
        renter = self.ask("GET", "/api/renters/me").json()["renter"]
        return renter["balance_halala"], renter["held_halala"]


def request(model: str, prompt: str, **changes: Any) -> dict[str, Any]:
    """The body of a submit: a minute of inference, with changes."""
    params = {"model": model, "prompt": prompt, "temperature": 0, **changes.pop("params", {})}
    return {"job_type": "llm-inference", "duration_minutes": 3, "params": params, **changes}


def assert_books(market: Market, renter: Renter, job_ids: list[str], provider_keys: list[str]) -> None:
    """Asserts that all jobs of the only renter are final and billed once, and that the ledger balances."""
    assert_books_of(market, {renter: job_ids}, provider_keys)


def assert_books_of(market: Market, jobs_of: dict[Renter, list[str]], provider_keys: list[str]) -> None:
    """As ``assert_books``, of all renters with all their jobs."""
    bills = []
    for renter, job_ids in jobs_of.items():
        jobs = [renter.job(job_id) for job_id in job_ids]
        for job in jobs:
            _assert_bill(job)
        bills += (own := [job["billing"] for job in jobs])
        spent = sum(bill["actual_cost_halala"] for bill in own)
        assert renter.wallet() == (renter.credited_halala - spent, 0)
    charged = sum(bill["actual_cost_halala"] for bill in bills)
    earned = 0
    for key in provider_keys:
        earnings = market.get("/api/providers/me", **{"x-provider-key": key})["provider"]["earnings"]
        earned += earnings["claimable_micro_halala"] + earnings["maturing_micro_halala"]
    assert earned == sum(bill["provider_micro_halala"] for bill in bills)
    stats = market.get("/api/admin/dashboard", **{"x-admin-token": market.admin_token})["stats"]
    counted = (stats["total_jobs"], stats["active_jobs"], stats["charged_halala"], stats["held_halala"])
    assert counted == (sum(len(set(ids)) for ids in jobs_of.values()), 0, charged, 0)
    proof = market.prove_ledger()
    assert proof["balanced"] is True
    assert proof["discrepancies"] == []
    assert (proof["postings_sum_halala"], proof["open_holds"], proof["open_holds_halala"]) == (0, 0, 0)


def _assert_bill(job: dict[str, Any]) -> None:
    assert job["status"] in FINAL, job
    bill = job["billing"]
    charge = bill["actual_cost_halala"]
    assert charge + bill["refund_halala"] == bill["hold_halala"] == job["cost_halala"]
    assert bill["provider_halala"] + bill["platform_halala"] == charge <= bill["hold_halala"]
    assert 4 * bill["provider_micro_halala"] == 3 * charge * 10**6
    assert bill["provider_micro_halala"] + bill["platform_micro_halala"] == bill["actual_cost_micro_halala"]
    billed_ms = round(bill["billed_seconds"] * 1000)
    assert charge == math.ceil(job["rate_halala_per_minute"] * billed_ms / 60_000)
    if job["status"] == "failed" and job["failure_reason"] != "DURATION_LIMIT":
        assert charge == 0, job
