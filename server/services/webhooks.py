"""The use cases of renters' webhooks: set, read, remove, test.

server.services.outbox writes the events and server.services.deliveries sends them.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain import ledger as rules
from server.domain.errors import DomainError, Reason
from server.domain.money import micros
from server.domain.targets import check_url
from server.domain.webhooks import MAX_SECRETS, WebhookEvent, rotated, written_secret
from server.services import outbox
from server.services.pages import Page, read_page
from server.services.renters import present
from server.store import ledger, webhooks
from server.store.database import Database
from server.store.webhooks import Delivery, Webhook

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A new secret, which is shown only once, and when the previous ones stop signing."""

    secret: str
    previous_expires_ms: int


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
                balance_is_low=balance_low_halala is not None and balance < micros(balance_low_halala),
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

    async def rotate(self, renter_id: int, grace_seconds: int) -> NewSecret:
        """Replaces the secret; the previous ones sign too until the grace period has passed.

        Raises WRONG_STATE without a webhook, TOO_MANY_KEYS.
        """
        secret = _new_secret()
        now_ms = ms(self._clock)
        expires_ms = now_ms + grace_seconds * 1000

        def rotate() -> None:
            webhook = webhooks.lock(renter_id)
            if webhook is None:
                raise _none_set()
            previous = rotated(webhook.secret, webhook.previous_secrets, expires_ms, now_ms)
            if len(previous) >= MAX_SECRETS:
                raise DomainError(
                    Reason.TOO_MANY_KEYS,
                    f"this webhook has {MAX_SECRETS} active secrets, the most allowed; wait until one "
                    "expires, or rotate with grace_seconds 0, which ends the previous ones at once",
                )
            webhooks.set_secrets(renter_id, secret, previous)

        await self._database.run(rotate)
        log.info("rotated the secret of a webhook renter_id=%d grace_seconds=%d", renter_id, grace_seconds)
        return NewSecret(secret, expires_ms)

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
    return written_secret(secrets.token_bytes(32))


def _none_set() -> DomainError:
    return DomainError(Reason.WRONG_STATE, "this account has no webhook; set its url first", status="none")
