"""Owns the reading of a job's events through broken connections. It knows what an event is, and no more."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import httpx
from dcp_client.aio.transport import AsyncTransport
from dcp_client.calls import Call, path_of
from dcp_client.errors import APIError, ConnectionFailedError, ResponseError, WaitTimeoutError
from dcp_client.events import JobEvent, Parser
from dcp_client.reading import MalformedError

# A line comes every 15 s, so a stream that is silent for longer is cut.
SILENT_SECONDS = 45.0
_MOST_FAILURES = 10
_LONGEST_PAUSE_SECONDS = 10.0


async def watch(
    transport: AsyncTransport,
    job_id: str,
    after: str | None = None,
    timeout_seconds: float | None = None,
) -> AsyncIterator[JobEvent]:
    """The events of a job until `end`. A stream that is cut is opened again after the last event.

    Raises WaitTimeoutError when the time is over, and the error of the market if it refuses the stream.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    failures = 0
    while True:
        silence = _silence(deadline, job_id)
        call = Call(
            "GET",
            path_of("/api/jobs/{job_id}/events", job_id=job_id),
            headers={"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})},
        )
        try:
            async with transport.stream(call, silence) as answer:
                if answer.status_code == 204:
                    return  # `end` was the last event that the caller has
                parser = Parser()
                async for line in answer.aiter_lines():
                    _silence(deadline, job_id)
                    for message in parser.feed(line):
                        if message.event == "error":
                            raise httpx.RemoteProtocolError(message.data)
                        event = message.job_event()
                        failures, after = 0, event.id or after
                        yield event
                        if event.kind == "end":
                            return
        except (httpx.HTTPError, ConnectionFailedError) as error:
            broken: Exception | None = error
        except APIError as error:
            if error.status < 500 and error.status != 429:
                raise
            broken = error
        except MalformedError as error:
            raise ResponseError(f"the events of {job_id}: {error}") from error
        else:
            broken = None
        failures += 1
        if failures >= _MOST_FAILURES:
            raise ConnectionFailedError(f"the events of {job_id} break off again and again") from broken
        await asyncio.sleep(random.random() * min(_LONGEST_PAUSE_SECONDS, 0.1 * 2**failures))  # noqa: S311


def _silence(deadline: float | None, job_id: str) -> float:
    """How long the next line may take. Raises WaitTimeoutError after the deadline."""
    if deadline is None:
        return SILENT_SECONDS
    left = deadline - time.monotonic()
    if left <= 0:
        raise WaitTimeoutError(f"{job_id} has not ended in time; it goes on")
    return min(left, SILENT_SECONDS)
