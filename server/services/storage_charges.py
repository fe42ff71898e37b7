"""What is kept for renters is paid for by the day, where the platform has a price for it.

Each day, by UTC, a renter pays once for the bytes of its requests and files that are kept then. A wallet pays
what it has and no more: nobody gets a debt for old files, which go when their time ends.
"""

from __future__ import annotations

import logging
from functools import partial

from server.clock import Clock, ms
from server.domain import ledger as rules
from server.domain.pricing import PARTS
from server.domain.statements import day_of
from server.services import outbox
from server.services.each import each
from server.store import ledger, prices, storage
from server.store.database import Database

log = logging.getLogger(__name__)
# Renters that one tick charges; those that are left follow in the next.
RENTERS_AT_ONCE = 200
GB = 10**9


class StorageCharges:
    """The duty that charges for kept bytes."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def tick(self) -> None:
        """Charges renters for today that were not yet."""
        now_ms = ms(self._clock)
        price = await self._database.read(prices.storage_micros)
        if not price:
            return
        due = await self._database.read(lambda: storage.unpaid(day_of(now_ms), RENTERS_AT_ONCE))
        await each(
            "a charge for storage",
            due,
            lambda id_: self._database.run(partial(_charge, id_, price, now_ms)),
        )


def _charge(renter_id: int, micros_per_gb: int, now_ms: int) -> None:
    if not storage.begin_day(renter_id, day_of(now_ms)):
        return
    kept = storage.of_renter(renter_id)
    whole, rest = divmod(kept * micros_per_gb * PARTS // GB, PARTS)
    due = whole + ledger.carry(renter_id, rest)
    ledger.lock([rules.renter(renter_id)])
    if amount := min(due, ledger.balance(rules.renter(renter_id))):
        ledger.apply([rules.storage_transfer(renter_id, amount)], now_ms)
        outbox.wallet_changed(renter_id, now_ms)
        log.info("charged for storage renter_id=%d bytes=%d micros=%d", renter_id, kept, amount)
