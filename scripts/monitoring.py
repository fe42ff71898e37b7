"""Writes the alerts of Prometheus, the dashboard of Grafana and the page about both.

The programs' tables of metrics are the source of the dashboard: a new metric has its panel. The alerts are
the table here. What an alert means and what to do stands in the table, in the rule, and on the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import daemon.telemetry
import gateway.telemetry
import server.telemetry
from common.telemetry import BUILD, COUNTER, HISTOGRAM, Metric

FOLDER = Path("deploy") / "monitoring"
PAGE = "docs/reference/metrics.md"
_NOTE = "Written by scripts/generate from scripts/monitoring.py; do not edit."
PROGRAMS: tuple[tuple[str, tuple[Metric, ...]], ...] = (
    ("server", server.telemetry.METRICS),
    ("gateway", gateway.telemetry.METRICS),
    ("daemon", daemon.telemetry.METRICS),
)
METRICS = (BUILD, *(metric for _, metrics in PROGRAMS for metric in metrics))
# Metrics that every program has from prometheus_client.
PROCESS = (
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
)


@dataclass(frozen=True, slots=True)
class Alert:
    """A row of the table of alerts."""

    name: str
    expr: str
    wait: str
    """How long the expression must hold."""
    severity: str
    """page: somebody must look now; ticket: within a day."""
    meaning: str
    action: str


ALERTS = (
    Alert(
        "DcpDown",
        'up{job=~"dcp.*"} == 0',
        "2m",
        "page",
        "A program does not answer Prometheus: it has ended, hangs, or its machine is gone.",
        "Look at its service and its log on that machine. Daemons come back to a server by themselves.",
    ),
    Alert(
        "DcpLedgerUnbalanced",
        "min(dcp_ledger_balanced) == 0",
        "0m",
        "page",
        "The proof found that stored balances and transfers disagree: money may be wrong.",
        "Stop payments of withdrawals. Run `dcp-server prove`, which names each discrepancy, keep a "
        "backup of "
        "the database as it is, and find who changed it: no program of DCP changes a transfer.",
    ),
    Alert(
        "DcpLedgerNotProved",
        "time() - max(dcp_ledger_proof_timestamp_seconds) > 900",
        "5m",
        "ticket",
        "No proof of the ledger has ended for a quarter of an hour.",
        "Look for `prove the ledger's changes` in the server's log: the database is too slow, or fails.",
    ),
    Alert(
        "DcpDatabaseDamaged",
        "max(dcp_database_damaged) == 1",
        "0m",
        "page",
        "The database said that its own file is damaged. Every call is refused until it is repaired.",
        "Stop the server, check the disk, and restore the newest backup (`dcp-server restore --replace`).",
    ),
    Alert(
        "DcpDatabaseDown",
        "min(dcp_database_up) == 0",
        "1m",
        "page",
        "A server cannot read its database: calls are refused, and running jobs go on for a while.",
        "Look at the database's own service, its disk's room and its connections.",
    ),
    Alert(
        "DcpDatabaseQueue",
        'max(dcp_database_queue_length{queue="write"}) > 1000',
        "2m",
        "page",
        "More writes wait than the database carries out; callers get OVERLOADED when 10,000 wait.",
        "Look at the disk's latency and at other programs on it; then at which calls came in more often.",
    ),
    Alert(
        "DcpDatabaseSlow",
        "histogram_quantile(0.99, sum by (le, kind) (rate(dcp_database_transaction_seconds_bucket[5m]))) > 1",
        "10m",
        "ticket",
        "One in a hundred transactions takes more than a second.",
        "Look at the disk's latency and, on PostgreSQL, at the slowest statements.",
    ),
    Alert(
        "DcpDutyFails",
        "sum by (duty) (increase(dcp_duty_failures_total[10m])) > 5",
        "0m",
        "ticket",
        "A periodic duty of the server fails again and again; the others go on.",
        "The server's log has `a duty failed` with its name and the first stack.",
    ),
    Alert(
        "DcpCallsFail",
        'sum(rate(dcp_rpcs_total{code=~"INTERNAL|UNKNOWN|DATA_LOSS"}[5m])) > 0.1',
        "5m",
        "page",
        "The server fails at calls by its own fault, at least one in ten seconds.",
        "The server's log has `a call failed` with the method and the request's id.",
    ),
    Alert(
        "DcpHttpFails",
        'sum(rate(dcp_http_requests_total{status=~"5.."}[5m])) '
        "/ sum(rate(dcp_http_requests_total[5m])) > 0.05",
        "5m",
        "page",
        "More than one in twenty requests is answered with 5xx.",
        "503: the server or its database is away, see the other alerts. 500: look for the request's id "
        "in the logs.",
    ),
    Alert(
        "DcpHttpSlow",
        "histogram_quantile(0.99, sum by (le) (rate(dcp_http_request_duration_seconds_bucket[5m]))) > 2.5",
        "10m",
        "ticket",
        "One in a hundred requests takes more than two and a half seconds.",
        "Compare dcp_rpc_duration_seconds by method and dcp_database_transaction_seconds: which of them "
        "grew?",
    ),
    Alert(
        "DcpNoDaemons",
        "sum(dcp_sessions_open) == 0",
        "5m",
        "page",
        "No daemon is connected: no job can run.",
        "If there were some: can they reach the gRPC port, is its certificate valid, is the database "
        "the right "
        "one? `GET /api/admin/discards` lists keys that were refused.",
    ),
    Alert(
        "DcpFleetShrinks",
        "sum(dcp_sessions_open) < 0.5 * sum(dcp_sessions_open offset 30m)",
        "5m",
        "page",
        "Half of the daemons of half an hour ago are gone.",
        "As for DcpNoDaemons; and look whether one provider or one network has most of those that are "
        "missing.",
    ),
    Alert(
        "DcpJobsWait",
        "max(dcp_job_queue_oldest_seconds) > 900",
        "5m",
        "ticket",
        "A job has waited for more than a quarter of an hour: nobody can run it, or all are busy.",
        "`GET /api/jobs/{job_id}/why` says what it waits for; dcp_slots says whether any slot is free.",
    ),
    Alert(
        "DcpJobsFail",
        'sum(rate(dcp_jobs_ended_total{outcome="failed"}[15m])) / sum(rate(dcp_jobs_ended_total[15m])) > 0.2',
        "15m",
        "ticket",
        "More than one in five jobs fails.",
        "Split dcp_jobs_ended_total by reason: PROVIDER_LOST points at machines or the network, "
        "ENGINE_FAILED at "
        "one engine or model, START_DEADLINE at too few providers.",
    ),
    Alert(
        "DcpLeasesLost",
        'sum(rate(dcp_leases_ended_total{outcome="lost"}[15m])) '
        "/ sum(rate(dcp_leases_ended_total[15m])) > 0.1",
        "15m",
        "ticket",
        "More than one in ten runs is lost: its daemon went silent, or broke the protocol.",
        "The server's log names provider and job of each; after a restore of a backup this is expected once.",
    ),
    Alert(
        "DcpHeartbeatsUnwritten",
        "max(dcp_heartbeats_unwritten) > 1000",
        "2m",
        "ticket",
        "Heartbeats wait for the database: leases are not renewed, and runs are lost if it lasts.",
        "As for DcpDatabaseQueue.",
    ),
    Alert(
        "DcpUnknownReports",
        "sum by (kind) (increase(dcp_discards_total[10m])) > 20",
        "0m",
        "ticket",
        "Daemons report leases or keys that the database does not have, as after a restore, or with a "
        "wrong database.",
        'Did you restore a backup? Then read docs/operators.md, "After a restore". If not, check '
        "DCP_DATABASE_URL.",
    ),
    Alert(
        "DcpWebhooksFail",
        'sum(rate(dcp_webhook_requests_total{outcome="failed"}[15m])) '
        "/ sum(rate(dcp_webhook_requests_total[15m])) > 0.5",
        "30m",
        "ticket",
        "Most requests to renters' webhooks reach nobody.",
        "If it concerns many renters, look at the server's own way out: DNS, firewall, certificates.",
    ),
    Alert(
        "DcpFilesRunOut",
        'process_open_fds{job=~"dcp.*"} / process_max_fds{job=~"dcp.*"} > 0.8',
        "5m",
        "ticket",
        "A program has used four fifths of the files that it may open; then it refuses connections.",
        "Raise LimitNOFILE of its service; for a gateway see DCP_MAX_CONNECTIONS.",
    ),
    Alert(
        "DcpDaemonOffline",
        "dcp_daemon_session_open == 0",
        "10m",
        "ticket",
        "A daemon has had no session for ten minutes: its machine earns nothing.",
        "On that machine, `dcp-daemon status` shows the last refusal in the server's words.",
    ),
    Alert(
        "DcpJournalFails",
        'sum by (instance) (increase(dcp_daemon_journal_writes_total{outcome="failed"}[10m])) > 0',
        "0m",
        "ticket",
        "A daemon cannot write its journal: it gives back what it runs, and takes nothing.",
        "Make room on the disk of its state folder, or mend it.",
    ),
    Alert(
        "DcpGpuUnhealthy",
        "dcp_daemon_gpu_healthy == 0",
        "5m",
        "ticket",
        "A GPU takes no jobs: it failed, its owner uses it, or it is drained.",
        "On that machine, `dcp-daemon status` says why; after an Xid or ECC error see the driver's log.",
    ),
    Alert(
        "DcpGpuHot",
        "DCGM_FI_DEV_GPU_TEMP > 90",
        "10m",
        "ticket",
        "A GPU has been hotter than 90 degrees Celsius for ten minutes.",
        "Look at its cooling; DCP_MAX_TEMP_C keeps new jobs away from it meanwhile.",
    ),
)


def files() -> dict[Path, str]:
    """The text of each file for Prometheus and Grafana, by its path from the root of the repository."""
    return {
        FOLDER / "alerts.yml": _rules(),
        FOLDER / "dashboard.json": json.dumps(_dashboard(), indent=2, ensure_ascii=False) + "\n",
    }


def names_in(expr: str) -> set[str]:
    """The metrics that an expression reads, as the tables name them."""
    words = re.findall(r"\b(?:dcp_|process_|DCGM_)[A-Za-z0-9_]+", re.sub(r'"[^"]*"', "", expr))
    return {word.removesuffix("_bucket") for word in words}


def _rules() -> str:
    lines = [f"# {_NOTE}", "groups:", "  - name: dcp", "    rules:"]
    for alert in ALERTS:
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.expr)}",
            f"        for: {alert.wait}",
            "        labels:",
            f"          severity: {alert.severity}",
            "        annotations:",
            f"          summary: {json.dumps(alert.meaning)}",
            f"          description: {json.dumps(alert.action)}",
            f"          runbook: {json.dumps(f'{PAGE}#{alert.name.lower()}')}",
        ]
    return "\n".join(lines) + "\n"


def _dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for group in dict.fromkeys(metric.group for metric in METRICS):
        panels.append(_panel(len(panels), "row", group, 0, y, 24, 1) | {"collapsed": False, "panels": []})
        y += 1
        members = [metric for metric in METRICS if metric.group == group]
        for place, metric in enumerate(members):
            panels.append(_graph(metric, len(panels), 8 * (place % 3), y + 8 * (place // 3)))
        if group == BUILD.group:
            for place, name in enumerate(PROCESS[:2], len(members)):
                panels.append(_process(name, len(panels), 8 * (place % 3), y))
            members = [*members, *members, *members]
        y += 8 * -(-len(members) // 3)
    return {
        "uid": "dcp-market",
        "title": "DCP",
        "description": _NOTE,
        "tags": ["dcp"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
            ]
        },
        "panels": panels,
    }


def _panel(number: int, kind: str, title: str, x: int, y: int, width: int, height: int) -> dict[str, Any]:
    place = {"x": x, "y": y, "w": width, "h": height}
    return {"id": number + 1, "type": kind, "title": title, "gridPos": place}


def _graph(metric: Metric, number: int, x: int, y: int) -> dict[str, Any]:
    targets = [
        {"refId": letter, "expr": expr, "legendFormat": legend, "datasource": _SOURCE}
        for letter, (expr, legend) in zip("AB", _queries(metric), strict=False)
    ]
    return _panel(number, "timeseries", metric.name, x, y, 8, 8) | {
        "description": metric.help,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": _unit(metric), "min": 0}, "overrides": []},
        "targets": targets,
    }


def _process(name: str, number: int, x: int, y: int) -> dict[str, Any]:
    expr = f'{name}{{job=~"dcp.*"}}'
    expr = f"rate({expr}[5m])" if name.endswith("_total") else expr
    target = {"refId": "A", "expr": expr, "legendFormat": "{{job}} {{instance}}", "datasource": _SOURCE}
    return _panel(number, "timeseries", name, x, y, 8, 8) | {
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": "bytes" if "bytes" in name else "short"}, "overrides": []},
        "targets": [target],
    }


_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _queries(metric: Metric) -> list[tuple[str, str]]:
    """What a panel draws of a metric, with the legend of each line."""
    by = ", ".join(metric.labels)
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    if metric.kind == HISTOGRAM:
        labels = f"le, {by}" if by else "le"
        rate = f"sum by ({labels}) (rate({metric.name}_bucket[5m]))"
        return [
            (f"histogram_quantile({quantile}, {rate})", f"{legend} {name}".strip())
            for quantile, name in ((0.5, "median"), (0.99, "99 %"))
        ]
    if metric.kind == COUNTER:
        expr = f"rate({metric.name}[5m])"
        return [(f"sum by ({by}) ({expr})" if by else f"sum({expr})", legend)]
    how = "max" if metric.name in _SAME_EVERYWHERE else "sum"
    if metric.group in ("Daemon", "GPUs"):
        return [(metric.name, f"{{{{instance}}}} {legend}".strip())]
    return [(f"{how} by ({by}) ({metric.name})" if by else f"{how}({metric.name})", legend)]


# Every server reads these of the same database.
_SAME_EVERYWHERE = {
    "dcp_jobs_open",
    "dcp_job_queue_oldest_seconds",
    "dcp_ledger_balanced",
    "dcp_ledger_discrepancies",
    "dcp_ledger_proof_timestamp_seconds",
    "dcp_provider_debt_micros",
    "dcp_database_up",
    "dcp_database_damaged",
    "dcp_build_info",
}


def _unit(metric: Metric) -> str:
    if metric.name.endswith("timestamp_seconds"):
        return "dateTimeFromNow"
    if metric.name.endswith("_seconds"):
        return "s"
    return "bytes" if metric.name.endswith("_bytes") else "short"


def page_parts() -> Iterable[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """The tables of the page: heading, head, rows."""
    for program, metrics in PROGRAMS:
        rows = [_row(metric) for metric in ((BUILD, *metrics) if program == "server" else metrics)]
        yield program.capitalize(), ("Metric", "Kind", "Labels", "Meaning"), rows


def _row(metric: Metric) -> tuple[str, ...]:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"`{metric.name}`", metric.kind, labels, metric.help


def alert_parts() -> Iterable[str]:
    """What an operator reads of each alert."""
    for alert in ALERTS:
        yield f"### {alert.name}"
        when = f"for {alert.wait}" if alert.wait != "0m" else "at once"
        yield f"{alert.meaning} ({alert.severity}, {when})"
        yield alert.action
        yield f"```promql\n{alert.expr}\n```"
