"""Runs a whole server for tests: real gRPC on a free port, a real database, and a manual clock."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

import grpc
import pytest
from dcp.v1 import (
    accounts_pb2,
    accounts_pb2_grpc,
    admin_pb2_grpc,
    artifacts_pb2_grpc,
    batches_pb2_grpc,
    chats_pb2,
    chats_pb2_grpc,
    disputes_pb2_grpc,
    errors_pb2,
    gpu_proofs_pb2_grpc,
    incidents_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    keys_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    mailboxes_pb2_grpc,
    metrics_pb2_grpc,
    models_pb2_grpc,
    operations_pb2_grpc,
    oversight_pb2_grpc,
    prices_pb2_grpc,
    privacy_pb2_grpc,
    providers_pb2,
    providers_pb2_grpc,
    recovery_pb2_grpc,
    renters_pb2,
    renters_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
    statements_pb2_grpc,
    terms_pb2_grpc,
    webhooks_pb2_grpc,
    withdrawals_pb2_grpc,
)
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from server.app import Server
from server.config import DEFAULT_BLOB_STORE, MINIMUMS, Config
from server.domain.artifacts import ArtifactLimits
from server.domain.dollars import DEFAULT_SAR_PER_USD
from server.domain.hindrances import Minimums
from server.domain.incidents import Thresholds
from server.domain.inputs import InputLimits
from server.domain.leases import MAX_OUTPUT_BYTES
from server.domain.limits import OFF, Limits
from server.domain.payouts import PayoutTerms
from server.domain.storage import STORAGE_LIMITS, StorageLimits
from server.store.models import Provider, Renter
from server.version import CURRENT
from tests.support.manual_clock import ManualClock

T = TypeVar("T")
ADMIN_TOKEN = "admin-token-of-the-tests-0123456789"
MODEL = "test/model"
OF_MODELS = (
    jobs_pb2.JOB_TYPE_LLM_INFERENCE,
    jobs_pb2.JOB_TYPE_IMAGE_GENERATION,
    jobs_pb2.JOB_TYPE_EMBEDDINGS,
)
"""The job types that a model serves or does not serve."""
AT_ONCE = PayoutTerms(proven_hours=0, new_hours=0)
HANG_SECONDS = 20  # how long a test waits before it fails

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Refusal:
    """An error as a client sees it."""

    code: grpc.StatusCode
    reason: str
    message: str
    facts: errors_pb2.ErrorFacts


@dataclass(frozen=True)
class Party:
    """A registered provider or renter."""

    id: int
    key: str

    @property
    def metadata(self) -> Metadata:
        """The metadata with its credential."""
        return bearer(self.key)


def bearer(key: str) -> Metadata:
    """A credential as call metadata."""
    return (("authorization", f"Bearer {key}"),)


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Parses an error, which must have exactly one ErrorInfo."""
    status = rpc_status.from_call(error)
    assert status is not None, f"an error without details: {error}"
    info, facts = error_details_pb2.ErrorInfo(), errors_pb2.ErrorFacts()
    assert [detail.Unpack(info) for detail in status.details].count(True) == 1
    for detail in status.details:
        detail.Unpack(facts)
    assert info.domain == "dcp.v1"
    return Refusal(error.code(), info.reason, error.details() or "", facts)


async def refusal(call: Awaitable[Any]) -> Refusal:
    """The error of a call. The test fails if the call succeeds."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return read_refusal(caught.value)


class Daemon:
    """A daemon's stream under the control of a test: it sends nothing by itself."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._boot_id = secrets.token_hex(8)
        self._heartbeats = 0
        self.refusal: sessions_pb2.SessionRefusal | None = None
        """Why the server ended the stream, as it said before."""
        self.held: list[sessions_pb2.Lease] = []
        """The leases that its heartbeats list: accepted, and without a reported result."""

    async def say(self, **kind: Any) -> None:
        """Sends a message."""
        await self._call.write(sessions_pb2.DaemonMessage(**kind))

    async def hear(self) -> sessions_pb2.ServerMessage | None:
        """The next message; None at the end of the stream. Raises AioRpcError if the stream failed.

        Why the server ends a stream comes as a message too, before the status that the tests look at.
        """
        async with asyncio.timeout(HANG_SECONDS):
            message = await self._call.read()
            if message is not grpc.aio.EOF and message.HasField("refusal"):
                self.refusal = message.refusal
                message = await self._call.read()
        return None if message is grpc.aio.EOF else message

    async def expect(self, kind: str) -> Any:
        """The next message, which must have this kind."""
        message = await self.hear()
        assert message is not None, f"the stream ended before {kind}"
        assert message.WhichOneof("kind") == kind, message
        return getattr(message, kind)

    async def hello(self, **changes: Any) -> Any:
        """Opens the session with Hello; returns Welcome."""
        values: dict[str, Any] = {
            "boot_id": self._boot_id,
            "protocol_version": 1,
            "slots": 1,
            "takes_inputs": True,
            "job_types": [jobs_pb2.JOB_TYPE_LLM_INFERENCE],
        }
        kinds = [kind for kind in (values | changes)["job_types"] if kind in OF_MODELS]
        model = sessions_pb2.ServedModel(name=MODEL, context_tokens=2048, warm=True, job_types=kinds)
        values["models"] = [model]
        self.held = list(changes.get("held_leases", ()))
        await self.say(hello=sessions_pb2.Hello(**(values | changes)))
        return await self.expect("welcome")

    async def heartbeat(self, **fields: Any) -> None:
        """Sends a heartbeat and reads the acknowledgement, which must be the next message."""
        self._heartbeats += 1
        values = {"held_leases": self.held} | fields
        await self.say(heartbeat=sessions_pb2.SessionHeartbeat(sequence=self._heartbeats, **values))
        assert (await self.expect("heartbeat_ack")).sequence == self._heartbeats

    async def heard_nothing(self) -> None:
        """Asserts that no message is pending: the next one is the answer to a heartbeat."""
        await self.heartbeat()

    async def accept(self, lease: sessions_pb2.Lease) -> None:
        """Accepts an offer."""
        self.held.append(lease)
        await self.say(offer_reply=sessions_pb2.OfferReply(lease=lease, accepted=True))

    async def refuse(self, lease: sessions_pb2.Lease) -> None:
        """Refuses an offer."""
        await self.say(offer_reply=sessions_pb2.OfferReply(lease=lease, refusal="no disk"))

    async def start(self, lease: sessions_pb2.Lease) -> None:
        """Accepts an offer and starts the run."""
        await self.accept(lease)
        await self.say(job_started=sessions_pb2.JobStarted(lease=lease))

    async def output(self, lease: sessions_pb2.Lease, seq: int, data: bytes) -> Any:
        """Sends an output chunk; returns the acknowledgement."""
        await self.say(output_chunk=sessions_pb2.OutputChunk(lease=lease, seq=seq, data=data))
        return await self.expect("output_ack")

    async def finish(
        self,
        lease: sessions_pb2.Lease,
        *,
        outcome: int = sessions_pb2.RUN_OUTCOME_SUCCEEDED,
        seconds: float = 0,
        last_output_seq: int = 0,
        **fields: Any,
    ) -> None:
        """Reports the end of a run."""
        report = sessions_pb2.JobFinished(
            lease=lease,
            outcome=outcome,  # type: ignore[arg-type]
            last_output_seq=last_output_seq,
            **fields,
        )
        report.run_time.FromMilliseconds(round(seconds * 1000))
        self.held = [held for held in self.held if held != lease]
        await self.say(job_finished=report)

    async def finished(self, lease: sessions_pb2.Lease, **fields: Any) -> int:
        """Reports the end of a run; returns the server's answer."""
        await self.finish(lease, **fields)
        disposition: int = (await self.expect("result_ack")).disposition
        return disposition

    async def ended(self) -> Refusal | None:
        """Waits for the end of the stream; returns its error, or None."""
        try:
            message = await self.hear()
        except grpc.aio.AioRpcError as error:
            return read_refusal(error)
        assert message is None, message
        async with asyncio.timeout(HANG_SECONDS):
            assert await self._call.code() is grpc.StatusCode.OK
        return None

    def cut(self) -> None:
        """Breaks the connection."""
        self._call.cancel()


class Market:
    """A running server with everything that a test needs to control it."""

    def __init__(self, server: Server, clock: ManualClock, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.clock = clock
        self.channel = channel
        self.account_service = accounts_pb2_grpc.AccountServiceStub(channel)
        self.admin_service = admin_pb2_grpc.AdminServiceStub(channel)
        self.gpu_proof_service = gpu_proofs_pb2_grpc.GpuProofServiceStub(channel)
        self.incident_service = incidents_pb2_grpc.IncidentServiceStub(channel)
        self.artifact_service = artifacts_pb2_grpc.ArtifactServiceStub(channel)
        self.batch_service = batches_pb2_grpc.BatchServiceStub(channel)
        self.chat_service = chats_pb2_grpc.ChatServiceStub(channel)
        self.dispute_service = disputes_pb2_grpc.DisputeServiceStub(channel)
        self.job_service = jobs_pb2_grpc.JobServiceStub(channel)
        self.key_service = keys_pb2_grpc.KeyServiceStub(channel)
        self.ledger_service = ledger_pb2_grpc.LedgerServiceStub(channel)
        self.mailbox_service = mailboxes_pb2_grpc.MailboxServiceStub(channel)
        self.metric_service = metrics_pb2_grpc.MetricServiceStub(channel)
        self.model_service = models_pb2_grpc.ModelServiceStub(channel)
        self.operation_service = operations_pb2_grpc.OperationServiceStub(channel)
        self.oversight_service = oversight_pb2_grpc.OversightServiceStub(channel)
        self.price_service = prices_pb2_grpc.PriceServiceStub(channel)
        self.privacy_service = privacy_pb2_grpc.PrivacyServiceStub(channel)
        self.provider_service = providers_pb2_grpc.ProviderServiceStub(channel)
        self.recovery_service = recovery_pb2_grpc.RecoveryServiceStub(channel)
        self.renter_service = renters_pb2_grpc.RenterServiceStub(channel)
        self.session_service = sessions_pb2_grpc.SessionServiceStub(channel)
        self.statement_service = statements_pb2_grpc.StatementServiceStub(channel)
        self.terms_service = terms_pb2_grpc.TermsServiceStub(channel)
        self.withdrawal_service = withdrawals_pb2_grpc.WithdrawalServiceStub(channel)
        self.webhook_service = webhooks_pb2_grpc.WebhookServiceStub(channel)
        self._streams: list[Any] = []
        self._stopped = False
        self._parties = 0

    admin_metadata = bearer(ADMIN_TOKEN)

    async def stop(self) -> None:
        """Stops the server, once."""
        if not self._stopped:
            self._stopped = True
            await self.server.stop()

    async def sql(self, work: Callable[[], T]) -> T:
        """Runs a write transaction without the services, for states that no use case can produce."""
        return await self.server._database.run(work)

    async def set_provider(self, provider: Party, **values: Any) -> None:
        """Changes a provider's row."""
        await self.sql(lambda: Provider.update(**values).where(Provider.id == provider.id).execute())

    async def set_renter(self, renter: Party, **values: Any) -> None:
        """Changes a renter's row."""
        await self.sql(lambda: Renter.update(**values).where(Renter.id == renter.id).execute())

    async def tick(self) -> None:
        """Runs each duty of the market's loop once, now. Raises the error of the first duty that failed."""
        for error in await self.server.loops[0].tick():
            raise error

    async def vouch(self, *providers: Party) -> None:
        """An operator vouches for these providers: they are proven, and all their slots are believed."""
        for provider in providers:
            await self.account_service.VouchForProvider(
                accounts_pb2.VouchForProviderRequest(provider_id=provider.id, vouched=True, reason="known"),
                metadata=self.admin_metadata,
            )

    async def judge(self) -> None:
        """Judges the reports that have arrived, as the server does each second."""
        await self._do("judge reports")

    async def check(self) -> None:
        """Judges the canaries that ended, and submits those that are due."""
        await self._do("check providers")

    async def run_batches(self) -> None:
        """Advances every batch once, as the server does each quarter of a second."""
        await self._do("run batches")

    async def _do(self, duty_name: str) -> None:
        """Runs the loop of a single duty once. Raises the duty's error."""
        (loop,) = (loop for loop in self.server.loops if [duty.name for duty in loop.duties] == [duty_name])
        for error in await loop.tick():
            raise error

    async def later(self, seconds: float) -> None:
        """Advances the clock and runs each duty of the market's loop once."""
        self.clock.advance(seconds)
        await self.tick()

    async def provider(self) -> Party:
        """Registers a new provider."""
        self._parties += 1
        registered = await self.provider_service.RegisterProvider(
            providers_pb2.RegisterProviderRequest(name="P", email=f"p{self._parties}@example.com")
        )
        return Party(registered.provider_id, registered.api_key)

    async def renter(self, halala: int = 5000) -> Party:
        """Registers a new renter with money."""
        self._parties += 1
        registered = await self.renter_service.RegisterRenter(
            renters_pb2.RegisterRenterRequest(name="R", email=f"r{self._parties}@example.com")
        )
        if halala:
            await self.ledger_service.CreditRenter(
                ledger_pb2.CreditRenterRequest(renter_id=registered.renter_id, amount_halala=halala),
                metadata=self.admin_metadata,
            )
        return Party(registered.renter_id, registered.api_key)

    def connect(self, provider: Party) -> Daemon:
        """Opens a stream without sending Hello."""
        call = self.session_service.Connect(metadata=provider.metadata)
        self._streams.append(call)
        return Daemon(call)

    async def daemon(self, provider: Party, **hello: Any) -> Daemon:
        """Connects a daemon with a session."""
        daemon = self.connect(provider)
        await daemon.hello(**hello)
        return daemon

    async def submit(
        self, renter: Party, provider: Party | None = None, *, key: str = "", **changes: Any
    ) -> jobs_pb2.Job:
        """Submits three minutes of inference, with changes."""
        values: dict[str, Any] = {
            "job_type": jobs_pb2.JOB_TYPE_LLM_INFERENCE,
            "duration_minutes": 3,
            "params": jobs_pb2.JobParams(model=MODEL, prompt="Say hello."),
            "idempotency_key": key,
        }
        if provider is not None:
            values["provider_id"] = provider.id
        if changes.get("job_type", jobs_pb2.JOB_TYPE_LLM_INFERENCE) != jobs_pb2.JOB_TYPE_LLM_INFERENCE:
            values["container_spec"] = jobs_pb2.ContainerSpec(image="busybox")
        request = jobs_pb2.SubmitJobRequest(**(values | changes))
        return (await self.job_service.SubmitJob(request, metadata=renter.metadata)).job

    async def chat(self, renter: Party, request: bytes, **fields: Any) -> jobs_pb2.Job:
        """Submits a conversation."""
        wanted = chats_pb2.SubmitChatRequest(request=request, **({"model": MODEL} | fields))
        return (await self.chat_service.SubmitChat(wanted, metadata=renter.metadata)).job

    async def job(self, job: jobs_pb2.Job) -> jobs_pb2.Job:
        """The current job, as an operator sees it."""
        request = jobs_pb2.GetJobRequest(job_id=job.job_id)
        return (await self.job_service.GetJob(request, metadata=self.admin_metadata)).job

    async def why(self, job: jobs_pb2.Job, who: Party | None = None) -> jobs_pb2.ExplainJobResponse:
        """Why the job waits or failed, as the caller sees it; the default caller is an operator."""
        request = jobs_pb2.ExplainJobRequest(job_id=job.job_id)
        metadata = who.metadata if who is not None else self.admin_metadata
        return await self.job_service.ExplainJob(request, metadata=metadata)

    async def output(self, job: jobs_pb2.Job, who: Party) -> jobs_pb2.GetJobOutputResponse:
        """The job's output."""
        request = jobs_pb2.GetJobOutputRequest(job_id=job.job_id)
        return await self.job_service.GetJobOutput(request, metadata=who.metadata)

    async def cancel(self, job: jobs_pb2.Job, who: Party) -> jobs_pb2.Job:
        """Cancels the job."""
        request = jobs_pb2.CancelJobRequest(job_id=job.job_id)
        return (await self.job_service.CancelJob(request, metadata=who.metadata)).job

    async def wallet(self, renter: Party) -> tuple[int, int]:
        """A renter's balance and the sum of its open holds, in halala."""
        answer = await self.renter_service.GetOwnRenter(
            renters_pb2.GetOwnRenterRequest(), metadata=renter.metadata
        )
        return answer.renter.balance_halala, answer.renter.held_halala

    async def earned(self, provider: Party) -> int:
        """The amount that a provider can withdraw, in halala."""
        answer = await self.provider_service.GetOwnProvider(
            providers_pb2.GetOwnProviderRequest(), metadata=provider.metadata
        )
        return answer.provider.earnings.claimable_halala

    async def running_job(
        self, renter: Party, provider: Party, daemon: Daemon, *, output: bytes = b"", **changes: Any
    ) -> tuple[jobs_pb2.Job, sessions_pb2.Lease]:
        """A job that its daemon has started, with its lease. An inference without output is not charged."""
        job = await self.submit(renter, provider, **changes)
        lease = (await daemon.expect("job_offer")).lease
        await daemon.start(lease)
        if output:
            await daemon.output(lease, 1, output)
        await daemon.heard_nothing()
        return job, lease

    async def assert_money_adds_up(self) -> None:
        """Asserts that the ledger's proof finds no discrepancy."""
        proof = await self.ledger_service.ProveLedger(
            ledger_pb2.ProveLedgerRequest(), metadata=self.admin_metadata
        )
        assert (proof.balanced, list(proof.discrepancies)) == (True, [])

    def cut_streams(self) -> None:
        """Breaks all connections."""
        for call in self._streams:
            call.cancel()


@asynccontextmanager
async def running(
    url: str,
    clock: ManualClock,
    *,
    admin_token: str | None = ADMIN_TOKEN,
    sandbox_topup: bool = False,
    max_output_bytes: int = MAX_OUTPUT_BYTES,
    limits: Limits = OFF,
    provider_approval: bool = False,
    webhooks_allow_private: bool = False,
    minimums: Minimums = MINIMUMS,
    blob_store: str = DEFAULT_BLOB_STORE,
    artifact_limits: ArtifactLimits | None = None,
    input_limits: InputLimits | None = None,
    newest_daemon: str = CURRENT,
    storage_limits: StorageLimits = STORAGE_LIMITS,
    payouts: PayoutTerms = AT_ONCE,
    canary_percent: int = 0,
    sar_per_usd: Decimal = DEFAULT_SAR_PER_USD,
    incidents: Thresholds | None = None,
) -> AsyncIterator[Market]:
    """Runs a server on 127.0.0.1 until the block ends, which does its duties only when a test says so.

    It has no rate limits, as the clock stands still. Payouts can be withdrawn at once unless a test asks for
    others.
    """
    config = Config(
        url,
        "127.0.0.1:0",
        admin_token,
        sandbox_topup,
        None,
        "INFO",
        max_output_bytes,
        limits,
        provider_approval=provider_approval,
        webhooks_allow_private=webhooks_allow_private,
        minimums=minimums,
        blob_store=blob_store,
        artifact_limits=artifact_limits or ArtifactLimits(),
        input_limits=input_limits or InputLimits(),
        newest_daemon=newest_daemon,
        storage_limits=storage_limits,
        payouts=payouts,
        canary_percent=canary_percent,
        sar_per_usd=sar_per_usd,
        incidents=incidents or Thresholds(),
    )
    server = Server(config, clock)
    await server.start()
    # They run each second of real time, so on a busy machine one would come between two steps of a test.
    await server._end_loops()
    async with grpc.aio.insecure_channel(
        server.address, options=[("grpc.max_receive_message_length", 36 << 20)]
    ) as channel:
        market = Market(server, clock, channel)
        try:
            yield market
        finally:
            market.cut_streams()
            await market.stop()
