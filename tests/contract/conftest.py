"""One market of real processes for the whole folder: server, gateway, a daemon with the real small model.

Server and gateway are one program. The contract's main path runs with two programs, too, and on two
servers with two gateways, and with --all everything does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from scripts.market import UNLIMITED, Market
from tests.support.clustered_market import CLUSTER, ClusteredMarket, StartMarket

ADMIN_TOKEN = "operator-token-of-all-of-the-tests"
_numbers = itertools.count(1)


def unique_email(kind: str) -> str:
    """An e-mail address that no other test has used."""
    return f"{kind}-{next(_numbers)}@example.com"


JOINED, APART = "one program", "two programs"
_FORMS = [JOINED, APART, CLUSTER]
_ALL_FORMS = "test_seed.py"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test with one form of the market, or with all."""
    if "market" in metafunc.fixturenames:
        has_all = metafunc.config.getoption("--all") or metafunc.definition.path.name == _ALL_FORMS
        forms = _FORMS if has_all else [JOINED]
        metafunc.parametrize("market", forms, indirect=True, scope="package")


@pytest.fixture(scope="package")
def market(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    folder: Path = tmp_path_factory.mktemp("market")
    start: StartMarket = partial(Market, embedded=request.param == JOINED)
    if request.param == CLUSTER:
        start = partial(ClusteredMarket, postgres=request.getfixturevalue("postgres"))
    with start(folder, admin_token=ADMIN_TOKEN, settings=UNLIMITED) as market:
        yield market
        statuses = market.stop()
    assert statuses == [0] * len(statuses), "every program drains on SIGTERM and exits 0"


@pytest.fixture(scope="package")
def provider(market: Market) -> tuple[int, str]:
    """A provider whose daemon is connected and serves the real small model."""
    provider_id, key = market.register_provider("Riyadh RTX Node", unique_email("daemon"))
    market.add_daemon(key)
    return provider_id, key


@pytest.fixture(params=["/api", "/api/dc1"])
def base(request: pytest.FixtureRequest) -> str:
    """The two bases, which must give the same responses."""
    return str(request.param)


@pytest.fixture
def renter(market: Market) -> tuple[int, str]:
    """A new renter with 50 SAR."""
    renter_id, key = market.register_renter("Acme AI", unique_email("renter"))
    market.credit(renter_id, 5000)
    return renter_id, key
