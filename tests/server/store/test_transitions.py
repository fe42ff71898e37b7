"""The writes obey the transition tables: a write whose row is not in the table does not happen.

Each row of each table is tested with the write of its event, once present and once removed. The tests
insert the database's rows themselves, because the store builds its statements at their first use, which
must come after the row of the table was removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import pytest

from server.domain import disputes as dispute_rules
from server.domain.artifacts import ARTIFACT_TRANSITIONS, ArtifactEvent, ArtifactState
from server.domain.disputes import DISPUTE_TRANSITIONS, DisputeEvent, DisputeState
from server.domain.jobs import JOB_TRANSITIONS, JobEvent, JobRequest, JobState, JobType
from server.domain.leases import (
    LEASE_TRANSITIONS,
    Channel,
    LeaseEvent,
    LeaseOutcome,
    LeaseRef,
    LeaseState,
    secret_digest,
)
from server.domain.ledger import make_bill
from server.domain.pricing import per_minute
from server.domain.transitions import Transitions
from server.store import artifacts, disputes, jobs, leases
from server.store.database import Database
from server.store.models import Artifact, Dispute, Job, Lease
from tests.server.store.rows import NOW_MS, SECRET, SESSION_EPOCH, Rows

LATER_MS = NOW_MS + 1000
BILL = make_bill(100, 50, 30_000)
REF = LeaseRef("job-1", 1, SECRET)
DISPUTED: dict[str, Any] = {
    "job_id": REF.job_id,
    "reason": "filler",
    "charge_micros": 10,
    "payout_micros": 8,
    "payout_id": 1,
    "held_micros": 8,
    "maturing_micros": 0,
}


@dataclass(frozen=True)
class Scene:
    """A job with, if the case needs them, its lease and its file, in states that fit together."""

    provider_id: int
    renter_id: int

    def of_lease(self) -> tuple[LeaseRef, int, int]:
        return REF, self.provider_id, SESSION_EPOCH

    def insert(
        self, job: JobState | None, lease: LeaseState | None, artifact: ArtifactState | None = None
    ) -> None:
        job_id = REF.job_id
        if job is not None:
            Job.insert(
                job_id=job_id,
                renter_id=self.renter_id,
                job_type=JobType.BENCHMARK.value,
                duration_ms=60_000,
                limit_ms=60_000,
                priority=2,
                hold_micros=100,
                rate_halala_per_minute=100,
                spec="{}",
                start_within_ms=60_000,
                start_by_ms=NOW_MS + 60_000,
                lost_after_ms=300_000,
                created_ms=NOW_MS,
                request_digest="",
                lease_epoch=1 if lease else 0,
                provider_id=self.provider_id if lease else None,
                state=job.value,
            ).execute()
        if lease is not None:
            Lease.insert(
                job_id=job_id,
                lease_epoch=1,
                provider_id=self.provider_id,
                session_epoch=SESSION_EPOCH,
                secret_sha256=secret_digest(SECRET),
                offered_ms=NOW_MS,
                output_limit_bytes=1024,
                number=1,
                state=lease.value,
            ).execute()
        if artifact is not None:
            Artifact.insert(
                id=1,
                job_id=job_id,
                lease_epoch=1,
                name="a.txt",
                size_bytes=3,
                sha256=b"a" * 32,
                blob_key="key",
                created_ms=NOW_MS,
                published_ms=NOW_MS,
                state=artifact.value,
            ).execute()

    def insert_dispute(self, state: DisputeState | None) -> None:
        self.insert(JobState.COMPLETED, None)
        if state is not None:
            is_open = state is DisputeState.OPEN
            Dispute.insert(
                id=1,
                **DISPUTED,
                renter_id=self.renter_id,
                provider_id=self.provider_id,
                created_ms=NOW_MS,
                state=state.value,
                decided_ms=None if is_open else NOW_MS,
                refund_micros=5 if state is DisputeState.UPHELD else None,
            ).execute()

    def dispute(self) -> dispute_rules.Dispute:
        found = disputes.get(1)
        assert found is not None
        return found

    def job(self) -> Any:
        job = jobs.get(REF.job_id)
        assert job is not None
        return job

    def lease(self) -> Any:
        lease = leases.get(REF.job_id, REF.lease_epoch)
        assert lease is not None
        return lease


def submit(scene: Scene) -> None:
    request = JobRequest(JobType.BENCHMARK, 60_000)
    jobs.insert(
        "job-1",
        scene.renter_id,
        request,
        price=per_minute(100),
        hold_micros=100,
        limit_ms=60_000,
        now_ms=NOW_MS,
    )


def offer(scene: Scene) -> object:
    return leases.offer(scene.job(), scene.provider_id, SESSION_EPOCH, SECRET, NOW_MS, 1024)


def finish(event: JobEvent, scene: Scene) -> bool:
    return jobs.finish(scene.job(), event, BILL, NOW_MS)


def write(stream: Channel, scene: Scene) -> bool:
    return leases.store_chunk(*scene.of_lease(), stream, 1, b"x", NOW_MS)


def open_dispute(scene: Scene) -> None:
    disputes.insert(**DISPUTED, renter_id=scene.renter_id, provider_id=scene.provider_id, now_ms=NOW_MS)


# A write that returns False, None or 0 was refused; its caller rolls its transaction back.
JOB_WRITES: dict[JobEvent, list[Callable[[Scene], object]]] = {
    JobEvent.SUBMIT: [submit],
    JobEvent.OFFER: [offer],
    JobEvent.ACCEPT: [lambda scene: leases.accept(*scene.of_lease(), NOW_MS)],
    JobEvent.START: [lambda scene: leases.start(*scene.of_lease(), NOW_MS)],
    JobEvent.REQUEST_CANCEL: [lambda scene: jobs.request_cancel(scene.job(), NOW_MS)],
    JobEvent.REQUEUE: [lambda scene: jobs.requeue(scene.job(), NOW_MS)],
    JobEvent.COMPLETE: [partial(finish, JobEvent.COMPLETE)],
    JobEvent.FAIL: [partial(finish, JobEvent.FAIL)],
    JobEvent.CANCEL: [partial(finish, JobEvent.CANCEL)],
}
LEASE_WRITES: dict[LeaseEvent, list[Callable[[Scene], object]]] = {
    LeaseEvent.OFFER: [offer],
    LeaseEvent.ACCEPT: [lambda scene: leases.accept(*scene.of_lease(), NOW_MS)],
    LeaseEvent.START: [lambda scene: leases.start(*scene.of_lease(), NOW_MS)],
    LeaseEvent.WRITE: [partial(write, Channel.OUTPUT), partial(write, Channel.LOG)],
    LeaseEvent.RESUME: [lambda scene: leases.move_to_session(scene.lease(), SESSION_EPOCH + 1)],
    LeaseEvent.END: [lambda scene: leases.end(scene.lease(), LeaseOutcome.LOST, NOW_MS)],
}
ARTIFACT_WRITES: dict[ArtifactEvent, list[Callable[[Scene], object]]] = {
    ArtifactEvent.ANNOUNCE: [lambda _: artifacts.announce("job-1", 1, "a", 3, b"a" * 32, "key", NOW_MS)],
    ArtifactEvent.STORE: [lambda scene: artifacts.make_ready(1, scene.job(), 3, NOW_MS)],
    ArtifactEvent.PUBLISH: [lambda scene: artifacts.publish(scene.job(), NOW_MS)],
    ArtifactEvent.BREAK_OFF: [
        lambda _: artifacts.break_off(1),
        lambda _: artifacts.break_off_uploads(LATER_MS, 9),
    ],
    ArtifactEvent.LEAVE_BEHIND: [lambda _: artifacts.leave_behind(9)],
    ArtifactEvent.EXPIRE: [lambda _: artifacts.expire(LATER_MS, 9)],
    ArtifactEvent.ERASE: [lambda _: artifacts.erase(Job.select(Job.job_id))],
    ArtifactEvent.DELETE: [lambda _: artifacts.delete([1])],
}
DISPUTE_WRITES: dict[DisputeEvent, list[Callable[[Scene], object]]] = {
    DisputeEvent.OPEN: [open_dispute],
    DisputeEvent.UPHOLD: [
        lambda scene: disputes.decide(scene.dispute(), DisputeEvent.UPHOLD, "n", NOW_MS, 5)
    ],
    DisputeEvent.REJECT: [lambda scene: disputes.decide(scene.dispute(), DisputeEvent.REJECT, "n", NOW_MS)],
}
WRITES: list[tuple[Transitions[Any, Any], dict[Any, list[Callable[[Scene], object]]]]] = [
    (JOB_TRANSITIONS, dict(JOB_WRITES)),
    (LEASE_TRANSITIONS, dict(LEASE_WRITES)),
    (ARTIFACT_TRANSITIONS, dict(ARTIFACT_WRITES)),
    (DISPUTE_TRANSITIONS, dict(DISPUTE_WRITES)),
]
CASES = [
    pytest.param(table, row, attempt_write, id=f"{row[1].__class__.__name__}-{row[0]}-{row[1]}-{number}")
    for table, writes in WRITES
    for row in table.rows
    for number, attempt_write in enumerate(writes[row[1]])
]
LEASE_OF_JOB = {
    JobState.PENDING: LeaseState.OFFERED,
    JobState.ASSIGNED: LeaseState.ACCEPTED,
    JobState.RUNNING: LeaseState.RUNNING,
}
JOB_OF_LEASE = {lease: job for job, lease in LEASE_OF_JOB.items()}


async def scene_before(database: Database, rows: Rows, row: tuple[Any, Any]) -> Scene:
    """Stores the state before the event of this row."""
    scene = Scene(await rows.provider(), await rows.renter())
    await database.run(partial(insert_before, scene, row))
    return scene


def insert_before(scene: Scene, row: tuple[Any, Any]) -> None:
    state, event = row
    if isinstance(event, JobEvent):
        scene.insert(state, LEASE_OF_JOB.get(state))
    elif isinstance(event, DisputeEvent):
        scene.insert_dispute(state)
    elif isinstance(event, LeaseEvent):
        scene.insert(JOB_OF_LEASE.get(state, JobState.QUEUED), state)
    else:
        is_over = event is ArtifactEvent.LEAVE_BEHIND
        scene.insert(JobState.RUNNING, LeaseState.ENDED if is_over else LeaseState.RUNNING, state)


class RefusedError(Exception):
    """A write reported that it changed nothing."""


async def run(database: Database, scene: Scene, attempt_write: Callable[[Scene], object]) -> None:
    def work() -> None:
        answer = attempt_write(scene)
        if answer is False or answer == 0:
            raise RefusedError

    try:
        await database.run(work)
    except (RefusedError, LookupError):
        return


async def stored(database: Database) -> dict[str, list[dict[str, Any]]]:
    def read() -> dict[str, list[dict[str, Any]]]:
        models: tuple[Any, ...] = (Job, Lease, Artifact, Dispute)
        return {model.__name__: list(model.select().dicts()) for model in models}

    return await database.read(read)


def noun_of(event: object) -> str:
    return type(event).__name__.removesuffix("Event")


@pytest.mark.parametrize(("table", "row", "attempt_write"), CASES)
async def test_write_leads_to_the_state_in_the_table(
    database: Database,
    rows: Rows,
    table: Transitions[Any, Any],
    row: tuple[Any, Any],
    attempt_write: Callable[[Scene], object],
) -> None:
    scene = await scene_before(database, rows, row)
    before = await stored(database)
    await run(database, scene, attempt_write)
    after, target = await stored(database), table.rows[row]
    assert after != before
    found = [stored["state"] for stored in after[noun_of(row[1])]]
    assert found == ([] if target is None else [target.value])


@pytest.mark.parametrize(("table", "row", "attempt_write"), CASES)
async def test_write_whose_row_is_removed_changes_nothing(
    database: Database,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    table: Transitions[Any, Any],
    row: tuple[Any, Any],
    attempt_write: Callable[[Scene], object],
) -> None:
    monkeypatch.delitem(table.rows, row)
    scene = await scene_before(database, rows, row)
    before = await stored(database)
    await run(database, scene, attempt_write)
    assert await stored(database) == before


def accept_started(scene: Scene) -> bool:
    return leases.accept_started(*scene.of_lease(), NOW_MS)


def write_and_end(scene: Scene) -> bool:
    lease = replace(scene.lease(), output_through_seq=1)
    return leases.end(lease, LeaseOutcome.SUCCEEDED, NOW_MS, last_output=b"x")


# Writes that make several steps at once, with a state in which they happen and the rows that they need.
SEVERAL_STEPS: list[tuple[Callable[[Scene], object], LeaseState, list[tuple[Transitions[Any, Any], Any]]]] = [
    (
        accept_started,
        LeaseState.OFFERED,
        [
            (JOB_TRANSITIONS, (JobState.PENDING, JobEvent.ACCEPT)),
            (JOB_TRANSITIONS, (JobState.ASSIGNED, JobEvent.START)),
            (LEASE_TRANSITIONS, (LeaseState.OFFERED, LeaseEvent.ACCEPT)),
            (LEASE_TRANSITIONS, (LeaseState.ACCEPTED, LeaseEvent.START)),
        ],
    ),
    (
        write_and_end,
        LeaseState.RUNNING,
        [
            (LEASE_TRANSITIONS, (LeaseState.RUNNING, LeaseEvent.WRITE)),
            (LEASE_TRANSITIONS, (LeaseState.RUNNING, LeaseEvent.END)),
        ],
    ),
]


@pytest.mark.parametrize(
    ("attempt_write", "state", "table", "row"),
    [(write, state, *needed) for write, state, rows in SEVERAL_STEPS for needed in rows],
)
async def test_write_of_several_steps_needs_the_row_of_each(
    database: Database,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    attempt_write: Callable[[Scene], object],
    state: LeaseState,
    table: Transitions[Any, Any],
    row: tuple[Any, Any],
) -> None:
    scene = Scene(await rows.provider(), await rows.renter())
    with monkeypatch.context() as without:
        without.delitem(table.rows, row)
        await database.run(partial(scene.insert, JOB_OF_LEASE[state], state))
        before = await stored(database)
        await run(database, scene, attempt_write)
        assert await stored(database) == before


@pytest.mark.parametrize(("attempt_write", "state"), [(write, state) for write, state, _ in SEVERAL_STEPS])
async def test_write_of_several_steps_leads_to_the_last_state(
    database: Database, rows: Rows, attempt_write: Callable[[Scene], object], state: LeaseState
) -> None:
    scene = Scene(await rows.provider(), await rows.renter())
    await database.run(partial(scene.insert, JOB_OF_LEASE[state], state))
    await run(database, scene, attempt_write)
    lease = (await stored(database))["Lease"][0]
    assert lease["state"] == {accept_started: "running", write_and_end: "ended"}[attempt_write]  # type: ignore[index]


@pytest.mark.parametrize(("table", "writes"), WRITES)
async def test_event_without_a_row_changes_nothing(
    database: Database,
    rows: Rows,
    table: Transitions[Any, Any],
    writes: dict[Any, list[Callable[[Scene], object]]],
) -> None:
    states = {state for state, _ in table.rows if state is not None} | set(table.rows.values()) - {None}
    refused = [
        (state, event)
        for state in states
        for event in writes
        if (state, event) not in table.rows and (None, event) not in table.rows
    ]
    assert refused
    scene = Scene(await rows.provider(), await rows.renter())
    for row in refused:
        await database.run(delete_all)
        await database.run(partial(insert_before, scene, row))
        before = await stored(database)
        for attempt_write in writes[row[1]]:
            await run(database, scene, attempt_write)
            assert await stored(database) == before, row


def delete_all() -> None:
    for model in (Dispute, Artifact, Lease, Job):
        model.delete().execute()


@pytest.mark.parametrize(
    ("table", "event", "states"),
    [
        (JOB_TRANSITIONS, JobEvent, JobState),
        (LEASE_TRANSITIONS, LeaseEvent, LeaseState),
        (ARTIFACT_TRANSITIONS, ArtifactEvent, ArtifactState),
        (DISPUTE_TRANSITIONS, DisputeEvent, DisputeState),
    ],
)
def test_every_event_has_a_row_and_every_state_is_reached(
    table: Transitions[Any, Any], event: Any, states: Any
) -> None:
    assert {known for _, known in table.rows} == set(event)
    assert set(table.rows.values()) - {None} == set(states)
    assert set(chain(JOB_WRITES, LEASE_WRITES, ARTIFACT_WRITES, DISPUTE_WRITES)) >= set(event)
