"""A machine's GPUs over time: samples added up in buckets, and buckets joined to the points of a series.

Pure arithmetic: the time is an argument, by the server's clock. A bucket keeps the count, the sum and the
greatest value of each figure, so that buckets can be joined in any order and the average is always that of
all samples. A figure that a machine does not report is not counted; it is never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from itertools import islice
from typing import Any

from server.domain.gpus import Gpu, GpuReport

MAX_GPUS = 64
FINE_SECONDS = 60
COARSE_SECONDS = 12 * 60
KEEP_SECONDS = {FINE_SECONDS: 6 * 3600, COARSE_SECONDS: 7 * 24 * 3600}
"""The widths of the buckets that are stored, and how long each is kept."""

# Its UUID; without a UUID, its index.
GpuId = tuple[str, int]


class Figure(StrEnum):
    """What is sampled, by its name in reports."""

    UTIL = "gpu_util_pct"
    MEMORY = "memory_used_mb"
    TEMPERATURE = "temp_c"
    POWER = "power_w"


# Iterating over the class costs more than all the sums of a heartbeat.
_FIGURES = tuple(Figure)


class MetricsRange(Enum):
    """How far back a series goes, the width of its points and of the stored buckets used; all in seconds."""

    HOUR = (3600, FINE_SECONDS, FINE_SECONDS)
    SIX_HOURS = (6 * 3600, 3 * 60, FINE_SECONDS)
    DAY = (24 * 3600, COARSE_SECONDS, COARSE_SECONDS)
    WEEK = (7 * 24 * 3600, 84 * 60, COARSE_SECONDS)

    def __init__(self, seconds: int, point_seconds: int, stored_seconds: int) -> None:
        self.seconds = seconds
        self.point_seconds = point_seconds
        self.stored_seconds = stored_seconds

    def first_ms(self, now_ms: int) -> int:
        """When the first point begins; the last point contains ``now_ms``."""
        last_ms = start_of_bucket(now_ms, self.point_seconds)
        return last_ms - (self.seconds - self.point_seconds) * 1000


@dataclass(slots=True)
class Tally:
    """The samples of a figure of a GPU: their count, sum and greatest value."""

    count: int
    total: float
    greatest: float

    @property
    def average(self) -> float:
        """The average of all samples."""
        return self.total / self.count

    def join(self, other: Tally) -> None:
        """Adds the samples of another tally."""
        self.count += other.count
        self.total += other.total
        self.greatest = max(self.greatest, other.greatest)


@dataclass(slots=True)
class GpuTallies:
    """A GPU in a bucket. Index and name are those reported last."""

    index: int
    name: str
    figures: dict[Figure, Tally] = field(default_factory=dict)

    def join(self, other: GpuTallies) -> None:
        """Adds later or simultaneous tallies of the same GPU."""
        self.index, self.name = other.index, other.name or self.name
        for figure, tally in other.figures.items():
            if (known := self.figures.get(figure)) is not None:
                known.join(tally)
            else:
                self.figures[figure] = Tally(tally.count, tally.total, tally.greatest)


# The samples of a machine in a bucket of time.
Bucket = dict[GpuId, GpuTallies]


@dataclass(frozen=True, slots=True)
class Point:
    """The figures of a GPU in a span of time as wide as the range's points."""

    start_ms: int
    figures: dict[Figure, Tally]


@dataclass(frozen=True, slots=True)
class Series:
    """A GPU over time, oldest point first; a time without samples has no point."""

    uuid: str
    index: int
    name: str
    points: list[Point]


@dataclass(frozen=True, slots=True)
class Closed:
    """A bucket of a provider that receives no more samples."""

    provider_id: int
    width_seconds: int
    start_ms: int
    bucket: Bucket


def start_of_bucket(at_ms: int, width_seconds: int) -> int:
    """When the bucket that contains a time begins: the same for all machines and servers."""
    return at_ms - at_ms % (width_seconds * 1000)


def sampled(report: GpuReport) -> Bucket:
    """A report as a bucket.

    Leaves out a GPU without any figure, a GPU with the identity of an earlier GPU, and those above the limit.
    """
    sample: Bucket = {}
    for gpu in report.gpus:
        figures = _figures(gpu)
        gpu_id = (gpu.uuid, 0 if gpu.uuid else gpu.index)
        if figures and gpu_id not in sample and len(sample) < MAX_GPUS:
            sample[gpu_id] = GpuTallies(gpu.index, gpu.gpu_name or "", figures)
    return sample


def _figures(gpu: Gpu) -> dict[Figure, Tally]:
    values = (gpu.gpu_util_pct, gpu.memory_used_mb, gpu.temp_c, gpu.power_w)  # in the order of Figure
    return {
        figure: Tally(1, float(value), float(value))
        for figure, value in zip(_FIGURES, values, strict=True)
        if value is not None and math.isfinite(value)
    }


def join(into: Bucket, other: Bucket) -> None:
    """Adds a bucket to an earlier or simultaneous bucket; of more than 64 GPUs, the first 64 are kept."""
    for gpu_id, gpu in other.items():
        if (known := into.get(gpu_id)) is not None:
            known.join(gpu)
        elif len(into) < MAX_GPUS:
            into[gpu_id] = GpuTallies(gpu.index, "")
            into[gpu_id].join(gpu)


def series(stored: Iterable[tuple[int, Bucket]], wanted: MetricsRange, now_ms: int) -> list[Series]:
    """The points of a range from stored buckets (start in ms, bucket), in any order; by the GPUs' index.

    Of more than 64 GPUs, those reported last.
    """
    first_ms = wanted.first_ms(now_ms)
    points: dict[int, Bucket] = {}
    for start_ms, bucket in sorted(stored, key=lambda one: one[0]):
        if first_ms <= start_ms <= now_ms:  # another server's clock may be a moment ahead
            join(points.setdefault(start_of_bucket(start_ms, wanted.point_seconds), {}), bucket)
    found: dict[GpuId, Series] = {}
    for start_ms, bucket in reversed(points.items()):
        for gpu_id, gpu in bucket.items():
            if gpu_id in found or len(found) < MAX_GPUS:
                newest = found.setdefault(gpu_id, Series(gpu_id[0], gpu.index, gpu.name, []))
                newest.points.append(Point(start_ms, gpu.figures))
    for one in found.values():
        one.points.reverse()
    return sorted(found.values(), key=lambda one: (one.index, one.uuid))


def to_plain(bucket: Bucket) -> list[Any]:
    """A bucket in lists and numbers, as it is stored; sums are rounded to thousandths."""
    return [
        [uuid, gpu.index, gpu.name, *(_plain(gpu.figures.get(figure)) for figure in _FIGURES)]
        for (uuid, _), gpu in bucket.items()
    ]


def from_plain(plain: list[Any]) -> Bucket:
    """A bucket as it was stored."""
    bucket: Bucket = {}
    for uuid, index, name, *stored in plain:
        figures = {
            figure: Tally(*one) for figure, one in zip(_FIGURES, stored, strict=True) if one is not None
        }
        bucket[uuid, 0 if uuid else index] = GpuTallies(index, name, figures)
    return bucket


def _plain(tally: Tally | None) -> list[float] | None:
    if tally is None:
        return None
    return [tally.count, round(tally.total, 3), round(tally.greatest, 3)]


class MetricsBuffer:
    """The buckets that are not stored yet: open ones of each machine, and closed ones that wait.

    All machines share the buckets' times, so a width is closed for all of them at once. At most ``most``
    closed buckets wait; beyond that, the buckets of the provider that waits longest are dropped.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._start_ms = dict.fromkeys(KEEP_SECONDS, 0)
        self._open: dict[int, dict[int, Bucket]] = {width: {} for width in KEEP_SECONDS}
        self._closed: dict[int, dict[tuple[int, int], Bucket]] = {}
        self._count = 0

    def record(self, provider_id: int, sample: Bucket, now_ms: int) -> None:
        """Adds a sample to the buckets of the time at which it arrived."""
        self.close(now_ms)
        for machines in self._open.values():
            join(machines.setdefault(provider_id, {}), sample)

    def close(self, now_ms: int, *, also_open: bool = False) -> int:
        """Closes the buckets whose time has passed, or all of them; returns how many were dropped.

        Time never goes back here: a time before the open bucket counts as within it.
        """
        for width, machines in self._open.items():
            start_ms = start_of_bucket(now_ms, width)
            if start_ms > self._start_ms[width] or also_open:
                for provider_id, bucket in machines.items():
                    self._closed.setdefault(provider_id, {})[width, self._start_ms[width]] = bucket
                self._count += len(machines)
                self._open[width] = {}
                self._start_ms[width] = max(start_ms, self._start_ms[width])
        return self._give_up()

    def _give_up(self) -> int:
        lost = 0
        while self._count > self._most:
            provider_id = next(iter(self._closed))
            lost += self._forget(provider_id, next(iter(self._closed[provider_id])))
        return lost

    def batch(self, limit: int) -> list[Closed]:
        """Some of the closed buckets. They wait until ``stored`` removes them."""
        waiting = (
            Closed(provider_id, width, start_ms, bucket)
            for provider_id, buckets in self._closed.items()
            for (width, start_ms), bucket in buckets.items()
        )
        return list(islice(waiting, limit))

    def stored(self, batch: Iterable[Closed]) -> None:
        """Removes buckets that have been stored."""
        for one in batch:
            self._forget(one.provider_id, (one.width_seconds, one.start_ms))

    def _forget(self, provider_id: int, key: tuple[int, int]) -> int:
        buckets = self._closed.get(provider_id, {})
        if buckets.pop(key, None) is None:
            return 0
        self._count -= 1
        if not buckets:
            del self._closed[provider_id]
        return 1

    def unstored(self, provider_id: int, width: int) -> dict[int, Bucket]:
        """A machine's closed buckets, by start in ms, and a copy of the open bucket: it still changes."""
        buckets = self._closed.get(provider_id, {})
        found = {start_ms: bucket for (of, start_ms), bucket in buckets.items() if of == width}
        if (bucket := self._open[width].get(provider_id)) is not None:
            copied: Bucket = {}
            join(copied, bucket)
            found[self._start_ms[width]] = copied
        return found
