"""Which provider had a conversation last: it may still hold what its model server read of it. In memory."""

from __future__ import annotations

from collections import OrderedDict

CONVERSATIONS = 100_000


class Affinity:
    """The providers of the newest conversations on this server. What a restart forgets costs only time."""

    def __init__(self) -> None:
        self._providers: OrderedDict[tuple[int, str, str], int] = OrderedDict()

    def find(self, renter_id: int, model: str | None, cache_key: str) -> int | None:
        """The provider that had the renter's conversation last; None if none is known."""
        return self._providers.get((renter_id, model or "", cache_key)) if cache_key else None

    def note(self, renter_id: int, model: str | None, cache_key: str, provider_id: int | None) -> None:
        """A provider has got the conversation."""
        if not cache_key or provider_id is None:
            return
        key = (renter_id, model or "", cache_key)
        self._providers[key] = provider_id
        self._providers.move_to_end(key)
        if len(self._providers) > CONVERSATIONS:
            self._providers.popitem(last=False)
