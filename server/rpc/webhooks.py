"""WebhookService at the wire."""

from __future__ import annotations

from dcp.v1 import webhooks_pb2 as pb
from dcp.v1 import webhooks_pb2_grpc

from server.domain.webhooks import DeliveryStatus, WebhookEvent
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map
from server.rpc.interceptors import caller
from server.services.webhooks import Webhooks
from server.store.webhooks import Delivery, Webhook

_EVENTS = enum_map(WebhookEvent, pb.WebhookEvent)
_STATUSES = enum_map(DeliveryStatus, pb.DeliveryStatus)


class WebhookServicer(webhooks_pb2_grpc.WebhookServiceServicer):
    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    async def SetWebhook(self, request: pb.SetWebhookRequest, context: Context) -> pb.SetWebhookResponse:
        found, secret = await self._webhooks.put(
            caller().id, request.url.strip(), request.balance_low_halala or None
        )
        return pb.SetWebhookResponse(success=True, webhook=webhook(found), secret=secret)

    async def GetWebhook(self, request: pb.GetWebhookRequest, context: Context) -> pb.GetWebhookResponse:
        return pb.GetWebhookResponse(webhook=webhook(await self._webhooks.get(caller().id)))

    async def RemoveWebhook(
        self, request: pb.RemoveWebhookRequest, context: Context
    ) -> pb.RemoveWebhookResponse:
        await self._webhooks.remove(caller().id)
        return pb.RemoveWebhookResponse(success=True)

    async def RotateWebhookSecret(
        self, request: pb.RotateWebhookSecretRequest, context: Context
    ) -> pb.RotateWebhookSecretResponse:
        rotation = await self._webhooks.rotate(caller().id, request.grace_seconds)
        return pb.RotateWebhookSecretResponse(
            success=True,
            secret=rotation.secret,
            previous_expires_at=convert.timestamp(rotation.previous_expires_ms),
        )

    async def TestWebhook(self, request: pb.TestWebhookRequest, context: Context) -> pb.TestWebhookResponse:
        return pb.TestWebhookResponse(success=True, delivery=delivery(await self._webhooks.test(caller().id)))

    async def ListWebhookDeliveries(
        self, request: pb.ListWebhookDeliveriesRequest, context: Context
    ) -> pb.ListWebhookDeliveriesResponse:
        page = await self._webhooks.deliveries(caller().id, request.before_id or None, request.page_size)
        return pb.ListWebhookDeliveriesResponse(
            deliveries=[delivery(row) for row in page.rows], next_before_id=page.next_id
        )


def webhook(found: Webhook | None) -> pb.Webhook | None:
    """A webhook as its renter sees it, without its secret."""
    if found is None:
        return None
    return pb.Webhook(
        url=found.url,
        balance_low_halala=found.balance_low_halala,
        created_at=convert.timestamp(found.created_ms),
    )


def delivery(row: Delivery) -> pb.WebhookDelivery:
    """A delivery as its renter sees it."""
    return pb.WebhookDelivery(
        id=row.id,
        event_id=row.event_id,
        event=_EVENTS[row.event],
        status=_STATUSES[row.status],
        attempts=row.attempts,
        created_at=convert.timestamp(row.created_ms),
        last_attempt_at=convert.timestamp(row.last_ms),
        status_code=row.status_code,
        error=row.error,
    )
