"""The attached engine: a model server that the provider runs already and that speaks the OpenAI API.

vLLM, Ollama, LM Studio and their like. The daemon neither starts nor ends it: it
looks what is served, and answers jobs with it. It must not know the session.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from dcp.v1 import jobs_pb2, sessions_pb2

from common import documents
from common.documents import DocumentError
from daemon.engines import (
    LLM_INFERENCE,
    Engine,
    EngineError,
    NoChatError,
    chat,
    job_types_for,
    probes,
    refusals,
    requests,
)
from daemon.engines.answers import Patience, Wait
from daemon.engines.names import Catalogue, catalogue
from daemon.engines.native import Native
from daemon.engines.refusals import ServerBusyError
from daemon.foreign import http
from daemon.machine.clock import Clock, SystemClock
from daemon.runners import Ability, Picture, Piece

logger = logging.getLogger(__name__)

MAX_IMAGE_BYTES = 48 * 1024 * 1024
LOOK_SECONDS = 5.0
FAILURES = 2
LIST_SECONDS = 15.0
"""How long the server's list is believed by jobs. The daemon asks for it every ten seconds, and a job whose
model is gone fails at the provider's cost in any case."""
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
        self._client = http.client(
            base_url=attachment.url.rstrip("/"),
            headers=headers,
            timeout=http.Timeout(LOOK_SECONDS, read=None),
        )
        self._native = Native(self._client, attachment.url)
        self._models: dict[str, sessions_pb2.ServedModel] = {}
        self._learned: dict[str, Ability] = {}
        """What tests have found, by public names."""
        self._catalogue = Catalogue()
        self._problem = ""
        self._failures = FAILURES
        self._listed_until = self._clock.monotonic()

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

    @property
    def problem(self) -> str:
        """Why the server's list cannot be used, as what the server does; empty: it can."""
        return self._problem

    @property
    def left_out(self) -> Mapping[str, str]:
        """The models that the server lists and that are not offered, each with the reason and the remedy."""
        return self._catalogue.left_out

    async def refresh(self) -> None:
        """Asks the server for its list and, where it knows, what is loaded and what each model can do."""
        await self._refresh_list()
        if self._models:
            await self._native.look(self._catalogue.served.values())
            self._models = {
                name: self._model(name, model.context_tokens) for name, model in self._models.items()
            }

    async def _refresh_list(self) -> None:
        """One missing answer may be a busy moment; the second is not."""
        listed, problem = await self._list()
        if problem:
            self._failures += 1
            if self._failures >= FAILURES:
                self._catalogue, self._models = Catalogue(), {}
        else:
            if self._failures >= FAILURES:
                logger.info("the attached model server answers models=%d", len(listed))
                self._native.forget()
            self._failures = 0
            self._listed_until = self._clock.monotonic() + LIST_SECONDS
            self._take(listed)
        if problem and (self._failures == FAILURES or problem != self._problem):
            logger.warning("the attached model server cannot be used: it %s", problem)
        self._problem = problem

    async def self_test(self, model: str = "") -> Ability | None:
        """The server answers, and the model chats, draws or does something else. Raises EngineError."""
        await self.refresh()
        if not self._models:
            text = f"The attached model server {self._problem or 'lists no model that can be offered'}."
            raise EngineError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, text)
        served_name = self._catalogue.served.get(model)
        if served_name is None:
            return None
        loads = self._native.has_loaded(served_name) is False
        try:
            return await self._find_ability(model, served_name)
        finally:
            if loads:
                await self._native.note_test(served_name, self._catalogue.served.values())

    async def _find_ability(self, model: str, served_name: str) -> Ability | None:
        if model in self._attachment.image_models:
            params = jobs_pb2.JobParams(model=model, prompt="A dot.")
            offer = sessions_pb2.JobOffer(lease=sessions_pb2.Lease(job_id="self-test"), params=params)
            try:
                await self._picture(offer, served_name)
            except EngineError as error:
                text = f"As an image model, it drew no picture. {error.message}"
                raise EngineError(error.reason, text, gives_back=error.gives_back) from None
            return Ability.IMAGE
        try:
            return await super().self_test(model)
        except NoChatError:
            if await probes.completes(self._client, served_name):
                return Ability.COMPLETION
            with suppress(EngineError):
                return await self.test_embedding(model)
            raise
        except EngineError:
            # Another model may have its name now: the next test finds out anew what it can do.
            self._learned.pop(model, None)
            raise

    def has_loaded(self, model: str) -> bool:
        """Whether a test loads nothing; what a server does not say is taken for loaded."""
        served_name = self._catalogue.served.get(model, "")
        return self._native.has_loaded(served_name) is not False

    def learn(self, model: str, ability: Ability) -> None:
        """A model is offered for what it can do."""
        self._learned[model] = ability
        if model in self._models:
            self._models[model] = self._model(model, self._models[model].context_tokens)

    def why_not_load(self, model: str) -> str:
        """A test loads a model only while the server holds none that somebody uses."""
        if self.has_loaded(model) or not (in_use := self._native.in_use()):
            return ""
        text = f"It waits for its test: it is not loaded, and {self._native.program} holds {in_use[0][:100]}"
        text += ", which a test could drive out."
        return f"{text} It is tested once that is unloaded, or this one is loaded."

    def fingerprint(self, model: str) -> str:
        """The server, its own name of the model and, of Ollama, the digest of its content."""
        served_name = self._catalogue.served.get(model)
        if served_name is None:
            return ""
        kind = "image" if model in self._attachment.image_models else "text"
        return "\n".join((self._attachment.url, kind, served_name, self._native.digest(served_name)))

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Checks the parameters and that the model is there, lately at least. Raises EngineError."""
        if offer.job_type == jobs_pb2.JOB_TYPE_IMAGE_GENERATION:
            _image_request(offer.params)
        else:
            requests.check(offer)
        if self._clock.monotonic() >= self._listed_until:
            await self._refresh_list()
        if offer.params.model not in self._models:
            raise refusals.engine_failed()

    async def generate(self, offer: sessions_pb2.JobOffer) -> AsyncGenerator[Piece, None]:
        """Streams the answer, or draws the picture. Raises EngineError."""
        served_name = self._catalogue.served.get(offer.params.model)
        if served_name is None:
            raise refusals.engine_failed()
        if offer.job_type == jobs_pb2.JOB_TYPE_IMAGE_GENERATION:
            yield await self._picture(offer, served_name)
            yield jobs_pb2.Usage()
            return
        pieces = requests.pieces(
            self._client,
            offer,
            served_name=served_name,
            context_tokens=self._models[offer.params.model].context_tokens,
            monotonic=self._clock.monotonic,
            patience=self._patience,
            root="",
        )
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
        except EngineError:
            # The next job asks first.
            self._listed_until = self._clock.monotonic()
            raise

    async def close(self) -> None:
        """Forgets the server, which goes on."""
        await self._client.aclose()

    def _take(self, listed: Mapping[str, int]) -> None:
        before = self._catalogue.left_out
        self._catalogue = catalogue(listed, self._attachment.aliases)
        self._models = {
            name: self._model(name, listed.get(served, 0)) for name, served in self._catalogue.served.items()
        }
        if self._catalogue.left_out and self._catalogue.left_out != before:
            logger.warning("models of the attached model server are not offered: %s", told(self.left_out))

    def _model(self, name: str, context_tokens: int) -> sessions_pb2.ServedModel:
        served_name = self._catalogue.served[name]
        # The server's own word counts before there is a test.
        ability = self._learned.get(name) or self._native.ability(served_name)
        draws = name in self._attachment.image_models
        return sessions_pb2.ServedModel(
            name=name,
            context_tokens=context_tokens,
            warm=self._native.has_loaded(served_name) is not False,
            job_types=job_types_for(Ability.IMAGE if draws else ability),
        )

    async def _list(self) -> tuple[dict[str, int], str]:
        """The server's models and the lengths of their contexts, or what is wrong with its answer."""
        try:
            async with (
                asyncio.timeout(2 * LOOK_SECONDS),
                self._client.stream("GET", "/models", timeout=LOOK_SECONDS) as response,
            ):
                if response.status_code != http.OK:
                    return {}, _bad_status(response.status_code)
                text = await http.body(response, chat.MAX_LIST_BYTES)
            return chat.listed(documents.parse(text)), ""
        except DocumentError as error:
            return {}, f"answers, but not with a list of models: {error}"
        except http.TooLargeError as error:
            return {}, f"answers, but not with a list of models: {error}"
        except (*http.FAILURES, TimeoutError) as error:
            return {}, f"does not answer ({type(error).__name__})"

    async def _picture(self, offer: sessions_pb2.JobOffer, served_name: str) -> Picture:
        wait = Wait(offer, self._patience)
        while True:
            try:
                return await self._drawn(_image_request(offer.params) | {"model": served_name})
            except ServerBusyError as busy:
                await wait.for_server(busy)

    async def _drawn(self, body: dict[str, Any]) -> Picture:
        patience = http.Timeout(LOOK_SECONDS, read=self._patience.first_seconds)
        try:
            async with (
                asyncio.timeout(2 * self._patience.first_seconds),
                self._client.stream("POST", "/images/generations", json=body, timeout=patience) as response,
            ):
                text = await http.body(response, MAX_IMAGE_BYTES)
            if response.status_code in refusals.BUSY:
                raise ServerBusyError(http.retry_after_seconds(response))
            if response.status_code != http.OK:
                raise refusals.refusal(refusals.error_of_body(response.status_code, text), 0)
            # An address instead of the picture is not followed: it could lead anywhere.
            picture = documents.parse(text, MAX_IMAGE_BYTES)["data"][0]["b64_json"]
            data = base64.b64decode(picture, validate=True)
        except (*http.FAILURES, TimeoutError, ValueError, KeyError, IndexError, TypeError) as error:
            raise refusals.engine_failed() from error
        content_type = next((kind for magic, kind in _IMAGES.items() if data.startswith(magic)), None)
        if content_type is None:
            raise refusals.engine_failed()
        return Picture(content_type, data)


def told(left_out: Mapping[str, str], most: int = 5) -> str:
    """Models that are not offered, with the reasons, in one line for the provider."""
    lines = [f"{name[:100]!r} ({why})" for name, why in list(left_out.items())[:most]]
    more = len(left_out) - len(lines)
    return "; ".join([*lines, *([f"and {more} more"] if more else [])])


def _bad_status(status: int) -> str:
    remedies = {
        401: "check DCP_ATTACHED_API_KEY",
        403: "check DCP_ATTACHED_API_KEY",
        404: "DCP_ATTACHED_URL must be the base address of its OpenAI API, which usually ends with /v1",
    }
    remedy = remedies.get(status)
    return f"answers with HTTP {status}" + (f": {remedy}" if remedy else "")


def _image_request(params: jobs_pb2.JobParams) -> dict[str, Any]:
    """The body of a request for one picture. Raises EngineError for parameters that make none."""
    if not params.prompt.strip():
        raise refusals.bad_params("The job needs params.prompt.")
    body: dict[str, Any] = {"prompt": params.prompt, "n": 1, "response_format": "b64_json"}
    if params.image_size:
        if not _IMAGE_SIZE.fullmatch(params.image_size):
            raise refusals.bad_params("params.image_size must be width and height, such as 1024x1024.")
        body["size"] = params.image_size
    return body
