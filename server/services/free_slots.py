"""The daemons with a free slot, best first, by each model and each job type that they serve.

Placement reads the first suitable one and none of the rest, so its cost does not grow with the fleet. It
is read on the event loop. Sessions change in other threads too: those only note the provider in ``changed``,
and the next reading lists it anew.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from server.domain.hindrances import by_job_type
from server.domain.jobs import JobType
from server.domain.levels import Standing, Unasked
from server.domain.placement import Rank, Wants, rank

if TYPE_CHECKING:
    from server.services.fleet import Presence

# The name of a list: a job type, and the model if such jobs have one.
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
        "granted",
        "bounds",
        "used_slots",
        "record",
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
        self._listed: dict[int, tuple[tuple[_Name, _Entry], ...]] = {}

    def best_first(self, wants: Wants) -> Iterator[Presence]:
        """The sessions that serve the job's type and, if it has one, its model."""
        while self.changed:
            self._list_anew(self.changed.pop())
        listed = self._lists.get(_name(wants.model, wants.job_type), ())
        if wants.unasked is Unasked.NEWCOMERS:
            return chain(_those(listed, new=True), _those(listed, new=False))
        return (presence for _, presence in listed)

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
        if not open_types:
            return
        # One entry serves all lists of the same rank: ten thousand daemons are in several lists each.
        cold = (rank(presence, None), presence)
        listed: list[tuple[_Name, _Entry]] = [(_name(None, kind), cold) for kind in open_types]
        names = {(each.name, kind) for each in presence.models for kind in open_types if each.serves(kind)}
        for model, kind in names:
            warm = rank(presence, model)
            listed.append((_name(model, kind), cold if warm == cold[0] else (warm, presence)))
        for name, entry in listed:
            insort(self._lists.setdefault(name, []), entry, key=_rank)
        self._listed[provider_id] = tuple(listed)


def _those(listed: Iterable[_Entry], *, new: bool) -> Iterator[Presence]:
    return (presence for _, presence in listed if (presence.standing is Standing.NEW) is new)


@lru_cache(maxsize=4096)
def _name(model: str | None, kind: JobType) -> _Name:
    return model, kind.value


def _rank(entry: _Entry) -> Rank:
    return entry[0]
