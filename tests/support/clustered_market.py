"""A market with the face of scripts.market.Market, of two servers on PostgreSQL with NATS and two gateways.

What a test does to a market it does here too, unless it names one server's process, database file or log.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx
import pytest

from scripts.cluster import Cluster, Nats
from scripts.market import Market
from tests.support.databases import Postgres

ONE, CLUSTER = "one server", "two servers"

StartMarket = Callable[..., Market]
"""Market, or what takes the same arguments."""


both_forms = pytest.mark.parametrize("start_market", [ONE, CLUSTER], indirect=True)
"""For what the plain run shows in both forms."""


class InTurns(httpx.BaseTransport):
    """Sends each request to the next of several addresses."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = itertools.cycle([httpx.URL(url) for url in urls])
        self._inner = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends the request, whatever host it names."""
        url = next(self._urls)
        request.url = request.url.copy_with(host=url.host, port=url.port)
        request.headers["host"] = url.netloc.decode()
        return self._inner.handle_request(request)

    def close(self) -> None:
        """Closes the connections."""
        self._inner.close()


@dataclass
class ClusteredMarket(Market):
    """``http`` asks the gateways in turns, each gateway the servers in turns; ``url`` is a gateway."""

    postgres: Postgres | None = None
    _cluster: Cluster | None = field(default=None, init=False)
    _nats: Nats | None = field(default=None, init=False)

    def start(self) -> Market:
        """Starts everything, and waits until requests can be carried out."""
        assert self.postgres is not None
        self.embedded = False
        self._nats = Nats(self.folder)
        self._cluster = Cluster(
            self.folder,
            self.postgres.new_database(),
            bus=self._nats.url,
            admin_token=self.admin_token,
            settings=self.settings,
            gateway_settings=self.gateway_settings,
        ).start()
        self.programs += (*self._cluster.server_programs, *self._cluster.gateway_programs)
        self.grpc_address = self._cluster.addresses
        urls = [market.url for market in self._cluster.markets]
        self.url = urls[0]
        self.http = httpx.Client(base_url=self.url, timeout=30, transport=InTurns(urls))
        self.wait_ready()
        return self

    def stop(self) -> list[int]:
        """As Market's."""
        try:
            return super().stop()
        finally:
            if self._cluster is not None and not self.programs:
                self._cluster.stop()  # it did not start as a whole
            if self._cluster is not None:
                for market in self._cluster.markets:
                    market.http.close()
            if self._nats is not None:
                self._nats.stop()
