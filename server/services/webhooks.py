"""The use cases of webhooks of renters and operators: set, read, remove, test.

server.services.outbox writes the events and server.services.deliveries sends them.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from server.clock import Clock, ms
from server.domain import ledger as rules
from server.domain.errors import DomainError, Reason
from server.domain.money import micros
from server.domain.targets import check_url
from server.domain.webhooks import MAX_SECRETS, OPERATORS, WebhookEvent, rotated, written_secret
from server.services import outbox
from server.services.operators.audit import Operator
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
    """The use cases of webhooks. The owner is a renter, or ``OPERATORS`` if an operator acts."""

    def __init__(self, database: Database, clock: Clock, allow_private: bool) -> None:
        self._database = database
        self._clock = clock
        self._allow_private = allow_private

    async def put(
        self,
        owner_id: int,
        url: str,
        balance_low_halala: int | None = None,
        operator: Operator | None = None,
    ) -> tuple[Webhook, str | None]:
        """Sets or changes the address; returns the webhook, and the secret if it was created now.

        Raises INVALID_FIELD, RENTER_DELETED.
        """
        check_url(url, allow_private=self._allow_private)
        secret = _new_secret()
        now_ms = ms(self._clock)

        def put() -> tuple[Webhook, str | None]:
            balance = 0
            if owner_id != OPERATORS:
                present(owner_id)
                balance = ledger.balance(rules.renter(owner_id))
            before = webhooks.get(owner_id)
            is_new = webhooks.put(
                owner_id,
                url,
                secret,
                balance_low_halala=balance_low_halala,
                balance_is_low=balance_low_halala is not None and balance < micros(balance_low_halala),
                now_ms=now_ms,
            )
            found = webhooks.get(owner_id)
            assert found is not None
            _note(operator, "webhook.set", _public(before), _public(found), now_ms)
            return found, secret if is_new else None

        found, shown = await self._database.run(put)
        log.info("set a webhook owner_id=%d new=%s", owner_id, shown is not None)
        return found, shown

    async def get(self, owner_id: int) -> Webhook | None:
        """The owner's webhook."""
        return await self._database.read(lambda: webhooks.get(owner_id))

    async def remove(self, owner_id: int, operator: Operator | None = None) -> None:
        """Removes the webhook; without one it does nothing."""
        now_ms = ms(self._clock)

        def remove() -> None:
            before = webhooks.lock(owner_id)
            webhooks.remove(owner_id)
            if before is not None:
                _note(operator, "webhook.remove", _public(before), {}, now_ms)

        await self._database.run(remove)
        log.info("removed a webhook owner_id=%d", owner_id)

    async def rotate(self, owner_id: int, grace_seconds: int, operator: Operator | None = None) -> NewSecret:
        """Replaces the secret; the previous ones sign too until the grace period has passed.

        Raises WRONG_STATE without a webhook, TOO_MANY_KEYS.
        """
        secret = _new_secret()
        now_ms = ms(self._clock)
        expires_ms = now_ms + grace_seconds * 1000

        def rotate() -> None:
            webhook = webhooks.lock(owner_id)
            if webhook is None:
                raise _none_set(owner_id)
            previous = rotated(webhook.secret, webhook.previous_secrets, expires_ms, now_ms)
            if len(previous) >= MAX_SECRETS:
                raise DomainError(
                    Reason.TOO_MANY_KEYS,
                    f"this webhook has {MAX_SECRETS} active secrets, the most allowed; wait until one "
                    "expires, or rotate with grace_seconds 0, which ends the previous ones at once",
                )
            webhooks.set_secrets(owner_id, secret, previous)
            _note(operator, "webhook.rotate", {}, {"grace_seconds": grace_seconds}, now_ms)

        await self._database.run(rotate)
        log.info("rotated the secret of a webhook owner_id=%d grace_seconds=%d", owner_id, grace_seconds)
        return NewSecret(secret, expires_ms)

    async def test(self, owner_id: int, operator: Operator | None = None) -> Delivery:
        """Adds a test event to the outbox. Raises WRONG_STATE without a webhook, or while a test waits."""
        now_ms = ms(self._clock)

        def test() -> Delivery:
            webhook = webhooks.lock(owner_id)
            if webhook is None:
                raise _none_set(owner_id)
            if webhooks.is_waiting(owner_id, WebhookEvent.TEST):
                raise DomainError(
                    Reason.WRONG_STATE,
                    "a test is already waiting to be sent; see its result in the list of deliveries",
                    status="waiting",
                )
            added = webhooks.delivery(outbox.add(webhook, WebhookEvent.TEST, {}, now_ms))
            _note(operator, "webhook.test", {}, _public(webhook), now_ms)
            return added

        return await self._database.run(test)

    async def deliveries(self, owner_id: int, before_id: int | None, limit: int) -> Page[Delivery]:
        """One page of an owner's deliveries, newest first."""
        return await self._database.read(
            lambda: read_page(webhooks.deliveries, owner_id, before_id, limit=limit)
        )


def _note(
    operator: Operator | None, action: str, before: dict[str, object], after: dict[str, object], now_ms: int
) -> None:
    """Records what an operator did. A renter acts on its own account, which has no audit log."""
    if operator is not None:
        operator.note(action, "operators", before, after, now_ms)


def _public(webhook: Webhook | None) -> dict[str, object]:
    """What the audit log shows of a webhook: paths of addresses may be secrets."""
    return {} if webhook is None else {"host": urlsplit(webhook.url).hostname}


def _new_secret() -> str:
    return written_secret(secrets.token_bytes(32))


def _none_set(owner_id: int) -> DomainError:
    whose = "operators have" if owner_id == OPERATORS else "this account has"
    return DomainError(Reason.WRONG_STATE, f"{whose} no webhook; set its url first", status="none")
