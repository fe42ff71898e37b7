"""Owns the calls of the server about batches and their files, which are repeated while a server is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import grpc
from dcp.v1 import batches_pb2

from gateway import errors
from gateway.calls import refused, rpc
from gateway.channel import Channel
from gateway.errors import ApiError

AWAY_SECONDS = 60.0
"""How long the server may be away before what goes on is given up."""
AGAIN_SECONDS = 0.5
_CROWDED = ("RATE_LIMITED", "OVERLOADED")
"""Refusals of a request that is right and comes too early."""
BYTES_A_SECOND = 1 << 20
_SERVICE = batches_pb2.DESCRIPTOR.services_by_name["BatchService"]


def is_passing(refusal: ApiError) -> bool:
    """Whether the same request may be right later."""
    return refusal.status >= 500 or refusal.code in _CROWDED


def wait_of(refusal: ApiError) -> float:
    """After how many seconds it may be repeated."""
    return max(AGAIN_SECONDS, min(float(refusal.facts.get("retry_after_seconds", 1)), AWAY_SECONDS))


class BatchCalls:
    """The calls of one gateway. All may be repeated: the server does each once."""

    def __init__(self, channel: Channel, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._calls = {name: rpc(channel, method) for name, method in _SERVICE.methods_by_name.items()}

    async def call(self, name: str, request: Any, metadata: Any, *, is_patient: bool = False) -> Any:
        """Calls an RPC, again and again while no server answers. Raises ApiError.

        ``is_patient``: also while it is refused since there are too many requests; nobody waits for it.
        """
        seconds = self._deadline_seconds + request.ByteSize() / BYTES_A_SECOND
        since = time.monotonic()
        while True:
            try:
                return await self._calls[name](request, metadata=metadata, timeout=seconds)
            except grpc.aio.AioRpcError as error:
                refusal = errors.from_rpc(error)
                is_away = refusal.status in (503, 504) or errors.is_lost(error)
                is_early = is_patient and refusal.code in _CROWDED
                if not (is_away or is_early) or time.monotonic() - since > AWAY_SECONDS:
                    raise refused(error, name, "") from None
            await asyncio.sleep(wait_of(refusal) if is_early else AGAIN_SECONDS)

    async def pieces(self, file_id: str, metadata: Any, batch_id: str = "") -> AsyncGenerator[bytes, None]:
        """The bytes of an uploaded file, which a batch's check reads if it is named.

        Raises ApiError, also in the middle.
        """
        asked = batches_pb2.ReadFileRequest(file_id=file_id, batch_id=batch_id)
        call = self._calls["ReadFile"](asked, metadata=metadata)
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                yield message.data
        except grpc.aio.AioRpcError as error:
            raise refused(error, "ReadFile", "") from None
        finally:
            call.cancel()
