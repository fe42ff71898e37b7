"""Merged messages of the daemon: acceptance and start, last output and result, if the server takes them."""

from __future__ import annotations

import pytest
from dcp.v1 import sessions_pb2

from daemon.protocol import events as ev
from daemon.protocol.effects import Forget, StartAttempt, StopAttempt
from daemon.protocol.pieces import MAX_CHUNK_BYTES
from daemon.protocol.records import Accepted, Channel, Chunk, Finished, Started
from daemon.protocol.transcript import START_TICKS
from tests.daemon.fake_server import lease, offer
from tests.daemon.protocol.session_bench import DONE, Bench, kinds, sent

KEEP = sessions_pb2.LEASE_ACTION_KEEP
RESEND = sessions_pb2.LEASE_ACTION_RESEND
STARTED = sessions_pb2.OfferReply(lease=lease(), accepted=True, started=True)
ACCEPTED = sessions_pb2.OfferReply(lease=lease(), accepted=True)


def warm() -> Bench:
    """A daemon whose model is loaded, in a session with a server that takes merged messages."""
    return Bench(warm=True).open(merges=True)


def running() -> Bench:
    """The same, with a run that the server knows to be running."""
    return warm().running()


# --- acceptance and start ---


def test_run_of_a_loaded_model_begins_at_once_and_is_accepted_with_its_start() -> None:
    bench = warm()
    assert bench.hear(job_offer=offer()) == [StartAttempt(offer())]
    assert bench.saved == []
    effects = bench.happen(ev.AttemptStarted(lease()))
    assert kinds(effects) == ["offer_reply"]
    assert sent(effects, "offer_reply") == [STARTED]
    assert [[type(record) for record in entry.records] for entry in bench.saved] == [[Accepted, Started]]


@pytest.mark.parametrize(("is_warm", "merges"), [(False, True), (True, False)], ids=["cold", "old server"])
def test_otherwise_acceptance_and_start_are_messages_of_their_own(is_warm: bool, merges: bool) -> None:
    bench = Bench(warm=is_warm).open(merges=merges)
    effects = bench.hear(job_offer=offer())
    assert sent(effects, "offer_reply") == [ACCEPTED]
    assert kinds(effects) == ["offer_reply", "StartAttempt"]
    assert kinds(bench.happen(ev.AttemptStarted(lease()))) == ["job_started"]


def test_acceptance_does_not_wait_long_for_the_start() -> None:
    bench = warm()
    bench.hear(job_offer=offer())
    for _ in range(START_TICKS - 1):
        assert bench.happen(ev.Tick()) == []
    effects = bench.happen(ev.Tick())
    assert sent(effects, "offer_reply") == [ACCEPTED]
    assert kinds(effects) == ["offer_reply"], "it was begun before"
    assert kinds(bench.happen(ev.AttemptStarted(lease()))) == ["job_started"]


def test_nothing_is_said_of_a_run_before_it_is_saved() -> None:
    bench = warm()
    bench.disk = "slow"
    bench.hear(job_offer=offer())
    assert bench.happen(ev.AttemptStarted(lease())) == []
    assert bench.finish() == []
    bench.disk = "well"
    assert kinds(bench.save()) == ["offer_reply", "job_finished"]


def test_start_that_is_not_saved_yet_is_not_said_with_the_acceptance() -> None:
    bench = warm()
    bench.disk = "slow"
    bench.hear(job_offer=offer())
    for _ in range(START_TICKS):
        bench.happen(ev.Tick())
    (acceptance,) = bench.unsaved
    assert bench.happen(ev.AttemptStarted(lease())) == []
    bench.unsaved.clear()
    effects = bench.happen(ev.Persisted(acceptance.number))
    assert sent(effects, "offer_reply") == [ACCEPTED]
    assert kinds(effects) == ["offer_reply"]
    bench.disk = "well"
    assert kinds(bench.save()) == ["job_started"]


def test_run_whose_acceptance_cannot_be_saved_is_stopped_and_the_offer_refused() -> None:
    bench = warm()
    bench.disk = "full"
    bench.hear(job_offer=offer())
    effects = bench.happen(ev.AttemptStarted(lease()))
    assert effects[0] == StopAttempt(lease(), discard=True)
    assert [reply.accepted for reply in sent(effects, "offer_reply")] == [False]
    assert bench.forgotten == [lease()]
    assert bench.session.unfinished == []


def test_run_that_is_not_accepted_when_the_stream_ends_is_dropped() -> None:
    bench = warm()
    bench.hear(job_offer=offer())
    effects = bench.lose()
    assert StopAttempt(lease(), discard=True) in effects
    assert bench.forgotten == [lease()]
    (hello,) = sent(bench.connect(), "hello")
    assert list(hello.held_leases) == []
    bench.welcome(merges=True)
    assert bench.happen(ev.AttemptStarted(lease())) == []


def test_start_is_said_alone_on_a_stream_that_did_not_bring_the_offer() -> None:
    bench = running()
    bench.lose()
    bench.connect()
    bench.welcome(merges=True)
    assert kinds(bench.direct(KEEP)) == ["job_started"]


def test_repeated_offer_gets_the_acceptance_again() -> None:
    bench = running()
    assert sent(bench.hear(job_offer=offer()), "offer_reply") == [STARTED]
    assert sum(isinstance(effect, StartAttempt) for effect in bench.effects) == 1


def test_run_that_fails_before_its_start_is_accepted_without_one() -> None:
    bench = warm()
    bench.hear(job_offer=offer())
    effects = bench.finish()
    assert kinds(effects) == ["offer_reply", "job_finished"]
    assert sent(effects, "offer_reply") == [ACCEPTED]


# --- last output and result ---


def test_result_carries_the_output_that_was_not_sent() -> None:
    bench = running()
    before = len(bench.saved)
    bench.rest = b"Hello"
    effects = bench.finish()
    assert kinds(effects) == ["job_finished"]
    (result,) = sent(effects, "job_finished")
    assert (result.last_output_seq, result.last_output) == (1, b"Hello")
    (entry,) = bench.saved[before:]
    assert [type(record) for record in entry.records] == [Chunk, Finished]
    assert not any(record.message.last_output for record in entry.records if isinstance(record, Finished))


def test_older_server_gets_the_last_output_as_a_chunk() -> None:
    bench = Bench(warm=True).open().running()
    bench.rest = b"Hello"
    effects = bench.finish()
    assert kinds(effects) == ["output_chunk", "job_finished"]
    assert sent(effects, "job_finished")[0].last_output == b""


def test_result_carries_only_the_last_of_several_pieces_and_the_log_comes_before_it() -> None:
    bench = running()
    bench.happen(ev.AttemptWrote(lease(), Channel.LOG, b"loaded"))
    bench.rest = b"x" * MAX_CHUNK_BYTES + b"y"
    effects = bench.finish()
    assert kinds(effects) == ["output_chunk", "job_finished"]
    (result,) = sent(effects, "job_finished")
    assert (result.last_output_seq, result.last_output) == (2, b"y")
    logged = [effect for effect in bench.effects if sent([effect], "log_chunk")]
    assert bench.effects.index(logged[0]) < bench.effects.index(effects[-1])


def test_result_with_output_waits_for_credit() -> None:
    bench = Bench(warm=True).open(credit=1, merges=True).running()
    bench.write(b"a")
    bench.rest = b"b"
    assert bench.finish() == []
    effects = bench.hear(output_ack=sessions_pb2.OutputAck(lease=lease(), output_through_seq=1))
    assert [result.last_output for result in sent(effects, "job_finished")] == [b"b"]


def test_output_in_a_result_takes_credit_from_other_runs() -> None:
    bench = Bench(slots=2, warm=True).open(credit=1, merges=True).running()
    bench.hear(job_offer=offer("job-2"))
    bench.happen(ev.AttemptStarted(lease("job-2")))
    bench.rest = b"a"
    assert kinds(bench.finish()) == ["job_finished"]
    assert bench.happen(ev.AttemptWrote(lease("job-2"), Channel.OUTPUT, b"b")) == []
    acknowledged = sessions_pb2.ResultAck(lease=lease(), disposition=sessions_pb2.RESULT_DISPOSITION_ACCEPTED)
    assert kinds(bench.hear(result_ack=acknowledged)) == ["output_chunk"]
    assert bench.forgotten == [lease()]


def test_results_with_output_share_the_credit() -> None:
    bench = Bench(slots=2, warm=True).open(credit=1, merges=True).running()
    bench.hear(job_offer=offer("job-2"))
    bench.happen(ev.AttemptStarted(lease("job-2")))
    bench.write(b"a")
    for held in (lease(), lease("job-2")):
        bench.rest = b"b"
        assert bench.happen(ev.AttemptFinished(held, DONE)) == []
    effects = bench.hear(output_ack=sessions_pb2.OutputAck(lease=lease(), output_through_seq=1))
    assert [result.lease for result in sent(effects, "job_finished")] == [lease()]


@pytest.mark.parametrize(("through", "carried"), [(0, b"Hello"), (1, b"")])
def test_result_is_repeated_with_the_output_that_the_server_lacks(through: int, carried: bytes) -> None:
    bench = running()
    bench.rest = b"Hello"
    bench.finish()
    effects = bench.direct(RESEND, through)
    (result,) = sent(effects, "job_finished")
    assert (result.last_output_seq, result.last_output) == (1, carried)


def test_unanswered_result_is_repeated_with_its_output() -> None:
    bench = running()
    bench.rest = b"Hello"
    bench.finish()
    results = sent(bench.pass_time(40), "job_finished")
    assert [result.last_output for result in results] == [b"Hello"]


@pytest.mark.parametrize("merges", [True, False], ids=["new server", "old server"])
def test_saved_result_survives_a_kill_and_is_sent_in_the_form_that_the_server_takes(merges: bool) -> None:
    bench = running()
    bench.write(b"Hel")
    bench.rest = b"lo"
    bench.finish()
    again = bench.restarted()
    (hello,) = sent(again.connect(), "hello")
    assert list(hello.unacknowledged_results) == [lease()]
    effects = [*again.welcome(merges=merges), *again.direct(RESEND, 1)]
    parts = [chunk.data for chunk in sent(effects, "output_chunk") if chunk.seq == 2]
    parts += [result.last_output for result in sent(effects, "job_finished") if result.last_output]
    assert set(parts) == {b"lo"}
    assert bool(sent(effects, "job_finished")[-1].last_output) is merges


def test_run_that_is_stopped_keeps_what_it_wrote_last() -> None:
    bench = running()
    bench.rest = b"half an ans"
    effects = bench.hear(cancel_run=sessions_pb2.CancelRun(lease=lease()))
    (result,) = sent(effects, "job_finished")
    assert (result.outcome, result.last_output) == (sessions_pb2.RUN_OUTCOME_CANCELLED, b"half an ans")


def test_lease_that_is_discarded_says_nothing() -> None:
    bench = running()
    bench.rest = b"Hello"
    effects = bench.direct(sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD)
    assert effects == [StopAttempt(lease(), discard=True)]
    assert not [effect for effect in effects if isinstance(effect, Forget)]
    assert bench.happen(ev.AttemptFinished(lease(), DONE)) == []
