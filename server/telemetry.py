"""The table of what a server measures of itself. The names are used where it is measured."""

from __future__ import annotations

from common.telemetry import COUNTER, GAUGE, HISTOGRAM, Metric

METRICS = (
    # Calls
    Metric("dcp_rpcs_total", COUNTER, "Calls that ended, by their status code.", ("method", "code"), "Calls"),
    Metric(
        "dcp_rpc_duration_seconds",
        HISTOGRAM,
        "Time of the calls with one answer, from their arrival at the method to their end.",
        ("method",),
        "Calls",
    ),
    Metric("dcp_rpc_streams_open", GAUGE, "Calls with streams that are open now.", ("method",), "Calls"),
    # Market
    Metric(
        "dcp_jobs_open",
        GAUGE,
        "Jobs of the whole market that have not ended; pending, assigned and running ones have a lease.",
        ("state", "job_type"),
        "Market",
    ),
    Metric(
        "dcp_job_queue_oldest_seconds",
        GAUGE,
        "How long the oldest queued job has waited; 0 without one.",
        ("job_type",),
        "Market",
    ),
    Metric(
        "dcp_jobs_ended_total",
        COUNTER,
        "Jobs that this server ended; the reason is empty for completed ones.",
        ("job_type", "outcome", "reason"),
        "Market",
    ),
    Metric(
        "dcp_leases_ended_total", COUNTER, "Leases and offers that this server ended.", ("outcome",), "Market"
    ),
    Metric("dcp_sessions_open", GAUGE, "Daemons that have a session with this server.", (), "Market"),
    Metric("dcp_slots", GAUGE, "Slots of these daemons.", ("state",), "Market"),
    Metric("dcp_heartbeats_total", COUNTER, "Heartbeats that arrived.", (), "Market"),
    Metric("dcp_heartbeats_unwritten", GAUGE, "Heartbeats that are not yet in the database.", (), "Market"),
    # Money
    Metric(
        "dcp_transfers_total",
        COUNTER,
        "Transfers of the ledger that this server committed.",
        ("kind",),
        "Money",
    ),
    Metric(
        "dcp_transferred_micros_total",
        COUNTER,
        "Sums of these transfers, in millionths of a halala: payout and fee are what renters were charged, "
        "withdrawal_paid is what left the market.",
        ("kind",),
        "Money",
    ),
    Metric(
        "dcp_ledger_balanced",
        GAUGE,
        "1 if the newest proof of the ledger's changes found nothing wrong, 0 if it did.",
        (),
        "Money",
    ),
    Metric("dcp_ledger_discrepancies", GAUGE, "What the newest proof found wrong.", (), "Money"),
    Metric(
        "dcp_ledger_proof_timestamp_seconds",
        GAUGE,
        "When the newest proof ended, in seconds since 1970.",
        (),
        "Money",
    ),
    Metric(
        "dcp_provider_debt_micros",
        GAUGE,
        "What providers owe after disputes, in millionths of a halala.",
        (),
        "Money",
    ),
    # Duties
    Metric(
        "dcp_duty_duration_seconds", HISTOGRAM, "Time of the server's periodic duties.", ("duty",), "Duties"
    ),
    Metric(
        "dcp_duty_failures_total",
        COUNTER,
        "Duties that failed or were postponed; each is tried again in its next period.",
        ("duty",),
        "Duties",
    ),
    # Database
    Metric(
        "dcp_database_transaction_seconds",
        HISTOGRAM,
        "Time of transactions for their callers, from the queue to after the commit.",
        ("kind",),
        "Database",
    ),
    Metric(
        "dcp_database_queue_length", GAUGE, "Transactions that wait for a thread.", ("queue",), "Database"
    ),
    Metric(
        "dcp_database_up", GAUGE, "1 if the newest look at the database succeeded, 0 if not.", (), "Database"
    ),
    Metric("dcp_database_damaged", GAUGE, "1 if the database was found damaged.", (), "Database"),
    # Webhooks
    Metric(
        "dcp_webhook_requests_total",
        COUNTER,
        "Requests to webhooks of renters and operators.",
        ("outcome",),
        "Webhooks",
    ),
    Metric("dcp_webhook_duration_seconds", HISTOGRAM, "Time of these requests.", (), "Webhooks"),
    # After a restore, or from strangers
    Metric(
        "dcp_discards_total",
        COUNTER,
        "Reports of daemons about leases, runs or keys that are not on record.",
        ("kind",),
        "Market",
    ),
)
