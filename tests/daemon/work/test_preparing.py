"""How far a run is before its start is reported once a second, to servers that want to know."""

from __future__ import annotations

from random import Random

import pytest
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.protocol import effects as fx
from daemon.protocol import events as ev
from daemon.protocol.session import DaemonSession, Introduction
from daemon.work.preparing import Preparing
from tests.support.manual_clock import ManualClock

LEASE = sessions_pb2.Lease(job_id="job-1", lease_epoch=1, lease_secret=b"s" * 16)
CONTAINER = jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER
INPUTS = jobs_pb2.PREPARATION_STEP_INPUTS


def test_at_most_one_report_a_second() -> None:
    clock = ManualClock()
    seen: list[ev.AttemptPreparing] = []
    report = Preparing(LEASE, seen.append, clock)
    for done in range(10):
        report(INPUTS, done, 100)
        clock.advance(0.25)
    assert [each.done_bytes for each in seen] == [0, 4, 8]
    clock.advance(1)
    report(INPUTS, 200, 100)
    assert seen[-1].total_bytes == 200, "a size that was too small does not stay"


def session(*, takes: bool) -> DaemonSession:
    """A session that has accepted an offer and not started it."""
    found = DaemonSession(
        Introduction("boot", "1.0"), Random(1), ev.Capacity(slots=1, models=[], job_types=[CONTAINER])
    )
    found.handle(ev.Connected(), 0.0)
    welcome = sessions_pb2.Welcome(session_epoch=1, provider_id=1, takes_preparation=takes)
    welcome.heartbeat_interval.seconds = 5
    found.handle(ev.Received(sessions_pb2.ServerMessage(welcome=welcome)), 0.0)
    offer = sessions_pb2.JobOffer(lease=LEASE, attempt=1, job_type=CONTAINER)
    offer.run_limit.seconds = 60
    effects = found.handle(ev.Received(sessions_pb2.ServerMessage(job_offer=offer)), 0.0)
    for effect in effects:
        if isinstance(effect, fx.Persist):
            found.handle(ev.Persisted(effect.number), 0.0)
    return found


def said(found: DaemonSession, lease: sessions_pb2.Lease = LEASE) -> list[sessions_pb2.PreparationReport]:
    effects = found.handle(ev.AttemptPreparing(lease, INPUTS, 40, 100), 1.0)
    sent = [effect.message for effect in effects if isinstance(effect, fx.Send)]
    return [message.preparation for message in sent if message.HasField("preparation")]


def test_report_names_its_lease_and_its_bytes() -> None:
    (report,) = said(session(takes=True))
    assert report == sessions_pb2.PreparationReport(lease=LEASE, step=INPUTS, done_bytes=40, total_bytes=100)


@pytest.mark.parametrize("event", [ev.AttemptStarted(LEASE), ev.Disconnected()])
def test_nothing_is_reported_of_a_run_that_has_started_or_without_a_stream(event: ev.Event) -> None:
    found = session(takes=True)
    found.handle(event, 0.5)
    assert said(found) == []


def test_nothing_is_reported_to_an_older_server_or_about_another_lease() -> None:
    assert said(session(takes=False)) == []
    other = sessions_pb2.Lease(job_id="job-2", lease_epoch=1, lease_secret=b"s" * 16)
    assert said(session(takes=True), other) == []
