"""Rules about the source that no tool knows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dcp.settings import SETTINGS
from dcp.v1 import errors_pb2, jobs_pb2, providers_pb2, statements_pb2, terms_pb2

import daemon.config.config
import gateway.config
import server.config
from server.domain.errors import Reason
from server.domain.gpus import GpuState
from server.domain.honesty import Verdict, VerdictReason
from server.domain.jobs import FailureReason, JobState, JobType
from server.domain.keys import Scope
from server.domain.leases import Disposition, LeaseOutcome, RunOutcome
from server.domain.ledger import TransferKind
from server.domain.messages import LeaseAction
from server.domain.placement import Obstacle
from server.domain.providers import ProviderStatus
from server.domain.queue import JobCondition
from server.domain.reliability import Weight
from server.domain.terms import Weekday
from server.domain.webhooks import DeliveryStatus, WebhookEvent
from tests.architecture.tools import PACKAGES, ROOT, sources, tracked_files
from tests.support.lengths import LONG_FILES


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_nobody_imports_generated_by_its_folder() -> None:
    bad = [
        str(path.relative_to(ROOT))
        for path in sources(*PACKAGES, "scripts", "tests", "generated")
        if any(name == "generated" or name.startswith("generated.") for name in imports(path))
    ]
    assert bad == []


def test_every_module_says_what_it_is() -> None:
    bad = [
        str(path.relative_to(ROOT))
        for path in sources(*PACKAGES, "scripts", "tests")
        if path.read_text().strip() and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert bad == []


def test_generated_code_says_that_it_is() -> None:
    for path in sources("generated"):
        assert "Generated from protos/" in path.read_text() or "DO NOT EDIT" in path.read_text(), path


# The three programs are often started from one file, so each must know the names of all variables.


def test_shared_list_of_settings_is_that_of_the_three_programs() -> None:
    own = {
        variable.name
        for config in (server.config, gateway.config, daemon.config.config)
        for variable in config.VARIABLES
    }
    assert own == SETTINGS


# Names that stand in the domain and in the protos.


def names(enum: object, prefix: str) -> set[str]:
    values = enum.DESCRIPTOR.values_by_name  # type: ignore[attr-defined]
    return {name.removeprefix(prefix) for name in values if not name.endswith("_UNSPECIFIED")}


def test_reasons_of_the_domain_are_those_of_the_protos() -> None:
    assert {reason.value for reason in Reason} == names(errors_pb2.ErrorReason, "ERROR_REASON_")
    assert all(reason.name == reason.value for reason in Reason)


@pytest.mark.parametrize(
    "value", list(errors_pb2.ErrorReason.DESCRIPTOR.values), ids=lambda value: value.name
)
def test_every_reason_has_a_code_and_a_status(value: object) -> None:
    rule = value.GetOptions().Extensions[errors_pb2.reason]  # type: ignore[attr-defined]
    assert 1 <= rule.code <= 16
    assert 400 <= rule.http_status <= 599


def test_enums_of_the_domain_are_those_of_the_protos() -> None:
    from dcp.v1 import gpus_pb2, honesty_pb2, options_pb2, sessions_pb2, webhooks_pb2

    for domain, proto, prefix in (
        (JobState, jobs_pb2.JobState, "JOB_STATE_"),
        (JobType, jobs_pb2.JobType, "JOB_TYPE_"),
        (FailureReason, jobs_pb2.FailureReason, "FAILURE_REASON_"),
        (ProviderStatus, providers_pb2.ProviderStatus, "PROVIDER_STATUS_"),
        (RunOutcome, sessions_pb2.RunOutcome, "RUN_OUTCOME_"),
        (LeaseAction, sessions_pb2.LeaseAction, "LEASE_ACTION_"),
        (Disposition, sessions_pb2.ResultDisposition, "RESULT_DISPOSITION_"),
        (JobCondition, jobs_pb2.JobCondition, "JOB_CONDITION_"),
        (Obstacle, jobs_pb2.Obstacle, "OBSTACLE_"),
        (LeaseOutcome, jobs_pb2.AttemptOutcome, "ATTEMPT_OUTCOME_"),
        (WebhookEvent, webhooks_pb2.WebhookEvent, "WEBHOOK_EVENT_"),
        (DeliveryStatus, webhooks_pb2.DeliveryStatus, "DELIVERY_STATUS_"),
        (Scope, options_pb2.Scope, "SCOPE_"),
        (TransferKind, statements_pb2.TransferKind, "TRANSFER_KIND_"),
        (Weekday, terms_pb2.Weekday, "WEEKDAY_"),
        (Weight, providers_pb2.AttemptWeight, "ATTEMPT_WEIGHT_"),
        (Verdict, honesty_pb2.Verdict, "VERDICT_"),
        (GpuState, gpus_pb2.GpuState, "GPU_STATE_"),
        (VerdictReason, honesty_pb2.VerdictReason, "VERDICT_REASON_"),
    ):
        assert {member.name for member in domain} == names(proto, prefix), prefix


def test_json_names_of_the_enums_are_the_values_of_the_domain() -> None:
    from dcp.v1 import options_pb2

    for value in jobs_pb2.JobType.DESCRIPTOR.values[1:]:
        told = value.GetOptions().Extensions[options_pb2.value].json
        assert JobType[value.name.removeprefix("JOB_TYPE_")].value == (
            told or value.name.removeprefix("JOB_TYPE_").lower()
        )


# What must not be in the repository.

FORBIDDEN = {
    "a download host": re.compile(
        r"https?://[^\s\"']*(?:/simple/|/packages/|/resolve/|registry\.)|(?:extra-)?index-url|find-links"
        r"|trusted-host"
    ),
    "a path of one machine": re.compile(r"/(?:root|Users)/[\w.-]+/|/home/(?!p/)[\w.-]+/"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_repository_holds_nothing_of_one_machine(what: str) -> None:
    bad = []
    for path in tracked_files():
        if path == Path(__file__).resolve():
            continue
        text = path.read_bytes().decode(errors="replace")
        bad += [f"{path.relative_to(ROOT)}: {match.group()}" for match in FORBIDDEN[what].finditer(text)]
    assert bad == []


def test_nothing_large_is_in_the_repository() -> None:
    large = {str(path.relative_to(ROOT)) for path in tracked_files() if path.stat().st_size > 1_000_000}
    assert large == set()


def test_files_that_begin_a_run_are_there() -> None:
    assert [name for name in LONG_FILES if not (ROOT / "tests" / name).is_file()] == []
