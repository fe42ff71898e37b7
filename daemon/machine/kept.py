"""Owns which GPUs the machine's owner keeps from jobs: drained by hand, or in use by the owner's programs.

A drained GPU stays drained over restarts: its UUID is in a file. It must not know which GPUs work, nor jobs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from dcp.v1 import gpus_pb2

from common import documents
from daemon.machine import durable

logger = logging.getLogger(__name__)

# One sample may catch a process of the daemon's own before it is known as such.
TAKEN_AFTER_SAMPLES = 2
# A program that works in bursts keeps its GPU between them.
RETURNED_AFTER_SAMPLES = 6
_NAME = "drained-gpus.json"


class KeptGpus:
    """The GPUs that the owner keeps, by the key that `daemon.machine.health` has for each."""

    def __init__(self, state_dir: Path | None = None) -> None:
        """`state_dir`: where the drained ones are remembered; None: nowhere."""
        self._path = state_dir / _NAME if state_dir is not None else None
        self._drained = _read(self._path)
        self._taken: set[str] = set()
        self._samples: dict[str, int] = {}

    @property
    def all(self) -> set[str]:
        """Every GPU that the owner keeps."""
        return self._drained | self._taken

    @property
    def taken(self) -> set[str]:
        """Those that programs of the owner use: jobs on them are given back."""
        return set(self._taken)

    def why(self, key: str) -> str:
        """Why a GPU takes no work, for a person; empty if its owner does not keep it."""
        if key in self._drained:
            return "drained by hand"
        return "in use by its owner's programs" if key in self._taken else ""

    def set_drained(self, key: str, is_drained: bool) -> None:
        """Keeps a GPU from new jobs, or no longer; what runs on it, runs on. Raises OSError if not stored."""
        drained = self._drained | {key} if is_drained else self._drained - {key}
        if self._path is not None:
            durable.replace(self._path, json.dumps({"drained": sorted(drained)}), mode=0o600)
        self._drained = drained
        logger.warning("a GPU was %s by its owner gpu=%s", "drained" if is_drained else "resumed", key)

    def observe(self, gpus: Mapping[str, gpus_pb2.GpuDevice], *, yields: bool) -> None:
        """Takes a sample of each GPU; `yields`: whether a GPU that other programs use is their owner's.

        Where it is not known whose processes there are, nothing changes.
        """
        if not yields:
            self._taken.clear()
            self._samples.clear()
            return
        for key, gpu in gpus.items():
            if gpu.HasField("foreign_processes"):
                self._count(key, is_in_use=gpu.foreign_processes > 0)

    def _count(self, key: str, *, is_in_use: bool) -> None:
        if is_in_use is (key in self._taken):
            self._samples[key] = 0
            return
        self._samples[key] = self._samples.get(key, 0) + 1
        if self._samples[key] >= (TAKEN_AFTER_SAMPLES if is_in_use else RETURNED_AFTER_SAMPLES):
            self._samples[key] = 0
            self._taken ^= {key}
            logger.warning("programs of the owner %s a GPU gpu=%s", "use" if is_in_use else "left", key)


def _read(path: Path | None) -> set[str]:
    if path is None:
        return set()
    try:
        return {str(key) for key in documents.parse_object(path.read_bytes())["drained"]}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.error("which GPUs were drained is not known any more, drain them again: %s %s", path, error)
        return set()
