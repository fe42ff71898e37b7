"""Owns what Ollama and LM Studio say beyond OpenAI's API: which models are loaded, and what they can do.

Ollama also says what identifies a model's content. Another server has no such routes; then nothing is known.
It must not know tests or jobs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any

from common import documents
from daemon.foreign import http
from daemon.runners import Ability

logger = logging.getLogger(__name__)

ASK_SECONDS = 5.0
MAX_MODELS = 1000
MAX_TEXT = 1000
# Of one look; the rest is asked at the next.
MAX_ASKED = 50
_CHATS = "completion"
"""What Ollama calls the ability to write text, chats included."""
_OLLAMA, _LM_STUDIO = "Ollama", "LM Studio"


class Native:
    """The own routes of one server, as looked at last."""

    def __init__(self, client: http.Client, url: str) -> None:
        """`url`: the base address of its OpenAI API, which ends with /v1."""
        base = url.rstrip("/")
        self._client = client
        self._root = base.removesuffix("/v1") if base.endswith("/v1") else ""
        self.program = ""
        """What the server is; empty: neither of them, or not known yet."""
        self._is_asked = False
        self._loaded: Mapping[str, str] | None = None
        """The loaded models, each with when Ollama will unload it; None: not known."""
        self._after_test: dict[str, str] = {}
        """The same of those that a test loaded, as it was after the test."""
        self._digests: dict[str, str] = {}
        self._abilities: dict[tuple[str, str], Ability | None] = {}
        """What a model of a name and a digest can do, if it cannot chat."""

    def forget(self) -> None:
        """The server was away: another may be in its place."""
        self.program, self._is_asked, self._loaded, self._digests = "", False, None, {}
        self._after_test.clear()
        self._abilities.clear()

    async def look(self, names: Collection[str]) -> None:
        """Looks again; `names`: the models of the server's list. Never raises."""
        if not self._root or (self._is_asked and not self.program):
            return
        if self.program != _LM_STUDIO:
            await self._look_at_ollama(names)
        if self.program != _OLLAMA:
            await self._look_at_lm_studio()
        self._is_asked = True

    async def _look_at_ollama(self, names: Collection[str]) -> None:
        running = await self._ask("GET", "/api/ps")
        if running is None or not isinstance(running.get("models"), list):
            return  # not Ollama, or too busy to answer: what was known stays
        self.program = _OLLAMA
        self._take_loaded(
            {name: _text(entry, "expires_at") for name, entry in _named(running, "models", "name")}
        )
        if (listed := await self._ask("GET", "/api/tags")) is not None:
            self._digests = {name: _text(entry, "digest") for name, entry in _named(listed, "models", "name")}
        await self._ask_abilities(names)

    async def _look_at_lm_studio(self) -> None:
        """It does not say when a model was used: one that a test has loaded counts as unused."""
        answer = await self._ask("GET", "/api/v0/models")
        listed = _named(answer or {}, "data", "id")
        if not any(_text(entry, "state") for _, entry in listed):
            return
        self.program = _LM_STUDIO
        self._take_loaded({name: "" for name, entry in listed if _text(entry, "state") == "loaded"})
        self._abilities = {
            (name, ""): Ability.EMBEDDING for name, entry in listed if _text(entry, "type") == "embeddings"
        }

    def _take_loaded(self, loaded: Mapping[str, str]) -> None:
        self._loaded = loaded
        self._after_test = {name: at for name, at in self._after_test.items() if name in loaded}

    async def note_test(self, name: str, names: Collection[str]) -> None:
        """A test has loaded the model: until somebody else uses it, it may be driven out again."""
        await self.look(names)
        if self._loaded is not None and name in self._loaded:
            self._after_test[name] = self._loaded[name]

    def has_loaded(self, name: str) -> bool | None:
        """Whether the model is in memory; None: not known."""
        return None if self._loaded is None else name in self._loaded

    def in_use(self) -> list[str]:
        """The loaded models that are not there only because of a test."""
        return [name for name, at in (self._loaded or {}).items() if self._after_test.get(name) != at]

    def digest(self, name: str) -> str:
        """What identifies the model's content; empty: not known."""
        return self._digests.get(name, "")

    def ability(self, name: str) -> Ability | None:
        """What a model can do that cannot chat; None: it can, or that is not known."""
        return self._abilities.get((name, self.digest(name)))

    async def _ask_abilities(self, names: Collection[str]) -> None:
        """Asks once for each content of a model; it loads none."""
        known = {(name, self.digest(name)) for name in names}
        self._abilities = {key: found for key, found in self._abilities.items() if key in known}
        for key in sorted(known - self._abilities.keys())[:MAX_ASKED]:
            shown = await self._ask("POST", "/api/show", {"model": key[0]})
            if shown is None:
                return
            self._abilities[key] = _ability(shown.get("capabilities"))

    async def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any] | None:
        try:
            async with (
                asyncio.timeout(ASK_SECONDS),
                self._client.stream(method, self._root + path, json=body, timeout=ASK_SECONDS) as response,
            ):
                text = await http.body(response, documents.MAX_BYTES)
            return documents.parse_object(text) if response.status_code == http.OK else None
        except (*http.FAILURES, TimeoutError, ValueError) as error:
            logger.debug("the model server does not answer path=%s error=%r", path, error)
            return None


def _ability(capabilities: object) -> Ability | None:
    if not isinstance(capabilities, list) or _CHATS in capabilities:
        return None
    return Ability.EMBEDDING if "embedding" in capabilities else None


def _named(answer: Mapping[str, Any], field: str, key: str) -> list[tuple[str, dict[str, Any]]]:
    entries = answer.get(field)
    entries = entries[:MAX_MODELS] if isinstance(entries, list) else []
    return [(name, entry) for entry in entries if isinstance(entry, dict) and (name := _text(entry, key))]


def _text(entry: Mapping[str, Any], field: str) -> str:
    value = entry.get(field)
    return value if isinstance(value, str) and len(value) <= MAX_TEXT else ""
