"""A model server of the OpenAI API without a model: ``python -m scripts.benchmarks.scripted_engine``.

It serves two models on a free port of 127.0.0.1, whose address it prints. PACED writes a token every 10 ms,
as many as it is asked for; NOOP answers at once with one word. It computes nothing, so that a benchmark sees
what the way to it costs.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

PACED, NOOP = "bench/paced", "bench/at-once"
TOKEN_SECONDS = 0.01
_LENGTH = re.compile(rb"(?im)^content-length: *(\d+)")
_JSON = b"application/json"
_EVENTS = b"text/event-stream"


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length else b""
            if not head.startswith(b"POST "):
                models = [{"id": name, "max_model_len": 4096} for name in (PACED, NOOP)]
                _send_whole(writer, {"object": "list", "data": models})
                continue
            asked = json.loads(body)
            if asked.get("stream"):
                await _stream(writer, asked)
            else:
                _send_whole(writer, _completion(asked))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has left
    finally:
        writer.close()


def _send_whole(writer: asyncio.StreamWriter, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (_JSON, len(body))
    writer.write(head + body)


async def _stream(writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n" % _EVENTS)
    async for text in _events(asked):
        writer.write(b"%x\r\n%s\r\n" % (len(text), text))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def _events(asked: dict[str, Any]) -> AsyncIterator[bytes]:
    if asked["model"] != PACED:
        yield b"".join((_event(asked, {"content": "done"}), _event(asked, {}, "stop"), *_end(asked, 1)))
        return
    count, due = asked["max_tokens"], asyncio.get_running_loop().time()
    for number in range(count):
        due += TOKEN_SECONDS
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        yield _event(asked, {"content": f" {number}"})
    yield b"".join((_event(asked, {}, "length"), *_end(asked, count)))


def _event(asked: dict[str, Any], delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return _data({"object": "chat.completion.chunk", "model": asked["model"], "choices": [choice]})


def _end(asked: dict[str, Any], tokens: int) -> list[bytes]:
    wants_usage = (asked.get("stream_options") or {}).get("include_usage")
    usage = _data({"object": "chat.completion.chunk", "choices": [], "usage": _usage(tokens)})
    return [*([usage] if wants_usage else []), b"data: [DONE]\n\n"]


def _data(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"id": "chatcmpl-1", "created": 1, **document}).encode() + b"\n\n"


def _completion(asked: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": "done"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": asked["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _usage(1),
    }


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}


async def _run() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    print(f"ready http://{host}:{port}", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


def main() -> int:
    """Serves until SIGTERM."""
    asyncio.run(_run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
