"""Writes the bodies of events: messages of dcp.v1, in the JSON form of the API's answers."""

from __future__ import annotations

import json
from typing import Any, TypeAlias, get_args

from dcp.v1 import incidents_pb2
from dcp.v1 import webhooks_pb2 as pb

from common.json_form import message_writer
from server.domain.disputes import Dispute, DisputeState
from server.domain.incidents import Condition, Incident
from server.domain.jobs import Bill, FailureReason, JobState, JobType
from server.domain.money import whole_halala
from server.domain.pricing import parse
from server.domain.webhooks import WebhookEvent
from server.rpc import convert, incidents
from server.rpc.enums import enum_map
from server.store.webhooks import Delivery

Body: TypeAlias = (
    pb.JobEvent
    | pb.BalanceLowEvent
    | pb.BudgetReachedEvent
    | pb.TestEvent
    | pb.DisputeEvent
    | pb.KeyRecoveryEvent
    | incidents_pb2.IncidentEvent
    | pb.BatchEvent
)
_OF_INCIDENTS = (WebhookEvent.INCIDENT_BEGAN, WebhookEvent.INCIDENT_LASTS, WebhookEvent.INCIDENT_ENDED)
_OF_DISPUTES = (WebhookEvent.DISPUTE_OPENED, WebhookEvent.DISPUTE_DECIDED)
_OF_BATCHES = (
    WebhookEvent.BATCH_COMPLETED,
    WebhookEvent.BATCH_FAILED,
    WebhookEvent.BATCH_EXPIRED,
    WebhookEvent.BATCH_CANCELLED,
)
_TYPES = enum_map(WebhookEvent, pb.WebhookEvent)
_WRITERS = {each.DESCRIPTOR: message_writer(each.DESCRIPTOR) for each in get_args(Body)}


def body_text(event: Delivery) -> str:
    """The body of an event, written from the facts that were noted when it happened."""
    message = _body(event)
    values = _WRITERS[message.DESCRIPTOR](message)
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _body(event: Delivery) -> Body:
    id_, kind, at = event.event_id, _TYPES[event.event], convert.timestamp(event.created_ms)
    if event.event is WebhookEvent.TEST:
        return pb.TestEvent(id=id_, type=kind, created_at=at, data=pb.TestEventData())
    if event.event is WebhookEvent.BALANCE_LOW:
        return pb.BalanceLowEvent(id=id_, type=kind, created_at=at, data=pb.LowBalance(**event.facts))
    if event.event is WebhookEvent.KEY_RECOVERY_STARTED:
        recovery = pb.KeyRecovery(ready_at=convert.timestamp(event.facts["ready_ms"]))
        return pb.KeyRecoveryEvent(id=id_, type=kind, created_at=at, data=recovery)
    if event.event is WebhookEvent.BUDGET_REACHED:
        return pb.BudgetReachedEvent(id=id_, type=kind, created_at=at, data=_reached_budget(event.facts))
    if event.event in _OF_INCIDENTS:
        incident = Incident(**event.facts | {"condition": Condition(event.facts["condition"])})
        data = incidents.message(incident)
        return incidents_pb2.IncidentEvent(id=id_, type=kind, created_at=at, data=data)
    if event.event in _OF_DISPUTES:
        dispute = Dispute(**event.facts | {"state": DisputeState(event.facts["state"])})
        return pb.DisputeEvent(id=id_, type=kind, created_at=at, data=convert.dispute(dispute))
    if event.event in _OF_BATCHES:
        return pb.BatchEvent(id=id_, type=kind, created_at=at, data=_ended_batch(event.facts))
    return pb.JobEvent(id=id_, type=kind, created_at=at, data=_ended_job(event.facts))


def _reached_budget(facts: dict[str, Any]) -> pb.ReachedBudget:
    names = ("key_id", "budget", "budget_halala", "used_halala", "required_halala")
    values = {name: facts[name] for name in names}
    return pb.ReachedBudget(**values, resets_at=convert.timestamp(facts["ends_ms"]))


def _ended_batch(facts: dict[str, Any]) -> pb.EndedBatch:
    return pb.EndedBatch(
        id=facts["batch_id"],
        total=facts["lines"],
        completed=facts["completed"],
        failed=facts["failed"],
        charged_halala=whole_halala(facts["charged_micros"]),
    )


def _ended_job(facts: dict[str, Any]) -> pb.EndedJob:
    bill, reason = Bill(**facts["bill"]), facts["failure_reason"]
    return pb.EndedJob(
        job_id=facts["job_id"],
        job_type=convert.job_type_number(JobType(facts["job_type"])),
        status=convert.state_number(JobState(facts["state"])),
        charged_halala=whole_halala(bill.charge_micros),
        refunded_halala=whole_halala(bill.refund_micros),
        failure_reason=convert.failure_reason_number(FailureReason(reason)) if reason else None,
        failure_message=facts["failure_message"],
        provider_id=facts["provider_id"],
        model=facts["model"],
        created_at=convert.timestamp(facts["created_ms"]),
        started_at=convert.timestamp(facts["started_ms"]),
        ended_at=convert.timestamp(facts["ended_ms"]),
        # Facts of older events have the rate alone.
        billing=convert.bill(bill, parse(facts.get("price") or str(facts["rate_halala_per_minute"]))),
    )
