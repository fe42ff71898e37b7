"""Rules for every file of the server: where jobs and leases end, who writes states, and long constructors."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.tools import ROOT

ENDINGS = "server/services/endings.py"
# The functions that end a lease or a job, requeue a job, or settle its money.
ENDERS = {
    "server.store.leases.end",
    "server.store.jobs.finish",
    "server.store.jobs.requeue",
    "server.store.ledger.resolve_hold",
    "server.services.endings.settle",
}
# States with a transition table, and the helpers of server/store that may name a state: they only read.
TABLED = {"JobState", "LeaseState", "ArtifactState", "DisputeState"}
READERS = {"states.is_in", "states.is_exactly", "states.is_not", "states.literal", "_is_in"}
MAX_ARGUMENTS = 7


def files(folder: str) -> dict[str, str]:
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / folder).rglob("*.py"))}


def imported(tree: ast.AST) -> dict[str, str]:
    """The full name of each imported name."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
    return names


def mentions(source: str) -> Iterator[str]:
    """The full names of everything imported that a source mentions, called or not."""
    tree = ast.parse(source)
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            yield f"{names.get(first, first)}.{rest}" if rest else names.get(first, first)


def states_by_hand(source: str) -> list[str]:
    """The places that turn a state into its value, or name a tabled state other than to read it."""
    tree = ast.parse(source)
    read = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in READERS
        for argument in node.args
    }
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner, _, name = ast.unparse(node).rpartition(".")
        names_state = owner in TABLED and id(node) not in read
        if names_state or (name == "value" and "state" in owner.lower()):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def constructors(source: str) -> Iterator[tuple[str, int]]:
    """Each constructor with the number of its arguments, without self."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    arguments = (*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs)
                    yield node.name, len(arguments) - 1


def test_leases_and_jobs_end_in_only_one_module() -> None:
    found = {path: ENDERS & set(mentions(source)) for path, source in files("server").items()}
    assert found.pop(ENDINGS) >= ENDERS - {"server.services.endings.settle"}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from server.store import leases\nleases.end(lease, outcome, 0)",
        "from server.store import jobs as rows\nrun(rows.finish)",
        "from server.store.jobs import requeue\nrequeue(job, 0)",
        "import server.store.jobs\nserver.store.jobs.requeue(job, 0)",
        "from server.services.endings import settle\nsettle(job)",
        "from server.services import endings\nendings.settle(job)",
    ],
)
def test_call_that_ends_a_job_elsewhere_is_found(source: str) -> None:
    assert ENDERS & set(mentions(source))


def test_no_state_is_written_by_hand_in_the_store() -> None:
    found = {path: states_by_hand(source) for path, source in files("server/store").items()}
    assert found.pop("server/store/states.py") != []
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "Job.update(state=JobState.QUEUED.value)",
        "Job.update({Job.state: JobState.QUEUED})",
        "query.where(Job.state == JobState.QUEUED)",
        "states.stored(LeaseState.ENDED)",
        "query.where(Provider.state == state.value)",
    ],
)
def test_state_written_by_hand_is_found(source: str) -> None:
    assert states_by_hand(source)


def test_constructors_of_the_server_take_at_most_seven_arguments() -> None:
    found = [
        (path, name, count)
        for path, source in files("server").items()
        for name, count in constructors(source)
        if count > MAX_ARGUMENTS
    ]
    assert found == []


def test_arguments_of_a_constructor_are_counted() -> None:
    assert list(constructors("class A:\n def __init__(self, a, b, /, c, *, d): pass")) == [("A", 4)]
