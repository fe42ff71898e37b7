"""Fetches inputs that renters named by an address and a digest, over the guarded way to the internet.

A fetch goes on where it was after a restart. What cannot be fetched keeps its row for a day, with the reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
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

_PASSING = frozenset(
    {
        *(*STORE_FAULTS, Reason.OVERLOADED),
        # Its renter deleted it, or sent bytes as well: the next tick sees what is left to do.
        *(Reason.INPUT_NOT_FOUND, Reason.INPUT_NOT_WAITING, Reason.INPUT_OFFSET_WRONG),
    }
)

Get = Callable[[str, int], AsyncGenerator[bytes, None]]
"""Reads what lies at an address, from a byte on. Raises FetchError."""


class InputFetches:
    """The duty that fetches inputs."""

    def __init__(self, database: Database, inputs: Inputs, get: Get) -> None:
        self._database = database
        self._inputs = inputs
        self._get = get
        self._running: dict[int, tuple[int, asyncio.Task[None]]] = {}

    async def tick(self) -> None:
        """Begins the fetches that wait, those announced first, as far as there is room."""
        self._running = {number: at for number, at in self._running.items() if not at[1].done()}
        while len(self._running) < AT_ONCE:
            # However many of one renter wait, they do not stand before those of others.
            of_renters = Counter(renter_id for renter_id, _ in self._running.values())
            busy = [renter_id for renter_id, count in of_renters.items() if count >= OF_A_RENTER]
            found = await self._database.read(partial(inputs.next_to_fetch, [*self._running], busy))
            if found is None:
                break
            self._running[found.id] = (found.renter_id, asyncio.create_task(self._fetch(found)))

    async def stop(self) -> None:
        """Ends the fetches; they go on after a restart, or at the server that has the duty now."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running = {}

    async def settled(self) -> None:
        """Waits for the fetches that run."""
        await asyncio.gather(*(task for _, task in self._running.values()), return_exceptions=True)

    async def _fetch(self, found: Input) -> None:
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                await self._read(found)
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

    async def _read(self, found: Input) -> None:
        """Appends what is missing. Raises FetchError, DomainError."""
        place, piece = found.received_bytes, bytearray()
        async with aclosing(self._get(found.url, place)) as arriving:
            async for data in arriving:
                piece += data
                if place + len(piece) > found.size_bytes:
                    raise FetchError(f"it has more than the announced {found.size_bytes} bytes")
                if len(piece) >= MAX_PIECE_BYTES // 2:
                    place = await self._append(found, place, piece)
        place = await self._append(found, place, piece)
        if place < found.size_bytes:
            raise FetchError(f"it has {place} of the announced {found.size_bytes} bytes")

    async def _append(self, found: Input, place: int, piece: bytearray) -> int:
        for first in range(0, len(piece), MAX_PIECE_BYTES):
            data = bytes(piece[first : first + MAX_PIECE_BYTES])
            place = (await self._inputs.append(found.renter_id, found.input_id, place, data)).received_bytes
        piece.clear()
        return place

    async def _note(self, found: Input, problem: str) -> None:
        log.info("an input was not fetched input_id=%s problem=%s", found.input_id, problem)
        await self._database.run(partial(inputs.note_problem, found.id, problem[:500]))
