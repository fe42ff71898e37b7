"""Fetches inputs that renters named by an address and a digest, over the guarded way to the internet.

A fetch goes on where it was after a restart. What cannot be fetched keeps its row for a day, with the reason.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from server.domain.errors import STORE_FAULTS, DomainError, Reason
from server.domain.inputs import MAX_PIECE_BYTES, FetchError, Input
from server.services.inputs import Inputs
from server.store import inputs
from server.store.database import Database

log = logging.getLogger(__name__)

AT_ONCE = 8
OF_A_RENTER = 2
TOTAL_SECONDS = 6 * 3600.0
TURN_SECONDS = 600.0
PACE_BYTES = 1 << 20
"""A fetch that has run for ``TURN_SECONDS`` at less than this a second makes way for others that wait.

Its renter's come after theirs for as long.
"""

_PASSING = frozenset(
    {
        *(*STORE_FAULTS, Reason.OVERLOADED),
        # Its renter deleted it, or sent bytes as well: the next tick sees what is left to do.
        *(Reason.INPUT_NOT_FOUND, Reason.INPUT_NOT_WAITING, Reason.INPUT_OFFSET_WRONG),
    }
)

Get = Callable[[str, int], AsyncGenerator[bytes, None]]
"""Reads what lies at an address, from a byte on. Raises FetchError."""


@dataclass(eq=False)
class _Fetch:
    """A fetch that runs."""

    input: Input
    began: float
    place: int
    """How many bytes of the input are here."""
    task: asyncio.Task[None] = field(init=False)

    def is_slow(self, now: float) -> bool:
        """Whether it has had its turn and did not make much of it."""
        seconds = now - self.began
        return seconds >= TURN_SECONDS and self.place - self.input.received_bytes < PACE_BYTES * seconds


class InputFetches:
    """The duty that fetches inputs."""

    def __init__(
        self, database: Database, inputs: Inputs, get: Get, elapsed: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._inputs = inputs
        self._get = get
        self._elapsed = elapsed
        self._running: dict[int, _Fetch] = {}
        self._gave_way: dict[int, float] = {}
        """When slow fetches of renters made way for others."""

    async def tick(self) -> None:
        """Begins the fetches that wait, those announced first, as far as there is room or can be made."""
        while True:
            self._running = {number: one for number, one in self._running.items() if not one.task.done()}
            now = self._elapsed()
            is_full = len(self._running) >= AT_ONCE
            slow = next((one for one in self._running.values() if one.is_slow(now)), None)
            if is_full and slow is None:
                break
            found = await self._next(now, is_full=is_full)
            if found is None:
                break
            if is_full and slow is not None:
                log.info("a slow fetch makes way input_id=%s", slow.input.input_id)
                self._gave_way[slow.input.renter_id] = now
                await self._end([slow])
            self._running[found.id] = fetch = _Fetch(found, now, found.received_bytes)
            fetch.task = asyncio.create_task(self._fetch(fetch))

    async def stop(self) -> None:
        """Ends the fetches; they go on after a restart, or at the server that has the duty now."""
        await self._end([*self._running.values()])
        self._running = {}

    async def settled(self) -> None:
        """Waits for the fetches that run."""
        await asyncio.gather(*(one.task for one in self._running.values()), return_exceptions=True)

    async def _next(self, now: float, *, is_full: bool) -> Input | None:
        """The input whose turn it is; if it is full, only one for which another may make way."""
        # However many of one renter wait, they do not stand before those of others.
        of_renters = Counter(one.input.renter_id for one in self._running.values())
        busy = {renter_id for renter_id, count in of_renters.items() if count >= OF_A_RENTER}
        next_without = partial(inputs.next_to_fetch, [*self._running])
        self._gave_way = {renter: at for renter, at in self._gave_way.items() if now - at < TURN_SECONDS}
        found = await self._database.read(partial(next_without, busy | self._gave_way.keys()))
        if found is None and self._gave_way and not is_full:
            found = await self._database.read(partial(next_without, busy))
        return found

    async def _end(self, fetches: Sequence[_Fetch]) -> None:
        for one in fetches:
            one.task.cancel()
        await asyncio.gather(*(one.task for one in fetches), return_exceptions=True)

    async def _fetch(self, fetch: _Fetch) -> None:
        found = fetch.input
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                await self._read(fetch)
            await self._inputs.finish(found.renter_id, found.input_id, keeps_damaged=True)
        except TimeoutError:
            await self._note(found, f"it takes longer than {TOTAL_SECONDS / 3600:.0f} hours")
        except FetchError as error:
            await self._note(found, str(error))
        except DomainError as error:
            if error.reason not in _PASSING:
                await self._note(found, error.message)
        except Exception:
            log.exception("an input could not be fetched input_id=%s", found.input_id)
            await self._note(found, "the marketplace could not fetch it")

    async def _read(self, fetch: _Fetch) -> None:
        """Appends what is missing. Raises FetchError, DomainError."""
        size, piece = fetch.input.size_bytes, bytearray()
        async with aclosing(self._get(fetch.input.url, fetch.place)) as arriving:
            async for data in arriving:
                piece += data
                if fetch.place + len(piece) > size:
                    raise FetchError(f"it has more than the announced {size} bytes")
                if len(piece) >= MAX_PIECE_BYTES // 2:
                    await self._append(fetch, piece)
        await self._append(fetch, piece)
        if fetch.place < size:
            raise FetchError(f"it has {fetch.place} of the announced {size} bytes")

    async def _append(self, fetch: _Fetch, piece: bytearray) -> None:
        whose = fetch.input.renter_id, fetch.input.input_id
        for first in range(0, len(piece), MAX_PIECE_BYTES):
            data = bytes(piece[first : first + MAX_PIECE_BYTES])
            fetch.place = (await self._inputs.append(*whose, fetch.place, data)).received_bytes
        piece.clear()

    async def _note(self, found: Input, problem: str) -> None:
        log.info("an input was not fetched input_id=%s problem=%s", found.input_id, problem)
        await self._database.run(partial(inputs.note_problem, found.id, problem[:500]))
