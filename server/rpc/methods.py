"""Every method that this server serves, by its full name. It knows no single one and no caller."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc

from server.rpc.interceptors import Authentication


@dataclass(frozen=True)
class _Named(grpc.HandlerCallDetails):
    """A call of a method, as far as a look-up needs it."""

    method: str
    invocation_metadata: Any = ()


class Methods(grpc.GenericRpcHandler):
    """The methods of the registered servicers, for the gRPC port and for callers in this process."""

    def __init__(self, door: Authentication) -> None:
        self._door = door
        self._registered: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Adds methods. The generated code calls this, as it calls a server's."""
        self._registered += handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Does nothing: the generated code adds the same methods in both ways."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """The bare method that a call names; None for an unknown one. gRPC calls this."""
        return next((found for each in self._registered if (found := each.service(details))), None)

    async def handler(self, method: str) -> Any:
        """A method behind the same door as on the port; None for an unknown one."""

        async def bare(details: grpc.HandlerCallDetails) -> Any:
            return self.service(details)

        return await self._door.intercept_service(bare, _Named(method))
