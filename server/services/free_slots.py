"""The daemons with a free slot, best first, by each model and each job type that they serve.

Placement reads the first suitable one and none of the rest, so its cost does not grow with the fleet. It
is read on the event loop. Sessions change in other threads too: those only note the provider in ``changed``,
and the next reading lists it anew.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from server.domain.hindrances import by_job_type
from server.domain.placement import Rank, Wants, rank

if TYPE_CHECKING:
    from server.services.fleet import Presence

# The name of a list: a model, or a job type for jobs without a model.
_Name = tuple[str | None, str]
_Entry = tuple[Rank, "Presence"]
# A session whose value of one of these changes gets another place, or is in other lists.
LISTED_BY = frozenset(
    {
        "slots",
        "is_too_hot",
        "hindrances",
        "models",
        "is_suspect",
        "used_slots",
        "reliability",
        "draining",
        "state",
        "job_types",
    }
)


class FreeSlots:
    """Sorted lists of sessions that take a job now, apart from their owner's hours."""

    def __init__(self, present: Mapping[int, Presence]) -> None:
        self.changed: set[int] = set()
        """The providers whose session has come, gone or changed since the last reading."""
        self._present = present
        self._lists: dict[_Name, list[_Entry]] = {}
        self._listed: dict[int, list[tuple[_Name, _Entry]]] = {}

    def best_first(self, wants: Wants) -> Iterator[Presence]:
        """The sessions that serve the job's model, or its type if it has none."""
        while self.changed:
            self._list_anew(self.changed.pop())
        name = (None, wants.job_type.value) if wants.model is None else (wants.model, "")
        return (presence for _, presence in self._lists.get(name, ()))

    def _list_anew(self, provider_id: int) -> None:
        for name, entry in self._listed.pop(provider_id, ()):
            entries = self._lists[name]
            del entries[bisect_left(entries, entry[0], key=_rank)]
            if not entries:
                del self._lists[name]
        presence = self._present.get(provider_id)
        if presence is None or not presence.free_slots or presence.is_too_hot:
            return
        open_types = presence.job_types.difference(by_job_type(presence.hindrances))
        names: list[tuple[_Name, str | None]] = [((None, kind.value), None) for kind in open_types]
        if open_types:
            names += [((name, ""), name) for name in {model.name for model in presence.models}]
        listed: list[tuple[_Name, _Entry]] = [
            (name, (rank(presence, model), presence)) for name, model in names
        ]
        for name, entry in listed:
            insort(self._lists.setdefault(name, []), entry, key=_rank)
        if listed:
            self._listed[provider_id] = listed


def _rank(entry: _Entry) -> Rank:
    return entry[0]
