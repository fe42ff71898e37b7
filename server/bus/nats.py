"""The bus between servers over NATS. It needs no stream and no storage: who does not listen misses a hint.

A hint of a job has a subject of its own, ``dcp.job.JOB_ID``, so that NATS delivers it only to the servers
where somebody watches that job. All other topics have one subject each, ``dcp.TOPIC``, with ids as lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error

from server.bus import BusAddress, Heard, Topic, Wake
from server.bus.local import LocalBus

log = logging.getLogger(__name__)

# After these, hints were lost: whoever hears it looks at everything.
MISSED = "dcp.missed"
MAX_WAITING = 50_000
"""Hints of a topic that wait to be sent; further ones are dropped."""
IDS_OF_MESSAGE = 500
PENDING_BYTES = 8 * 1024 * 1024
CONNECT_SECONDS = 2
RETRY_SECONDS = 1.0
STOP_SECONDS = 1.0


class NatsBus:
    """Publishes to all servers of a market, and hears them. It reconnects for ever."""

    def __init__(self, address: BusAddress) -> None:
        self._address = address
        self._local = LocalBus()
        self._heard: dict[Topic, list[Heard]] = {}
        self._waiting: dict[Topic, dict[str, None]] = {}
        self._lock = threading.Lock()
        self._is_due: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._nats = Client()
        self._watched: dict[str, tuple[int, Subscription | None]] = {}
        """How many watch a job here, and its subscription as soon as there is one."""
        self.is_connected = False

    def publish(self, topic: Topic, ids: Iterable[str]) -> None:
        """Gives hints to this server's watchers and to all other servers, soon."""
        ids = list(ids)
        self._local.publish(topic, ids)
        if self._loop is None or not self.is_connected:
            return
        with self._lock:
            waiting = self._waiting.setdefault(topic, {})
            must_wake = not any(self._waiting.values())
            waiting.update(dict.fromkeys(islice(ids, max(0, MAX_WAITING - len(waiting)))))
        if must_wake:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake)

    def subscribe(self, job_id: str, wake: Wake) -> Wake:
        """Calls ``wake`` after each change of a job, at whichever server; call it on the event loop."""
        end_here = self._local.subscribe(job_id, wake)
        count, subscription = self._watched.get(job_id, (0, None))
        self._watched[job_id] = (count + 1, subscription)
        if count == 0:
            self._spawn(self._follow(job_id))

        def end() -> None:
            end_here()
            count, subscription = self._watched.pop(job_id)
            if count > 1:
                self._watched[job_id] = (count - 1, subscription)
            elif subscription is not None:
                self._spawn(_unsubscribe(subscription))

        return end

    def listen(self, topic: Topic, heard: Heard) -> None:
        """Calls ``heard`` with what other servers tell; with nothing after hints may have been lost."""
        self._heard.setdefault(topic, []).append(heard)

    async def start(self) -> None:
        """Connects in the background."""
        self._loop, self._is_due = asyncio.get_running_loop(), asyncio.Event()
        self._tasks = [asyncio.create_task(self._connect()), asyncio.create_task(self._send_all())]

    async def stop(self) -> None:
        """Sends what waits and disconnects."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(STOP_SECONDS):
                await self._send()
                await self._nats.flush()
                await self._nats.close()
        self._loop, self.is_connected = None, False

    def _wake(self) -> None:
        if self._is_due is not None:
            self._is_due.set()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.append(task)
        task.add_done_callback(lambda done: self._tasks.remove(done) if done in self._tasks else None)

    async def _connect(self) -> None:
        while True:
            try:
                await self._nats.connect(
                    list(self._address.servers),
                    name="dcp-server",
                    no_echo=True,
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RETRY_SECONDS,  # type: ignore[arg-type]
                    connect_timeout=CONNECT_SECONDS,
                    pending_size=PENDING_BYTES,
                    error_cb=self._failed,
                    disconnected_cb=self._disconnected,
                    reconnected_cb=self._connected,
                    tls=_tls(self._address),
                    **_identity(self._address.credentials),
                )
                break
            except Exception as error:
                await self._failed(error)
                await asyncio.sleep(RETRY_SECONDS)
        for topic in Topic:
            if topic is not Topic.JOB and topic in self._heard:
                await self._nats.subscribe(_subject(topic), cb=self._received)
        await self._nats.subscribe(MISSED, cb=self._received)
        await self._connected()

    async def _connected(self) -> None:
        """There may have been hints meanwhile, from here and from others."""
        self.is_connected = True
        log.info("connected to the bus")
        with contextlib.suppress(Exception):
            for job_id, (_, subscription) in list(self._watched.items()):
                if subscription is None:
                    await self._follow(job_id)
            await self._nats.publish(MISSED)
        self._missed()

    async def _disconnected(self) -> None:
        if self.is_connected:
            log.error("lost the connection to the bus: what happens at other servers is seen later")
        self.is_connected = False

    async def _failed(self, error: Exception) -> None:
        # What NATS itself says is of this very class; other texts may show an address with a password.
        words = str(error) if type(error) is Error else type(error).__name__
        log.warning("the bus has a fault error=%s", words)

    async def _follow(self, job_id: str) -> None:
        if not self.is_connected or job_id not in self._watched:
            return
        with contextlib.suppress(Exception):  # the watcher looks from time to time in any case
            subscription = await self._nats.subscribe(f"{_subject(Topic.JOB)}.{job_id}", cb=self._received)
            if job_id in self._watched:
                self._watched[job_id] = (self._watched[job_id][0], subscription)
                self._local.wake([job_id])  # it may have changed before this
            else:
                await _unsubscribe(subscription)

    async def _received(self, message: Msg) -> None:
        if message.subject == MISSED:
            self._missed()
            return
        _, name, *job_id = message.subject.split(".", 2)
        if job_id:
            self._local.wake(job_id)
            return
        ids = frozenset(message.data.decode(errors="replace").split("\n")[:IDS_OF_MESSAGE])
        for heard in self._heard.get(Topic(name), ()):
            heard(ids)

    def _missed(self) -> None:
        self._local.wake(self._local.watched)
        for heard in {heard: None for each in self._heard.values() for heard in each}:
            heard(frozenset())

    async def _send_all(self) -> None:
        assert self._is_due is not None
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            try:
                await self._send()
            except Exception as error:
                await self._failed(error)

    async def _send(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        if not self.is_connected:
            return  # those who connect again look at everything
        for topic, ids in waiting.items():
            if topic in (Topic.JOB, Topic.TEXT):
                for job_id in ids:
                    await self._nats.publish(f"{_subject(Topic.JOB)}.{job_id}")
                continue
            listed = list(ids)
            for first in range(0, len(listed), IDS_OF_MESSAGE):
                text = "\n".join(listed[first : first + IDS_OF_MESSAGE])
                await self._nats.publish(_subject(topic), text.encode())


def _subject(topic: Topic) -> str:
    return f"dcp.{topic.value}"


async def _unsubscribe(subscription: Subscription) -> None:
    with contextlib.suppress(Exception):  # the connection is gone, and the subscription with it
        await subscription.unsubscribe()


def _identity(path: Path | None) -> dict[str, Any]:
    """What makes a user of NATS's client, by its file of credentials."""
    if path is None:
        return {}
    from server.bus import credentials

    return {
        "user_jwt_cb": partial(credentials.token, path),
        "signature_cb": partial(credentials.signature, path),
    }


def _tls(address: BusAddress) -> ssl.SSLContext | None:
    if not any(server.startswith("tls://") for server in address.servers):
        return None
    return ssl.create_default_context(cafile=str(address.ca) if address.ca else None)
