"""Writes docs/reference: the routes, settings and errors, from the sources that the programs use.

It reads the protos' descriptors and the programs' configurations, and adds only headings and introductions:
to correct a text, change its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import dcp_client.settings
from dcp.v1 import errors_pb2, jobs_pb2
from google.protobuf.descriptor import EnumDescriptor
from google.rpc import code_pb2

import daemon.config.config
import gateway.config
import server.config
from gateway import openapi, routes
from scripts import monitoring

FOLDER = Path("docs") / "reference"
_NOTE = "Written by `scripts/generate`; do not edit."
_PROGRAMS: tuple[tuple[str, ModuleType], ...] = (
    ("server", server.config),
    ("gateway", gateway.config),
    ("daemon", daemon.config.config),
    ("client", dcp_client.settings),
)
_WHO = {"public": "any caller", "admin": "operator"}

_ROUTES = """\
Routes under `/api` are also served under `/api/dc1`, for browsers on the same origin. Parameters, bodies,
responses and examples are on the gateway's page `/docs` and in `/openapi.json`.

"Who" names the roles that may call a route, and for an operator the least role. A renter or a provider can
access only its own account and its own jobs. "Sub-key scopes" lists the scopes of which a renter's sub-key
needs one; if the column is empty, a renter needs its main key."""

_SETTINGS = """\
Each program reads its settings from environment variables; the daemon also reads a file
([how](../providers.md#rules-of-your-own)). The client is the Python package and the command `dcp`.
`dcp-market` has the server's and the gateway's settings, without `DCP_SERVER` and `DCP_TLS_CA`. An empty
variable counts as unset. A `DCP_` variable that no program knows is an error, so a misspelt name is
noticed."""

_ERRORS = """\
Every error is `{"error": "a sentence that names the field and the remedy", "code": "REASON", ...facts}`.
Reasons are stable: new ones may be added, but none is renamed. gRPC callers find the reason in
`google.rpc.ErrorInfo`."""

_METRICS = """\
With `DCP_METRICS_LISTEN=HOST:PORT` a program serves these at `/metrics` for Prometheus; without it nothing
is measured. `dcp-market` has the server's and the gateway's. Every program also has the `process_` metrics
of its memory, CPU time and open files. Labels have few values, and none names an account, a job, or a text
that users chose.

The rules of the alerts are `deploy/monitoring/alerts.yml`, and `deploy/monitoring/dashboard.json` is a
dashboard for Grafana with a panel for each metric. The rules expect jobs of Prometheus whose names begin
with `dcp`."""

_FAILURES = """\
`failure_reason` of a job that ended without success, and whether the renter pays for the run."""


def pages() -> dict[Path, str]:
    """The text of each page, by its path from the root of the repository."""
    comments = openapi.comments()
    return {
        FOLDER / "routes.md": _page("Routes", _ROUTES, *_routes()),
        FOLDER / "settings.md": _page("Settings", _SETTINGS, *_settings()),
        FOLDER / "errors.md": _page("Errors", _ERRORS, *_errors(comments), *_failures(comments)),
        FOLDER / "metrics.md": _page("Metrics and alerts", _METRICS, *_metrics()),
    }


def _metrics() -> Iterable[str]:
    for heading, head, rows in monitoring.page_parts():
        yield f"## {heading}"
        yield _table(head, rows)
    yield "## Alerts"
    yield from monitoring.alert_parts()


def _routes() -> Iterable[str]:
    document = openapi.document(routes.discover())
    operations = [
        (verb.upper(), path, operation)
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    ]
    for tag in document["tags"]:
        rows = [_route(*each) for each in operations if tag["name"] in each[2]["tags"]]
        yield f"## {tag['name']}"
        yield _table(("Route", "Who", "Sub-key scopes", "What it does"), rows)


def _route(verb: str, path: str, operation: Mapping[str, Any]) -> Sequence[str]:
    who = ", ".join(_WHO.get(role, role) for role in operation["x-roles"])
    who += f" (`{operation['x-operator-role']}`)" if "x-operator-role" in operation else ""
    scopes = ", ".join(f"`{scope}`" for scope in operation.get("x-scopes", ()))
    return (f"`{verb} {path}`", who, scopes, operation["summary"])


def _settings() -> Iterable[str]:
    for program, config in _PROGRAMS:
        yield f"## {program.capitalize()}"
        rows = [
            (f"`{variable.name}`", variable.default or "unset", variable.meaning.replace("*", "\\*"))
            for variable in config.VARIABLES
        ]
        yield _table(("Setting", "Default", "Meaning"), rows)


def _errors(comments: Mapping[str, str]) -> Iterable[str]:
    rows = []
    for name, reason, comment in _values(errors_pb2.ErrorReason.DESCRIPTOR, "ERROR_REASON_", comments):
        rule = reason.GetOptions().Extensions[errors_pb2.reason]
        rows.append((f"`{name}`", str(rule.http_status), code_pb2.Code.Name(rule.code), comment))
    yield _table(("Reason", "HTTP", "gRPC", "Meaning"), rows)


def _failures(comments: Mapping[str, str]) -> Iterable[str]:
    yield "## Why a job failed"
    yield _FAILURES
    values = _values(jobs_pb2.FailureReason.DESCRIPTOR, "FAILURE_REASON_", comments)
    yield _table(("Reason", "Meaning"), [(f"`{name}`", comment) for name, _, comment in values])


def _values(enum: EnumDescriptor, prefix: str, comments: Mapping[str, str]) -> Iterable[tuple[str, Any, str]]:
    """The values of an enum but the first, which stands for none: short name, descriptor, comment."""
    for value in enum.values[1:]:
        yield value.name.removeprefix(prefix), value, comments[f"{enum.full_name}.{value.name}"]


def _page(title: str, introduction: str, *parts: str) -> str:
    return "\n\n".join((f"# {title}", _NOTE, introduction, *parts)) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
