"""Requests against a server that a test scripts: attempts, errors, and what is never sent twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from dcp_client import APIError, AsyncClient, Client, ConnectionFailedError, ResponseError, Retries, reasons

URL, KEY = "https://market.example", "dcp-renter-abc"
FAST = Retries(attempts=4, longest_wait_seconds=0.5)
LATER = {"error": "later", "code": "UNAVAILABLE"}
JOB = {"job": {"job_id": "job-1"}}

Step = httpx.Response | Exception | None
"""None: the market cannot be reached now."""


class Script:
    """A server that answers request by request, and notes what came."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step or httpx.Response(503, json=LATER, headers={"retry-after": "0"})

    def client(self) -> Client:
        return Client(URL, KEY, http=httpx.Client(transport=httpx.MockTransport(self)), retries=FAST)

    def async_client(self) -> AsyncClient:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return AsyncClient(URL, KEY, http=http, retries=FAST)


def submit(client: Client) -> Any:
    return client.submit({"job_type": "llm-inference", "params": {"model": "m", "prompt": "p"}})


def test_request_carries_key_body_and_name() -> None:
    script = Script(httpx.Response(201, json=JOB))
    assert submit(script.client()).job_id == "job-1"
    (request,) = script.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["user-agent"].startswith("dcp-client/")
    assert str(request.url) == f"{URL}/api/jobs/submit"
    assert request.content == b'{"job_type":"llm-inference","params":{"model":"m","prompt":"p"}}'


def test_submit_that_is_repeated_has_the_same_idempotency_key() -> None:
    script = Script(httpx.ReadError("cut"), None, httpx.ReadTimeout("slow"), httpx.Response(201, json=JOB))
    assert submit(script.client()).job_id == "job-1"
    assert len({request.headers["idempotency-key"] for request in script.requests}) == 1
    assert len(script.requests) == 4


async def test_asynchronous_client_repeats_alike() -> None:
    script = Script(httpx.ReadError("cut"), None, httpx.Response(201, json=JOB))
    async with script.async_client() as client:
        job = await client.submit({"job_type": "llm-inference"})
    assert job.job_id == "job-1"
    assert len({request.headers["idempotency-key"] for request in script.requests}) == 1


def test_what_creates_a_secret_is_not_repeated_after_a_cut() -> None:
    script = Script(httpx.ReadError("cut"))
    with pytest.raises(ConnectionFailedError, match="not known whether"):
        script.client().register("Acme", "a@example.com")
    assert len(script.requests) == 1
    assert "idempotency-key" not in script.requests[0].headers


@pytest.mark.parametrize("last", [httpx.ReadError("cut"), httpx.ConnectError("no")])
def test_what_may_have_taken_effect_says_so_and_what_only_reads_does_not(last: httpx.HTTPError) -> None:
    steps = [httpx.ReadError("cut"), last, last, last]
    with pytest.raises(ConnectionFailedError, match="not known whether") as caught:
        submit(Script(*steps).client())
    assert caught.value.is_unknown
    with pytest.raises(ConnectionFailedError) as caught:
        Script(*steps).client().wallet()
    assert (caught.value.is_unknown, "not known" in str(caught.value)) == (False, False)


def test_what_never_left_is_repeated_whatever_it_is() -> None:
    script = Script(httpx.ConnectError("no"), httpx.Response(201, json={"api_key": "dcp-renter-x"}))
    assert script.client().register("Acme", "a@example.com") == "dcp-renter-x"


def test_attempts_end_with_the_last_error() -> None:
    script = Script(*[None] * 4)
    with pytest.raises(reasons.UnavailableError, match="later"):
        script.client().wallet()
    assert len(script.requests) == 4


def test_long_wait_is_left_to_the_caller() -> None:
    limited = {"error": "wait", "code": "RATE_LIMITED", "retry_after_seconds": 30}
    script = Script(httpx.Response(429, json=limited, headers={"retry-after": "30"}))
    with pytest.raises(reasons.RateLimitedError) as caught:
        script.client().wallet()
    assert caught.value.retry_after_seconds == 30


def test_refusal_is_raised_at_once() -> None:
    script = Script(httpx.Response(400, json={"error": "bad", "code": "INVALID_FIELD", "field": "model"}))
    with pytest.raises(reasons.InvalidFieldError) as caught:
        submit(script.client())
    assert (caught.value.status, caught.value.field) == (400, "model")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, text="<html>nginx</html>"),
        httpx.Response(200, text="<html>a router</html>"),
        httpx.Response(200, json=["a", "list"]),
        httpx.Response(302, headers={"location": "https://evil.example"}),
    ],
)
def test_answer_of_something_else_says_so(answer: httpx.Response) -> None:
    with pytest.raises(ResponseError):
        Script(answer).client().wallet()


def test_body_that_breaks_off_is_read_again() -> None:
    def broken() -> Any:
        yield b'{"renter": '
        raise httpx.ReadError("cut")

    cut = httpx.Response(200, content=broken(), headers={"content-type": "application/json"})
    script = Script(cut, httpx.Response(200, json={"renter": {"balance_halala": 7}}))
    assert script.client().wallet().balance_halala == 7


def pages(*answers: Any) -> Script:
    return Script(*(httpx.Response(200, json=answer) for answer in answers))


def test_pages_are_walked_with_the_same_filters() -> None:
    script = pages({"jobs": [{"job_id": "a"}], "next_before_job_id": "a"}, {"jobs": [{"job_id": "b"}]})
    assert [job.job_id for job in script.client().jobs(status="failed")] == ["a", "b"]
    assert [dict(request.url.params) for request in script.requests] == [
        {"status": "failed"},
        {"status": "failed", "before_job_id": "a"},
    ]


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        ({"next_after_id": 3}, {"after_id": "3"}),
        ({"next_cursor": "c", "next_after_id": 3}, {"cursor": "c"}),
    ],
)
def test_market_is_walked_by_its_cursor_or_its_ids(answer: dict[str, Any], query: dict[str, str]) -> None:
    script = pages({"providers": [{"id": 1}], **answer}, {"providers": [{"id": 2}]})
    assert [each.id for each in script.client().market(sort="price")] == [1, 2]
    assert dict(script.requests[1].url.params) == {"sort": "price", **query}


def stream(*events: str) -> httpx.Response:
    return httpx.Response(200, text="".join(events), headers={"content-type": "text/event-stream"})


def event(kind: str, number: int, data: str) -> str:
    return f"id: {number}\nevent: {kind}\ndata: {data}\n\n"


END = event("end", 9, '{"job": {"job_id": "job-1", "status": "completed"}}')


@pytest.mark.parametrize(
    "broken",
    [
        httpx.ReadError("cut"),
        None,
        stream(),
        stream('event: error\ndata: {"error": "later", "code": "UNAVAILABLE"}\n\n'),
        stream("id: 2\nevent: output\nda"),
    ],
    ids=["cut", "503", "ended", "error", "half an event"],
)
def test_stream_goes_on_after_the_last_event(broken: Step) -> None:
    first = stream(event("output", 1, '{"text": "a"}'))
    script = Script(first, broken, stream(event("output", 2, '{"text": "b"}'), END))
    events = list(script.client().stream("job-1"))
    assert [each.text for each in events] == ["a", "b", ""]
    assert [request.headers.get("last-event-id") for request in script.requests] == [None, "1", "1"]


def test_stream_outlasts_a_market_that_is_away_for_longer_than_a_request_tries() -> None:
    away: list[Step] = [*[None] * 4, *[httpx.ConnectError("refused")] * 4]
    script = Script(stream(event("output", 1, '{"text": "a"}')), *away, stream(END))
    assert [each.kind for each in script.client().stream("job-1")] == ["output", "end"]
    assert script.requests[-1].headers["last-event-id"] == "1"


def test_stream_after_the_end_is_empty() -> None:
    assert list(Script(httpx.Response(204)).client().stream("job-1", after="9")) == []


def test_stream_that_the_market_refuses_is_an_error() -> None:
    script = Script(httpx.Response(404, json={"error": "no job", "code": "JOB_NOT_FOUND"}))
    with pytest.raises(reasons.JobNotFoundError):
        list(script.client().stream("job-1"))


def test_wait_returns_the_ended_job_and_shows_each_event() -> None:
    seen: list[str] = []
    script = Script(stream(event("state", 1, '{"status": "running"}'), END))
    job = script.client().wait("job-1", on_event=lambda each: seen.append(each.kind))
    assert (job.status, seen) == ("completed", ["state", "end"])


@pytest.mark.parametrize("make", [Script.client, Script.async_client])
def test_http_client_of_the_caller_stays_open(make: Callable[[Script], Any]) -> None:
    client = make(Script())
    assert not client._transport._is_own


def test_error_of_the_base_is_caught_by_the_base() -> None:
    script = Script(httpx.Response(409, json={"error": "no", "code": "NEW_REASON"}))
    with pytest.raises(APIError, match="no"):
        script.client().cancel("job-1")
