"""Chats of the daemon: who reads along does not wait for its disk, and its journal still has every result."""

from __future__ import annotations

from dcp.v1 import sessions_pb2

from daemon.protocol import events as ev
from daemon.protocol.records import Accepted, Channel, Chunk, Finished, Record, Started, Stored, replay
from tests.daemon.fake_server import lease, offer
from tests.daemon.protocol.session_bench import Bench, kinds, sent

CHAT = b'{"messages":[]}'
RELEASED = sessions_pb2.RUN_OUTCOME_RELEASED
SUCCEEDED = sessions_pb2.RUN_OUTCOME_SUCCEEDED
RESEND = sessions_pb2.LEASE_ACTION_RESEND
KEEP = sessions_pb2.LEASE_ACTION_KEEP


def chatting(*, merges: bool = False) -> Bench:
    """A daemon with a chat that the server knows to be running, and a disk that is slow from now on."""
    bench = Bench().open(merges=merges).running(chat_request=CHAT)
    bench.disk = "slow"
    return bench


def stored(bench: Bench, through: int) -> list[object]:
    ack = sessions_pb2.OutputAck(lease=lease(), output_through_seq=through)
    return list(bench.hear(output_ack=ack))


def records(bench: Bench) -> list[list[type]]:
    return [[type(record) for record in entry.records] for entry in bench.saved]


def test_text_of_a_chat_is_sent_and_acknowledged_without_the_journal() -> None:
    bench = chatting()
    for seq, text in enumerate((b"a", b"b", b"c"), 1):
        assert [piece.data for piece in sent(bench.write(text), "output_chunk")] == [text]
        stored(bench, seq)
    assert bench.unsaved == []
    bench.finish()
    bench.disk = "well"
    assert kinds(bench.save()) == ["job_finished"]
    assert records(bench)[-1] == [Stored, Finished]


def test_text_of_a_chat_waits_for_its_saved_start() -> None:
    bench = Bench().open()
    bench.hear(job_offer=offer(chat_request=CHAT))
    bench.disk = "slow"
    bench.happen(ev.AttemptStarted(lease()))
    assert bench.write(b"a") == []
    bench.disk = "well"
    assert kinds(bench.save()) == ["job_started", "output_chunk"]


def test_text_of_another_job_waits_for_the_journal() -> None:
    bench = Bench().open().running()
    bench.disk = "slow"
    assert bench.write(b"a") == []
    bench.disk = "well"
    assert kinds(bench.save()) == ["output_chunk"]


def test_result_of_a_chat_is_saved_with_all_that_the_server_has_not_stored() -> None:
    bench = chatting(merges=True)
    bench.write(b"a")
    stored(bench, 1)
    bench.write(b"b")
    bench.write(b"c")
    assert bench.finish() == [], "the result and its last text wait until they are saved"
    bench.disk = "well"
    effects = bench.save()
    assert records(bench)[-1] == [Stored, Chunk, Chunk, Finished]
    assert kinds(effects) == ["job_finished"]
    (result,) = sent(effects, "job_finished")
    assert (result.last_output_seq, result.last_output) == (3, b"c")


def test_daemon_that_starts_again_sends_what_the_server_lacks_of_a_chat_that_has_ended() -> None:
    bench = chatting()
    bench.disk = "well"
    bench.write(b"a")
    stored(bench, 1)
    bench.write(b"b")
    bench.write(b"c")
    bench.finish()
    again = bench.restarted()
    again.open()
    effects = again.direct(RESEND, through=1)
    assert [(piece.seq, piece.data) for piece in sent(effects, "output_chunk")] == [(2, b"b"), (3, b"c")]
    (result,) = sent(effects, "job_finished")
    assert (result.outcome, result.last_output_seq) == (SUCCEEDED, 3)


def test_chat_that_had_not_ended_is_given_back_by_the_daemon_that_starts_again() -> None:
    bench = chatting()
    bench.disk = "well"
    bench.write(b"a")
    again = bench.restarted()
    again.open()
    again.direct(KEEP, through=1)
    (result,) = sent(again.effects, "job_finished")
    assert (result.outcome, result.last_output_seq) == (RELEASED, 0)
    assert sent(again.effects, "output_chunk") == []


def test_result_of_a_chat_that_cannot_be_saved_is_given_back_with_what_the_server_has() -> None:
    bench = chatting()
    bench.write(b"a")
    stored(bench, 1)
    bench.write(b"b")
    bench.finish()
    bench.disk = "full"
    (result,) = sent(bench.save(), "job_finished")
    assert (result.outcome, result.last_output_seq) == (RELEASED, 1)
    # An acknowledgement of what it has dropped changes nothing.
    assert stored(bench, 2) == []
    assert bench.session.unfinished == []


def test_what_the_server_has_is_saved_with_the_result_although_the_disk_was_full_before() -> None:
    bench = chatting()
    bench.write(b"a")
    stored(bench, 1)
    bench.disk = "full"
    bench.pass_time(70)
    bench.disk = "well"
    bench.write(b"b")
    bench.finish()
    assert records(bench)[-1] == [Stored, Chunk, Finished]
    again = bench.restarted()
    again.open()
    (result,) = sent(again.direct(RESEND, through=1), "job_finished")
    assert (result.outcome, result.last_output_seq) == (SUCCEEDED, 2)


def test_text_of_a_chat_is_sent_again_on_a_new_stream_although_it_was_never_saved() -> None:
    bench = chatting()
    bench.write(b"a")
    bench.lose()
    bench.open()
    effects = bench.direct(KEEP, through=0)
    assert [piece.data for piece in sent(effects, "output_chunk")] == [b"a"]
    stored(bench, 1)
    assert [piece.seq for piece in sent(bench.write(b"b"), "output_chunk")] == [2]


def test_journal_that_has_no_piece_before_those_of_the_result_adds_up_to_all_that_is_left() -> None:
    kept: list[Record] = [Accepted(offer(chat_request=CHAT)), Started(), Stored(Channel.OUTPUT, 2, 20)]
    history = replay([*kept, Chunk(Channel.OUTPUT, 3, b"c")])
    assert history is not None
    output = history.channels[Channel.OUTPUT]
    assert (output.last, output.acknowledged, output.total_bytes) == (3, 2, 21)
    again = replay(history.records())
    assert again is not None
    assert again.channels[Channel.OUTPUT].kept() == [(3, b"c")]
