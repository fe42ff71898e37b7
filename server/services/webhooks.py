"""The use cases of renters' webhooks: set, read, remove, test.

server.services.outbox writes the events and server.services.deliveries sends them.
"""

from __future__ import annotations

import logging
import secrets

from server.clock import Clock, ms
from server.domain import ledger as rules
from server.domain.errors import DomainError, Reason
from server.domain.targets import check_url
from server.domain.webhooks import WebhookEvent
from server.services import outbox
from server.services.pages import Page, read_page
from server.services.renters import present
from server.store import ledger, webhooks
from server.store.database import Database
from server.store.webhooks import Delivery, Webhook

log = logging.getLogger(__name__)


class Webhooks:
    """The use cases of webhooks."""

    def __init__(self, database: Database, clock: Clock, allow_private: bool) -> None:
        self._database = database
        self._clock = clock
        self._allow_private = allow_private

    async def put(
        self, renter_id: int, url: str, balance_low_halala: int | None
    ) -> tuple[Webhook, str | None]:
        """Sets or changes the address; returns the webhook, and the secret if it was created now.

        Raises INVALID_FIELD, RENTER_DELETED.
        """
        check_url(url, allow_private=self._allow_private)
        secret = _new_secret()
        now_ms = ms(self._clock)

        def put() -> tuple[Webhook, str | None]:
            present(renter_id)
            balance = ledger.balance(rules.renter(renter_id))
            is_new = webhooks.put(
                renter_id,
                url,
                secret,
                balance_low_halala=balance_low_halala,
                balance_is_low=balance_low_halala is not None and balance < balance_low_halala,
                now_ms=now_ms,
            )
            found = webhooks.get(renter_id)
            assert found is not None
            return found, secret if is_new else None

        found, shown = await self._database.run(put)
        log.info("set a webhook renter_id=%d new=%s", renter_id, shown is not None)
        return found, shown

    async def get(self, renter_id: int) -> Webhook | None:
        """The renter's webhook."""
        return await self._database.read(lambda: webhooks.get(renter_id))

    async def remove(self, renter_id: int) -> None:
        """Removes the webhook; without one it does nothing."""
        await self._database.run(lambda: webhooks.remove(renter_id))
        log.info("removed a webhook renter_id=%d", renter_id)

    async def rotate(self, renter_id: int) -> str:
        """A new secret, which is shown only once. Raises WRONG_STATE without a webhook."""
        secret = _new_secret()
        if not await self._database.run(lambda: webhooks.set_secret(renter_id, secret)):
            raise _none_set()
        log.info("rotated the secret of a webhook renter_id=%d", renter_id)
        return secret

    async def test(self, renter_id: int) -> Delivery:
        """Adds a test event to the outbox. Raises WRONG_STATE without a webhook, or while a test waits."""
        now_ms = ms(self._clock)

        def test() -> Delivery:
            webhook = webhooks.lock(renter_id)
            if webhook is None:
                raise _none_set()
            if webhooks.is_waiting(renter_id, WebhookEvent.TEST):
                raise DomainError(
                    Reason.WRONG_STATE,
                    "a test is already waiting to be sent; see its result in the list of deliveries",
                    status="waiting",
                )
            return webhooks.delivery(outbox.add(webhook, WebhookEvent.TEST, {}, now_ms))

        return await self._database.run(test)

    async def deliveries(self, renter_id: int, before_id: int | None, limit: int) -> Page[Delivery]:
        """One page of a renter's deliveries, newest first."""
        return await self._database.read(
            lambda: read_page(webhooks.deliveries, renter_id, before_id, limit=limit)
        )


def _new_secret() -> str:
    return f"whsec-{secrets.token_urlsafe(32)}"


def _none_set() -> DomainError:
    return DomainError(Reason.WRONG_STATE, "this account has no webhook; set its url first", status="none")
