"""Owns the life of one model server in a container: start, health, end.

The server has no network: it listens on a Unix socket in a folder that it shares with
the daemon. It lives in the process namespace of a keeper that ends when the daemon
lets go of its standard input, so no server outlives its daemon, however that ends.
It must not know jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import documents, images
from daemon.engines import chat
from daemon.engines import container_spec as spec
from daemon.engines.container_spec import ModelServerSpec
from daemon.engines.served import HEALTH_SECONDS, Server, StartError, client_of, until_healthy
from daemon.foreign import http
from daemon.runners import RunnerError
from daemon.runners.choose import problem
from daemon.runners.containers import keeper
from daemon.runners.containers.docker import (
    Docker,
    DockerRefusedError,
    DockerUnavailableError,
    Frame,
    PullTooLargeError,
)
from daemon.runners.containers.spec import open_folders, tar_of
from daemon.runners.containers.state import pids_of

logger = logging.getLogger(__name__)

REMOVE_AGAIN_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)

START_SECONDS = 900.0
_POLL_SECONDS = 0.2


@dataclass
class ModelServerHost:
    """Where a daemon's model servers are started; all of its engines share it."""

    socket: Path
    """The container engine's."""
    owner: str
    """Distinguishes this daemon's containers from another's."""
    folder: Path
    """For the sockets of the servers."""
    gpus: Callable[[], Sequence[str]] = tuple
    """The GPUs that a server may have now, by UUID."""
    kept_gpus: Callable[[], Collection[str]] = tuple
    """Those that work and that the owner keeps: a server that has one may finish its jobs."""
    in_use: set[str] = field(default_factory=set)
    """The tokens of the servers that there are."""


class ServerContainer(Server):
    """A model server in a container of its own."""

    def __init__(
        self, names: spec.ServerNames, place: ModelServerHost, gpus: Sequence[str], socket: str
    ) -> None:
        self.names = names
        self.gpus = tuple(gpus)
        """What it was given, by UUID."""
        self.client = client_of("http://engine", socket=socket)
        self.pids: tuple[int, ...] = ()
        """Its first process, by the machine's numbers."""
        self._place = place
        self._watch: asyncio.Task[None] | None = None
        self._parts = AsyncExitStack()

    @property
    def alive(self) -> bool:
        """The container has not ended, as far as is known, and no GPU of it has failed."""
        is_running = self._watch is not None and not self._watch.done()
        return is_running and set(self.gpus) <= {*self._place.gpus(), *self._place.kept_gpus()}

    @property
    def visible_gpus(self) -> Collection[str] | None:
        """Those that it was given."""
        return self.gpus

    def watch(self, docker: Docker) -> asyncio.Task[None]:
        """From now on it is alive until its container ends."""
        self._watch = asyncio.create_task(_until_ended(docker, self.names.server))
        return self._watch

    def keep(self, parts: AsyncExitStack) -> None:
        """From now on these are its own, and end with it."""
        self._parts = parts

    async def close(self) -> None:
        """Removes the containers, and all that belongs to them."""
        parts, self._parts = self._parts, AsyncExitStack()
        await parts.aclose()

    async def kill(self) -> None:
        """The same: a container that is removed is not asked."""
        await self.close()


async def start_server_container(
    docker: Docker,
    place: ModelServerHost,
    order: ModelServerSpec,
    *,
    start_seconds: float = START_SECONDS,
) -> ServerContainer:
    """Starts a model server and waits for its health. Raises StartError."""
    said: deque[str] = deque(maxlen=5)
    try:
        image = await _image(docker, order)
        async with asyncio.timeout(start_seconds), AsyncExitStack() as parts:
            server, config = await _make(docker, place, order, image, parts)
            await _start(docker, server, config, order, parts, said)
            server.pids = pids_of(await docker.inspect(server.names.server))
            server.keep(parts.pop_all())
    except (
        TimeoutError,
        StartError,
        RunnerError,
        DockerUnavailableError,
        DockerRefusedError,
        OSError,
    ) as error:
        raise StartError(f"{str(error) or 'it took too long'}: {' | '.join(said)}") from None
    logger.info("model server started container=%s model=%s", server.names.server, order.name)
    return server


async def sweep(docker: Docker, place: ModelServerHost) -> None:
    """Removes what servers of ended daemons have left."""
    try:
        found = await docker.containers_with(f"{spec.OWNER_LABEL}={place.owner}")
        folders = await asyncio.to_thread(_folders, place.folder)
        left = {str(container["Labels"].get(spec.SERVER_LABEL, "")) for container in found} | folders
        volumes = await docker.volumes_with(f"{spec.OWNER_LABEL}={place.owner}")
        left |= {spec.token_of_volume(name) for name in volumes}
        # What began while the engine was asked is known by now.
        for token in sorted(left - place.in_use):
            logger.info("removing what a model server left server=%s", token)
            await _remove(docker, spec.ServerNames(token, place.owner))
            await asyncio.to_thread(shutil.rmtree, place.folder / token, ignore_errors=True)
    except (DockerUnavailableError, DockerRefusedError) as error:
        logger.warning("what model servers left could not be removed error=%s", error)


async def _image(docker: Docker, order: ModelServerSpec) -> dict[str, Any]:
    """The image as the engine knows it, downloaded when it does not yet."""
    name = images.parse(order.settings.image).exact
    found = await docker.inspect_image(name)
    if found is None:
        logger.info("downloading the image of a model server image=%s", name)
        try:
            await docker.pull(name, order.image_bytes)
        except PullTooLargeError:
            raise StartError(f"{name} is larger than DCP_CONTAINER_IMAGE_MB allows") from None
        found = await docker.inspect_image(name)
    if found is None:
        raise StartError(f"{name} was pulled and is not there")
    return found


async def _make(
    docker: Docker,
    place: ModelServerHost,
    order: ModelServerSpec,
    image: dict[str, Any],
    parts: AsyncExitStack,
) -> tuple[ServerContainer, dict[str, Any]]:
    """The keeper with what it holds, not started, and what the server's container is to be.

    `parts` takes ownership of whatever is created here.
    """
    facts = await docker.facts()
    if why := problem(facts):
        raise StartError(f"the container engine cannot be used: {why}")
    names, gpus = spec.ServerNames.new(place.owner), [gpu for gpu in place.gpus() if gpu]
    if gpus and not facts.hands_out_gpus:
        raise StartError("this Podman hands out no GPUs: a model server on them needs Docker, or Podman 5.4")
    place.in_use.add(names.token)
    parts.callback(place.in_use.discard, names.token)
    folder = place.folder / names.token
    parts.callback(shutil.rmtree, folder, ignore_errors=True)
    _make_folder(folder, order.user)
    # The kernel takes 107 bytes of a socket's name, and the folder's may be longer.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    parts.callback(os.close, descriptor)
    parts.push_async_callback(_remove, docker, names)
    tar = keeper.archive(facts.architecture, None)
    volumes = 0 if facts.is_podman else len(spec.image_folders(order, image))
    for volume, options in spec.volumes_of(order, names, volumes).items():
        await docker.create_volume(volume, names.labels, options)
    await docker.create_from_nothing(names.keeper, spec.keeper_config(names, volumes), tar_of({}), tar)
    config = spec.server_config(order, names, folder, image, gpus, facts)
    server = ServerContainer(names, place, gpus, f"/proc/self/fd/{descriptor}/{spec.SOCKET}")
    parts.push_async_callback(server.client.aclose)
    return server, config


async def _start(
    docker: Docker,
    server: ServerContainer,
    config: dict[str, Any],
    order: ModelServerSpec,
    parts: AsyncExitStack,
    said: deque[str],
) -> None:
    await parts.enter_async_context(docker.holding_input(server.names.keeper))
    await docker.start(server.names.keeper)
    # The engine fills the image's volumes now, which the keeper holds: without it they would be empty again.
    await docker.create(server.names.server, config)
    held = [mount for mount in config["HostConfig"]["Mounts"] if mount["Type"] == "volume"]
    if held:
        # Docker gives them the rights that the image's folders have, which are not the server's.
        await docker.put(server.names.keeper, "/", open_folders(len(held)))
    async with docker.attached(server.names.server) as frames:
        await docker.start(server.names.server)
        parts.push_async_callback(_cancelled, server.watch(docker))
        # Only until it is healthy: what it says then could hold a prompt.
        listening = asyncio.create_task(_listen(frames, said))
        try:
            await until_healthy(server, _POLL_SECONDS)
        finally:
            await _cancelled(listening)
    server.context_tokens = await _context_tokens(server, order.name)


def _make_folder(folder: Path, user: str) -> None:
    folder.mkdir(mode=0o700, parents=True)
    if os.geteuid() == 0:
        # Otherwise the server runs as this very user.
        uid, _, gid = user.partition(":")
        os.chown(folder, int(uid), int(gid))


async def _listen(frames: AsyncGenerator[Frame, None], said: deque[str]) -> None:
    """Keeps the last lines, for the provider."""
    async for frame in frames:
        lines = frame.data[-4096:].decode(errors="replace").splitlines()
        said.extend(line.strip()[:300] for line in lines if line.strip())


async def _context_tokens(server: ServerContainer, name: str) -> int:
    """The length of its model's context as the server reports it; 0: unknown."""
    try:
        async with server.client.stream("GET", "/v1/models", timeout=HEALTH_SECONDS) as response:
            listed = chat.listed(documents.parse(await http.body(response, chat.MAX_LIST_BYTES)))
    except (*http.FAILURES, ValueError):
        return 0
    return listed.get(name, 0)


async def _until_ended(docker: Docker, name: str) -> None:
    # If the engine does not answer, neither does the server: the next job finds out.
    with contextlib.suppress(DockerUnavailableError, DockerRefusedError):
        await docker.wait(name)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _remove(docker: Docker, names: spec.ServerNames) -> None:
    """What cannot be removed now, though it was tried again, is found by the next sweep."""
    for name in (names.server, names.keeper):
        for delay in REMOVE_AGAIN_SECONDS:
            if await _is_removed(docker, name):
                break
            # An engine that is about to end a container by itself refuses for a moment.
            await asyncio.sleep(delay)
        else:
            logger.warning("could not remove a model server's container=%s", name)
    try:
        for volume in await docker.volumes_with(names.server_label):
            await docker.remove_volume(volume)
    except (DockerUnavailableError, DockerRefusedError) as error:
        logger.warning("could not remove a model server's volumes server=%s error=%s", names.token, error)


async def _is_removed(docker: Docker, name: str) -> bool:
    try:
        await docker.remove(name)
        return await docker.inspect(name) is None
    except (DockerUnavailableError, DockerRefusedError) as error:
        logger.debug("a model server's container was not removed container=%s error=%s", name, error)
        return False


def _folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
