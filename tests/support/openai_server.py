"""A model server of the OpenAI API whose behaviour a test scripts: real HTTP on 127.0.0.1, no model."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"

Step = bytes | float
"""Bytes to send unchanged, or seconds to wait."""


def event(**fields: Any) -> bytes:
    """An event of a stream."""
    return f"data: {json.dumps(fields)}\n\n".encode()


def word(text: str) -> bytes:
    """An event with a piece of the answer."""
    return event(choices=[{"delta": {"content": text}, "finish_reason": None}])


END = event(choices=[{"delta": {}, "finish_reason": "stop"}])
COUNTS = event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 2})
DONE = b"data: [DONE]\n\n"


@dataclass
class Script:
    """The server's behaviour. A test can change it while the server runs."""

    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "served-model"}])
    answers: Sequence[Step] = (word("Hello"), word(" world"), END, COUNTS, DONE)
    status: int = 200
    error: dict[str, Any] = field(default_factory=dict)
    without_chat: Sequence[str] = ()
    """The models that a request for a chat is refused for, as those that make embeddings."""
    image: Any = field(default_factory=lambda: {"data": [{"b64_json": base64.b64encode(PNG).decode()}]})
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    stopped: list[bool] = field(default_factory=list)
    """An entry for each stream whose reader disconnected before its end."""


def _app(script: Script) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        script.headers.append(dict(request.headers))
        return JSONResponse({"object": "list", "data": script.models}, status_code=script.status)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        script.requests.append(await request.json())
        if script.status != 200:
            return JSONResponse({"error": script.error}, status_code=script.status)
        if (model := script.requests[-1]["model"]) in script.without_chat:
            return JSONResponse({"error": {"message": f'"{model}" does not support chat'}}, status_code=400)
        return StreamingResponse(_play(script), media_type="text/event-stream")

    @app.post("/v1/images/generations")
    async def images(request: Request) -> Response:
        script.requests.append(await request.json())
        answer = {"error": script.error} if script.status != 200 else script.image
        return JSONResponse(answer, status_code=script.status)

    return app


async def _play(script: Script) -> AsyncIterator[bytes]:
    whole = False
    try:
        for step in script.answers:
            if isinstance(step, bytes):
                yield step
            else:
                await asyncio.sleep(step)
        whole = True
    finally:
        if not whole:
            script.stopped.append(True)


@asynccontextmanager
async def openai_server(script: Script) -> AsyncIterator[str]:
    """Serves the script; yields the base address."""
    server = uvicorn.Server(
        uvicorn.Config(_app(script), host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none")
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = server.force_exit = True
        await serving
