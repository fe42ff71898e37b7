"""Jobs as renters use them: submit, look up, fetch the output, cancel.

How jobs end is in server.services.endings, how they get to providers in server.services.dispatch.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

from common import tracing
from server.clock import Clock, ms
from server.domain import ledger as accounts
from server.domain.batches import over_budget
from server.domain.budgets import NO_LIMITS, BudgetReachedError, KeyLimits, check_allowed, check_budgets
from server.domain.disputes import Dispute
from server.domain.errors import DomainError, Reason
from server.domain.holds import Reservation, reserve
from server.domain.jobs import (
    FINAL,
    JOB_TRANSITIONS,
    NEED_IMAGE,
    FailureReason,
    Job,
    JobEvent,
    JobRequest,
    JobState,
    JobType,
)
from server.domain.leases import Channel, Offer
from server.domain.levels import NEWCOMERS_PERCENT, Unasked
from server.domain.mailboxes import refuse_unproven
from server.domain.money import micros, text, whole_halala
from server.domain.placement import wants_for
from server.domain.pricing import Price, TimePrice
from server.domain.providers import AccountState
from server.domain.queue import Prospect
from server.domain.quotes import LEAST_LIMIT_MS, limit_ms, promised
from server.domain.storage import STORAGE_LIMITS, StorageLimits
from server.domain.tokens import with_max_tokens
from server.services import endings, job_inputs, outbox, outputs
from server.services.affinity import Affinity
from server.services.dispatch import Dispatch, hasten
from server.services.explain import Explanation, explain, place_in_queue
from server.services.fleet import Fleet
from server.services.job_prices import past_runs, price_of
from server.services.keys import ADMIN, PROVIDER, RENTER, Caller
from server.services.operators.audit import Operator
from server.services.renters import present
from server.services.supply import Supply, check_can_be_run, check_gpu_exists
from server.store import batches, budgets, disputes, inputs, jobs, keys, leases, ledger, standing, storage
from server.store.database import Database

log = logging.getLogger(__name__)
OPEN_JOBS_RETRY_SECONDS = 10
# A renter whose images could not be pulled this often within this time has to wait: pulls are not charged.
MAX_FAILED_PULLS = 10
FAILED_PULLS_SECONDS = 600
# An answer that the wallet cuts to less is not worth its prompt.
LEAST_FITTED_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Output:
    """A job and its output: the whole one if it completed, else what it wrote before it ended."""

    job: Job
    data: bytes


@dataclass(frozen=True, slots=True)
class JobLog:
    """A job and the log of its newest attempt after a given piece."""

    job: Job
    data: bytes
    through_seq: int


class Jobs:
    """The use cases of jobs."""

    def __init__(
        self,
        database: Database,
        dispatch: Dispatch,
        fleet: Fleet,
        clock: Clock,
        max_open_jobs: int = 0,
        storage_limits: StorageLimits = STORAGE_LIMITS,
        *,
        needs_proof: bool = False,
    ) -> None:
        """``needs_proof``: who submits must have proven its e-mail address."""
        self._needs_proof = needs_proof
        self._database = database
        self._dispatch = dispatch
        self._fleet = fleet
        self._clock = clock
        self._max_open_jobs = max_open_jobs
        self._storage_limits = storage_limits
        self._supply = Supply(fleet, clock)
        self._affinity = Affinity()
        self._quote_key: bytes | None = None

    async def submit(self, renter_id: int, request: JobRequest, key_id: int | None = None) -> Job:
        """Holds the maximum cost, stores the job and leases it to a free provider, in one transaction.

        ``key_id`` is the key that submits it. Raises INSUFFICIENT_BALANCE, RENTER_SUSPENDED, RENTER_DELETED,
        EMAIL_NOT_VERIFIED, PROVIDER_NOT_FOUND, PROVIDER_UNAVAILABLE, MODEL_NOT_SERVED, JOB_TYPE_NOT_SERVED,
        IMAGE_NOT_ALLOWED, IDEMPOTENCY_CLASH, RATE_LIMITED, RENTER_STORAGE_FULL, MODEL_NOT_ALLOWED,
        PROVIDER_NOT_ALLOWED, BUDGET_REACHED, INPUT_NOT_FOUND, INPUT_NOT_READY, JOB_NOT_FOUND, WRONG_STATE,
        ARTIFACT_NOT_FOUND, INVALID_FIELD.
        """
        if request.provider_id is None and request.unasked is None:
            request = replace(request, unasked=self._draw())
        if trace := tracing.present_recorded():
            request = replace(request, trace=trace)
        provider_id = request.provider_id or await self._place(renter_id, request)
        quote_key = await self.quote_key() if request.quote_id is not None else None
        try:
            job, offers = await self._database.run(
                lambda: self._submit(renter_id, request, provider_id, key_id, quote_key)
            )
        except BudgetReachedError as reached:
            await self._report(renter_id, reached)
            raise
        self._affinity.note(renter_id, request.model, request.cache_key, job.provider_id)
        self._dispatch.deliver(offers)
        if provider_id is not None and job.state is JobState.QUEUED:
            self._dispatch.placed(provider_id)
        if provider_id is None:
            self._dispatch.left_queued += 1
            await hasten(self._meet_freed(renter_id, request))
        return job

    async def _meet_freed(self, renter_id: int, request: JobRequest) -> None:
        """Offers a job that found nobody to a provider that has become free meanwhile."""
        if (freed := await self._place(renter_id, request)) is not None:
            await self._dispatch.fill(freed)

    async def quote_key(self) -> bytes:
        """The market's key for the ids of quotes; every server has the same."""
        if self._quote_key is None:
            self._quote_key = await self._database.run(standing.secret)
        return self._quote_key

    def _draw(self) -> Unasked:
        """Which providers get a job that names none and asks for no standing: the draw cannot be foreseen."""
        return Unasked.NEWCOMERS if secrets.randbelow(100) < NEWCOMERS_PERCENT else Unasked.BEST

    async def _place(self, renter_id: int, request: JobRequest) -> int | None:
        """Chooses the provider of a job that names none. Reads the quote only if it may change the choice."""
        wants = wants_for(request)
        served_by = self._affinity.find(renter_id, request.model, request.cache_key)
        best = self._dispatch.place(wants, served_by)
        if best is not None and best.own_prices.of(request.job_type, request.model, best.gpu_model):
            quote = await self._database.read(lambda: price_of(request))
            best = self._dispatch.place(replace(wants, quoted=quote), served_by)
        return best.provider_id if best is not None else None

    async def get(self, caller: Caller, job_id: str) -> Job:
        """One job, for its renter, its provider or an operator. Raises JOB_NOT_FOUND, NOT_OWNER."""
        return await self._database.read(lambda: visible(caller, job_id))

    async def dispute(self, job: Job) -> Dispute | None:
        """The dispute about a job; None, without a query, for one without a charge."""
        if job.bill is None or not job.bill.charge_micros:
            return None
        return await self._database.read(lambda: disputes.of_job(job.job_id))

    async def own(
        self, renter_id: int, state: JobState | None, before_job_id: str | None, limit: int
    ) -> tuple[list[Job], str | None]:
        """One page of a renter's jobs, newest first, and the job after which the next page begins.

        Raises JOB_NOT_FOUND if ``before_job_id`` is not a job of the renter.
        """
        return await self._page(
            lambda before: before.renter_id == renter_id,
            lambda before: jobs.page_of_renter(renter_id, state, before, limit + 1),
            before_job_id,
            limit,
        )

    async def of_provider(
        self, provider_id: int, state: JobState | None, before_job_id: str | None, limit: int
    ) -> tuple[list[Job], str | None]:
        """One page of the jobs that a provider has, or had last, and the job that the next page follows.

        Raises JOB_NOT_FOUND if ``before_job_id`` never was a job of the provider.
        """
        return await self._page(
            lambda before: _was_of(before, provider_id),
            lambda before: jobs.page_of_provider(provider_id, state, before, limit + 1),
            before_job_id,
            limit,
        )

    async def _page(
        self,
        is_own: Callable[[Job], bool],
        rows: Callable[[Job | None], list[Job]],
        before_job_id: str | None,
        limit: int,
    ) -> tuple[list[Job], str | None]:
        """Reads one page. ``rows`` reads one job more than ``limit``, which shows whether a page follows."""

        def read() -> list[Job]:
            before = jobs.get(before_job_id) if before_job_id is not None else None
            if before_job_id is not None and (before is None or not is_own(before)):
                raise DomainError(
                    Reason.JOB_NOT_FOUND,
                    "before_job_id: is not a job of yours; send next_before_job_id of the last page",
                    field="before_job_id",
                )
            return rows(before)

        found = await self._database.read(read)
        return found[:limit], found[limit - 1].job_id if len(found) > limit else None

    async def prospect(self, job: Job) -> Prospect:
        """A queued job's position and estimated start; an empty prospect, without a query, for other jobs."""
        if job.state is not JobState.QUEUED:
            return Prospect()
        now_ms = ms(self._clock)
        return await self._database.read(lambda: place_in_queue(job, self._fleet, now_ms))

    async def kept(self, caller: Caller, job_id: str) -> Job:
        """A job whose files were not erased. Raises OUTPUT_ERASED, JOB_NOT_FOUND, NOT_OWNER."""
        return await self._database.read(lambda: _kept(visible(caller, job_id), "files"))

    async def explain(self, caller: Caller, job_id: str) -> Explanation:
        """Why a job waits or failed. Raises JOB_NOT_FOUND, NOT_OWNER."""
        now_ms = ms(self._clock)
        return await self._database.read(lambda: explain(visible(caller, job_id), self._fleet, now_ms))

    async def output(self, caller: Caller, job_id: str, partial: bool = False) -> Output:
        """A job with its output. With ``partial``, also the text of a job that failed or was cancelled.

        Raises JOB_FAILED, JOB_CANCELLED, OUTPUT_ERASED, JOB_NOT_FOUND, NOT_OWNER.
        """

        def read() -> Output:
            job = visible(caller, job_id)
            if job.state not in FINAL:
                return Output(job, b"")
            if job.state is not JobState.COMPLETED:
                written = _partial_bytes(job)
                if not (partial and written):
                    raise _gone(job, written)
            if job.output_bytes:
                _with_texts(_kept(job, "output"), "output")
                return Output(job, outputs.written(job))
            return Output(job, b"")

        return await self._database.read(read)

    async def logs(self, caller: Caller, job_id: str, after_seq: int) -> JobLog:
        """A job with its log after a given piece. Raises OUTPUT_ERASED, JOB_NOT_FOUND, NOT_OWNER."""

        def read() -> JobLog:
            job = _with_texts(_kept(visible(caller, job_id), "log"), "log")
            data, through = leases.read_after(job_id, job.lease_epoch, Channel.LOG, after_seq)
            return JobLog(job, data, through)

        return await self._database.read(read)

    async def cancel(
        self, caller: Caller, job_id: str, operator: Operator | None = None, *, keep_files: bool = False
    ) -> Job:
        """Ends a job, or asks its daemon to end it; an operator's cancel is recorded in the audit log.

        ``keep_files``: what a running job has written to `/output` is stored first. A later cancel without it
        ends the run at once.

        Raises JOB_ALREADY_FINAL, JOB_NOT_FOUND, NOT_OWNER.
        """
        job, provider_id = await self._database.run(
            lambda: self._cancel(caller, job_id, operator, keep_files)
        )
        if provider_id is not None:
            self._dispatch.cancel(provider_id, job_id, job.lease_epoch, keep_files=job.keeps_files)
            await hasten(self._dispatch.fill(provider_id))
        return job

    async def _report(self, renter_id: int, reached: BudgetReachedError) -> None:
        """Adds the event about a budget, which the refused submit could not: it changes nothing."""

        def report() -> None:
            present(renter_id)
            outbox.budget_reached(renter_id, reached, ms(self._clock))

        if not reached.is_reported:
            await self._database.run(report)

    def _submit(
        self,
        renter_id: int,
        request: JobRequest,
        provider_id: int | None,
        key_id: int | None,
        quote_key: bytes | None,
    ) -> tuple[Job, list[Offer]]:
        renter = present(renter_id)
        if renter.state is AccountState.SUSPENDED:
            raise DomainError(
                Reason.RENTER_SUSPENDED, "this account is suspended; write to the marketplace's operator"
            )
        refuse_unproven(self._needs_proof, renter.email_verified_ms)
        if request.idempotency_key and (
            earlier := jobs.by_idempotency_key(renter_id, request.idempotency_key)
        ):
            return _replayed(earlier, request), []
        if request.of_batch is not None:
            _check_batch(request.of_batch, ms(self._clock))
        check_can_be_run(request.job_type)
        check_gpu_exists(request.gpu_model)
        self._check_open_jobs(renter_id)
        self._check_failed_pulls(renter_id, request)
        if request.provider_id is not None:
            self._supply.check_provider(request.provider_id, request)
        elif provider_id is None and not request.wait_for_supply:
            self._supply.check(request)
        now_ms = ms(self._clock)
        request, named = job_inputs.resolved(renter_id, request, now_ms)
        if quote_key is not None and request.quote_id is not None:
            price = promised(request.quote_id, quote_key, renter_id, request.digest, now_ms)
        else:
            price = price_of(request)
        if not request.duration_ms:
            request = replace(request, duration_ms=limit_ms(request, past_runs(renter_id, request)))
        reserved = _reserved(price, request, self.longest_context(price, request), renter_id)
        if reserved.max_tokens is not None:
            request = replace(request, spec=with_max_tokens(request.spec, reserved.max_tokens))
        hold = reserved.hold_micros
        if request.most_hold_micros is not None and hold > request.most_hold_micros:
            raise over_budget(hold, request.most_hold_micros)
        job_id = f"job-{secrets.token_hex(12)}"
        job, size_bytes, is_limited = jobs.insert(
            job_id,
            renter_id,
            request,
            price=price,
            hold_micros=hold,
            limit_ms=reserved.limit_ms,
            now_ms=now_ms,
            key_id=key_id,
        )
        inputs.name_in_job(job_id, named)
        limits = _allowing(job) if is_limited else NO_LIMITS
        kept_bytes = storage.add_request(renter_id, size_bytes)
        self._storage_limits.check_renter(kept_bytes - size_bytes, size_bytes)
        if ledger.open_hold(job_id, renter_id, request.job_type, hold, now_ms):
            outbox.wallet_changed(renter_id, now_ms)
        if limits.budgets:
            _reserve(job, limits)
        offers = self._dispatch.lease_to(provider_id) if provider_id is not None else []
        job = _as_offered(job, offers)
        log.info("submitted job_id=%s state=%s hold_halala=%s", job_id, job.state, text(hold))
        return job, offers

    def longest_context(self, price: Price, request: JobRequest) -> int:
        """The longest context for which a job by tokens can be held; 0: not known, or it does not matter."""
        if isinstance(price, TimePrice) or request.model is None:
            return 0
        return self._fleet.longest_context(request.model, request.provider_id)

    def _check_open_jobs(self, renter_id: int) -> None:
        """Raises RATE_LIMITED. The renter's row is locked, so no other submit can run in between."""
        most = self._max_open_jobs
        if most and ledger.open_holds(renter_id) >= most:
            raise DomainError(
                Reason.RATE_LIMITED,
                f"{most} jobs of this account have not ended, the most that are allowed at once; "
                "wait until one ends, or cancel one",
                retry_after_seconds=OPEN_JOBS_RETRY_SECONDS,
            )

    def _check_failed_pulls(self, renter_id: int, request: JobRequest) -> None:
        """Raises RATE_LIMITED: what a provider downloads before a job starts is not charged."""
        if request.job_type not in NEED_IMAGE:
            return
        since_ms = ms(self._clock) - FAILED_PULLS_SECONDS * 1000
        if jobs.failed_pulls(renter_id, since_ms, MAX_FAILED_PULLS) >= MAX_FAILED_PULLS:
            raise DomainError(
                Reason.RATE_LIMITED,
                f"the images of {MAX_FAILED_PULLS} jobs of this account could not be pulled within the last "
                f"{FAILED_PULLS_SECONDS // 60} minutes; correct container_spec.image and submit again later",
                retry_after_seconds=FAILED_PULLS_SECONDS,
            )

    def _cancel(
        self, caller: Caller, job_id: str, operator: Operator | None, keep_files: bool
    ) -> tuple[Job, int | None]:
        jobs.lock(job_id)
        now_ms = ms(self._clock)
        job = visible(caller, job_id)
        if job.state in FINAL:
            raise DomainError(
                Reason.JOB_ALREADY_FINAL,
                f"job {job_id} is {job.state.value} already; nothing was changed",
                status=job.state.value,
            )
        endings.cancel(job, now_ms, keeps_files=keep_files)
        after = jobs.get(job_id)
        assert after is not None
        if operator is not None:
            operator.note("job.cancel", job_id, _audit_facts(job), _audit_facts(after), now_ms)
        return after, None if job.state is JobState.QUEUED else job.provider_id


def _allowing(job: Job) -> KeyLimits:
    """The limits of the key of a new job. Raises MODEL_NOT_ALLOWED, PROVIDER_NOT_ALLOWED."""
    assert job.key_id is not None
    limits = keys.limits(job.key_id)
    check_allowed(limits, job.model, job.named_provider_id)
    return limits


def _reserve(job: Job, limits: KeyLimits) -> None:
    """Counts the hold of a new job against the budgets of its key. Raises BUDGET_REACHED."""
    assert job.key_id is not None
    used, reported = budgets.reserve(job.key_id, job.hold_micros, job.created_ms)
    check_budgets(job.key_id, limits, used, job.hold_micros, job.created_ms, reported)


def _check_batch(batch_id: int, now_ms: int) -> None:
    """Raises BATCH_NOT_OPEN, also if its key is revoked or over.

    Locks the batch: its cancel comes before the job, or finds it.
    """
    batch = batches.lock(batch_id)
    is_withdrawn = batch is not None and batch.key_id is not None and keys.is_withdrawn(batch.key_id, now_ms)
    if batch is None or not batch.takes_jobs or is_withdrawn:
        raise DomainError(Reason.BATCH_NOT_OPEN, "this batch takes no more jobs; nothing was changed")


def _reserved(price: Price, request: JobRequest, context_tokens: int, renter_id: int) -> Reservation:
    """What is held for a new job; of one that fits the wallet no more than is there, if that is worth it."""
    wanted = reserve(price, request, context_tokens)
    there = whole_halala(ledger.balance(accounts.renter(renter_id))) if request.fits_wallet else 0
    if not 0 < micros(there) < wanted.hold_micros:
        return wanted
    # Where too little is there, the refusal says how much is missing.
    try:
        fitted = reserve(price, replace(request, max_cost_halala=there), context_tokens)
    except DomainError:
        return wanted
    is_short = fitted.limit_ms < LEAST_LIMIT_MS or (fitted.max_tokens or math.inf) < LEAST_FITTED_TOKENS
    return wanted if is_short else fitted


def _as_offered(job: Job, offers: list[Offer]) -> Job:
    """The job after the offers of its submit, of which one may be its own."""
    for offer in offers:
        if offer.lease.job_id == job.job_id:
            state = JOB_TRANSITIONS.next_state(job.state, JobEvent.OFFER) or job.state
            epoch = offer.lease.lease_epoch
            return replace(job, state=state, lease_epoch=epoch, provider_id=offer.provider_id)
    return job


def _audit_facts(job: Job) -> dict[str, object]:
    """What the audit log records of a job."""
    return {"status": job.state.value, "cancel_requested": job.cancel_requested}


def _was_of(job: Job, provider_id: int) -> bool:
    """Whether the provider has or had the job, so that pages continue after a job that changed providers."""
    return provider_id in (job.provider_id, job.named_provider_id) or leases.was_of(job.job_id, provider_id)


def _replayed(earlier: Job, request: JobRequest) -> Job:
    if earlier.request_digest != request.digest:
        raise DomainError(
            Reason.IDEMPOTENCY_CLASH,
            f"Idempotency-Key: this key was used for {earlier.job_id} with another body; use a new key",
            field="Idempotency-Key",
        )
    return earlier


def visible(caller: Caller, job_id: str) -> Job:
    """A job that the caller may see. Raises JOB_NOT_FOUND, NOT_OWNER."""
    job = _of(caller, job_id)
    if job is None and jobs.get(job_id) is None:
        raise DomainError(Reason.JOB_NOT_FOUND, f"job_id: no job {job_id!r}", field="job_id")
    if job is None:
        raise DomainError(Reason.NOT_OWNER, "this job belongs to another account; use a key of that account")
    return job


def _kept(job: Job, kind: str) -> Job:
    """The job, unless its renter deleted its account. Raises OUTPUT_ERASED."""
    # The account's state decides, not the stored bytes: erasing many jobs takes a while.
    assert job.is_renter_deleted is not None, "the job was read for this"
    if job.is_renter_deleted:
        raise DomainError(
            Reason.OUTPUT_ERASED,
            f"the {kind} of job {job.job_id} {'were' if kind == 'files' else 'was'} erased "
            "when its renter deleted its account",
            status=job.state.value,
        )
    return job


def _with_texts(job: Job, kind: str) -> Job:
    """The job, unless its texts were removed. Raises OUTPUT_ERASED."""
    if job.texts_removed_ms is not None:
        raise DomainError(
            Reason.OUTPUT_ERASED,
            f"the {kind} of job {job.job_id} was removed when the time had ended for which it is kept",
            status=job.state.value,
        )
    return job


def _of(caller: Caller, job_id: str) -> Job | None:
    if caller.role == RENTER:
        return jobs.get_of_renter(job_id, caller.id)
    if caller.role == PROVIDER:
        return jobs.get_of_provider(job_id, caller.id)
    return jobs.get(job_id) if caller.role == ADMIN else None


def _partial_bytes(job: Job) -> int:
    """The size of what an ended job wrote. A part of an image is no use to anybody."""
    is_image = job.job_type is JobType.IMAGE_GENERATION or (job.content_type or "").startswith("image/")
    return 0 if is_image else leases.stream_bytes(job.job_id, job.lease_epoch, Channel.OUTPUT)


def _gone(job: Job, written: int) -> DomainError:
    assert job.bill is not None
    reason = Reason.JOB_CANCELLED if job.state is JobState.CANCELLED else Reason.JOB_FAILED
    why = job.failure_message or "it ended without an output"
    verb = "was cancelled" if reason is Reason.JOB_CANCELLED else "failed"
    return DomainError(
        reason,
        f"job {job.job_id} {verb}: {why}; "
        f"{text(job.bill.charge_micros)} halala were charged and {text(job.bill.refund_micros)} refunded"
        + (f"; the {written} bytes that it wrote are at /output?partial=true" if written else ""),
        status=job.state.value,
        reason=(job.failure_reason or FailureReason.ENGINE_FAILED).value,
        charged_halala=whole_halala(job.bill.charge_micros),
        refunded_halala=whole_halala(job.bill.refund_micros),
        **({"partial_bytes": written} if written else {}),
    )
