"""Rules about the source that no tool checks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import dcp_client.settings
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
from tests.architecture.tools import PRODUCT, ROOT, sources, tracked_files
from tests.support.lengths import LONG_FILES


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_generated_code_is_imported_by_its_package() -> None:
    bad = [
        str(path.relative_to(ROOT))
        for path in sources(*PRODUCT, "scripts", "tests", "generated")
        if any(name == "generated" or name.startswith("generated.") for name in imports(path))
    ]
    assert bad == []


def test_every_module_has_a_docstring() -> None:
    bad = [
        str(path.relative_to(ROOT))
        for path in sources(*PRODUCT, "scripts", "tests")
        if path.read_text().strip() and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert bad == []


def test_generated_code_says_that_it_is() -> None:
    for path in sources("generated"):
        assert "Generated from protos/" in path.read_text() or "DO NOT EDIT" in path.read_text(), path


# Texts: a machine's locale decides nothing.

_OPENERS = {"open", "fdopen", "TemporaryFile", "NamedTemporaryFile"}


def lacks_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the encoding of the machine's locale."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given or None in given or ast.unparse(call.func).startswith("tarfile."):
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name in _OPENERS and not isinstance(call.func, ast.Attribute):
        return "b" not in ast.unparse(
            given.get("mode", call.args[1] if len(call.args) > 1 else ast.Constant(""))
        )
    if name in _OPENERS:
        modes = [part.value for part in (*call.args, *given.values()) if isinstance(part, ast.Constant)]
        return any(isinstance(mode, str) and re.fullmatch("[rwax][t+]*", mode) for mode in modes)
    is_text = [value for key, value in given.items() if key in ("text", "universal_newlines")]
    return any(not isinstance(value, ast.Constant) or value.value is True for value in is_text) and (
        name in ("run", "Popen", "check_output")
    )


@pytest.mark.parametrize(
    ("source", "is_refused"),
    [
        ("path.read_text()", True),
        ("(folder / name).write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("path.open('w')", True),
        ("path.open('rb')", False),
        ("open(path)", True),
        ("open(path, 'wb')", False),
        ("os.fdopen(descriptor, 'w')", True),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command, text=True, encoding='utf-8')", False),
        ("subprocess.run(command, capture_output=True)", False),
        ("tarfile.open(fileobj=buffer, mode='w')", False),
        ("link.open()", False),
    ],
)
def test_text_without_an_encoding_is_recognized(source: str, is_refused: bool) -> None:
    (call,) = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    assert lacks_encoding(call) is is_refused


def test_no_text_is_read_or_written_in_the_encoding_of_the_locale() -> None:
    bad = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(*PRODUCT, "scripts")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and lacks_encoding(node)
    ]
    assert bad == []


# The programs are often started with one file of variables, so each must know all names.


def test_shared_list_of_settings_matches_the_programs_and_the_client() -> None:
    own = {
        variable.name
        for config in (server.config, gateway.config, daemon.config.config, dcp_client.settings)
        for variable in config.VARIABLES
    }
    assert own == SETTINGS


# Names that are both in the domain and in the protos.


def names(enum: object, prefix: str) -> set[str]:
    values = enum.DESCRIPTOR.values_by_name  # type: ignore[attr-defined]
    return {name.removeprefix(prefix) for name in values if not name.endswith("_UNSPECIFIED")}


def test_reasons_of_domain_and_protos_are_the_same() -> None:
    assert {reason.value for reason in Reason} == names(errors_pb2.ErrorReason, "ERROR_REASON_")
    assert all(reason.name == reason.value for reason in Reason)


@pytest.mark.parametrize(
    "value", list(errors_pb2.ErrorReason.DESCRIPTOR.values), ids=lambda value: value.name
)
def test_every_reason_has_a_code_and_a_status(value: object) -> None:
    rule = value.GetOptions().Extensions[errors_pb2.reason]  # type: ignore[attr-defined]
    assert 1 <= rule.code <= 16
    assert 400 <= rule.http_status <= 599


def test_enums_of_domain_and_protos_are_the_same() -> None:
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


def test_json_names_of_enums_are_the_values_of_the_domain() -> None:
    from dcp.v1 import options_pb2

    for value in jobs_pb2.JobType.DESCRIPTOR.values[1:]:
        json_name = value.GetOptions().Extensions[options_pb2.value].json
        assert JobType[value.name.removeprefix("JOB_TYPE_")].value == (
            json_name or value.name.removeprefix("JOB_TYPE_").lower()
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


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_repository_contains_nothing_private_or_specific_to_a_machine(kind: str) -> None:
    bad = []
    for path in tracked_files():
        if path == Path(__file__).resolve():
            continue
        text = path.read_bytes().decode(errors="replace")
        bad += [f"{path.relative_to(ROOT)}: {match.group()}" for match in FORBIDDEN[kind].finditer(text)]
    assert bad == []


def test_repository_contains_no_large_file() -> None:
    large = {str(path.relative_to(ROOT)) for path in tracked_files() if path.stat().st_size > 1_000_000}
    assert large == set()


def test_files_that_are_run_first_exist() -> None:
    assert [name for name in LONG_FILES if not (ROOT / "tests" / name).is_file()] == []
