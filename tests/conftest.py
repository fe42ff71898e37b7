"""Fixtures that more than one program's tests use."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from scripts.market import Market
from tests.support import databases, folders, model_image, private_engine
from tests.support.clustered_market import CLUSTER, ONE, ClusteredMarket, StartMarket
from tests.support.databases import Postgres
from tests.support.lengths import in_order
from tests.support.manual_clock import ManualClock
from tests.support.private_engine import PrivateEngine

# A busy machine is slow, and slow is no failure.
settings.register_profile("dcp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dcp")
# The threads of one model spin while they wait for one another, which takes more time than the model does.
os.environ["OMP_THREAD_LIMIT"] = "1"


log = logging.getLogger(__name__)
_TESTS = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """What to run, and the seed of the storm in tests/e2e, to repeat one that broke something."""
    parser.addoption("--all", action="store_true", help="also run the proofs at full length, marked slow")
    parser.addoption("--storm-seed", type=int, help="seed of a storm in tests/e2e; by default a new one")


def pytest_configure() -> None:
    """Keeps the folders of tests in memory if they have room there: on a disk each sync takes milliseconds.

    What a power cut would leave is no test's to know: tests/support/memory_disk.py plays one.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So a shell starts what runs in the background, and so would the programs start that tests interrupt.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if folders.has_room_in_memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", folders.IN_MEMORY)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves slow tests out unless --all asks for them, and sorts files so that workers end together."""
    if not config.getoption("--all"):
        slow = {item for item in items if item.get_closest_marker("slow")} | left_to_their_twins(items)
        config.hook.pytest_deselected(items=list(slow))
        items[:] = [item for item in items if item not in slow]
    files = {path: path.relative_to(_TESTS).as_posix() for path in dict.fromkeys(item.path for item in items)}
    places = in_order(files.values())
    items.sort(key=lambda item: places[files[item.path]])


def left_to_their_twins(items: list[pytest.Item]) -> set[pytest.Item]:
    """Of tests marked in_turns, those that are left to the twin on the other kind of database."""
    twins: dict[Path, dict[str, dict[str, pytest.Item]]] = {}
    for item in items:
        if (call := getattr(item, "callspec", None)) and item.get_closest_marker("in_turns"):
            kind = str(call.params.get("database_url", ""))
            twins.setdefault(item.path, {}).setdefault(item.name.replace(kind, ""), {})[kind] = item
    return {
        pair[databases.KINDS[turn % 2]]
        for pairs in twins.values()
        for turn, pair in enumerate(pairs.values())
        if len(pair) == 2
    }


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Looks for no garbage while tests are collected, nor later among them: they have a million objects."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tells what tests counted and recorded as a property, such as how many cases of a matrix ran."""
    counted = [
        f"{name}: {value:,}"
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if isinstance(value, int)
    ]
    if counted:
        terminalreporter.section("counted")
        for line in counted:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One real PostgreSQL server, started by the first test that needs it."""
    with databases.running_postgres() as server:
        yield server


@pytest.fixture(scope="session", params=[ONE, pytest.param(CLUSTER, marks=pytest.mark.slow)])
def start_market(request: pytest.FixtureRequest) -> StartMarket:
    """Starts a market of one server, and with --all one of two servers and two gateways, too."""
    if request.param == ONE:
        return Market
    return partial(ClusteredMarket, postgres=request.getfixturevalue("postgres"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed from the command line, or a new random one."""
    given = request.config.getoption("--storm-seed")
    seed = secrets.randbelow(1_000_000) if given is None else int(given)
    log.warning("--storm-seed=%d", seed)  # shown with a failure
    return seed


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file without rows."""
    return databases.empty_sqlite(tmp_path)


@pytest.fixture(params=databases.KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind without rows: a SQLite file, and a database in a real PostgreSQL."""
    if request.param == "sqlite":
        return databases.empty_sqlite(tmp_path)
    server: Postgres = request.getfixturevalue("postgres")
    return server.empty_database()


@pytest.fixture(params=databases.KINDS)
def new_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind that was never started: without tables, and the test's own."""
    if request.param == "sqlite":
        # Tests open it by themselves first, and SQLite would create it for everybody.
        (tmp_path / "dcp.sqlite3").touch(mode=0o600)
        return databases.sqlite_url(tmp_path)
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


def _engine(kind: str) -> Iterator[PrivateEngine]:
    if why := private_engine.missing(kind):
        pytest.skip(why)
    with private_engine.running_engine(kind) as running:
        yield running


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[PrivateEngine]:
    """One real Docker Engine, started by the first test that needs it."""
    yield from _engine("docker")


@pytest.fixture(scope="session")
def podman_engine() -> Iterator[PrivateEngine]:
    """One real Podman, started by the first test that needs it."""
    yield from _engine("podman")


@pytest.fixture
def engine(docker_engine: PrivateEngine) -> Iterator[PrivateEngine]:
    """A real container engine, on which a test leaves nothing."""
    yield docker_engine
    docker_engine.prove_empty()


@pytest.fixture(scope="session")
def model_server_image(docker_engine: PrivateEngine) -> str:
    """The name of an image on the engine that serves a GGUF file on a Unix socket."""
    return model_image.add_model_image(docker_engine)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands until the test moves it."""
    return ManualClock()
