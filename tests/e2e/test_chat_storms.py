"""Chats by OpenAI's own client whose programs are killed, or that are left, at random tokens."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest

from scripts.market import Program
from server.domain.tokens import BYTES_A_TOKEN
from tests.e2e.test_chat import BROKEN, asked
from tests.support import scripted_daemon
from tests.support.patient_renter import eventually
from tests.support.scene import ADMIN_TOKEN, Scene, played
from tests.support.scripted_daemon import answer_to, script

pytestmark = pytest.mark.e2e

AT_ONCE = 3
WORDS, PAUSE_SECONDS = 30, 0.05
SAR_PER_MILLION = 3


@dataclass
class Chat:
    """A chat as its client saw it."""

    prompt: str
    leaves_after: int = 0
    """The words after which it goes away; 0: it reads to the end."""
    text: str = ""
    answer_id: str = ""
    error: Exception | None = None
    left_at: datetime | None = None
    has_words: threading.Event = field(default_factory=threading.Event)

    @property
    def job_id(self) -> str:
        return self.answer_id.removeprefix("chatcmpl-")

    def run(self, client: openai.OpenAI) -> None:
        """Reads the answer."""
        try:
            with client.chat.completions.create(
                model=scripted_daemon.MODEL, messages=asked(self.prompt), stream=True, max_tokens=500
            ) as stream:
                for chunk in stream:
                    self._take(chunk)
                    if self.left_at is not None:
                        return
        except BROKEN as error:
            self.error = error
        finally:
            self.has_words.set()

    def _take(self, chunk: Any) -> None:
        self.answer_id = chunk.id
        self.text += chunk.choices[0].delta.content or ""
        words = self.text.count(" ")
        if words >= (self.leaves_after or 1):
            self.has_words.set()
        if self.leaves_after and words >= self.leaves_after:
            self.left_at = datetime.now(UTC)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with played(tmp_path) as scene:
        for _ in range(AT_ONCE):
            scene.add_daemon()
        scene.play(script("ready", 2, 0.0))
        yield scene


@pytest.fixture
def client(scene: Scene) -> Iterator[openai.OpenAI]:
    key = scene.renter._headers["x-renter-key"]
    with openai.OpenAI(base_url=f"{scene.market.url}/v1", api_key=key, max_retries=0, timeout=90) as client:
        yield client


def until_words(chat: Chat, running: Future[None], words: int) -> None:
    """Waits until a chat has so many words, or has ended."""
    eventually(f"{words} words", lambda: chat.text.count(" ") >= words or running.done())


def note_all(scene: Scene) -> None:
    """Notes every job of the renter, also of chats that broke before they had a name."""
    page: dict[str, Any] = {"next_before_job_id": ""}
    while (before := page.get("next_before_job_id")) is not None:
        query = f"?before_job_id={before}" if before else ""
        page = scene.renter.ask("GET", f"/api/jobs{query}").json()
        for job in page["jobs"]:
            scene._noted(job["job_id"])


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_programs_give_whole_texts_or_exceptions(
    scene: Scene, client: openai.OpenAI, kills: int, record_property: Any
) -> None:
    chance, whole, broken = random.Random(kills), 0, 0
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for kill in range(kills):
            chats = [Chat(script(f"k{kill}c{n}", WORDS, PAUSE_SECONDS)) for n in range(AT_ONCE)]
            running = [threads.submit(chat.run, client) for chat in chats]
            until_words(chats[0], running[0], chance.randrange(WORDS))
            daemons = [*scene.daemons.values()]
            program: Program = chance.choice([scene.server, scene.gateway, chance.choice(daemons)])
            program.kill()
            program.restart()
            for each in running:
                each.result()
            for chat in chats:
                assert answer_to(chat.prompt).startswith(chat.text)
                assert (chat.text == answer_to(chat.prompt)) == (chat.error is None), chat
                whole, broken = whole + (chat.error is None), broken + (chat.error is not None)
    note_all(scene)
    for job_id in scene._job_ids:
        scene.renter.until_final(job_id)
    record_property("chats whole, broken", (whole, broken))
    assert whole
    scene.assert_books()


@pytest.mark.parametrize("chats", [9, pytest.param(500, marks=pytest.mark.slow)])
def test_left_chats_end_soon_and_cost_what_was_delivered(
    scene: Scene, client: openai.OpenAI, chats: int, record_property: Any
) -> None:
    price = {"sar_per_million_input_tokens": "0", "sar_per_million_output_tokens": str(SAR_PER_MILLION)}
    answer = scene.market.http.post(
        "/api/admin/prices",
        json={"model": scripted_daemon.MODEL, **price},
        headers={"x-admin-token": ADMIN_TOKEN},
    )
    assert answer.is_success, answer.text
    chance, seconds = random.Random(chats), []
    left = [
        Chat(script(f"l{number}", 400, PAUSE_SECONDS), chance.randrange(1, 20)) for number in range(chats)
    ]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(lambda chat: chat.run(client), left))
    for chat in left:
        assert chat.left_at is not None, chat
        job = scene.renter.until_final(scene._noted(chat.job_id))
        assert job["status"] == "cancelled"
        seconds.append((datetime.fromisoformat(job["ended_at"]) - chat.left_at).total_seconds())
        written = scene.renter.ask("GET", f"/api/jobs/{chat.job_id}/output?partial=true").json()["response"]
        assert written.startswith(chat.text)
        assert answer_to(chat.prompt).startswith(written)
        tokens = -(-len(written.encode()) // BYTES_A_TOKEN)
        assert job["billing"]["actual_cost_micro_halala"] == tokens * SAR_PER_MILLION * 100
    record_property("seconds to the end, most", max(seconds))
    record_property("seconds to the end, median", sorted(seconds)[len(seconds) // 2])
    # It goes on for as long as a repeat may come, and not for the twenty seconds of the whole answer.
    assert max(seconds) < 10
    scene.market.check_ledger()
