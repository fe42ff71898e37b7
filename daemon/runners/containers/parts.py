"""Owns the parts of one run at the engine: creates its volumes and its two containers, and removes them.

What they are is in `daemon.runners.containers.spec`. It must not know what a run yields.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from dcp.v1 import sessions_pb2

from daemon.runners.containers import keeper, spec
from daemon.runners.containers.docker import Docker, DockerRefusedError, DockerUnavailableError, EngineFacts
from daemon.runners.containers.failures import start_failed
from daemon.runners.containers.job_files import JobFiles
from daemon.runners.containers.settings import ContainerSettings
from daemon.runners.containers.spec import tar_of
from daemon.runners.input_files import Given

logger = logging.getLogger(__name__)

# A file takes whole pages.
_INPUT_ROOM_BYTES = 64 * spec.PAGE_BYTES


class Parts:
    """The containers and volumes of all runs at one engine."""

    def __init__(
        self,
        docker: Docker,
        engine: EngineFacts,
        settings: ContainerSettings,
        files: JobFiles,
        keeper_grace_seconds: float,
    ) -> None:
        """`keeper_grace_seconds`: how long after the time limit of a run its keeper ends it."""
        self._docker = docker
        self._engine = engine
        self._settings = settings
        self._files = files
        self._keeper_grace_seconds = keeper_grace_seconds

    async def make(
        self,
        names: spec.Names,
        facts: spec.Facts,
        offer: sessions_pb2.JobOffer,
        image: dict[str, Any],
        inputs: Sequence[Given] | None = None,
    ) -> None:
        """Creates all parts of a run and starts its keeper. Raises RunnerError.

        `inputs`: what `/input` has beside the files that came with the job itself; None: it has only those.
        """
        await self.remove(names)  # whatever a daemon that died left incomplete
        async with self._files.packed(names, offer, inputs) as packed:
            await self._make(names, facts, offer, image, packed)

    async def _make(
        self,
        names: spec.Names,
        facts: spec.Facts,
        offer: sessions_pb2.JobOffer,
        image: dict[str, Any],
        packed: Path | None,
    ) -> None:
        settings, docker = self._settings, self._docker
        folders = spec.image_folders(image)
        # Podman fills a volume only when the job starts, and no call of it returns any more if that fails;
        # what it fills by itself are file systems in memory that are the job's own.
        kept = 0 if self._engine.is_podman else len(folders)
        sizes = [(names.output, settings.output_bytes), (names.tmp, settings.tmp_bytes)]
        # The engine fills them, which does not count as the job's memory: together they have one size.
        sizes += [(names.of_image(number), settings.tmp_bytes // kept) for number in range(kept)]
        for volume, size in sizes:
            options = spec.volume_options(settings.user, size, is_program_allowed=volume != names.output)
            await docker.create_volume(volume, names.labels, options)
        given, has_inputs = offer.container_spec.input_files, packed is not None
        if packed is not None:
            await docker.create_disk_volume(names.input, names.labels)
        elif given:
            tar = tar_of({name: text.encode() for name, text in given.items()})
            options = spec.volume_options(
                settings.user, len(tar) + _INPUT_ROOM_BYTES, is_program_allowed=True
            )
            await docker.create_volume(names.input, names.labels, options)
        seconds = math.ceil(facts.run_limit_ms / 1000 + self._keeper_grace_seconds)
        await self.make_keeper(names, seconds, has_input=bool(given) or has_inputs, image_volumes=kept)
        if packed is not None:
            await docker.put_file(names.keeper, spec.INPUT, packed)
        elif given:
            await docker.put(names.keeper, spec.INPUT, tar)
        driver = next((name for name in spec.LOG_DRIVERS if name in self._engine.log_drivers), "json-file")
        config = spec.job_config(
            names,
            facts,
            offer.container_spec,
            settings,
            image,
            driver,
            offer.job_type,
            self._engine,
            has_input=bool(given) or has_inputs,
        )
        try:
            await docker.create(names.job, config)
        except DockerRefusedError as error:
            raise start_failed(error) from None
        if kept:
            # Docker gives them the rights that the image's folders have, which are not the job's.
            await docker.put(names.keeper, "/", spec.open_folders(kept))

    async def make_keeper(
        self, names: spec.Names, seconds: int, *, has_input: bool = False, image_volumes: int = 0
    ) -> None:
        """Creates and starts the keeper, which ends after these seconds."""
        tar = keeper.archive(self._engine.architecture, seconds)
        config = spec.keeper_config(names, has_input=has_input, image_volumes=image_volumes)
        await self._docker.create_from_nothing(names.keeper, config, tar_of({}), tar)
        await self._docker.start(names.keeper)

    async def remove(self, names: spec.Names) -> None:
        """What cannot be removed now is found by the next sweep."""
        docker = self._docker
        await self._remove_part(names, docker.remove(names.job))
        await self._remove_part(names, docker.remove(names.keeper))
        volumes = {names.input, names.output, names.tmp}
        try:
            if not self._engine.is_podman:
                volumes |= set(await docker.volumes_with(names.lease_label))
        except (DockerUnavailableError, DockerRefusedError) as error:
            logger.warning("could not look for a job's volumes lease=%s error=%s", names.lease, error)
        for volume in sorted(volumes):
            await self._remove_part(names, docker.remove_volume(volume))
        await self._files.remove(names)

    async def _remove_part(self, names: spec.Names, removing: Coroutine[Any, Any, None]) -> None:
        try:
            await removing
        except (DockerUnavailableError, DockerRefusedError) as error:
            logger.warning("could not remove what a job left lease=%s error=%s", names.lease, error)
