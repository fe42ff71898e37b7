"""What carries measurements, and the address at which they are read."""

from __future__ import annotations

import math

import pytest

from common.telemetry import COUNTER, GAUGE, HISTOGRAM, OFF, Exporter, Metric, opened, parse_listen

METRICS = (
    Metric("dcp_done_total", COUNTER, "What was done.", ("kind",)),
    Metric("dcp_there", GAUGE, "What is there.", ("place",)),
    Metric("dcp_known", GAUGE, "What may not be known yet."),
    Metric("dcp_work_seconds", HISTOGRAM, "How long it took."),
)


@pytest.fixture
def exporter() -> Exporter:
    return Exporter(METRICS, "test", "1.0")


def value(exporter: Exporter, name: str, **labels: str) -> float | None:
    return exporter.registry.get_sample_value(name, labels)


def test_measurements_are_kept(exporter: Exporter) -> None:
    exporter.count("dcp_done_total", "a")
    exporter.count("dcp_done_total", "a", by=2)
    exporter.set("dcp_there", 4, "x")
    with exporter.timed("dcp_work_seconds"):
        pass
    assert value(exporter, "dcp_done_total", kind="a") == 3
    assert value(exporter, "dcp_there", place="x") == 4
    assert value(exporter, "dcp_work_seconds_count") == 1
    assert value(exporter, "dcp_build_info", program="test", version="1.0") == 1


def test_gauge_that_is_filled_has_only_the_labels_of_now(exporter: Exporter) -> None:
    exporter.fill("dcp_there", {("x",): 1, ("y",): 2})
    exporter.fill("dcp_there", {("y",): 3})
    assert value(exporter, "dcp_there", place="x") is None
    assert value(exporter, "dcp_there", place="y") == 3


def test_gauge_that_was_not_set_is_not_0(exporter: Exporter) -> None:
    assert math.isnan(value(exporter, "dcp_known") or 0)


def test_without_an_address_nothing_is_measured() -> None:
    assert opened(None, METRICS, "test", "1.0") is OFF
    assert not OFF.is_on
    OFF.count("no such metric")
    with OFF.timed("no such metric"):
        pass


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("", None),
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:0", ("::1", 0)),
        ("metrics.internal:80", ("metrics.internal", 80)),
    ],
)
def test_address_is_read(text: str, listen: tuple[str, int] | None) -> None:
    assert parse_listen(text) == listen


@pytest.mark.parametrize("text", ["9464", ":9464", "host", "host:", "host:70000", "host:x", "host:٣"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not HOST:PORT, such as 127\.0\.0\.1:9464"):
        parse_listen(text)


def test_address_that_others_reach_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for host, warnings in (("127.0.0.1", 0), ("0.0.0.0", 1)):
        caplog.clear()
        opened((host, 0), METRICS, "test", "1.0").close()
        assert [record.levelname for record in caplog.records].count("WARNING") == warnings
