"""Speaks with a container engine by the Docker Engine API.

It owns the library and its errors; all else sees `DockerUnavailableError` and
`DockerRefusedError`. It must not know jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import aiodocker
import aiohttp
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError
from aiohttp.http import HttpProcessingError

from common import documents
from common.documents import DocumentError
from daemon.runners.containers.minimums import numbers

PUT_SECONDS = 3600.0
CALL_SECONDS = 30.0
PULL_SECONDS = 840.0
STDOUT = 1
_FRAME = struct.Struct(">BxxxL")
_MAX_FRAME_BYTES = 16 * 1024 * 1024
_VERSION = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9}){1,3}(?:[-+~][0-9A-Za-z.+~-]{1,40})?")
_PODMAN_WITH_CDI = (5, 4)
_ARRIVED = ("Download complete", "Pull complete")
_UNREACHABLE = 900  # what aiodocker calls a connection that failed


# What the library raises for an answer that is not JSON, is nested too deeply, or has no end.
_NONSENSE = (DocumentError, JSONDecodeError, UnicodeDecodeError, RecursionError, HttpProcessingError)


class DockerUnavailableError(Exception):
    """The engine does not answer."""


class DockerRefusedError(Exception):
    """The engine answered that it will not; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class PullTooLargeError(Exception):
    """The image is larger than may be downloaded."""


class SpoolError(Exception):
    """This machine's disk takes no more."""


class Frame(NamedTuple):
    """A piece of a container's output: `stream` is 1 for standard output, 2 for standard error."""

    stream: int
    data: bytes


class EngineFacts(NamedTuple):
    """What an engine says of itself."""

    name: str
    version: str
    architecture: str
    log_drivers: tuple[str, ...]
    security: tuple[str, ...]
    root: str = ""
    """The folder of its images and containers."""
    runc: str = ""
    """The version of runc, if that starts its containers."""

    @property
    def is_podman(self) -> bool:
        """Podman's socket speaks the Docker Engine API, but for GPUs and for memory that ran out."""
        return "podman" in self.name.lower()

    @property
    def has_gpus_by_cdi(self) -> bool:
        """Podman's socket hands out GPUs only as CDI devices, and only from this version on."""
        return self.is_podman and numbers(self.version) >= _PODMAN_WITH_CDI

    @property
    def hands_out_gpus(self) -> bool:
        """Whether containers can be given GPUs by its API; an older Podman would leave them out silently."""
        return not self.is_podman or self.has_gpus_by_cdi


def _runc_version(component: Mapping[str, Any]) -> str:
    """Docker names its runtime `runc`, Podman `OCI Runtime (runc)`; another's version says nothing."""
    found = _VERSION.search(str(component.get("Version", "")))
    return found[0] if "runc" in str(component.get("Name", "")).lower() and found else ""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """The library's errors as ours."""
    try:
        yield
    except DockerError as error:
        if error.status == _UNREACHABLE:
            raise DockerUnavailableError(str(error.message)) from None
        raise DockerRefusedError(error.status, str(error.message)) from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise DockerUnavailableError(str(error) or type(error).__name__) from None
    except _NONSENSE:
        raise DockerUnavailableError("its answer makes no sense") from None


class Docker:
    """One engine, by its socket."""

    def __init__(self, socket: str) -> None:
        """`socket`: the path of a Unix socket."""
        self.socket = socket
        self._client: aiodocker.Docker | None = None

    async def facts(self) -> EngineFacts:
        """What the engine says of itself. Raises DockerUnavailableError, DockerRefusedError."""
        with translated():
            async with asyncio.timeout(CALL_SECONDS):
                version = await self._docker.version()
                info = await self._docker.system.info()
        components = version.get("Components") or [{}]
        return EngineFacts(
            str(components[0].get("Name", "Engine")),
            str(version.get("Version", "?")),
            str(info.get("Architecture", "")),
            tuple((info.get("Plugins") or {}).get("Log") or ()),
            tuple(info.get("SecurityOptions") or ()),
            str(info.get("DockerRootDir") or ""),
            next(filter(None, map(_runc_version, components)), ""),
        )

    async def inspect_image(self, name: str) -> dict[str, Any] | None:
        """What the engine knows of an image; None: it has no such image."""
        with translated():
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    return dict(await self._docker.images.inspect(name))
            except DockerError as error:
                if error.status == 404:
                    return None
                raise

    async def image_names(self) -> list[str]:
        """The names, with tags, of the images that the engine has."""
        with translated():
            async with asyncio.timeout(CALL_SECONDS):
                found = await self._docker.images.list()
        names = {name for image in found for name in image.get("RepoTags") or ()}
        return sorted(str(name) for name in names if "<none>" not in str(name))

    async def pull(
        self, name: str, limit_bytes: int, hear: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Downloads an image; `hear` gets how many bytes of how many are there.

        Raises PullTooLargeError, and DockerRefusedError with the registry's words.
        """
        with translated():
            try:
                async with asyncio.timeout(PULL_SECONDS):
                    await self._pull(name, limit_bytes, hear)
            except TimeoutError:
                raise DockerRefusedError(504, f"it took longer than {PULL_SECONDS:.0f} s") from None

    async def _pull(self, name: str, limit_bytes: int, hear: Callable[[int, int], None]) -> None:
        totals: dict[str, int] = {}
        done: dict[str, int] = {}
        async with contextlib.aclosing(self._progress(name)) as events:
            async for event in events:
                if event.get("status") == "Downloading":
                    detail, layer = event.get("progressDetail") or {}, str(event.get("id"))
                    # A registry need not announce how large a layer is: then what has come of it counts.
                    size = max(int(detail.get("total") or 0), int(detail.get("current") or 0))
                    totals[layer] = max(totals.get(layer, 0), size)
                    done[layer] = int(detail.get("current") or 0)
                elif event.get("status") in _ARRIVED and (layer := str(event.get("id"))) in totals:
                    done[layer] = totals[layer]
                if sum(totals.values()) > limit_bytes:
                    # Leaving the stream ends the download.
                    raise PullTooLargeError(name)
                if totals:
                    hear(sum(done.values()), sum(totals.values()))

    async def _progress(self, name: str) -> AsyncGenerator[dict[str, Any], None]:
        # The library leaves its connection open when its stream is left.
        async with self._call("images/create", "POST", params={"fromImage": name}, seconds=None) as answer:
            while line := await answer.content.readline():
                event = documents.parse_object(line)
                if "error" in event:
                    raise DockerError(500, str(event["error"]))
                yield event

    async def import_image(self, tar: bytes, name: str) -> None:
        """Makes an image of a root file system; `name`: with its tag."""
        params = {"fromSrc": "-", "repo": name}
        async with self._call("images/create", "POST", params=params, data=tar) as answer:
            await answer.read()

    async def remove_image(self, name: str) -> None:
        """Removes an image that no container uses; a missing image is not an error."""
        await self._delete(f"images/{name}", {})

    async def create_disk_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Creates a volume on the engine's disk."""
        with translated():
            async with asyncio.timeout(CALL_SECONDS):
                await self._docker.volumes.create(  # type: ignore[no-untyped-call]
                    {"Name": name, "Driver": "local", "Labels": dict(labels)}
                )

    async def create_volume(self, name: str, labels: Mapping[str, str], options: str) -> None:
        """Creates a volume in memory; `options`: as for mounting a tmpfs."""
        driver = {"type": "tmpfs", "device": "tmpfs", "o": options}
        with translated():
            async with asyncio.timeout(CALL_SECONDS):
                await self._docker.volumes.create(  # type: ignore[no-untyped-call]
                    {"Name": name, "Driver": "local", "DriverOpts": driver, "Labels": dict(labels)}
                )

    async def create(self, name: str, config: Mapping[str, Any]) -> None:
        """Creates a container. Raises DockerRefusedError."""
        with translated():
            async with asyncio.timeout(CALL_SECONDS):
                await self._docker.containers.create(dict(config), name=name)

    async def create_from_nothing(
        self, name: str, config: Mapping[str, Any], image: bytes, files: bytes
    ) -> None:
        """Creates a container of our own image, which is built from a tar if missing, and gives it files."""
        if await self.inspect_image(str(config["Image"])) is None:
            await self.import_image(image, str(config["Image"]))
        await self.create(name, config)
        await self.put(name, "/", files)

    async def put(self, name: str, folder: str, tar: bytes) -> None:
        """Writes the files of a tar into a container."""
        params = {"path": folder}
        async with self._call(f"containers/{name}/archive", "PUT", params=params, data=tar):
            pass

    async def put_file(self, name: str, folder: str, tar: Path) -> None:
        """Writes the files of a tar, which may be large, into a container."""
        params = {"path": folder}
        with await asyncio.to_thread(tar.open, "rb") as file:
            async with self._call(
                f"containers/{name}/archive", "PUT", params=params, data=file, seconds=PUT_SECONDS
            ):
                pass

    async def start(self, name: str) -> None:
        """Starts a container. Raises DockerRefusedError."""
        with translated():
            async with asyncio.timeout(CALL_SECONDS):
                await self._container(name).start()

    async def inspect(self, name: str) -> dict[str, Any] | None:
        """What the engine knows of a container; None: there is none."""
        with translated():
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    return await self._container(name).show()
            except DockerError as error:
                if error.status == 404:
                    return None
                raise

    async def signal(self, name: str, signal: str) -> None:
        """Sends a signal to a container's first process; it is not an error if that has ended."""
        with contextlib.suppress(DockerRefusedError), translated():
            async with asyncio.timeout(CALL_SECONDS):
                await self._container(name).kill(signal=signal)

    async def wait(self, name: str) -> int:
        """Waits until a container has ended; returns its exit code."""
        with translated():
            answer = await self._container(name).wait(timeout=None)
        return int(answer["StatusCode"])

    async def remove(self, name: str) -> None:
        """Ends and removes a container; a missing container is not an error."""
        with translated():
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    await self._container(name).delete(force=True, v=True)
            except DockerError as error:
                # 409: it is already being removed.
                if error.status not in (404, 409):
                    raise

    async def remove_volume(self, name: str) -> None:
        """Removes a volume; a missing volume is not an error."""
        await self._delete(f"volumes/{name}", {"force": "1"})

    async def containers_with(self, label: str) -> list[dict[str, Any]]:
        """Every container with a label: what the engine's list says of it."""
        with translated():
            async with asyncio.timeout(CALL_SECONDS):
                found = await self._docker.containers.list(all=True, filters={"label": [label]})
        return [dict(container._container) for container in found]

    async def volumes_with(self, label: str) -> list[str]:
        """The names of every volume with a label."""
        with translated():
            async with asyncio.timeout(CALL_SECONDS):
                found = await self._docker.volumes.list(  # type: ignore[no-untyped-call]
                    filters={"label": [label]}
                )
        return [str(volume["Name"]) for volume in found.get("Volumes") or ()]

    @contextlib.asynccontextmanager
    async def attached(self, name: str) -> AsyncIterator[AsyncGenerator[Frame, None]]:
        """What a container writes from now on; it is attached when the block begins."""
        with translated():
            async with self._container(name).attach(stdout=True, stderr=True) as stream:

                async def frames() -> AsyncGenerator[Frame, None]:
                    while (message := await stream.read_out()) is not None:
                        yield Frame(message.stream, message.data)

                yield frames()

    @contextlib.asynccontextmanager
    async def holding_input(self, name: str) -> AsyncIterator[None]:
        """Keeps a container's standard input open meanwhile; it ends with the block, or with this process."""
        with translated():
            async with self._container(name).attach(stdin=True):
                yield

    async def logged(
        self, name: str, *, with_times: bool = False, follows: bool = True
    ) -> AsyncGenerator[Frame, None]:
        """What a container has written from its start, and, if it ``follows``, writes until it ends.

        ``with_times``: before each line stands when it was written.
        """
        # The library's own reading decodes as text and joins the two streams.
        params = {"stdout": 1, "stderr": 1, "follow": int(follows), "timestamps": int(with_times)}
        async with self._call(f"containers/{name}/logs", "GET", params=params, seconds=None) as answer:
            while True:
                try:
                    head = await answer.content.readexactly(_FRAME.size)
                except asyncio.IncompleteReadError:
                    return
                stream, size = _FRAME.unpack(head)
                if size > _MAX_FRAME_BYTES:
                    raise DockerUnavailableError("the engine's log makes no sense")
                yield Frame(stream, await answer.content.readexactly(size))

    async def archive(self, name: str, path: str, into: Path, limit_bytes: int) -> bool:
        """Writes a container's folder as a tar into a file; False, and stopped there: it is too large."""
        params = {"path": path}
        written = 0
        async with self._call(f"containers/{name}/archive", "GET", params=params, seconds=None) as answer:
            with into.open("wb") as file:
                async for data in answer.content.iter_chunked(256 * 1024):
                    written += len(data)
                    if written > limit_bytes:
                        return False
                    # A disk may be slow, and the heartbeats must go on meanwhile.
                    try:
                        await asyncio.to_thread(file.write, data)
                    except OSError as error:
                        raise SpoolError(error.strerror) from None
        return True

    async def close(self) -> None:
        """Ends the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @property
    def _docker(self) -> aiodocker.Docker:
        # Made late: the library wants a running event loop.
        if self._client is None:
            self._client = aiodocker.Docker(url=f"unix://{self.socket}")
        return self._client

    async def _delete(self, path: str, params: Mapping[str, Any]) -> None:
        try:
            async with self._call(path, "DELETE", params=params):
                pass
        except DockerRefusedError as error:
            if error.status != 404:
                raise

    def _container(self, name: str) -> DockerContainer:
        return self._docker.containers.container(name)

    @contextlib.asynccontextmanager
    async def _call(
        self,
        path: str,
        method: str,
        *,
        params: Mapping[str, Any],
        data: bytes | BinaryIO | None = None,
        seconds: float | None = CALL_SECONDS,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A call whose answer the library would read as a whole, or as text."""
        timeout = aiohttp.ClientTimeout(total=seconds)
        headers = {"Content-Type": "application/x-tar"} if data is not None else None
        with translated():
            query = self._docker._query(
                path, method, params=dict(params), data=data, headers=headers, timeout=timeout
            )
            async with query as answer:
                try:
                    yield answer
                finally:
                    answer.close()
