"""Whether several servers have the same folder of files: each must find there what the others stored.

The first server leaves a mark in its folder and in the database. A later one that does not find that mark in
its own folder has another folder, and does not start while others serve.
"""

from __future__ import annotations

import asyncio
import secrets
from functools import partial

from server.blobs.files import FileBlobs
from server.services.servers import Servers
from server.store import servers as rows
from server.store.database import Database

LOOKS, LOOK_SECONDS = 20, 0.25


class NotSharedError(Exception):
    """This server's folder is not that of the others."""


async def check(database: Database, servers: Servers, blobs: FileBlobs) -> None:
    """Compares the marks; the oldest server makes its folder the market's. Raises NotSharedError.

    One that starts at the same time as the oldest waits a moment for the mark.
    """
    for _ in range(LOOKS):
        found, stored = await blobs.mark(), await database.read(rows.folder_mark)
        if found and found == stored:
            return
        if servers.is_first:
            mark = secrets.token_hex(16)
            await blobs.set_mark(mark)
            await database.run(partial(rows.set_folder_mark, mark))
            return
        await asyncio.sleep(LOOK_SECONDS)
    raise NotSharedError
