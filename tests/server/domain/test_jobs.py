"""The job's state machine as a table: an event that is not in it is refused."""

from __future__ import annotations

import itertools

import pytest

from server.domain.jobs import FINAL, JOB_TRANSITIONS, OPEN, JobEvent, JobState

# Copied by hand from section 3 of the contract; a dot means "refused".
#         submit offer    accept    start    request_cancel requeue complete   fail    cancel
EXPECTED = """
queued       .   pending  .         .        .              .       .          failed  cancelled
pending      .   .        assigned  .        .              queued  .          failed  cancelled
assigned     .   .        .         running  .              queued  .          failed  cancelled
running      .   .        .         .        running        queued  completed  failed  cancelled
completed    .   .        .         .        .              .       .          .       .
failed       .   .        .         .        .              .       .          .       .
cancelled    .   .        .         .        .              .       .          .       .
"""
EVENTS = ["submit", "offer", "accept", "start", "request_cancel", "requeue", "complete", "fail", "cancel"]
TABLE = {
    (JobState(row[0]), JobEvent(event)): None if cell == "." else JobState(cell)
    for row in (line.split() for line in EXPECTED.strip().splitlines())
    for event, cell in zip(EVENTS, row[1:], strict=True)
}


def test_table_has_every_state_and_event() -> None:
    assert set(TABLE) == set(itertools.product(JobState, JobEvent))


@pytest.mark.parametrize(("state", "event"), list(itertools.product(JobState, JobEvent)))
def test_event_moves_a_job_as_the_contract_says(state: JobState, event: JobEvent) -> None:
    assert JOB_TRANSITIONS.next_state(state, event) is TABLE[state, event]


@pytest.mark.parametrize("event", JobEvent)
def test_write_is_guarded_by_the_states_that_allow_its_event(event: JobEvent) -> None:
    assert set(JOB_TRANSITIONS.sources(event)) == {
        s for (s, e), target in TABLE.items() if e is event and target
    }


def test_final_states_are_those_that_no_event_leaves() -> None:
    stuck = {state for state in JobState if not any(TABLE[state, event] for event in JobEvent)}
    assert stuck == FINAL
    assert set(JobState) == FINAL | OPEN
    assert not FINAL & OPEN


def test_every_open_state_can_be_cancelled() -> None:
    assert {state for state in JobState if JOB_TRANSITIONS.next_state(state, JobEvent.CANCEL)} == OPEN


def test_submit_creates_a_queued_job() -> None:
    assert JOB_TRANSITIONS.first(JobEvent.SUBMIT) is JobState.QUEUED
