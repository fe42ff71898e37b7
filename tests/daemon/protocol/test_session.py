"""The daemon's side of the session protocol, without any I/O: messages in, effects out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from dcp.v1 import gpus_pb2, jobs_pb2, sessions_pb2, terms_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.protocol import events as ev
from daemon.protocol.effects import (
    Effect,
    EndAttempt,
    EndReason,
    EndSession,
    Opened,
    ReconnectAfter,
    StartAttempt,
    StopAttempt,
)
from daemon.protocol.events import failed
from daemon.protocol.pieces import MAX_CHUNK_BYTES
from daemon.protocol.records import MAX_LOG_BYTES, MAX_OUTPUT_BYTES, Channel, Finished
from daemon.protocol.session import LinkState
from tests.daemon.fake_server import lease, offer, seconds
from tests.daemon.protocol.session_bench import DONE, Bench, kinds, sent

KEEP = sessions_pb2.LEASE_ACTION_KEEP
RESEND = sessions_pb2.LEASE_ACTION_RESEND
DISCARD = sessions_pb2.LEASE_ACTION_STOP_AND_DISCARD
MODELS = [sessions_pb2.ServedModel(name="test/model")]
JOB_TYPES = [jobs_pb2.JOB_TYPE_LLM_INFERENCE]


# --- greeting ---


def test_hello_comes_first_and_nothing_else_before_welcome() -> None:
    bench = Bench()
    assert kinds(bench.connect()) == ["hello"]
    assert bench.hear(job_offer=offer()) == []
    assert bench.pass_time(30, answering=False) == []
    assert bench.welcome() == [Opened(42, 3)]


def test_hello_describes_the_daemon() -> None:
    bench = Bench()
    bench.session.handle(ev.GpusSampled(gpus_pb2.GpuStatus(gpu_name="RTX")), bench.now)
    (hello,) = sent(bench.connect(), "hello")
    assert (hello.boot_id, hello.protocol_version, hello.slots) == ("boot", 1, 1)
    assert hello.gpu_status.gpu_name == "RTX"
    assert [model.name for model in hello.models] == ["test/model"]


def test_second_welcome_changes_nothing() -> None:
    bench = Bench().open()
    assert bench.welcome() == []


def test_message_of_a_newer_server_is_skipped_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.connect()
    newer = sessions_pb2.ServerMessage.FromString(b"\xf2\x3f\x02hi")  # field 1022
    assert bench.happen(ev.Received(newer)) == []
    bench.welcome()
    for _ in range(3):
        assert bench.happen(ev.Received(newer)) == []
    assert bench.session.link is LinkState.OPEN
    assert sum("of a kind that this daemon does not know" in text for text in caplog.messages) == 1


def test_missing_welcome_ends_the_stream() -> None:
    bench = Bench()
    bench.connect()
    assert kinds(bench.pass_time(61, answering=False)) == ["ReconnectAfter"]
    assert bench.session.link is LinkState.OFFLINE


def test_newest_settings_from_the_server_count() -> None:
    bench = Bench()
    bench.connect()
    cool, cooler = (terms_pb2.ProviderSettings(max_temp_c=most) for most in (80, 70))
    assert bench.hear(settings_update=cooler) == []  # ignored before Welcome
    assert bench.session.settings == terms_pb2.ProviderSettings()
    bench.hear(welcome=sessions_pb2.Welcome(session_epoch=3, settings=cool))
    assert bench.session.settings == cool
    assert bench.hear(settings_update=cooler) == []
    assert bench.session.settings == cooler
    bench.lose()
    assert bench.session.settings == cooler
    bench.connect()
    bench.welcome()  # from a server without such settings
    assert bench.session.settings == terms_pb2.ProviderSettings()


# --- heartbeats ---


def test_heartbeats_are_sent_every_interval_with_ten_percent_jitter() -> None:
    bench = Bench().open()
    times = []
    for _ in range(1000):
        effects = bench.pass_time(0.1)
        times += [bench.now] * len(sent(effects, "heartbeat"))
    gaps = [after - before for before, after in pairwise(times)]
    assert all(8.9 <= gap <= 11.2 for gap in gaps)
    assert len({round(gap, 1) for gap in gaps}) > 2
    assert [beat.sequence for beat in sent(bench.effects, "heartbeat")] == list(range(1, len(times) + 1))


def test_heartbeat_lists_held_leases_and_carries_each_sample_once() -> None:
    bench = Bench().open().running()
    bench.session.handle(ev.GpusSampled(gpus_pb2.GpuStatus(gpu_name="RTX")), bench.now)
    beats = sent(bench.pass_time(25), "heartbeat")
    assert [list(beat.held_leases) for beat in beats] == [[lease()]] * 2
    assert [beat.HasField("gpu_status") for beat in beats] == [True, False]


def test_result_that_waits_for_credit_keeps_its_lease_listed() -> None:
    bench = Bench().open(credit=1).running()
    bench.write(b"a")
    bench.write(b"b")
    assert bench.finish() == []
    (beat,) = sent(bench.pass_time(11), "heartbeat")
    assert list(beat.held_leases) == [lease()]


def test_stream_without_heartbeat_answers_is_closed() -> None:
    bench = Bench().open()
    effects = bench.pass_time(80, answering=False)
    assert kinds(effects)[-1] == "ReconnectAfter"


def test_jump_of_the_clock_does_not_close_the_stream() -> None:
    bench = Bench().open()
    assert kinds(bench.pass_time(500, step=500)) == ["heartbeat"]


# --- offers ---


def test_offer_is_accepted_and_started() -> None:
    bench = Bench().open()
    effects = bench.hear(job_offer=offer())
    assert kinds(effects) == ["offer_reply", "StartAttempt"]
    assert sent(effects, "offer_reply")[0] == sessions_pb2.OfferReply(lease=lease(), accepted=True)


def test_repeated_offer_gets_the_same_reply_and_starts_once() -> None:
    bench = Bench().open()
    bench.hear(job_offer=offer())
    assert kinds(bench.hear(job_offer=offer())) == ["offer_reply"]
    bench.hear(job_offer=offer("job-2"))
    bench.happen(ev.AttemptFinished(lease(), DONE))
    again = bench.hear(job_offer=offer("job-2"))
    assert sent(again, "offer_reply")[0].refusal == "no slot is free"
    assert sum(isinstance(effect, StartAttempt) for effect in bench.effects) == 1


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"job_type": jobs_pb2.JOB_TYPE_TRAINING}, "does not run jobs of type JOB_TYPE_TRAINING"),
        ({"params": jobs_pb2.JobParams(model="other")}, "does not serve the model other"),
        ({"limit": 0}, "no run limit"),
    ],
)
def test_offer_that_cannot_be_run_is_refused_with_the_reason(changes: dict[str, Any], refusal: str) -> None:
    bench = Bench().open()
    effects = bench.hear(job_offer=offer(**changes))
    assert kinds(effects) == ["offer_reply"]
    (reply,) = sent(effects, "offer_reply")
    assert not reply.accepted
    assert refusal in reply.refusal


def test_offer_without_a_free_slot_is_refused() -> None:
    bench = Bench(slots=2).open()
    replies = [
        sent(bench.hear(job_offer=offer(f"job-{number}")), "offer_reply")[0].accepted for number in range(3)
    ]
    assert replies == [True, True, False]


def test_newer_lease_of_a_job_ends_the_older() -> None:
    bench = Bench().open().running()
    effects = bench.hear(job_offer=offer(epoch=2))
    assert effects[0] == StopAttempt(lease(), discard=True)
    assert kinds(effects)[1:] == ["offer_reply", "StartAttempt"]
    assert bench.write(b"late") == []


def test_offer_without_a_lease_is_ignored() -> None:
    bench = Bench().open()
    assert bench.hear(job_offer=sessions_pb2.JobOffer()) == []


# --- output and results ---


def test_run_is_reported_in_order_and_forgotten_when_acknowledged() -> None:
    bench = Bench().open().running()
    bench.write(b"one")
    bench.write(b"two")
    bench.now += 12.25
    bench.finish()
    assert kinds(bench.effects)[-4:] == ["job_started", "output_chunk", "output_chunk", "job_finished"]
    assert [chunk.seq for chunk in sent(bench.effects, "output_chunk")] == [1, 2]
    (finished,) = sent(bench.effects, "job_finished")
    assert finished.run_time == seconds(12.25)
    assert finished.last_output_seq == 2
    assert finished.usage.completion_tokens == 1
    bench.hear(
        result_ack=sessions_pb2.ResultAck(lease=lease(), disposition=sessions_pb2.RESULT_DISPOSITION_ALREADY)
    )
    bench.lose()
    (hello,) = sent(bench.connect(), "hello")
    assert not hello.held_leases
    assert not hello.unacknowledged_results


def test_output_is_split_at_64_kib() -> None:
    bench = Bench().open().running()
    chunks = sent(bench.write(b"x" * (150 * 1024)), "output_chunk")
    assert [len(chunk.data) for chunk in chunks] == [65536, 65536, 22528]


def test_credit_limits_unacknowledged_chunks_and_the_result_comes_last() -> None:
    bench = Bench().open(credit=2).running()
    for letter in (b"a", b"b", b"c"):
        bench.write(letter)
    bench.finish()
    assert [chunk.data for chunk in sent(bench.effects, "output_chunk")] == [b"a", b"b"]
    assert sent(bench.effects, "job_finished") == []
    effects = bench.hear(output_ack=sessions_pb2.OutputAck(lease=lease(), output_through_seq=1))
    assert kinds(effects) == ["output_chunk", "job_finished"]
    assert sent(effects, "output_chunk")[0].seq == 3


def test_text_of_a_chat_is_gathered_while_the_server_stores_some() -> None:
    bench = Bench().open().running(chat_request=b'{"messages":[]}')
    for letter in (b"a", b"b", b"c"):
        bench.write(letter)
    assert [chunk.data for chunk in sent(bench.effects, "output_chunk")] == [b"a"]
    effects = bench.hear(output_ack=sessions_pb2.OutputAck(lease=lease(), output_through_seq=1))
    assert [chunk.data for chunk in sent(effects, "output_chunk")] == [b"bc"]
    bench.write(b"d")
    effects = bench.finish()
    assert kinds(effects) == ["output_chunk", "job_finished"], "the end waits for nothing"
    assert sent(effects, "output_chunk")[0].data == b"d"


def text_of(effects: list[Effect]) -> bytes:
    return b"".join(chunk.data for chunk in sent(effects, "output_chunk"))


def test_output_over_the_limit_is_truncated_and_the_run_continues() -> None:
    bench = Bench().open(credit=1000).running()
    bench.write(b"x" * MAX_OUTPUT_BYTES)
    assert bench.write(b"y" * 12_000) == []
    assert bench.write(b"y" * 345) == []
    assert bench.session.unfinished
    bench.finish()
    text = text_of(bench.effects)
    assert text == b"x" * MAX_OUTPUT_BYTES + b"\n[output truncated: 12345 bytes not kept]\n"
    (finished,) = sent(bench.effects, "job_finished")
    assert finished.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED
    assert finished.output_truncated
    assert finished.last_output_seq == len(sent(bench.effects, "output_chunk"))


def test_output_of_exactly_the_limit_is_complete() -> None:
    bench = Bench().open().running(output_limit_bytes=10)
    bench.write(b"0123456789")
    bench.finish()
    assert text_of(bench.effects) == b"0123456789"
    assert not sent(bench.effects, "job_finished")[0].output_truncated


@pytest.mark.parametrize("limit", range(1, 14))
def test_output_is_truncated_between_characters(limit: int) -> None:
    bench = Bench().open().running(output_limit_bytes=limit)
    whole = "aé→😀ab"
    bench.write(whole.encode())
    bench.finish()
    kept, _, marker = text_of(bench.effects).decode().partition("\n")
    assert whole.startswith(kept)
    assert limit - 3 <= len(kept.encode()) <= limit
    missing = len(whole.encode()) - len(kept.encode())
    assert marker == ("" if not missing else f"[output truncated: {missing} bytes not kept]\n")


def test_log_is_numbered_separately_and_dropped_over_its_limit() -> None:
    bench = Bench().open(credit=1000).running()
    bench.write(b"out")
    for _ in range(20):
        bench.happen(ev.AttemptWrote(lease(), Channel.LOG, b"l" * 60_000))
    assert [chunk.seq for chunk in sent(bench.effects, "log_chunk")] == list(range(1, 19))
    assert sum(len(chunk.data) for chunk in sent(bench.effects, "log_chunk")) == MAX_LOG_BYTES
    assert bench.session.unfinished


def test_run_waits_while_its_log_is_unacknowledged() -> None:
    bench = Bench().open(credit=2).running()
    assert bench.session.has_room(lease())
    bench.happen(ev.AttemptWrote(lease(), Channel.LOG, b"l" * 2 * MAX_CHUNK_BYTES))
    assert not bench.session.has_room(lease())


def test_meter_stops_when_the_work_is_done() -> None:
    bench = Bench().open().running()
    bench.now += 20
    bench.happen(ev.AttemptWorked(lease()))
    bench.now += 15  # past the run's limit of 30 s
    finished = sent(bench.finish(), "job_finished")[0]
    assert finished.outcome == sessions_pb2.RUN_OUTCOME_SUCCEEDED, "handing files over is not the run's time"
    assert finished.run_time == seconds(20)


def test_failure_message_has_a_maximum_length() -> None:
    bench = Bench().open().running()
    result = failed(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, "x" * 5000)
    effects = bench.happen(ev.AttemptFinished(lease(), result))
    assert len(sent(effects, "job_finished")[0].failure_message) == 2000


# --- ends by a message of the server or by the clock ---


def test_cancel_stops_a_run_and_reports_its_time() -> None:
    bench = Bench().open().running()
    bench.now += 4.5
    effects = bench.hear(cancel_run=sessions_pb2.CancelRun(lease=lease()))
    assert effects[0] == StopAttempt(lease(), discard=False)
    (finished,) = sent(effects, "job_finished")
    assert finished.outcome == sessions_pb2.RUN_OUTCOME_CANCELLED
    assert finished.run_time == seconds(4.5)
    assert bench.hear(cancel_run=sessions_pb2.CancelRun(lease=lease())) == []


def test_cancel_that_keeps_files_waits_for_them_and_is_still_a_cancel() -> None:
    bench = Bench().open().running()
    bench.now += 4.5
    keep = sessions_pb2.CancelRun(lease=lease(), keep_files=True)
    assert bench.hear(cancel_run=keep) == [EndAttempt(lease())]
    assert bench.hear(cancel_run=keep) == [], "it was asked already"
    bench.happen(ev.AttemptWorked(lease()))
    bench.now += 60  # its files are sent meanwhile
    result = failed(jobs_pb2.FAILURE_REASON_CONTAINER_EXIT, "exit code 143")
    (finished,) = sent(bench.happen(ev.AttemptFinished(lease(), result)), "job_finished")
    assert finished.outcome == sessions_pb2.RUN_OUTCOME_CANCELLED
    assert finished.run_time == seconds(4.5)


def test_a_second_cancel_that_keeps_nothing_ends_the_run_at_once() -> None:
    bench = Bench().open().running()
    bench.hear(cancel_run=sessions_pb2.CancelRun(lease=lease(), keep_files=True))
    effects = bench.hear(cancel_run=sessions_pb2.CancelRun(lease=lease()))
    assert kinds(effects) == ["StopAttempt", "job_finished"]


def test_cancel_before_the_start_costs_no_time() -> None:
    bench = Bench().open()
    bench.hear(job_offer=offer())
    bench.now += 9
    effects = bench.hear(cancel_run=sessions_pb2.CancelRun(lease=lease()))
    assert kinds(effects) == ["StopAttempt", "job_finished"]
    assert sent(effects, "job_finished")[0].run_time == seconds(0)
    assert bench.session.handle(ev.AttemptStarted(lease()), bench.now) == []


def test_run_limit_stops_the_run_and_caps_its_time() -> None:
    bench = Bench().open().running(limit=30)
    bench.write(b"x")
    bench.hear(output_ack=sessions_pb2.OutputAck(lease=lease(), output_through_seq=1))
    assert "StopAttempt" not in kinds(bench.pass_time(29.5, step=0.5))
    effects = bench.pass_time(3, step=3)
    assert "StopAttempt" in kinds(effects)
    (finished,) = sent(effects, "job_finished")
    assert finished.outcome == sessions_pb2.RUN_OUTCOME_FAILED
    assert finished.failure_reason == jobs_pb2.FAILURE_REASON_DURATION_LIMIT
    assert finished.run_time == seconds(30)


def test_meter_is_stopped_while_the_files_are_uploaded() -> None:
    bench = Bench().open().running(limit=30)
    bench.now += 20
    bench.happen(ev.AttemptWorked(lease()))
    assert "StopAttempt" not in kinds(bench.pass_time(100))
    assert bench.happen(ev.AttemptWorked(lease())) == []
    assert sent(bench.effects, "heartbeat")[-1].held_leases == [lease()]
    (finished,) = sent(bench.finish(), "job_finished")
    assert finished.run_time == seconds(20)


def test_stopped_meter_is_recovered_after_a_crash() -> None:
    bench = Bench().open().running(limit=30)
    bench.now += 20
    bench.happen(ev.AttemptWorked(lease()))
    again = bench.restarted(adopted=True)
    again.happen(ev.AttemptWorked(lease()))
    again.open()
    again.direct(KEEP)
    again.now += 100
    (finished,) = sent(again.finish(), "job_finished")
    assert finished.run_time == seconds(20)


def test_preparation_does_not_count_towards_the_run_limit() -> None:
    bench = Bench().open()
    bench.hear(job_offer=offer(limit=30))
    assert "StopAttempt" not in kinds(bench.pass_time(100))


def test_discard_stops_and_reports_nothing() -> None:
    bench = Bench().open().running()
    assert bench.direct(DISCARD) == [StopAttempt(lease(), discard=True)]
    assert bench.finish() == []
    assert bench.direct(KEEP) == []


def test_message_about_another_lease_changes_nothing() -> None:
    bench = Bench().open().running()
    forged = sessions_pb2.Lease(job_id="job-1", lease_epoch=1, lease_secret=b"guess")
    assert bench.hear(cancel_run=sessions_pb2.CancelRun(lease=forged)) == []
    assert bench.session.handle(ev.AttemptWrote(lease(epoch=2), Channel.OUTPUT, b"x"), bench.now) == []
    assert len(bench.session.unfinished) == 1


@pytest.mark.parametrize(("lost_after", "patience"), [(300.0, 270.0), (600.0, 570.0), (40.0, 20.0)])
def test_unrenewed_run_is_stopped_before_the_server_offers_it_again(
    lost_after: float, patience: float
) -> None:
    bench = Bench().open(lost_after=lost_after).running(limit=86400)
    bench.lose()
    assert "StopAttempt" not in kinds(bench.pass_time(patience - 1))
    assert "StopAttempt" in kinds(bench.pass_time(1))
    bench.connect()
    (finished,) = sent(bench.welcome(), "job_finished")
    assert finished.outcome == sessions_pb2.RUN_OUTCOME_RELEASED


def test_only_acknowledged_heartbeats_renew_from_when_they_were_sent() -> None:
    bench = Bench().open().running(limit=86400)
    bench.pass_time(100)
    acknowledged_at = bench.now
    unanswered = bench.pass_time(20, answering=False)
    assert sent(unanswered, "heartbeat")
    bench.lose()
    bench.pass_time(235)
    assert bench.session.unfinished
    bench.pass_time(20)
    assert not bench.session.unfinished
    assert bench.now - acknowledged_at <= 275


def test_late_acknowledgement_renews_from_when_its_heartbeat_was_sent() -> None:
    bench = Bench().open(lost_after=100).running(limit=86400)
    (beat,) = sent(bench.pass_time(12, answering=False), "heartbeat")
    left_at = bench.now
    bench.pass_time(40, answering=False)
    bench.hear(heartbeat_ack=sessions_pb2.HeartbeatAck(sequence=beat.sequence))
    bench.lose()
    bench.pass_time(left_at + 70 - bench.now)
    assert not bench.session.unfinished


def test_each_job_has_its_own_lost_period() -> None:
    bench = Bench(slots=2).open(lost_after=300).running(limit=86400, lost_after=60)
    bench.hear(job_offer=offer("job-2", limit=86400))
    bench.lose()
    bench.pass_time(29)
    assert len(bench.session.unfinished) == 2
    bench.pass_time(1)
    assert [run.lease.job_id for run in bench.session.unfinished] == ["job-2"]


@pytest.mark.parametrize("event", ["output", "finished", "offer", "connect", "persisted"])
def test_resumed_daemon_stops_an_expired_lease_before_it_sends_anything(event: str) -> None:
    bench = Bench(slots=2).open(lost_after=100).running(limit=86400)
    if event == "connect":
        bench.lose()
    if event == "persisted":
        bench.disk = "slow"
        bench.write(b"before the sleep")
    bench.now += 71
    bench.disk = "well"
    actions: dict[str, Callable[[], list[Effect]]] = {
        "output": lambda: bench.write(b"late"),
        "finished": bench.finish,
        "offer": lambda: bench.hear(job_offer=offer("job-2")),
        "connect": bench.connect,
        "persisted": bench.save,
    }
    effects = actions[event]()
    assert effects[0] == StopAttempt(lease(), discard=False)
    bench.link_again()
    results = {finished.outcome for finished in sent(bench.effects, "job_finished")}
    assert results == {sessions_pb2.RUN_OUTCOME_RELEASED}
    assert b"late" not in text_of(bench.effects)


# --- the journal ---


def test_nothing_is_reported_before_it_is_saved() -> None:
    bench = Bench().open()
    bench.disk = "slow"
    assert bench.hear(job_offer=offer()) == []
    assert bench.hear(job_offer=offer()) == []
    assert kinds(bench.save()) == ["offer_reply", "StartAttempt"]
    assert bench.happen(ev.AttemptStarted(lease())) == []
    assert kinds(bench.save()) == ["job_started"]
    assert bench.write(b"one") == []
    assert kinds(bench.save()) == ["output_chunk"]
    assert bench.finish() == []
    bench.lose()
    (hello,) = sent(bench.connect(), "hello")
    assert list(hello.held_leases) == [lease()]
    bench.welcome()
    bench.direct(KEEP, through=1)
    assert kinds(bench.save()) == ["job_finished"]


def test_offer_that_is_not_saved_yet_ends_with_its_stream() -> None:
    bench = Bench().open()
    bench.disk = "slow"
    bench.hear(job_offer=offer())
    bench.lose()
    bench.disk = "well"
    assert bench.save() == []
    assert bench.forgotten == [lease()]
    assert not sent(bench.connect(), "hello")[0].held_leases


def test_output_that_arrives_while_the_journal_saves_shares_the_next_sync() -> None:
    bench = Bench().open().running()
    bench.disk = "slow"
    for letter in (b"a", b"b", b"c"):
        bench.write(letter)
    assert len(bench.unsaved) == 1
    bench.disk = "well"
    assert [chunk.data for chunk in sent(bench.save(), "output_chunk")] == [b"a", b"bc"]


def test_offer_that_cannot_be_saved_is_refused_with_the_reason() -> None:
    bench = Bench().open()
    bench.disk = "full"
    (reply,) = sent(bench.hear(job_offer=offer()), "offer_reply")
    assert not reply.accepted
    assert reply.refusal == "the provider's disk takes no more: no space left"
    assert bench.forgotten == [lease()]
    bench.disk = "well"
    assert kinds(bench.hear(job_offer=offer(epoch=2))) == ["offer_reply", "StartAttempt"]


def test_run_whose_output_cannot_be_saved_is_released() -> None:
    bench = Bench().open().running()
    bench.write(b"saved")
    bench.disk = "full"
    effects = bench.write(b"lost")
    assert kinds(effects) == ["StopAttempt", "job_finished"]
    (finished,) = sent(effects, "job_finished")
    assert finished.outcome == sessions_pb2.RUN_OUTCOME_RELEASED
    assert finished.last_output_seq == 1
    bench.disk = "well"
    bench.hear(
        result_ack=sessions_pb2.ResultAck(lease=lease(), disposition=sessions_pb2.RESULT_DISPOSITION_ACCEPTED)
    )
    assert kinds(bench.hear(job_offer=offer("job-2"))) == ["offer_reply", "StartAttempt"]


def test_run_whose_result_cannot_be_saved_is_released_on_every_stream() -> None:
    bench = Bench().open().running()
    bench.write(b"saved")
    bench.disk = "full"
    (finished,) = sent(bench.finish(), "job_finished")
    assert finished.outcome == sessions_pb2.RUN_OUTCOME_RELEASED
    assert finished.run_time == seconds(0)
    bench.lose()
    assert list(sent(bench.connect(), "hello")[0].unacknowledged_results) == [lease()]
    assert sent(bench.welcome(), "job_finished") == [finished]


def test_run_continues_if_a_meter_reading_cannot_be_saved() -> None:
    bench = Bench().open().running()
    bench.disk = "full"
    bench.pass_time(25)
    assert bench.session.unfinished


def test_writer_waits_when_the_window_is_full() -> None:
    bench = Bench().open(credit=2).running()
    bench.write(b"x" * 2 * 65536)
    assert not bench.session.has_room(lease())
    bench.hear(output_ack=sessions_pb2.OutputAck(lease=lease(), output_through_seq=1))
    assert bench.session.has_room(lease())


def test_writer_of_an_ended_run_does_not_wait() -> None:
    bench = Bench().open(credit=1).running()
    bench.write(b"x" * 2 * 65536)
    bench.hear(cancel_run=sessions_pb2.CancelRun(lease=lease()))
    assert bench.session.has_room(lease())


# --- restarting ---


def test_result_of_an_earlier_process_is_reported_until_acknowledged() -> None:
    bench = Bench().open().running()
    bench.write(b"one")
    bench.now += 3
    bench.finish()
    again = bench.restarted()
    (hello,) = sent(again.connect(), "hello")
    assert list(hello.unacknowledged_results) == [lease()]
    assert list(hello.unacknowledged_run_times) == [seconds(3)]
    effects = again.welcome()
    assert kinds(effects) == ["Opened", "job_started", "output_chunk", "job_finished"]
    assert sent(effects, "job_finished") == sent(bench.effects, "job_finished")
    effects = again.direct(RESEND, through=1)
    assert kinds(effects) == ["job_finished"]
    again.hear(
        result_ack=sessions_pb2.ResultAck(lease=lease(), disposition=sessions_pb2.RESULT_DISPOSITION_STALE)
    )
    assert again.forgotten == [lease()]


def test_run_of_an_earlier_process_is_released_with_its_last_meter_reading() -> None:
    bench = Bench().open().running(limit=86400)
    bench.write(b"one")
    bench.pass_time(25)
    again = bench.restarted()
    (finished,) = [r for entry in again.saved for r in entry.records if isinstance(r, Finished)]
    assert finished.message.outcome == sessions_pb2.RUN_OUTCOME_RELEASED
    assert finished.message.failure_message == "The daemon was restarted."
    assert 15 <= finished.message.run_time.ToTimedelta().total_seconds() <= 25
    assert finished.message.last_output_seq == 1
    again.connect()
    assert len(sent(again.welcome(), "job_finished")) == 1


def test_adopted_run_continues_with_the_next_chunk_number() -> None:
    bench = Bench().open().running(limit=30)
    bench.write(b"one")
    bench.write(b"two")
    bench.pass_time(12)
    again = bench.restarted(adopted=True)
    (hello,) = sent(again.connect(), "hello")
    assert list(hello.held_leases) == [lease()]
    again.welcome()
    again.direct(KEEP, through=1)
    again.write(b"three")
    assert [chunk.seq for chunk in sent(again.effects, "output_chunk")] == [2, 3]
    effects = again.pass_time(21)
    (finished,) = sent(effects, "job_finished")
    assert finished.failure_reason == jobs_pb2.FAILURE_REASON_DURATION_LIMIT
    assert finished.run_time == seconds(30)


def test_discarded_lease_is_forgotten_and_its_repeated_offer_ignored() -> None:
    bench = Bench().open().running()
    bench.direct(DISCARD)
    assert bench.forgotten == [lease()]
    assert bench.hear(job_offer=offer()) == []


def test_repeated_offer_of_a_lease_that_a_newer_lease_ended_is_ignored() -> None:
    bench = Bench().open().running()
    bench.hear(job_offer=offer(epoch=2))
    assert bench.hear(job_offer=offer()) == []


# --- reconnecting ---


def test_backoff_has_full_jitter_grows_to_a_minute_and_restarts_after_a_heartbeat() -> None:
    class Highest(Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    bench = Bench(rng=Highest())
    delays = []
    for _ in range(9):
        bench.connect()
        delays += [effect.seconds for effect in bench.lose() if isinstance(effect, ReconnectAfter)]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    # A session that ends with the first message after Welcome has not lasted.
    bench.open()
    assert bench.lose() == [ReconnectAfter(60)]
    bench.open()
    bench.pass_time(12)
    assert bench.lose() == [ReconnectAfter(1)]


def test_key_that_the_server_does_not_know_is_tried_later_and_later() -> None:
    class Highest(Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    bench = Bench(rng=Highest())
    delays = []
    for _ in range(9):
        bench.connect()
        (pause,) = bench.happen(ev.Disconnected(is_key_refused=True))
        assert isinstance(pause, ReconnectAfter)
        delays.append(pause.seconds)
    assert delays == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_backoff_jitter_covers_the_whole_range() -> None:
    delays = []
    for seed in range(200):
        bench = Bench(rng=Random(seed))
        bench.connect()
        delays += [effect.seconds for effect in bench.lose() if isinstance(effect, ReconnectAfter)]
    assert min(delays) < 0.1
    assert 0.9 < max(delays) <= 1


def test_second_loss_of_the_same_stream_is_ignored() -> None:
    bench = Bench().open()
    bench.lose()
    assert bench.lose() == []


def test_run_continues_without_a_stream_and_reports_after_keep() -> None:
    bench = Bench().open().running()
    bench.write(b"one")
    bench.write(b"two")
    bench.lose()
    assert bench.write(b"three") == []
    (hello,) = sent(bench.connect(), "hello")
    assert list(hello.held_leases) == [lease()]
    assert kinds(bench.welcome()) == ["Opened"]
    chunks = sent(bench.direct(KEEP, through=1), "output_chunk")
    assert [(chunk.seq, chunk.data) for chunk in chunks] == [(2, b"two"), (3, b"three")]


def test_unacknowledged_start_is_reported_again() -> None:
    bench = Bench().open().running()
    bench.lose()
    bench.connect()
    bench.welcome()
    assert kinds(bench.direct(KEEP)) == ["job_started"]


def test_result_is_repeated_on_every_stream_until_acknowledged() -> None:
    bench = Bench().open().running()
    bench.write(b"one")
    bench.finish()
    for _ in range(3):
        bench.lose()
        (hello,) = sent(bench.connect(), "hello")
        assert list(hello.unacknowledged_results) == [lease()]
        assert not hello.held_leases
        assert kinds(bench.welcome()) == ["Opened", "job_started", "output_chunk", "job_finished"]


def test_resend_reports_everything_after_the_stored_part() -> None:
    bench = Bench().open().running()
    for letter in (b"a", b"b", b"c"):
        bench.write(letter)
    bench.finish()
    effects = bench.direct(RESEND, through=1)
    assert kinds(effects) == ["output_chunk", "output_chunk", "job_finished"]
    assert [chunk.seq for chunk in sent(effects, "output_chunk")] == [2, 3]


def test_unacknowledged_messages_are_repeated_on_the_same_stream() -> None:
    bench = Bench().open().running()
    bench.write(b"one")
    bench.finish()
    again = bench.pass_time(31)
    assert sent(again, "output_chunk")[0].seq == 1
    assert len(sent(again, "job_finished")) == 1


def test_acknowledgement_of_unsent_chunks_changes_nothing() -> None:
    bench = Bench().open().running()
    bench.write(b"one")
    bench.hear(output_ack=sessions_pb2.OutputAck(lease=lease(), output_through_seq=7))
    assert sent(bench.write(b"two"), "output_chunk")[0].seq == 2


def test_reconnect_waits_as_the_server_asked() -> None:
    bench = Bench().open()
    (effect,) = bench.hear(reconnect=sessions_pb2.Reconnect(after=seconds(5), jitter=seconds(2)))
    assert isinstance(effect, ReconnectAfter)
    assert 5 <= effect.seconds <= 7
    assert bench.lose() == []


def test_superseded_daemon_stops_everything_and_does_not_reconnect() -> None:
    bench = Bench().open().running()
    effects = bench.hear(superseded=sessions_pb2.Superseded(by_session_epoch=4))
    assert effects == [StopAttempt(lease(), discard=True), EndSession(EndReason.SUPERSEDED)]
    assert bench.lose() == []
    assert bench.connect() == []


# --- capacity and drain ---


def test_capacity_is_reported_when_it_changes() -> None:
    bench = Bench().open()
    warm = [sessions_pb2.ServedModel(name="test/model", warm=True)]
    capacity = ev.Capacity(1, warm, JOB_TYPES)
    assert kinds(bench.session.handle(capacity, bench.now)) == ["capacity_update"]
    assert bench.session.handle(capacity, bench.now) == []


def test_capacity_that_changes_between_hello_and_welcome_is_reported_after_welcome() -> None:
    bench = Bench()
    bench.happen(ev.Connected())
    assert kinds(bench.session.handle(ev.Capacity(1, [], []), bench.now)) == []
    welcome = sessions_pb2.Welcome(session_epoch=1, provider_id=42, heartbeat_interval=seconds(10))
    assert kinds(bench.hear(welcome=welcome)) == ["Opened", "capacity_update"]
    bench.happen(ev.Disconnected())
    bench.happen(ev.Connected())
    assert kinds(bench.hear(welcome=welcome)) == ["Opened"]  # this stream's Hello has reported it


def test_only_runs_on_failed_gpus_are_released() -> None:
    bench = Bench(slots=2).open().running()
    assert bench.happen(ev.GpusFailed([lease("other")])) == []
    effects = bench.happen(ev.GpusFailed([lease()]))
    assert kinds(effects) == ["StopAttempt", "job_finished"]
    assert bench.happen(ev.GpusFailed([lease()])) == []


def test_idle_daemon_drains_at_once() -> None:
    bench = Bench().open()
    effects = bench.session.handle(ev.DrainRequested(), bench.now)
    assert kinds(effects) == ["drain", "goodbye", "EndSession"]


def test_drain_waits_for_the_run_and_the_acknowledgement_of_its_result() -> None:
    bench = Bench().open().running()
    assert kinds(bench.session.handle(ev.DrainRequested(), bench.now)) == ["drain"]
    assert kinds(bench.finish()) == ["job_finished"]
    effects = bench.hear(
        result_ack=sessions_pb2.ResultAck(lease=lease(), disposition=sessions_pb2.RESULT_DISPOSITION_ACCEPTED)
    )
    assert kinds(effects) == ["goodbye", "EndSession"]


def test_drain_releases_runs_after_half_a_minute_and_then_ends() -> None:
    bench = Bench().open().running()
    bench.session.handle(ev.DrainRequested(), bench.now)
    assert "StopAttempt" not in kinds(bench.pass_time(29))
    effects = bench.pass_time(1)
    (finished,) = sent(effects, "job_finished")
    assert finished.outcome == sessions_pb2.RUN_OUTCOME_RELEASED
    assert finished.failure_reason == jobs_pb2.FAILURE_REASON_PROVIDER_DRAINED
    assert kinds(bench.pass_time(5))[-2:] == ["goodbye", "EndSession"]


def test_drain_is_reported_again_after_a_reconnect() -> None:
    bench = Bench().open().running()
    bench.session.handle(ev.DrainRequested(), bench.now)
    bench.lose()
    bench.connect()
    assert "drain" in kinds(bench.welcome())


def test_drain_ends_without_a_server() -> None:
    bench = Bench()
    assert kinds(bench.session.handle(ev.DrainRequested(), bench.now)) == ["EndSession"]


# --- any sequence of events ---

_LEASES = st.builds(
    sessions_pb2.Lease,
    job_id=st.sampled_from(["", "job-1", "job-2"]),
    lease_epoch=st.integers(-1, 2),
    lease_secret=st.sampled_from([b"", b"s" * 16]),
)
_NUMBERS = st.integers(-(2**62), 2**62) | st.integers(0, 5)
_DURATIONS = st.integers(-5, 400).map(seconds)
_MESSAGES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.builds(
        lambda **fields: {"welcome": sessions_pb2.Welcome(**fields)},
        heartbeat_interval=_DURATIONS,
        lost_after=_DURATIONS,
        chunk_credit=st.integers(-1, 4),
    ),
    st.builds(lambda n: {"heartbeat_ack": sessions_pb2.HeartbeatAck(sequence=n)}, _NUMBERS),
    st.builds(lambda n: {"settings_update": terms_pb2.ProviderSettings(vram_reserve_mib=n)}, _NUMBERS),
    st.builds(
        lambda at, epoch, limit: {"job_offer": offer(at, epoch, limit=limit)},
        st.sampled_from(["job-1", "job-2"]),
        st.integers(1, 2),
        st.integers(0, 60),
    ),
    st.builds(lambda held: {"cancel_run": sessions_pb2.CancelRun(lease=held)}, _LEASES),
    st.builds(
        lambda held, action, out, log: {
            "lease_directive": sessions_pb2.LeaseDirective(
                lease=held, action=action, output_through_seq=out, log_through_seq=log
            )
        },
        _LEASES,
        st.integers(0, 5),
        _NUMBERS,
        _NUMBERS,
    ),
    st.builds(
        lambda held, disposition: {"result_ack": sessions_pb2.ResultAck(lease=held, disposition=disposition)},
        _LEASES,
        st.integers(0, 4),
    ),
    st.builds(
        lambda held, out, log: {
            "output_ack": sessions_pb2.OutputAck(lease=held, output_through_seq=out, log_through_seq=log)
        },
        _LEASES,
        _NUMBERS,
        _NUMBERS,
    ),
    st.builds(lambda after: {"reconnect": sessions_pb2.Reconnect(after=after)}, _DURATIONS),
    st.just({"superseded": sessions_pb2.Superseded()}),
)
_STEPS = st.one_of(
    st.tuples(st.just("hear"), _MESSAGES),
    st.tuples(st.sampled_from(["connect", "lose", "drain"]), st.none()),
    st.tuples(st.just("wait"), st.floats(0, 400)),
    st.tuples(st.sampled_from(["started", "finished"]), _LEASES),
    st.tuples(st.just("output"), _LEASES),
)


def _step(bench: Bench, name: str, argument: Any) -> None:
    session = bench.session
    match name:
        case "hear":
            bench.hear(**argument)
        case "connect":
            bench.connect()
        case "lose":
            bench.lose()
        case "drain":
            bench.take(session.handle(ev.DrainRequested(), bench.now))
        case "wait":
            bench.now += argument
            bench.take(session.handle(ev.Tick(), bench.now))
        case "started":
            bench.take(session.handle(ev.AttemptStarted(argument), bench.now))
        case "finished":
            bench.take(session.handle(ev.AttemptFinished(argument, DONE), bench.now))
        case "output":
            bench.take(session.handle(ev.AttemptWrote(argument, Channel.OUTPUT, b"x"), bench.now))


@settings(max_examples=300, deadline=None)
@given(st.lists(_STEPS, max_size=40))
def test_no_sequence_of_messages_and_events_breaks_the_session(steps: list[tuple[str, Any]]) -> None:
    bench = Bench(slots=2)
    for name, argument in [("connect", None), ("hear", {"welcome": sessions_pb2.Welcome()}), *steps]:
        _step(bench, name, argument)
    starts = [e.offer.lease.SerializeToString() for e in bench.effects if isinstance(e, StartAttempt)]
    assert len(starts) == len(set(starts)), "a lease was started twice"
    for finished in sent(bench.effects, "job_finished"):
        assert 0 <= finished.run_time.ToTimedelta().total_seconds() <= 60
    assert len(bench.session.unfinished) <= 2
