"""A renter with rows in every table that can hold rows of a renter. Each of its texts has a marker."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import Any

from dcp.v1 import (
    artifacts_pb2,
    disputes_pb2,
    jobs_pb2,
    keys_pb2,
    options_pb2,
    privacy_pb2,
    renters_pb2,
    sessions_pb2,
    webhooks_pb2,
)

from server.domain.pricing import per_minute
from server.services.inputs import Announced
from server.store import inputs, prices
from server.store.models import MODELS, tuples
from tests.support.running_server import MODEL, Daemon, Market, Party
from tests.support.webhook_receiver import Receiver, receiving

NAME = "Mrkname 😀 منى"
EMAIL = "MrkMail@Example.com"
INPUT_NAME = "MrkInput.tar"
FETCH_URL = "https://data.example/mrkaddress"
PROBLEM = "mrkproblem"
ORGANIZATION = "mrkorganization"
PHONE = "+966501234567"
KEY_NAME = "mrkkeyname"
PATH = "mrkwebhookpath"
PROMPT = "mrkprompt منى"
ENV = "mrkenv"
GPU_MODEL = "mrkgpu"
LLM, CONTAINER = jobs_pb2.JOB_TYPE_LLM_INFERENCE, jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER
SUBMIT_KEY = "mrksubmitkey"
TOP_UP_KEY = "mrktopupkey"
OUTPUT = "mrkoutput"
LOG = "mrklog"
FAILURE = "mrkfailure"
IMAGE_DIGEST = f"sha256:{'d' * 64}"
LOST_OUTPUT = "mrklostoutput"
FILE_NAME = "mrkfile/model.bin"
FILE = b"mrkbytes of a file"
LOST_FILE_NAME = "mrklostfile.bin"
OBJECTION = "mrkobjection"
MARKERS = (
    *(
        NAME,
        EMAIL,
        ORGANIZATION,
        PHONE,
        KEY_NAME,
        PATH,
        PROMPT,
        ENV,
        GPU_MODEL,
        SUBMIT_KEY,
        TOP_UP_KEY,
    ),
    *(
        INPUT_NAME,
        FETCH_URL,
        PROBLEM,
        OUTPUT,
        LOG,
        FAILURE,
        LOST_OUTPUT,
        FILE_NAME,
        LOST_FILE_NAME,
        OBJECTION,
    ),
)


@dataclass
class Whole:
    """The renter, the provider that ran its jobs, and the jobs."""

    renter: Party
    provider: Party
    daemon: Daemon
    completed: jobs_pb2.Job
    failed: jobs_pb2.Job
    sub_key: Party
    receiver: Receiver
    input_id: str
    """An input that the completed job read."""


@contextlib.asynccontextmanager
async def whole_renter(market: Market) -> Any:
    """Creates the renter in a market with sandbox top-up and private webhooks. All its jobs have ended."""
    request = renters_pb2.RegisterRenterRequest(
        name=NAME, email=EMAIL, organization=ORGANIZATION, phone=PHONE
    )
    registered = await market.renter_service.RegisterRenter(request)
    renter = Party(registered.renter_id, registered.api_key)
    top_up = renters_pb2.TopUpOwnWalletRequest(amount_halala=5000, idempotency_key=TOP_UP_KEY)
    await market.renter_service.TopUpOwnWallet(top_up, metadata=renter.metadata)
    key_request = keys_pb2.CreateKeyRequest(name=KEY_NAME, scopes=[options_pb2.SCOPE_READ])
    sub_key = await market.key_service.CreateKey(key_request, metadata=renter.metadata)
    async with receiving() as receiver:
        webhook = webhooks_pb2.SetWebhookRequest(url=f"{receiver.url}/{PATH}", balance_low_halala=4700)
        await market.webhook_service.SetWebhook(webhook, metadata=renter.metadata)
        provider = await market.provider()
        daemon = await market.daemon(provider, job_types=[LLM, CONTAINER])
        await market.key_service.SetKeyLimits(
            keys_pb2.SetKeyLimitsRequest(
                key_id=sub_key.key.id,
                budget_halala_per_day=1,
                budget_halala_per_month=1,
                budget_halala_total=1,
                allowed_models=[MODEL],
                allowed_providers=[provider.id],
            ),
            metadata=renter.metadata,
        )
        # Only containers leave files; at this rate they cost what an inference does.
        await market.sql(lambda: prices.change(prices.Kind.JOB_TYPE, "custom_container", per_minute(150), 0))
        needs = jobs_pb2.GpuRequirements(gpu_model=GPU_MODEL, min_vram_gb=0.5)
        await market.set_provider(provider, gpu_model=GPU_MODEL)  # a name that nobody knows is refused
        await market.cancel(await market.submit(renter, gpu_requirements=needs), renter)
        await market.set_provider(provider, gpu_model="")
        failed = await _failed(market, renter, provider, daemon)
        input_id = await send_input(market, renter)
        unfetched = Announced("a", 5, bytes(32), url=FETCH_URL)
        found = await market.server.services.inputs.begin(renter.id, unfetched)
        await market.sql(lambda: inputs.note_problem(found.id, PROBLEM))
        completed = await _completed(market, renter, provider, daemon, input_id)
        dispute = disputes_pb2.OpenDisputeRequest(job_id=completed.job_id, reason=OBJECTION)
        opened = await market.dispute_service.OpenDispute(dispute, metadata=renter.metadata)
        decision = disputes_pb2.DecideDisputeRequest(
            dispute_id=opened.dispute.id, decision=disputes_pb2.DISPUTE_DECISION_REJECT, note="It is not."
        )
        await market.dispute_service.DecideDispute(decision, metadata=market.admin_metadata)
        market.clock.advance(1)
        await market.server.services.deliveries.tick()
        await market.server.services.deliveries.settled()
        own_key = Party(renter.id, sub_key.api_key)
        yield Whole(renter, provider, daemon, completed, failed, own_key, receiver, input_id)


async def _failed(market: Market, renter: Party, provider: Party, daemon: Daemon) -> jobs_pb2.Job:
    job, lease = await market.running_job(renter, provider, daemon)
    await daemon.finished(
        lease,
        outcome=sessions_pb2.RUN_OUTCOME_FAILED,
        failure_reason=jobs_pb2.FAILURE_REASON_ENGINE_FAILED,
        failure_message=FAILURE,
    )
    return job


async def send_input(market: Market, renter: Party, data: bytes = FILE, name: str = INPUT_NAME) -> str:
    """Uploads an input; returns its id."""
    uploads = market.server.services.inputs
    found = await uploads.begin(renter.id, Announced(name, len(data), hashlib.sha256(data).digest()))
    await uploads.append(renter.id, found.input_id, 0, data)
    return (await uploads.finish(renter.id, found.input_id)).input_id


async def _completed(
    market: Market, renter: Party, provider: Party, daemon: Daemon, input_id: str
) -> jobs_pb2.Job:
    """A job whose first attempt was released after it had written output and left a file."""
    job, lease = await market.running_job(
        renter,
        params=jobs_pb2.JobParams(model=MODEL, prompt=PROMPT, max_tokens=7),
        container_spec=jobs_pb2.ContainerSpec(image="busybox", env={"NAME": ENV}, image_type="vllm-serve"),
        job_type=CONTAINER,
        key=SUBMIT_KEY,
        inputs=[jobs_pb2.JobInput(input_id=input_id)],
        provider=provider,
        daemon=daemon,
    )
    await daemon.output(lease, 1, LOST_OUTPUT.encode())
    await send_file(market, provider, lease, LOST_FILE_NAME, FILE)
    await daemon.finished(
        lease, outcome=sessions_pb2.RUN_OUTCOME_RELEASED, last_output_seq=1, failure_message=FAILURE
    )
    lease = (await daemon.expect("job_offer")).lease
    await daemon.start(lease)
    await daemon.output(lease, 1, OUTPUT.encode())
    await daemon.say(log_chunk=sessions_pb2.LogChunk(lease=lease, seq=1, data=LOG.encode() + b"\xff"))
    await daemon.expect("output_ack")
    await send_file(market, provider, lease, FILE_NAME, FILE)
    market.clock.advance(75)
    usage = jobs_pb2.Usage(prompt_tokens=3, completion_tokens=5)
    await daemon.finished(
        lease,
        seconds=75,
        last_output_seq=1,
        usage=usage,
        content_type="text/plain",
        image_digest=IMAGE_DIGEST,
    )
    return job


async def send_file(
    market: Market, provider: Party, lease: sessions_pb2.Lease, name: str, content: bytes
) -> None:
    """Uploads a file of a run, as its daemon does."""
    request = artifacts_pb2.UploadArtifactRequest
    head = artifacts_pb2.ArtifactHeader(
        lease=lease, name=name, size_bytes=len(content), sha256=hashlib.sha256(content).digest()
    )
    requests = iter([request(header=head), request(data=content)])
    call: Any = market.artifact_service.UploadArtifact(requests, metadata=provider.metadata)
    answers = [answer.disposition async for answer in call]
    assert answers == [artifacts_pb2.UPLOAD_DISPOSITION_SEND, artifacts_pb2.UPLOAD_DISPOSITION_STORED]


async def export(market: Market, renter: Party, **fields: Any) -> list[privacy_pb2.ExportOwnDataResponse]:
    """All pages of a renter's export, fetched the way a script does."""
    pages = []
    place = ""
    while True:
        request = privacy_pb2.ExportOwnDataRequest(page=place, **fields)
        pages.append(await market.privacy_service.ExportOwnData(request, metadata=renter.metadata))
        if not pages[-1].HasField("next_page"):
            return pages
        place = pages[-1].next_page


async def delete(
    market: Market, renter: Party, email: str = EMAIL, forfeit: int | None = None
) -> privacy_pb2.DeleteOwnAccountResponse:
    """Deletes an account."""
    request = privacy_pb2.DeleteOwnAccountRequest(email=email, forfeit_balance_halala=forfeit)
    return await market.privacy_service.DeleteOwnAccount(request, metadata=renter.metadata)


async def whole_database(market: Market) -> dict[str, str]:
    """The content of every column of every table as a single lower-case text, by the column's name."""

    def read() -> dict[str, str]:
        found: dict[str, str] = {}
        for model in MODELS:
            names = [column.name for column in model._meta.sorted_fields]
            for row in tuples(model.select()):
                for name, value in zip(names, row, strict=True):
                    place = f"{model._meta.table_name}.{name}"
                    found[place] = found.get(place, "") + f" {_text(value)}".casefold()
        return found

    return await market.sql(read)


def _text(value: Any) -> str:
    is_bytes = isinstance(value, bytes | bytearray | memoryview)
    return bytes(value).decode("utf-8", errors="replace") if is_bytes else str(value)


def places_of(marker: str, database: dict[str, str]) -> list[str]:
    """The columns that contain a marker, either plain or as JSON escapes it."""
    return [place for place, text in database.items() if marker.casefold() in text]
