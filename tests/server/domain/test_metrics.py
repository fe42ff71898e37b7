"""Metrics as pure arithmetic: the figures do not depend on how samples are cut into buckets and joined."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import metrics
from server.domain.gpus import from_plain
from server.domain.metrics import (
    COARSE_SECONDS,
    FINE_SECONDS,
    KEEP_SECONDS,
    MAX_GPUS,
    Bucket,
    Figure,
    MetricsBuffer,
    MetricsRange,
    Tally,
)

NOW_MS = 1_800_000_123_456
PROVIDER = 7
WEEK_SECONDS = MetricsRange.WEEK.seconds
values = st.floats(min_value=-100, max_value=100_000).map(lambda value: round(value, 1))
reports = st.fixed_dictionaries(
    {"gpu_name": st.just("X")},
    optional={figure.value: values for figure in Figure},
)
# Reports, each with its age in milliseconds.
aged_reports = st.lists(
    st.tuples(st.integers(min_value=0, max_value=WEEK_SECONDS * 1000), reports), min_size=1, max_size=60
)


def bucket(**figures: float) -> Bucket:
    return metrics.sampled(from_plain({"gpu_name": "X", **figures}))


def gpus(*devices: dict[str, Any]) -> Bucket:
    return metrics.sampled(from_plain({"all_gpus": list(devices)}))


def stored_buckets(reports: list[tuple[int, dict[str, Any]]], width: int) -> list[tuple[int, Bucket]]:
    """The buckets of this width that a server stores after these reports, read back from storage."""
    buffer, kept = MetricsBuffer(10_000), []
    for age_ms, report in sorted(reports, key=lambda aged: -aged[0]):
        if sample := metrics.sampled(from_plain(report)):
            buffer.record(PROVIDER, sample, NOW_MS - age_ms)
    buffer.close(NOW_MS, also_open=True)
    for row in buffer.batch(10_000):
        if row.width_seconds == width:
            plain = json.loads(json.dumps(metrics.to_plain(row.bucket)))
            kept.append((row.start_ms, metrics.from_plain(plain)))
    return kept


@pytest.mark.parametrize("metrics_range", MetricsRange)
@given(reports=aged_reports)
def test_each_point_of_a_series_has_the_average_and_maximum_of_its_samples(
    metrics_range: MetricsRange, reports: list[tuple[int, dict[str, Any]]]
) -> None:
    series = metrics.series(stored_buckets(reports, metrics_range.stored_seconds), metrics_range, NOW_MS)
    expected: dict[int, dict[Figure, list[float]]] = {}
    for age_ms, report in reports:
        start_ms = metrics.start_of_bucket(NOW_MS - age_ms, metrics_range.point_seconds)
        for figure in Figure:
            if start_ms >= metrics_range.first_ms(NOW_MS) and figure.value in report:
                expected.setdefault(start_ms, {}).setdefault(figure, []).append(report[figure.value])
    points = {point.start_ms: point.figures for gpu in series for point in gpu.points}
    assert points.keys() == expected.keys()
    assert len(points) <= 120
    for start_ms, figures in expected.items():
        assert points[start_ms].keys() == figures.keys()
        for figure, samples in figures.items():
            tally = points[start_ms][figure]
            assert tally.count == len(samples)
            assert math.isclose(tally.average, math.fsum(samples) / len(samples), abs_tol=0.01)
            assert tally.greatest == max(samples)


@given(samples=st.lists(reports, min_size=1), data=st.data())
def test_buckets_can_be_joined_in_any_grouping_and_order(
    samples: list[dict[str, Any]], data: st.DataObject
) -> None:
    whole: Bucket = {}
    parts: list[Bucket] = [{}, {}, {}]
    for report in samples:
        metrics.join(whole, metrics.sampled(from_plain(report)))
        metrics.join(data.draw(st.sampled_from(parts)), metrics.sampled(from_plain(report)))
    joined: Bucket = {}
    for part in data.draw(st.permutations(parts)):
        metrics.join(joined, part)
    assert joined.keys() == whole.keys()
    for gpu_id, gpu in whole.items():
        for figure, tally in gpu.figures.items():
            other = joined[gpu_id].figures[figure]
            assert (other.count, other.greatest) == (tally.count, tally.greatest)
            assert math.isclose(other.total, tally.total, rel_tol=1e-9, abs_tol=1e-6)


def test_ranges_consist_of_whole_buckets_that_are_still_stored() -> None:
    for metrics_range in MetricsRange:
        assert metrics_range.point_seconds % metrics_range.stored_seconds == 0
        assert metrics_range.seconds // metrics_range.point_seconds <= 120
        for now_ms in (NOW_MS, NOW_MS - NOW_MS % (7 * 720_000), NOW_MS - NOW_MS % 720_000 - 1):
            assert (
                metrics_range.first_ms(now_ms) >= now_ms - KEEP_SECONDS[metrics_range.stored_seconds] * 1000
            )


def test_missing_figure_is_left_out_and_not_counted_as_zero() -> None:
    joined = bucket(temp_c=60)
    metrics.join(joined, bucket(gpu_util_pct=0))
    metrics.join(joined, bucket(gpu_util_pct=50, temp_c=70))
    (gpu,) = joined.values()
    assert gpu.figures == {Figure.TEMPERATURE: Tally(2, 130, 70), Figure.UTIL: Tally(2, 50, 50)}
    assert bucket() == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_a_finite_number_is_ignored(value: float) -> None:
    assert bucket(temp_c=value) == {}
    assert list(bucket(temp_c=value, power_w=5)["", 0].figures) == [Figure.POWER]


def test_gpu_is_identified_by_its_uuid_or_else_by_its_index() -> None:
    joined = gpus(
        {"uuid": "a", "temp_c": 1}, {"uuid": "b", "index": 1, "temp_c": 2}, {"index": 2, "temp_c": 3}
    )
    metrics.join(joined, gpus({"uuid": "b", "temp_c": 4, "gpu_name": "B"}, {"uuid": "c", "temp_c": 5}))
    assert set(joined) == {("a", 0), ("b", 0), ("", 2), ("c", 0)}
    assert (joined["b", 0].index, joined["b", 0].name) == (0, "B")
    assert joined["b", 0].figures[Figure.TEMPERATURE] == Tally(2, 6, 4)


def test_second_gpu_with_the_same_identity_in_a_report_is_ignored() -> None:
    joined = gpus({"uuid": "a", "temp_c": 1}, {"uuid": "a", "index": 1, "temp_c": 9})
    assert joined["a", 0].figures[Figure.TEMPERATURE] == Tally(1, 1, 1)


def test_machine_that_invents_gpus_gets_at_most_64_in_a_bucket() -> None:
    buffer = MetricsBuffer(10)
    for number in range(3 * MAX_GPUS):
        buffer.record(PROVIDER, gpus({"uuid": f"gpu-{number}", "temp_c": 1}), NOW_MS)
    (kept,) = buffer.unstored(PROVIDER, FINE_SECONDS).values()
    assert list(kept) == [(f"gpu-{number}", 0) for number in range(MAX_GPUS)]
    minute_ms = FINE_SECONDS * 1000
    stored = [
        (NOW_MS - age * minute_ms, gpus(*({"uuid": f"{age}-{n}", "temp_c": 1} for n in range(MAX_GPUS))))
        for age in range(3)
    ]
    found = metrics.series(stored, MetricsRange.HOUR, NOW_MS)
    assert {gpu.uuid.partition("-")[0] for gpu in found} == {"0"}
    assert len(found) == MAX_GPUS


def test_series_are_sorted_by_index_and_time_and_leave_out_the_future() -> None:
    minute_ms = FINE_SECONDS * 1000
    start_ms = metrics.start_of_bucket(NOW_MS, FINE_SECONDS)
    stored = [
        (start_ms, gpus({"uuid": "a", "index": 1, "gpu_name": "new", "temp_c": 3})),
        (start_ms - 3 * minute_ms, gpus({"uuid": "a", "temp_c": 1}, {"uuid": "b", "index": 0, "temp_c": 9})),
        (start_ms + minute_ms, gpus({"uuid": "a", "temp_c": 100})),
        (start_ms - 60 * minute_ms, gpus({"uuid": "a", "temp_c": 100})),
    ]
    b, a = metrics.series(stored, MetricsRange.HOUR, NOW_MS)
    assert (b.uuid, a.uuid, a.index, a.name) == ("b", "a", 1, "new")
    assert [(p.start_ms, p.figures[Figure.TEMPERATURE].average) for p in a.points] == [
        (start_ms - 3 * minute_ms, 1),
        (start_ms, 3),
    ]


def test_closed_bucket_is_never_opened_again() -> None:
    buffer = MetricsBuffer(10)
    start_ms = metrics.start_of_bucket(NOW_MS, COARSE_SECONDS)
    buffer.record(PROVIDER, bucket(temp_c=1), start_ms + 59_999)
    assert buffer.batch(9) == []
    buffer.record(PROVIDER, bucket(temp_c=5), start_ms + 60_000)
    buffer.record(PROVIDER, bucket(temp_c=6), start_ms + 59_000)  # a late sample counts in the open bucket
    (closed,) = buffer.batch(9)
    assert (closed.width_seconds, closed.start_ms) == (FINE_SECONDS, start_ms)
    assert closed.bucket["", 0].figures[Figure.TEMPERATURE] == Tally(1, 1, 1)
    buffer.stored([closed])
    buffer.stored([closed])  # reported twice
    assert buffer.batch(9) == []
    buffer.close(start_ms + COARSE_SECONDS * 1000)
    assert {(row.width_seconds, row.start_ms) for row in buffer.batch(9)} == {
        (FINE_SECONDS, start_ms + 60_000),
        (COARSE_SECONDS, start_ms),
    }
    assert buffer.unstored(PROVIDER, COARSE_SECONDS)[start_ms]["", 0].figures[Figure.TEMPERATURE].count == 3


def test_full_buffer_drops_its_oldest_buckets() -> None:
    buffer = MetricsBuffer(3)
    lost = 0
    for minute in range(10):
        buffer.record(PROVIDER, bucket(temp_c=minute), minute * 60_000)
        lost += buffer.close((minute + 1) * 60_000)
    waiting = [row.start_ms // 60_000 for row in buffer.batch(99)]
    assert (waiting, lost) == ([7, 8, 9], 7)


def test_open_bucket_is_returned_as_a_copy() -> None:
    buffer = MetricsBuffer(3)
    buffer.record(PROVIDER, bucket(temp_c=1), NOW_MS)
    (copied,) = buffer.unstored(PROVIDER, FINE_SECONDS).values()
    buffer.record(PROVIDER, bucket(temp_c=2), NOW_MS)
    assert copied["", 0].figures[Figure.TEMPERATURE].count == 1
    assert buffer.unstored(PROVIDER + 1, FINE_SECONDS) == {}
