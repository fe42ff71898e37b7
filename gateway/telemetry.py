"""The table of what a gateway measures of itself. The names are used where it is measured."""

from __future__ import annotations

from common.telemetry import COUNTER, GAUGE, HISTOGRAM, Metric

METRICS = (
    Metric(
        "dcp_http_requests_total",
        COUNTER,
        "Requests that were answered, by method, path template and status; 499: the client left before.",
        ("method", "route", "status"),
        "HTTP",
    ),
    Metric(
        "dcp_http_request_duration_seconds",
        HISTOGRAM,
        "Time from the head of a request to the end of its answer; streams are not in it.",
        ("route",),
        "HTTP",
    ),
    Metric("dcp_http_requests_open", GAUGE, "Requests that are carried out now.", (), "HTTP"),
    Metric("dcp_http_streams_open", GAUGE, "Answers that are streams and are sent now.", (), "HTTP"),
    Metric("dcp_http_connections_open", GAUGE, "Connections.", (), "HTTP"),
    Metric(
        "dcp_http_connections_refused_total",
        COUNTER,
        "Connections that were refused: too many, or what arrived was not HTTP, too large or too slow.",
        ("status",),
        "HTTP",
    ),
)
