"""A model server of the OpenAI API whose behaviour a test scripts: real HTTP on 127.0.0.1, no model."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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


@dataclass(frozen=True)
class Raw:
    """An answer as it is sent, whatever it is."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def refused(status: int, document: Any, **headers: str) -> Raw:
    """A refusal in JSON; names of headers are written with underscores."""
    return Raw(
        json.dumps(document).encode(), status, {name.replace("_", "-"): headers[name] for name in headers}
    )


@dataclass
class Ollama:
    """What Ollama has beyond the API. It holds one model in memory."""

    loaded: dict[str, str] = field(default_factory=dict)
    """The model in memory, with when it will be unloaded."""
    digests: dict[str, str] = field(default_factory=dict)
    capabilities: dict[str, list[str]] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    """The models that were loaded, in order."""
    pull: Raw = Raw(status=404)
    """What a request for a download is answered with."""

    def use(self, model: str) -> None:
        """A request for the model: it stays in memory for a while longer."""
        if model not in self.loaded:
            self.loads.append(model)
        self.loaded = {model: f"until-{next(_uses)}"}


_uses = itertools.count(1)


@dataclass
class Script:
    """The server's behaviour. A test can change it while the server runs."""

    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "served-model"}])
    answers: Iterable[Step] | Callable[[dict[str, Any]], Iterable[Step]] = (
        word("Hello"),
        word(" world"),
        END,
        COUNTS,
        DONE,
    )
    """What each chat is answered with, or what makes that of a request."""
    status: int = 200
    error: dict[str, Any] = field(default_factory=dict)
    list_answer: Raw | None = None
    """What /models answers instead of a list of `models`."""
    accept_seconds: float = 0.0
    """How long a chat request waits before the answer's head is sent."""
    refusals: list[Raw] = field(default_factory=list)
    """What the next requests of jobs get instead of the script's answers, one each."""
    without_chat: Sequence[str] = ()
    """The models that a request for a chat is refused for, as those that make embeddings."""
    completes: Sequence[str] = ()
    """The models that complete texts."""
    embeds: Sequence[str] = ()
    """The models that make embeddings."""
    vectors: Callable[[dict[str, Any]], Any] = lambda request: embeddings(request)
    """What these answer to a request."""
    lm_studio: Sequence[dict[str, Any]] | None = None
    """The models as LM Studio's own list has them, if it is LM Studio: a request for a model loads it."""
    ollama: Ollama | None = None
    """Its own routes, if it is Ollama: a request for a model loads it, and drives out another."""
    image: Any = field(default_factory=lambda: {"data": [{"b64_json": base64.b64encode(PNG).decode()}]})
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    """Those of the requests for the list of models."""
    chat_headers: list[dict[str, str]] = field(default_factory=list)
    """Those of the requests for chats."""
    stopped: list[bool] = field(default_factory=list)
    """An entry for each stream whose reader disconnected before its end."""


def embeddings(request: dict[str, Any], dimensions: int = 3) -> dict[str, Any]:
    """Vectors that depend on nothing but the texts, with numbers that 32 bits hold."""
    found = [vector_of(each, request.get("dimensions", dimensions)) for each in request["input"]]
    data = [{"object": "embedding", "index": place, "embedding": each} for place, each in enumerate(found)]
    counts = sum(map(len, request["input"]))
    return {"object": "list", "data": data, "usage": {"prompt_tokens": counts, "total_tokens": counts}}


def vector_of(given: Any, dimensions: int = 3) -> list[float]:
    """The vector of a text, or of the ids of tokens."""
    digest = hashlib.sha256(json.dumps(given).encode()).digest()
    return [digest[place % 32] / 256 - 0.5 for place in range(dimensions)]


def _app(scripts: dict[str, Script]) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/models")
    @app.get("/{name}/v1/models")
    async def models(request: Request, name: str = "") -> Response:
        script = scripts[name]
        script.headers.append(dict(request.headers))
        if script.list_answer is not None:
            return _response(script.list_answer)
        return JSONResponse({"object": "list", "data": script.models}, status_code=script.status)

    @app.post("/{name}/v1/chat/completions")
    async def chat(name: str, request: Request) -> Response:
        script, asked = scripts[name], await request.json()
        script.chat_headers.append(dict(request.headers))
        script.requests.append(asked)
        await asyncio.sleep(script.accept_seconds)
        if script.refusals:
            return _response(script.refusals.pop(0))
        if script.status != 200:
            return JSONResponse({"error": script.error}, status_code=script.status)
        _use(script)
        if (model := script.requests[-1]["model"]) in script.without_chat:
            return JSONResponse({"error": {"message": f'"{model}" does not support chat'}}, status_code=400)
        return StreamingResponse(_play(script, asked), media_type="text/event-stream")

    @app.post("/{name}/v1/completions")
    async def completions(name: str, request: Request) -> Response:
        script = scripts[name]
        script.requests.append(await request.json())
        _use(script)
        if script.requests[-1]["model"] not in script.completes:
            return JSONResponse({"error": {"message": "does not support generate"}}, status_code=400)
        return JSONResponse({"choices": [{"text": " there was"}]})

    @app.post("/{name}/v1/embeddings")
    async def embedded(name: str, request: Request) -> Response:
        script = scripts[name]
        script.requests.append(await request.json())
        _use(script)
        await asyncio.sleep(script.accept_seconds)
        if script.requests[-1]["model"] not in script.embeds:
            return JSONResponse({"error": {"message": "does not support embeddings"}}, status_code=400)
        answer = script.vectors(script.requests[-1])
        return _response(answer) if isinstance(answer, Raw) else JSONResponse(answer)

    @app.get("/{name}/api/v0/models")
    async def lm_studio(name: str) -> Response:
        if (listed := scripts[name].lm_studio) is None:
            return Response(status_code=404)
        return JSONResponse({"object": "list", "data": list(listed)})

    @app.get("/{name}/api/ps")
    async def running(name: str) -> Response:
        if scripts[name].lm_studio is not None:
            # LM Studio answers so, with 200, whatever it does not know.
            return JSONResponse({"error": "Unexpected endpoint or method. (GET /api/ps)"})
        if (ollama := scripts[name].ollama) is None:
            return Response(status_code=404)
        models = [{"name": model, "expires_at": until} for model, until in ollama.loaded.items()]
        return JSONResponse({"models": models})

    @app.get("/{name}/api/tags")
    async def tags(name: str) -> Response:
        script = scripts[name]
        if script.ollama is None:
            return Response(status_code=404)
        digests = script.ollama.digests
        models = [{"name": model["id"], "digest": digests.get(model["id"], "d")} for model in script.models]
        return JSONResponse({"models": models})

    @app.post("/api/pull")
    async def pull(request: Request) -> Response:
        script = scripts[""]
        script.requests.append(await request.json())
        return _response(script.ollama.pull) if script.ollama else Response(status_code=404)

    @app.post("/{name}/api/show")
    async def show(name: str, request: Request) -> Response:
        ollama, model = scripts[name].ollama, (await request.json())["model"]
        if ollama is None:
            return Response(status_code=404)
        return JSONResponse({"capabilities": ollama.capabilities.get(model, ["completion"])})

    @app.post("/{name}/v1/images/generations")
    async def images(name: str, request: Request) -> Response:
        script = scripts[name]
        script.requests.append(await request.json())
        if script.refusals:
            return _response(script.refusals.pop(0))
        answer = {"error": script.error} if script.status != 200 else script.image
        return JSONResponse(answer, status_code=script.status)

    return app


def _use(script: Script) -> None:
    if script.ollama is not None:
        script.ollama.use(script.requests[-1]["model"])
    for entry in script.lm_studio or ():
        if entry["id"] == script.requests[-1]["model"]:
            entry["state"] = "loaded"


def _response(raw: Raw) -> Response:
    return Response(raw.body, raw.status, raw.headers)


async def _play(script: Script, request: dict[str, Any]) -> AsyncIterator[bytes]:
    steps = script.answers(request) if callable(script.answers) else script.answers
    whole = False
    try:
        for step in steps:
            if isinstance(step, bytes):
                yield step
            else:
                await asyncio.sleep(step)
        whole = True
    finally:
        if not whole:
            script.stopped.append(True)


class _Server:
    """The one server of this process, in a thread of its own; each script has its own base address."""

    def __init__(self) -> None:
        self._scripts: dict[str, Script] = {}
        self._numbers = itertools.count(1)
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                _app(self._scripts), host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none"
            )
        )
        threading.Thread(target=lambda: asyncio.run(self._uvicorn.serve()), daemon=True).start()
        while not self._uvicorn.started:
            time.sleep(0.01)
        self._port = self._uvicorn.servers[0].sockets[0].getsockname()[1]

    @contextmanager
    def serving(self, script: Script, *, at_root: bool) -> Iterator[str]:
        name = "" if at_root else str(next(self._numbers))
        self._scripts[name] = script
        try:
            yield f"http://127.0.0.1:{self._port}/{f'{name}/' if name else ''}v1"
        finally:
            del self._scripts[name]


_server = functools.cache(_Server)


@contextmanager
def openai_server(script: Script, *, at_root: bool = False) -> Iterator[str]:
    """Serves the script; yields the base address. `at_root`: with no path but /v1, and only the list."""
    with _server().serving(script, at_root=at_root) as url:
        yield url
