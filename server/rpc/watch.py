"""The events of a job at the wire."""

from __future__ import annotations

from dcp.v1 import jobs_pb2 as pb

from server.domain.leases import Channel
from server.domain.preparations import Preparation
from server.domain.watch import BeginsAnew, End, Event, File, StateChange, Text, event_id
from server.rpc import convert

NO_EVENT = pb.WatchJobResponse()
"""Only shows that the stream is open."""


def response(job_id: str, event: Event, *, for_provider: bool) -> pb.WatchJobResponse:
    """An event as its reader sees it."""
    answer = pb.WatchJobResponse(id=event_id(job_id, event.cursor))
    match event.kind:
        case StateChange() as change:
            answer.state.CopyFrom(_state(change))
        case BeginsAnew(ended_attempt, outcome, at_ms):
            answer.attempt.ended_attempt = ended_attempt
            answer.attempt.outcome = convert.outcome(outcome)
            answer.attempt.at.FromMilliseconds(at_ms)
        case Text(channel, data):
            text = answer.output if channel is Channel.OUTPUT else answer.log
            text.text = data.decode()
        case File(content_type, size_bytes):
            path = f"/api/jobs/{job_id}/output"
            answer.file.CopyFrom(pb.JobFileEvent(content_type=content_type, size_bytes=size_bytes, path=path))
        case Preparation() as found:
            answer.preparation.CopyFrom(convert.preparation(found))
        case End(job, texts_removed):
            show = convert.providers_job if for_provider else convert.job
            answer.end.CopyFrom(pb.JobEndEvent(job=show(job), texts_removed=texts_removed))
    return answer


def _state(change: StateChange) -> pb.JobStateEvent:
    return pb.JobStateEvent(
        status=convert.state_number(change.state),
        at=convert.timestamp(change.at_ms),
        attempt=change.attempt,
        provider_id=change.provider_id,
        cancel_requested=change.cancel_requested,
    )
