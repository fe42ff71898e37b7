"""The container engine: one model, served by an image of the provider's choice, hardened, without a network.

vLLM's OpenAI server is the image that it is written for; whatever speaks that API on a
Unix socket will do. It must not know the session. A server that misbehaves is
removed, and the next job gets a new one.
"""

from __future__ import annotations

from collections.abc import Collection

from dcp.v1 import sessions_pb2

from daemon.engines.answers import Patience
from daemon.engines.container_spec import ModelServerSpec
from daemon.engines.served import ServedEngine, size_and_more_mib
from daemon.engines.server_container import (
    START_SECONDS,
    ModelServerHost,
    ServerContainer,
    start_server_container,
    sweep,
)
from daemon.engines.warm import WarmModels
from daemon.machine.clock import Clock
from daemon.runners.containers.docker import PULL_SECONDS, Docker


class ContainerEngine(ServedEngine[ServerContainer]):
    """Serves one model, whose files it hands to the image read-only, under a public name."""

    name = "container"
    # Its first test downloads the image.
    self_test_seconds = PULL_SECONDS + START_SECONDS + 60.0

    def __init__(
        self,
        order: ModelServerSpec,
        place: ModelServerHost,
        *,
        clock: Clock | None = None,
        patience: Patience | None = None,
        warm: WarmModels | None = None,
        start_seconds: float = START_SECONDS,
    ) -> None:
        """`place`: shared by all engines of a daemon, each of which sweeps it."""
        super().__init__(
            order.name,
            slots=order.slots,
            needed_mib=lambda: order.settings.model_mib or size_and_more_mib(order.path),
            clock=clock,
            patience=patience,
            warm=warm,
        )
        self._order = order
        self._place = place
        self._start_seconds = start_seconds
        self._docker = Docker(str(place.socket))
        self._context_tokens = 0

    @property
    def context_tokens(self) -> int:
        """What the server reported when it last started; 0: nothing yet."""
        return self._context_tokens

    async def start_server(self) -> ServerContainer:
        """A container that has loaded the model. Raises StartError."""
        server = await start_server_container(
            self._docker, self._place, self._order, start_seconds=self._start_seconds
        )
        self._context_tokens = server.context_tokens
        return server

    def gpus(self, lease: sessions_pb2.Lease) -> Collection[str] | None:
        """Those that the server was given."""
        return self._server.gpus if self._server is not None else None

    def pids(self) -> Collection[int]:
        """The first process of the server's container."""
        server = self._server
        return server.pids if server is not None else ()

    async def sweep(self) -> None:
        """Removes the servers of an earlier daemon."""
        await sweep(self._docker, self._place)

    async def close(self) -> None:
        """Removes the server, and leaves the container engine."""
        await super().close()
        await self._docker.close()
