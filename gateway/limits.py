"""Owns every limit of HTTP: sizes, counts and times. It enforces none of them.

`connections` enforces what concerns a connection, `edge` what concerns a request.
"""

from __future__ import annotations

MAX_HEAD_BYTES = 64 << 10
"""Most bytes of a request line with its headers, and of the trailers of a chunked body."""

MAX_HEADERS = 100

LEAST_BODY_LIMIT = 1 << 20
"""Every route reads a body of at least this many bytes; routes whose fields may be longer read more."""

MAX_QUERY_FIELDS = 100

HEAD_SECONDS = 15.0
"""How long a head may take from its first byte, and the first one of a connection from its start."""

BODY_STALL_SECONDS = 30.0
"""How long a body may pause. It also has this time in all, and the time of its bytes at the least rate."""

ANSWER_STALL_SECONDS = 60.0
"""The same for a reader that does not take its answer."""

LEAST_BYTES_PER_SECOND = 2 << 10
"""A body or an answer that stays slower than this ends: 1 MiB gets nine minutes."""

KEEP_ALIVE_SECONDS = 75
"""How long a connection may rest between requests. It is more than the 60 s of most clients and proxies: the
client must close first, or it sends a request into a connection that is being closed."""

LINGER_SECONDS = 1.0
"""How long a refused sender can read the refusal before its connection is closed."""

MAX_LINGERING = 512
"""Most connections at once that are refused with an answer; any more are closed without one."""

MAX_CONNECTIONS = 10_000
"""Most connections in all, unless the settings say otherwise."""

MAX_ADDRESS_CONNECTIONS = 256
"""Most connections of one address, unless the settings say otherwise."""

SPARE_FILES = 128
"""Open files that connections leave for everything else."""

DEADLINE_SECONDS = 10.0
"""How long the server may take to answer a call."""

PIECE_SECONDS = 120.0
"""How long the server may take to store a piece of an upload; after the last one it may read all again."""

READY_SECONDS = 3.0
"""How long the server may take to say whether it serves."""

STALLED_SECONDS = 60.0
"""How long the server may send nothing of a file, or the client may read nothing, before the relay stops."""

EVENT_COMMENT_SECONDS = 10.0
"""After so long without an event, its reader gets a comment: readers and proxies wait at least 15 s."""

EVENT_RETRY_MILLISECONDS = (1000, 3000)
"""How long the reader of a stream of events waits before it comes back, by chance between these."""

DRAIN_SECONDS = 10
"""How long running requests may take after a stop signal."""
