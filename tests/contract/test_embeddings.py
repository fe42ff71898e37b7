"""`/v1/embeddings` by OpenAI's own client: a real gateway and server, a daemon's messages."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from dcp.v1 import jobs_pb2, prices_pb2, sessions_pb2

from server.domain.embeddings import MAX_OUTPUT_BYTES
from tests.contract.test_chat_completions import HELLO, Scene, scene
from tests.support import vectors
from tests.support.manual_clock import ManualClock
from tests.support.running_server import HANG_SECONDS, refusal
from tests.support.running_server import MODEL as CHAT
from tests.support.vectors import MODEL, VECTOR, inputs_of, lines
from tests.support.whole_renter import export

BOTH = (jobs_pb2.JOB_TYPE_LLM_INFERENCE, jobs_pb2.JOB_TYPE_EMBEDDINGS)


@asynccontextmanager
async def embedding(database_url: str, clock: ManualClock, halala: int = 5000) -> AsyncIterator[Scene]:
    """A scene whose provider serves a model for chats and another one for embeddings."""
    async with scene(database_url, clock, halala) as there:
        chats = sessions_pb2.ServedModel(name=CHAT, context_tokens=2048)
        update = sessions_pb2.CapacityUpdate(
            slots=1,
            models=[chats, vectors.served()],
            job_types=sessions_pb2.OfferedJobTypes(job_types=BOTH),
        )
        await there.daemon.say(capacity_update=update)
        await there.daemon.heard_nothing()
        yield there


@pytest.fixture
async def there(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Scene]:
    async with embedding(sqlite_url, clock) as opened:
        yield opened


async def embeds(there: Scene, output: bytes, **usage: Any) -> sessions_pb2.JobOffer:
    """The daemon runs the job that it is offered, and reports this output as its success."""
    offer: sessions_pb2.JobOffer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    if output:
        await there.daemon.output(offer.lease, 1, output)
    there.market.clock.advance(1)
    await there.daemon.finished(
        offer.lease,
        seconds=1,
        last_output_seq=1 if output else 0,
        usage=jobs_pb2.Usage(**({"prompt_tokens": 7} | usage)),
    )
    return offer


def asked(there: Scene, **body: Any) -> asyncio.Future[Any]:
    """A request of OpenAI's client."""
    values = {"model": MODEL, "input": "a cat"} | body
    return asyncio.ensure_future(there.client().embeddings.with_raw_response.create(**values))


async def posted(there: Scene, **body: Any) -> Any:
    headers = {"authorization": f"Bearer {there.renter.key}"}
    return await there.http.post(
        "/v1/embeddings", json={"model": MODEL, "input": "a"} | body, headers=headers
    )


async def test_embeddings_are_those_of_openai_and_a_billed_job(database_url: str, clock: ManualClock) -> None:
    async with embedding(database_url, clock) as there:
        asking = asked(there, input=["a cat", "قطة"], dimensions=3, user="ignored")
        offer = await embeds(there, lines(VECTOR, [0.125, 3, -0.0625]))
        raw = await asking
        answer = raw.parse()
        assert [each.embedding for each in answer.data] == [VECTOR, [0.125, 3, -0.0625]]
        assert [(each.index, each.object) for each in answer.data] == [(0, "embedding"), (1, "embedding")]
        assert (answer.object, answer.model) == ("list", MODEL)
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (7, 7)
        assert raw.headers["x-request-id"] == offer.lease.job_id
        assert offer.job_type == jobs_pb2.JOB_TYPE_EMBEDDINGS
        assert json.loads(offer.embeddings_request) == {"input": ["a cat", "قطة"], "dimensions": 3}
        job = await there.market.job(jobs_pb2.Job(job_id=offer.lease.job_id))
        assert job.status == jobs_pb2.JOB_STATE_COMPLETED
        assert job.job_type == jobs_pb2.JOB_TYPE_EMBEDDINGS
        assert job.billing.actual_cost_halala == 2  # a second at 100 halala a minute
        assert (await there.market.why(job)).code == jobs_pb2.JOB_CONDITION_COMPLETED
        output = await there.market.output(job, there.renter)
        assert (output.type, output.response) == ("embeddings", "")
        assert output.chunks.encode() == lines(VECTOR, [0.125, 3, -0.0625])


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ("a", ["a"]),
        (["a"], ["a"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        (["a"] * 2048, ["a"] * 2048),
        (list(range(5000)), [list(range(5000))]),
    ],
    ids=["text", "texts", "ids", "lists of ids", "most texts", "many ids"],
)
@pytest.mark.parametrize("form", ["float", "base64", None])
async def test_every_form_of_input_gets_both_forms_of_answer(
    there: Scene, given: Any, passed: list[Any], form: str | None
) -> None:
    if len(passed) > 100 and form is None:
        return
    asking = asyncio.create_task(
        posted(there, input=given, **({"encoding_format": form} if form is not None else {}))
    )
    output = lines(*([VECTOR] * len(passed)))
    offer = await there.daemon.expect("job_offer")
    assert inputs_of(offer) == passed
    assert offer.output_limit_bytes == (MAX_OUTPUT_BYTES if len(passed) == 2048 else 2 << 20)
    await there.daemon.start(offer.lease)
    pieces = [output[at : at + 60_000] for at in range(0, len(output), 60_000)]
    for seq, piece in enumerate(pieces, 1):
        await there.daemon.output(offer.lease, seq, piece)
    await there.finishes(offer, len(pieces), 5, 0)
    answer = (await asking).json()
    expected = vectors.packed(VECTOR) if form == "base64" else VECTOR
    assert [each["embedding"] for each in answer["data"]] == [expected] * len(passed)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [1.5]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [[2**31]]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "3"}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
        ({"model": ""}, "model"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_by_its_name(
    there: Scene, changes: dict[str, Any], param: str
) -> None:
    answer = await posted(there, **changes)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert error["message"].startswith(param)


async def test_half_a_character_is_refused(there: Scene) -> None:
    headers = {"authorization": f"Bearer {there.renter.key}"}
    body = b'{"model": "%s", "input": "\\ud800"}' % MODEL.encode()
    answer = await there.http.post("/v1/embeddings", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_model_for_something_else_is_refused_with_what_it_does(there: Scene) -> None:
    with pytest.raises(openai.NotFoundError) as chats:
        await asked(there, model=CHAT)
    assert chats.value.code == "model_not_found"
    assert chats.value.body["message"] == (  # type: ignore[index]
        f"The model '{CHAT}' makes no embeddings: it answers chats, at /v1/chat/completions; "
        f"{MODEL} make embeddings."
    )
    with pytest.raises(openai.NotFoundError) as embedder:
        await there.client().chat.completions.create(model=MODEL, messages=HELLO)
    assert embedder.value.body["message"] == (  # type: ignore[index]
        f"The model '{MODEL}' answers no chats: it makes embeddings, at /v1/embeddings; {CHAT} answer chats."
    )
    with pytest.raises(openai.NotFoundError) as unknown:
        await asked(there, model="test/embeder")
    text = f"No provider serves the model 'test/embeder' now; did you mean {MODEL}?"
    assert unknown.value.body["message"] == text  # type: ignore[index]


async def test_market_without_embeddings_says_so(sqlite_url: str, clock: ManualClock) -> None:
    async with scene(sqlite_url, clock) as there:
        with pytest.raises(openai.NotFoundError) as refused:
            await asked(there, model=CHAT)
        assert refused.value.body["message"] == (  # type: ignore[index]
            f"The model '{CHAT}' makes no embeddings: it answers chats, at /v1/chat/completions; "
            "no model makes embeddings now."
        )


async def test_list_of_models_says_which_make_embeddings(there: Scene) -> None:
    found = {each["id"]: each for each in (await there.http.get("/v1/models")).json()["data"]}
    assert {name: each["output_modalities"] for name, each in found.items()} == {
        CHAT: ["text"],
        MODEL: ["embeddings"],
    }
    assert found[MODEL]["context_length"] == 512
    assert "max_output_length" not in found[MODEL]
    assert not found[MODEL].get("supported_sampling_parameters")
    [provider] = (await there.http.get("/api/renters/available-providers")).json()["providers"]
    assert (provider["models"], provider["embedding_models"]) == ([MODEL, CHAT], [MODEL])
    for kind, model, count in (
        ("embeddings", MODEL, 1),
        ("embeddings", CHAT, 0),
        ("llm-inference", MODEL, 0),
    ):
        query = f"/api/renters/available-providers?job_type={kind}&model={model}"
        assert (await there.http.get(query)).json()["total"] == count
    prices = {each["id"]: each for each in (await there.http.get("/v1/pricing")).json()["data"]}
    assert prices[CHAT]["usd_per_minute"] != prices[MODEL]["usd_per_minute"]


async def test_no_money_and_nobody_live_are_told_as_for_chats(there: Scene) -> None:
    poor = await there.market.renter(0)
    with pytest.raises(openai.APIStatusError) as broke:
        await there.client(poor.key).embeddings.create(model=MODEL, input="a")
    assert (broke.value.status_code, broke.value.code) == (402, "insufficient_quota")
    there.daemon.cut()
    await there.market.later(31)
    answer = await posted(there)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")


async def test_text_over_the_context_is_told_and_not_charged(there: Scene) -> None:
    asking = asked(there, input="x" * 3000)
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    await there.fails(offer, jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG)
    with pytest.raises(openai.BadRequestError) as refused:
        await asking
    assert refused.value.code == "context_length_exceeded"
    job = await there.market.job(jobs_pb2.Job(job_id=offer.lease.job_id))
    assert job.billing.actual_cost_halala == 0


async def test_context_that_no_text_fills_is_no_reason_to_fail(there: Scene) -> None:
    """Together they are longer than the context, but each is read alone."""
    asking = asked(there, input=["x" * 100] * 50)
    offer = await there.daemon.expect("job_offer")
    await there.daemon.start(offer.lease)
    await there.fails(offer, jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG)
    with pytest.raises(openai.InternalServerError):
        await asking
    job = await there.market.job(jobs_pb2.Job(job_id=offer.lease.job_id))
    assert job.failure_reason == jobs_pb2.FAILURE_REASON_IMPOSSIBLE_REPORT


@pytest.mark.parametrize(
    "output",
    [
        b"",
        lines(VECTOR),
        lines(VECTOR, VECTOR, VECTOR),
        lines(VECTOR, VECTOR[:2]),
        lines(VECTOR) + b"{}\n",
        lines(VECTOR, VECTOR).replace(b'"index": 1', b'"index": 0'),
        lines(VECTOR, VECTOR)[:-9],
        lines(VECTOR) + json.dumps({"index": 1, "embedding": vectors.packed([math.nan] * 3)}).encode(),
        lines(VECTOR) + json.dumps({"index": 1, "embedding": vectors.packed([math.inf, 0, 0])}).encode(),
        lines(VECTOR) + b'{"index": 1, "embedding": [0.5, 0.25, 1]}\n',
        b"\xff\xfe not lines at all",
    ],
    ids=[
        *("nothing", "too few", "too many", "other length", "no vector", "index twice", "cut"),
        *("not a number", "infinite", "numbers", "no text"),
    ],
)
async def test_output_that_is_not_what_was_asked_for_never_reaches_the_renter(
    there: Scene, output: bytes
) -> None:
    asking = asked(there, input=["a", "b"])
    offer = await embeds(there, output)
    with pytest.raises(openai.InternalServerError) as refused:
        await asking
    assert refused.value.status_code == 502
    job = await there.market.job(jobs_pb2.Job(job_id=offer.lease.job_id))
    assert job.status == jobs_pb2.JOB_STATE_FAILED
    assert job.failure_reason == jobs_pb2.FAILURE_REASON_IMPOSSIBLE_REPORT
    assert job.billing.actual_cost_halala == 0
    assert job.billing.refund_halala == job.cost_halala
    (attempt,) = (await there.market.why(job)).attempts
    assert attempt.outcome == jobs_pb2.ATTEMPT_OUTCOME_FAILED


async def test_other_dimensions_than_asked_for_fail(there: Scene) -> None:
    asking = asked(there, dimensions=2)
    await embeds(there, lines(VECTOR))
    with pytest.raises(openai.InternalServerError):
        await asking


async def test_tokens_are_paid_for_what_was_counted_and_never_more_than_held(there: Scene) -> None:
    price = prices_pb2.SetPriceRequest(
        model=MODEL, sar_per_million_input_tokens="10", sar_per_million_output_tokens="100000"
    )
    await there.market.price_service.SetPrice(price, metadata=there.market.admin_metadata)

    async def paid(counted: int, **body: Any) -> tuple[int, int]:
        """What was held and what was charged, in millionths of a halala."""
        asking = asked(there, **body)
        count = len(body["input"]) if isinstance(body["input"][0], str | list) else 1
        usage = {"prompt_tokens": counted, "completion_tokens": 50}
        offer = await embeds(there, lines(*([VECTOR] * count)), **usage)
        await asking
        job = await there.market.job(jobs_pb2.Job(job_id=offer.lease.job_id))
        return job.billing.hold_micro_halala, job.billing.actual_cost_micro_halala

    # 10 SAR a million are 1,000 millionths of a halala a token.
    held, charged = await paid(7, input=["a" * 40])
    assert charged == 7000
    assert held >= 40_000
    assert (await paid(0, input=["a" * 40]))[1] == 10_000  # not counted: four bytes are a token
    assert (await paid(0, input=[1, 2, 3]))[1] == 3000
    held, charged = await paid(10**6, input=["a", "b"])
    assert charged <= held
    quoted = jobs_pb2.QuoteJobRequest(
        job_type=jobs_pb2.JOB_TYPE_EMBEDDINGS, params=jobs_pb2.JobParams(model=MODEL, prompt="a" * 40)
    )
    quote = await there.market.job_service.QuoteJob(quoted, metadata=there.renter.metadata)
    assert quote.able == 1
    assert quote.hold_micro_halala >= 40_000
    assert quote.price.sar_per_million_input_tokens == "10"


async def test_text_can_be_submitted_as_any_job(there: Scene) -> None:
    params = jobs_pb2.JobParams(model=MODEL, prompt="a cat")
    request = jobs_pb2.SubmitJobRequest(job_type=jobs_pb2.JOB_TYPE_EMBEDDINGS, params=params)
    job = (await there.market.job_service.SubmitJob(request, metadata=there.renter.metadata)).job
    offer = await embeds(there, lines(VECTOR))
    assert (offer.lease.job_id, inputs_of(offer)) == (job.job_id, ["a cat"])
    assert (await there.market.output(job, there.renter)).chunks.encode() == lines(VECTOR)
    request.params.model = CHAT
    refused = await refusal(there.market.job_service.SubmitJob(request, metadata=there.renter.metadata))
    assert refused.reason == "MODEL_NOT_SERVED"
    assert f"'{CHAT}' for llm-inference" in refused.message


async def test_idempotent_repeat_is_one_job(there: Scene) -> None:
    more: Any = {"extra_headers": {"Idempotency-Key": "once"}}
    first = asked(there, **more)
    offer = await embeds(there, lines(VECTOR))
    one, again = await first, await asked(there, **more)
    assert one.headers["x-request-id"] == again.headers["x-request-id"] == offer.lease.job_id
    with pytest.raises(openai.ConflictError):
        await asked(there, input="another", **more)


async def test_export_has_what_was_to_be_embedded(there: Scene) -> None:
    asking = asked(there)
    await embeds(there, lines(VECTOR))
    await asking
    pages = await export(there.market, there.renter)
    found = [job.embeddings_request for page in pages for job in page.jobs]
    assert found == ['{"input":["a cat"]}']


async def until_queued(there: Scene) -> None:
    """Waits until the renter has a job in the queue."""
    listing = jobs_pb2.ListOwnJobsRequest(page_size=1)
    async with asyncio.timeout(HANG_SECONDS):
        while not (await there.market.job_service.ListOwnJobs(listing, metadata=there.renter.metadata)).jobs:
            await asyncio.sleep(0.01)


async def test_jobs_go_to_whom_the_model_serves_for_their_type(there: Scene) -> None:
    """Two providers serve a model of the same name, each for something else."""
    both = sessions_pb2.ServedModel(name="test/both")
    update = sessions_pb2.CapacityUpdate(slots=2, models=[both])
    await there.daemon.say(capacity_update=update)
    other = await there.market.daemon(
        await there.market.provider(), models=[vectors.served("test/both")], job_types=BOTH, slots=0
    )
    await other.heard_nothing()
    asking = asked(there, model="test/both")
    await until_queued(there)
    # Its slots are free, but its model makes no embeddings.
    await there.daemon.say(capacity_update=sessions_pb2.CapacityUpdate(slots=3, models=[both]))
    await there.daemon.heard_nothing()
    found = (await there.http.get("/v1/models")).json()["data"]
    assert [each["output_modalities"] for each in found if each["id"] == "test/both"] == [
        ["text", "embeddings"]
    ]
    await other.say(
        capacity_update=sessions_pb2.CapacityUpdate(slots=2, models=[vectors.served("test/both")])
    )
    offer = await other.expect("job_offer")
    assert offer.job_type == jobs_pb2.JOB_TYPE_EMBEDDINGS
    await other.start(offer.lease)
    await other.output(offer.lease, 1, lines(VECTOR))
    await other.finished(offer.lease, seconds=1, last_output_seq=1)
    assert (await asking).parse().data[0].embedding == VECTOR
    chat = asyncio.ensure_future(there.client().chat.completions.create(model="test/both", messages=HELLO))
    await there.answers("Hi")
    assert (await chat).choices[0].message.content == "Hi"
    await other.heard_nothing()


async def test_image_model_gets_no_chats(sqlite_url: str, clock: ManualClock) -> None:
    async with scene(sqlite_url, clock) as there:
        kinds = [jobs_pb2.JOB_TYPE_LLM_INFERENCE, jobs_pb2.JOB_TYPE_IMAGE_GENERATION]
        draws = sessions_pb2.ServedModel(name="test/draws", job_types=kinds[1:])
        chats = sessions_pb2.ServedModel(name=CHAT)
        update = sessions_pb2.CapacityUpdate(
            slots=1, models=[chats, draws], job_types=sessions_pb2.OfferedJobTypes(job_types=kinds)
        )
        await there.daemon.say(capacity_update=update)
        await there.daemon.heard_nothing()
        with pytest.raises(openai.NotFoundError):
            await there.client().chat.completions.create(model="test/draws", messages=HELLO)
        assert [each["id"] for each in (await there.http.get("/v1/models")).json()["data"]] == [CHAT]
        params = jobs_pb2.JobParams(model="test/draws", prompt="a cat")
        await there.market.submit(there.renter, job_type=kinds[1], params=params)
        assert (await there.daemon.expect("job_offer")).params.model == "test/draws"
