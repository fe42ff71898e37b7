"""The open streams of daemons: a limit for each provider, and a regular check of their keys."""

from __future__ import annotations

from collections import Counter

from server.clock import ms
from server.domain.errors import DomainError, Reason
from server.domain.providers import AccountState
from server.services.sessions import Session, Shared
from server.store import keys

CHECK_SECONDS = 300.0
# Keys that one query looks up; SQLite allows at most 32,766 values.
CHECK_BATCH = 20_000
STREAMS_RETRY_SECONDS = 30


class Streams:
    """Every open stream of this server; one per server."""

    def __init__(self, shared: Shared, max_streams: int = 0) -> None:
        self.open: set[Session] = set()
        """Includes those without a Hello yet."""
        self._shared = shared
        self._database = shared.database
        self._clock = shared.clock
        self._max_streams = max_streams
        self._counts: Counter[int] = Counter()
        self._next_check = self._clock.now() + CHECK_SECONDS

    def new(self, provider_id: int, key_id: int = 0) -> Session:
        """A session for a stream that a provider opened; it exists once its Hello is handled.

        Raises RATE_LIMITED if the provider has reached its limit of streams.
        """
        if self._max_streams and self._counts[provider_id] >= self._max_streams:
            raise DomainError(
                Reason.RATE_LIMITED,
                f"this provider has {self._max_streams} open streams, the most allowed, and a daemon needs "
                "one; stop its other daemons, or wait until the server notices that their streams are gone",
                retry_after_seconds=STREAMS_RETRY_SECONDS,
            )
        self._counts[provider_id] += 1
        session = Session(self._shared, provider_id, key_id)
        self.open.add(session)
        return session

    def forget(self, session: Session) -> None:
        """Removes a session whose stream is over."""
        self.open.discard(session)
        self._counts[session.provider_id] -= 1
        if not self._counts[session.provider_id]:
            del self._counts[session.provider_id]

    def recheck(self, provider_id: int, state: AccountState) -> None:
        """Ends a provider's streams if its new state does not allow them."""
        for session in list(self.open):
            if session.provider_id == provider_id:
                session.recheck(state)

    def check_soon(self) -> None:
        """Lets the next look check every key: some may have ended."""
        self._next_check = 0.0

    async def check_credentials(self) -> None:
        """Every five minutes ends the streams whose key has ended, or whose provider is not admitted.

        Runs one query for every ``CHECK_BATCH`` streams.
        """
        if self._clock.now() < self._next_check:
            return
        self._next_check = self._clock.now() + CHECK_SECONDS
        sessions = list(self.open)
        for start in range(0, len(sessions), CHECK_BATCH):
            await self._check(sessions[start : start + CHECK_BATCH])

    async def _check(self, sessions: list[Session]) -> None:
        key_ids = [session.key_id for session in sessions]
        now_ms = ms(self._clock)
        admitted = await self._database.read(lambda: keys.admitted_providers(key_ids, now_ms))
        for session in sessions:
            session.recheck(admitted.get(session.key_id))
