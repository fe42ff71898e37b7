"""The attached engine: a model server that the provider runs already and that speaks the OpenAI API.

vLLM, Ollama, LM Studio and their like. The daemon neither starts nor ends it: it
looks what is served, and answers jobs with it. It must not know the session.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx
from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.engines import LLM_INFERENCE, Engine, EngineError, chat
from daemon.engines.answers import Patience, answer, bounded
from daemon.machine.clock import Clock, SystemClock
from daemon.runners import Picture, Piece

logger = logging.getLogger(__name__)

MAX_IMAGE_BYTES = 48 * 1024 * 1024
LOOK_SECONDS = 5.0
FAILURES = 2
_IMAGE_SIZE = re.compile(r"[1-9][0-9]{1,3}x[1-9][0-9]{1,3}")
_IMAGES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Attachment:
    """Where a model server is and what of it is offered."""

    url: str
    """Its base address, such as http://127.0.0.1:8000/v1."""
    api_key: str = field(default="", repr=False)
    """What it wants to hear as a bearer token; empty: nothing."""
    slots: int = 1
    """How many jobs it is given at once."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Public name to the server's own; a model without one is offered under its own name."""
    image_models: frozenset[str] = frozenset()
    """Public names of those that draw pictures."""


class AttachedEngine(Engine):
    """Answers with a model server that the provider keeps running."""

    name = "attached"

    def __init__(
        self, attachment: Attachment, *, clock: Clock | None = None, patience: Patience | None = None
    ) -> None:
        self._attachment = attachment
        self._clock: Clock = clock or SystemClock()
        self._patience = patience or Patience()
        headers = {"Authorization": f"Bearer {attachment.api_key}"} if attachment.api_key else {}
        self._client = httpx.AsyncClient(
            base_url=attachment.url.rstrip("/"),
            headers=headers,
            timeout=httpx.Timeout(LOOK_SECONDS, read=None),
            limits=httpx.Limits(max_keepalive_connections=0),
            # The key goes where the provider said, and prompts do, too.
            trust_env=False,
            follow_redirects=False,
        )
        self._models: dict[str, sessions_pb2.ServedModel] = {}
        self._served: dict[str, str] = {}
        self._failures = FAILURES

    @property
    def slots(self) -> int:
        """How many jobs the server is given at once."""
        return self._attachment.slots

    def job_types(self) -> Sequence[jobs_pb2.JobType.ValueType]:
        """Text, and pictures where a model is said to draw them."""
        draws = [jobs_pb2.JOB_TYPE_IMAGE_GENERATION] if self._attachment.image_models else []
        return [LLM_INFERENCE, *draws]

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """What the server listed when it was looked at last; nothing while it does not answer."""
        return list(self._models.values())

    async def refresh(self) -> None:
        """Asks the server for its list. One missing answer may be a busy moment; the second is not."""
        try:
            listed = chat.listed(await self._get("/models"))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            self._failures += 1
            if self._failures == FAILURES:
                logger.warning("the attached model server does not answer error=%s", type(error).__name__)
            if self._failures >= FAILURES:
                self._take({})
            return
        if self._failures >= FAILURES:
            logger.info("the attached model server answers models=%d", len(listed))
        self._failures = 0
        self._take(listed)

    async def self_test(self, model: str = "") -> None:
        """The server answers, and the model does if it writes text. Raises EngineError."""
        await self.refresh()
        if not self._models:
            text = "The attached model server does not answer, or lists no model."
            raise EngineError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, text)
        await super().self_test(model)

    def has_loaded(self, model: str) -> bool:
        """Whether it is the only one: which of several a server holds in memory, the API does not say."""
        return list(self._models) == [model]

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Checks the parameters and that the model is there. Raises EngineError."""
        if offer.job_type == jobs_pb2.JOB_TYPE_IMAGE_GENERATION:
            _image_request(offer.params)
        else:
            chat.request_body(offer.params)
        await self.refresh()
        if offer.params.model not in self._models:
            raise chat.engine_failed()

    async def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[Piece, None]:
        """Streams the answer, or draws the picture. Raises EngineError."""
        served_name = self._served.get(offer.params.model)
        if served_name is None:
            raise chat.engine_failed()
        if offer.job_type == jobs_pb2.JOB_TYPE_IMAGE_GENERATION:
            yield await self._picture(offer.params, served_name)
            yield jobs_pb2.Usage()
            return
        pieces = answer(
            self._client,
            offer.params,
            served_name=served_name,
            context_tokens=self._models[offer.params.model].context_tokens,
            monotonic=self._clock.monotonic,
            patience=self._patience,
            path="/chat/completions",
        )
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        """Forgets the server, which goes on."""
        await self._client.aclose()

    def _take(self, listed: Mapping[str, int]) -> None:
        public = {name: served for name, served in self._attachment.aliases.items() if served in listed}
        named = set(public.values())
        public |= {served: served for served in listed if served not in named and served not in public}
        self._served = dict(list(public.items())[: chat.MAX_MODELS])
        self._models = {name: self._model(name, listed[served]) for name, served in self._served.items()}

    def _model(self, name: str, context_tokens: int) -> sessions_pb2.ServedModel:
        draws = name in self._attachment.image_models
        return sessions_pb2.ServedModel(
            name=name,
            context_tokens=context_tokens,
            warm=True,
            job_types=[jobs_pb2.JOB_TYPE_IMAGE_GENERATION] if draws else (),
        )

    async def _get(self, path: str) -> Any:
        async with self._client.stream("GET", path, timeout=LOOK_SECONDS) as response:
            response.raise_for_status()
            return json.loads(await bounded(response, chat.MAX_LIST_BYTES))

    async def _picture(self, params: jobs_pb2.JobParams, served_name: str) -> Picture:
        body = _image_request(params) | {"model": served_name}
        patience = httpx.Timeout(LOOK_SECONDS, read=self._patience.first_seconds)
        try:
            async with self._client.stream(
                "POST", "/images/generations", json=body, timeout=patience
            ) as response:
                text = await bounded(response, MAX_IMAGE_BYTES)
            if response.status_code != httpx.codes.OK:
                raise chat.refusal(response.status_code, chat.error_of(text), 0)
            # An address instead of the picture is not followed: it could lead anywhere.
            data = base64.b64decode(json.loads(text)["data"][0]["b64_json"], validate=True)
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError, binascii.Error) as error:
            raise chat.engine_failed() from error
        content_type = next((kind for magic, kind in _IMAGES.items() if data.startswith(magic)), None)
        if content_type is None:
            raise chat.engine_failed()
        return Picture(content_type, data)


def _image_request(params: jobs_pb2.JobParams) -> dict[str, Any]:
    """The body of a request for one picture. Raises EngineError for parameters that make none."""
    if not params.prompt.strip():
        raise chat.bad_params("The job needs params.prompt.")
    body: dict[str, Any] = {"prompt": params.prompt, "n": 1, "response_format": "b64_json"}
    if params.image_size:
        if not _IMAGE_SIZE.fullmatch(params.image_size):
            raise chat.bad_params("params.image_size must be width and height, such as 1024x1024.")
        body["size"] = params.image_size
    return body
