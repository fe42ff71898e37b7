"""The pipes to a process that has ended.

A child that it left behind may hold them open: without this they would stay open as long as that child.
"""

from __future__ import annotations

import asyncio


def close(process: asyncio.subprocess.Process) -> None:
    """Closes all pipes to a process, from which nobody reads any more; kills it if it has not ended."""
    process._transport.close()  # type: ignore[attr-defined]  # asyncio has no other way
