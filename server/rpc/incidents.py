"""IncidentService at the wire."""

from __future__ import annotations

from dcp.v1 import incidents_pb2 as pb
from dcp.v1 import incidents_pb2_grpc

from server.domain.incidents import Condition, Incident, Severity, summary
from server.domain.money import whole_halala
from server.domain.webhooks import OPERATORS
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map
from server.rpc.interceptors import operator
from server.rpc.webhooks import delivery, webhook
from server.services.operators.incidents import Incidents
from server.services.webhooks import Webhooks

_CONDITIONS = enum_map(Condition, pb.IncidentCondition)
_SEVERITIES = enum_map(Severity, pb.IncidentSeverity)
_RUNBOOK = "docs/operators.md#incidents"


class IncidentServicer(incidents_pb2_grpc.IncidentServiceServicer):
    def __init__(self, incidents: Incidents, webhooks: Webhooks) -> None:
        self._incidents = incidents
        self._webhooks = webhooks

    async def ListIncidents(
        self, request: pb.ListIncidentsRequest, context: Context
    ) -> pb.ListIncidentsResponse:
        page = await self._incidents.page(request.before_id or None, request.page_size)
        return pb.ListIncidentsResponse(
            incidents=[message(row) for row in page.rows], next_before_id=page.next_id
        )

    async def SetOperatorWebhook(
        self, request: pb.SetOperatorWebhookRequest, context: Context
    ) -> pb.SetOperatorWebhookResponse:
        found, secret = await self._webhooks.put(OPERATORS, request.url.strip(), operator=operator(context))
        return pb.SetOperatorWebhookResponse(success=True, webhook=webhook(found), secret=secret)

    async def GetOperatorWebhook(
        self, request: pb.GetOperatorWebhookRequest, context: Context
    ) -> pb.GetOperatorWebhookResponse:
        return pb.GetOperatorWebhookResponse(webhook=webhook(await self._webhooks.get(OPERATORS)))

    async def RemoveOperatorWebhook(
        self, request: pb.RemoveOperatorWebhookRequest, context: Context
    ) -> pb.RemoveOperatorWebhookResponse:
        await self._webhooks.remove(OPERATORS, operator(context))
        return pb.RemoveOperatorWebhookResponse(success=True)

    async def RotateOperatorWebhookSecret(
        self, request: pb.RotateOperatorWebhookSecretRequest, context: Context
    ) -> pb.RotateOperatorWebhookSecretResponse:
        rotation = await self._webhooks.rotate(OPERATORS, request.grace_seconds, operator(context))
        return pb.RotateOperatorWebhookSecretResponse(
            success=True,
            secret=rotation.secret,
            previous_expires_at=convert.timestamp(rotation.previous_expires_ms),
        )

    async def TestOperatorWebhook(
        self, request: pb.TestOperatorWebhookRequest, context: Context
    ) -> pb.TestOperatorWebhookResponse:
        added = await self._webhooks.test(OPERATORS, operator(context))
        return pb.TestOperatorWebhookResponse(success=True, delivery=delivery(added))

    async def ListOperatorWebhookDeliveries(
        self, request: pb.ListOperatorWebhookDeliveriesRequest, context: Context
    ) -> pb.ListOperatorWebhookDeliveriesResponse:
        page = await self._webhooks.deliveries(OPERATORS, request.before_id or None, request.page_size)
        return pb.ListOperatorWebhookDeliveriesResponse(
            deliveries=[delivery(row) for row in page.rows], next_before_id=page.next_id
        )


def message(incident: Incident) -> pb.Incident:
    """An incident as operators see it, in a list and in an event."""
    found = pb.Incident(
        id=incident.id,
        condition=_CONDITIONS[incident.condition],
        severity=_SEVERITIES[incident.severity],
        summary=summary(incident),
        runbook=_RUNBOOK,
        began_at=convert.timestamp(incident.began_ms),
        ended_at=convert.timestamp(incident.ended_ms),
    )
    _add_facts(found, incident)
    return found


def _add_facts(found: pb.Incident, incident: Incident) -> None:
    facts = incident.facts
    match incident.condition:
        case Condition.MODEL_UNSERVED:
            models = [
                pb.UnservedModel(
                    model=each["model"], jobs=each["jobs"], oldest_at=convert.timestamp(each["oldest_ms"])
                )
                for each in facts["models"]
            ]
            found.unserved.CopyFrom(pb.UnservedModels(models=models, jobs=facts["jobs"]))
        case Condition.PAYOUTS_WAIT:
            payouts = pb.WaitingPayouts(
                requests=facts["requests"],
                amount_halala=whole_halala(facts["amount_micros"]),
                oldest_at=convert.timestamp(facts["oldest_ms"]),
            )
            found.payouts.CopyFrom(payouts)
        case Condition.PROOF_UNCLEAN:
            found.proof.CopyFrom(pb.UncleanProof(**facts))
        case Condition.DISK_NEARLY_FULL | Condition.DISK_FULL:
            found.disks.extend(pb.FullDisk(**each) for each in facts["disks"])
        case Condition.SESSIONS_LOST:
            found.sessions.CopyFrom(pb.LostSessions(**facts))
