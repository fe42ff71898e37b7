"""What a program measures of itself, and the address at which Prometheus reads it.

A program's metrics are one table, from which they are created, documented and drawn. Nothing is measured
unless an address was set. Labels have few values that this side chooses: never an account, a job, or a text
from outside. It knows no program and no metric.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from common.addresses import host_port

log = logging.getLogger(__name__)

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
# From a look-up in memory to a call that waits for its whole deadline.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of a program's table."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    group: str = ""
    """The heading under which people find it."""


BUILD = Metric(
    "dcp_build_info", GAUGE, "1, with the program and its version.", ("program", "version"), "Process"
)


class Telemetry:
    """Takes measurements. This one drops them, which costs next to nothing."""

    is_on = False

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Adds to a counter."""

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Adds a value to a histogram."""

    def set(self, name: str, value: float, *labels: str) -> None:
        """Sets a gauge."""

    def fill(self, name: str, values: Mapping[tuple[str, ...], float]) -> None:
        """Sets a gauge for all its labels; those that are not named are gone."""

    @contextmanager
    def timed(self, name: str, *labels: str) -> Iterator[None]:
        """Adds the time that a block takes to a histogram, in seconds."""
        start = perf_counter()
        try:
            yield
        finally:
            self.observe(name, perf_counter() - start, *labels)

    def close(self) -> None:
        """Serves no more."""


OFF = Telemetry()
LISTEN_MEANING = (
    "Where Prometheus reads metrics of this program, host:port; each program needs its own port. They need "
    "no password, so use a loopback address or a private network. Unset: nothing is measured."
)
"""What DCP_METRICS_LISTEN means."""


class Exporter(Telemetry):
    """Keeps measurements, and serves them to Prometheus from a thread of its own."""

    is_on = True

    def __init__(self, metrics: Sequence[Metric], program: str, version: str) -> None:
        import prometheus_client as prometheus

        # The time at which each series began would be a series of its own.
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = prometheus.CollectorRegistry()
        kinds: dict[str, Any] = {COUNTER: prometheus.Counter, GAUGE: prometheus.Gauge}
        self._metrics: dict[str, Any] = {
            each.name: prometheus.Histogram(
                each.name, each.help, each.labels, buckets=SECONDS, registry=self.registry
            )
            if each.kind == HISTOGRAM
            else kinds[each.kind](each.name, each.help, each.labels, registry=self.registry)
            for each in (BUILD, *metrics)
        }
        self._filled: dict[str, set[tuple[str, ...]]] = {}
        self._server: Any = None
        prometheus.ProcessCollector(registry=self.registry)
        for each in metrics:
            if each.kind == GAUGE and not each.labels:
                self.set(each.name, math.nan)  # not known yet, which is not 0
        self.set(BUILD.name, 1, program, version)

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Adds to a counter."""
        self._of(name, labels).inc(by)

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Adds a value to a histogram."""
        self._of(name, labels).observe(value)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Sets a gauge."""
        self._of(name, labels).set(value)

    def fill(self, name: str, values: Mapping[tuple[str, ...], float]) -> None:
        """Sets a gauge for all its labels; those that are not named are gone."""
        for labels, value in values.items():
            self._of(name, labels).set(value)
        for labels in self._filled.get(name, set()) - values.keys():
            self._metrics[name].remove(*labels)
        self._filled[name] = set(values)

    def _of(self, name: str, labels: tuple[str, ...]) -> Any:
        metric = self._metrics[name]
        return metric.labels(*labels) if labels else metric

    def serve(self, listen: tuple[str, int]) -> str:
        """Serves at host and port until ``close``; returns the address. Raises OSError."""
        import prometheus_client as prometheus

        host, port = listen
        self._server, _ = prometheus.start_http_server(port, host, registry=self.registry)
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._server.server_address[1]}/metrics"

    def close(self) -> None:
        """Serves no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def opened(
    listen: tuple[str, int] | None, metrics: Sequence[Metric], program: str, version: str
) -> Telemetry:
    """What a program measures with, served at the address; without one it drops all. Raises OSError."""
    if listen is None:
        return OFF
    exporter = Exporter(metrics, program, version)
    log.info("serves metrics url=%s", exporter.serve(listen))
    if not is_loopback(listen[0]):
        log.warning(
            "metrics need no password: DCP_METRICS_LISTEN=%s:%d lets other machines read them", *listen
        )
    return exporter


def refusal(listen: tuple[str, int] | None, error: OSError) -> str:
    """Why metrics cannot be served, in one line with the remedy."""
    host, port = listen or ("", 0)
    return (
        f"DCP_METRICS_LISTEN: cannot listen on {host}:{port}: {error.strerror}; choose an address of this "
        "machine, and a port of its own for each program"
    )


def parse_listen(text: str) -> tuple[str, int] | None:
    """Host and port; None for an empty text. Raises ValueError, whose text says what to write."""
    if not text:
        return None
    if (found := host_port(text)) is None:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:9464")
    return found


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def repeat(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Does the work now and after each pause, until cancelled."""
    while True:
        await work()
        await asyncio.sleep(seconds)
