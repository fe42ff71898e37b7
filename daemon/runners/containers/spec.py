"""Owns what the engine is asked to create for a job: its two containers and its volumes.

Pure. Whatever our containers may not have is withheld here, in one place.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import re
import tarfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcp.v1 import jobs_pb2, sessions_pb2

from common import documents
from daemon.runners import RunnerError
from daemon.runners.containers.settings import MIB, ContainerSettings

if TYPE_CHECKING:
    from daemon.runners.containers.docker import EngineFacts

INPUT, OUTPUT, TMP = "/input", "/output", "/tmp"  # noqa: S108 - the container's, not this machine's
OWNER_LABEL = "dcp.owner"
LEASE_LABEL = "dcp.lease"
KEEPER_IMAGE = "localhost/dcp-keeper:1"
KEEPER_USER = "65533:65533"
KEEPER_BYTES = 16 * MIB
MAX_IMAGE_VOLUMES = 16
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
OPEN_FILES = 16384
USER_PROCESSES = 16384
LOG_DRIVERS = ("local", "json-file")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = ("NVIDIA_", "DCP_")
# The dynamic linker's: a program of the machine that prepares the container would load what they name.
_LINKER = "LD_"
_EMPTIED = ("LD_PRELOAD", "LD_AUDIT")
_KERNELS_FOLDERS = ("/proc", "/sys", "/dev")
_CDI_KIND = "nvidia.com/gpu"
_GPU_CAPABILITIES = ["gpu", "compute", "utility"]


@dataclass(frozen=True)
class Names:
    """What the parts of one lease's run are called. They follow from the lease, so they are found again."""

    lease: str
    owner: str

    @property
    def job(self) -> str:
        """The container of the job."""
        return f"dcp-{self.lease}-job"

    @property
    def keeper(self) -> str:
        """The container that ends it and keeps its files."""
        return f"dcp-{self.lease}-keeper"

    @property
    def input(self) -> str:
        """The volume of `/input`."""
        return f"dcp-{self.lease}-input"

    @property
    def output(self) -> str:
        """The volume of `/output`."""
        return f"dcp-{self.lease}-output"

    @property
    def tmp(self) -> str:
        """The volume of `/tmp`."""
        return f"dcp-{self.lease}-tmp"

    def of_image(self, number: int) -> str:
        """The volume of one of the folders that the image declares to be volumes."""
        return f"dcp-{self.lease}-image{number}"

    @property
    def labels(self) -> dict[str, str]:
        """What each of them is labelled with."""
        return {OWNER_LABEL: self.owner, LEASE_LABEL: self.lease}

    @property
    def lease_label(self) -> str:
        """The label by which all parts of this run are found."""
        return f"{LEASE_LABEL}={self.lease}"


def names(lease: sessions_pb2.Lease, owner: str) -> Names:
    """The names for a lease; its secret goes in, and does not come out."""
    digest = hashlib.sha256(lease.SerializeToString(deterministic=True)).hexdigest()
    return Names(digest[:32], owner)


@dataclass(frozen=True)
class Facts:
    """What is known about a job before its container is created; kept in its container's labels."""

    image: str
    image_id: str
    digest: str
    gpus: tuple[str, ...]
    run_limit_ms: int

    @property
    def note(self) -> bytes:
        """What the job's log begins with."""
        return f"[dcp] image {self.image} {self.digest}\n".encode()

    def label(self) -> dict[str, str]:
        """The facts as a label."""
        return {"dcp.facts": json.dumps(self.__dict__)}

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> Facts:
        """The facts of an existing container. Raises KeyError, ValueError, TypeError."""
        facts = documents.parse_object(labels["dcp.facts"])
        return cls(**{**facts, "gpus": tuple(facts["gpus"])})


def check_env(env: Mapping[str, str]) -> None:
    """Raises RunnerError for variables that a job may not set."""
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name) or "\0" in value:
            raise bad_params(f"container_spec.env: {name[:100]!r} is not the name of a variable")
        if name.upper().startswith(_OURS):
            raise bad_params(f"container_spec.env: {name[:100]} is the provider's to set; leave it out")
        if name.upper().startswith(_LINKER):
            raise bad_params(
                f"container_spec.env: {name[:100]} would also apply to programs outside the container; "
                "set it in the job's own command"
            )


def check_input(files: Mapping[str, str]) -> None:
    """Raises RunnerError for names that could lead out of the folder."""
    for name in files:
        if not _FILE_NAME.fullmatch(name):
            raise bad_params(f"container_spec.input_files: {name[:100]!r} is not a plain file name")


def bad_params(message: str) -> RunnerError:
    """The job asks for what cannot be."""
    return RunnerError(jobs_pb2.FAILURE_REASON_BAD_PARAMS, message)


def volume_options(user: str, size: int, *, is_program_allowed: bool) -> str:
    """How a volume in memory is mounted: with its owner, by number, and a limit of bytes and of files."""
    user_id, _, group_id = user.partition(":")
    options = [
        f"nr_blocks={-(-size // PAGE_BYTES)}",
        f"nr_inodes={max(1024, size // 16384)}",
        "mode=0700",
        f"uid={user_id}",
        f"gid={group_id or user_id}",
        "nosuid",
        "nodev",
    ]
    return ",".join(options if is_program_allowed else [*options, "noexec"])


def image_folders(image: Mapping[str, Any], own: Collection[str] = (INPUT, OUTPUT, TMP)) -> list[str]:
    """The folders that an image declares to be volumes, without those that are the container's ``own``.

    Raises RunnerError if they are too many.
    """
    declared = (image.get("Config") or {}).get("Volumes") or ()
    folders = sorted({posixpath.normpath(path) for path in declared} - set(own))
    if len(folders) > MAX_IMAGE_VOLUMES:
        raise bad_params(f"container_spec.image declares more than {MAX_IMAGE_VOLUMES} volumes")
    return folders


def keeper_config(names: Names, *, has_input: bool = False, image_volumes: int = 0) -> dict[str, Any]:
    """The keeper's container; through it `/input` is filled, and the image's volumes are given to the job."""
    mounts = _mounts(names) + ([_mount(names.input, INPUT)] if has_input else [])
    mounts += kept_mounts(names.of_image, image_volumes)
    return keeper_container(names.labels | {"dcp.role": "keeper"}, mounts)


def kept_at(number: int) -> str:
    """Where the keeper has a volume of the job's image."""
    return f"/image{number}"


def keeper_container(labels: Mapping[str, str], mounts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A container for the keeper's program, whatever it keeps."""
    return {
        "Image": KEEPER_IMAGE,
        "Entrypoint": ["/keeper"],
        "User": KEEPER_USER,
        "Labels": dict(labels),
        "HostConfig": {
            **withheld(),
            "NetworkMode": "none",
            "Memory": KEEPER_BYTES,
            "MemorySwap": KEEPER_BYTES,
            "PidsLimit": 8,
            "Ulimits": ulimits(),
            "LogConfig": {"Type": "none"},
            "Mounts": list(mounts),
        },
    }


def job_config(
    names: Names,
    facts: Facts,
    spec: jobs_pb2.ContainerSpec,
    settings: ContainerSettings,
    image: Mapping[str, Any],
    log_driver: str,
    job_type: jobs_pb2.JobType.ValueType,
    engine: EngineFacts,
    *,
    has_input: bool = False,
) -> dict[str, Any]:
    """The job's container. It lives in the keeper's process namespace: with the keeper it ends."""
    # Its own image may name more GPUs than it was given, or an older engine all of them.
    gpus = ",".join(facts.gpus) or "void"
    env = {"HOME": TMP, **_without_linker(image), **spec.env}
    env |= {"DCP_OUTPUT_DIR": OUTPUT, "NVIDIA_VISIBLE_DEVICES": gpus}
    mounts = _mounts(names)
    folders = image_folders(image)
    of_image, tmpfs = image_mounts(names.of_image, folders, settings.tmp_bytes, engine)
    mounts += of_image
    if has_input:
        env["DCP_INPUT_DIR"] = INPUT
        mounts.append(_mount(names.input, INPUT, is_read_only=True))
    config: dict[str, Any] = {
        "Image": facts.image_id,
        "User": settings.user,
        "Env": [f"{name}={value}" for name, value in env.items()],
        "Hostname": "dcp-job",
        "Labels": names.labels | facts.label() | {"dcp.role": "job"},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            **withheld(),
            "ReadonlyRootfs": True,
            "NetworkMode": settings.network,
            "PidMode": f"container:{names.keeper}",
            "Memory": settings.memory_bytes,
            "MemorySwap": settings.memory_bytes,
            "ShmSize": settings.tmp_bytes,
            "NanoCpus": round(settings.cpus * 1e9),
            "PidsLimit": settings.pids,
            "OomScoreAdj": 500,
            "Ulimits": ulimits(fsize=max(settings.output_bytes, settings.tmp_bytes)),
            "Mounts": mounts,
            "Tmpfs": tmpfs,
            "LogConfig": {"Type": log_driver, "Config": {"max-size": "8m", "max-file": "3"}},
            "DeviceRequests": gpu_requests(facts.gpus, engine, job_type),
        },
    }
    return config | _working_dir(image) | ({"Cmd": list(spec.command)} if spec.command else {})


def _without_linker(image: Mapping[str, Any]) -> dict[str, str]:
    """Empties what an image tells the dynamic linker to load: the machine's programs would load it too."""
    lines = (image.get("Config") or {}).get("Env") or ()
    names = (line.partition("=")[0] for line in lines)
    return {name: "" for name in names if name.upper() in _EMPTIED}


def _working_dir(image: Mapping[str, Any]) -> dict[str, str]:
    """Another folder to start in than one of the kernel's, which may lead out of the container."""
    own = str((image.get("Config") or {}).get("WorkingDir") or "/")
    folder = posixpath.normpath("/" + own.lstrip("/"))
    is_kernels = any(folder == kernels or folder.startswith(f"{kernels}/") for kernels in _KERNELS_FOLDERS)
    return {"WorkingDir": "/"} if is_kernels else {}


def withheld() -> dict[str, Any]:
    """What is withheld from all our containers. The engine's default seccomp profile applies."""
    return {
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "IpcMode": "private",
        "RestartPolicy": {"Name": "no"},
    }


def _mounts(names: Names) -> list[dict[str, Any]]:
    return [_mount(names.output, OUTPUT), _mount(names.tmp, TMP)]


def _mount(
    volume: str, target: str, *, is_read_only: bool = False, is_filled: bool = False
) -> dict[str, Any]:
    """A volume in a container; ``is_filled``: with the files that the image has in this folder."""
    return {
        "Type": "volume",
        "Source": volume,
        "Target": target,
        "ReadOnly": is_read_only,
        "VolumeOptions": {"NoCopy": not is_filled},
    }


def image_mounts(
    named: Callable[[int], str], folders: Sequence[str], size: int, engine: EngineFacts
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What lies over the folders that an image declares to be volumes: volumes, and file systems in memory.

    Docker copies the image's files only into volumes, which the keeper must hold before; Podman puts them
    into file systems in memory. ``size``: of all together; ``named``: how the volumes are called.
    """
    if engine.is_podman:
        each = size // max(1, len(folders))
        return [], dict.fromkeys(folders, f"size={each},mode=1777,nosuid,nodev,exec,U")
    return [_mount(named(number), folder, is_filled=True) for number, folder in enumerate(folders)], {}


def kept_mounts(named: Callable[[int], str], image_volumes: int) -> list[dict[str, Any]]:
    """How a keeper holds the volumes of an image."""
    return [_mount(named(number), kept_at(number)) for number in range(image_volumes)]


def ulimits(**more: int) -> list[dict[str, Any]]:
    """The limits of a container's processes; ``more``: beside those that all our containers have."""
    # Of processes Podman would ask for more than many a machine gives.
    limits = {"nofile": OPEN_FILES, "nproc": USER_PROCESSES, "core": 0, **more}
    return [{"Name": name, "Soft": most, "Hard": most} for name, most in limits.items()]


def gpu_requests(
    gpus: Sequence[str],
    engine: EngineFacts,
    job_type: jobs_pb2.JobType.ValueType = jobs_pb2.JOB_TYPE_UNSPECIFIED,
) -> list[dict[str, Any]]:
    """These GPUs, by UUID; none: the engine is asked for none."""
    if not gpus:
        return []
    if engine.has_gpus_by_cdi:
        # What a device gives to a container stands in its description on the machine.
        devices = [f"{_CDI_KIND}={gpu}" for gpu in gpus]
        return [{"Driver": "cdi", "DeviceIDs": devices, "Capabilities": [["gpu"]]}]
    more = ["graphics", "video"] if job_type == jobs_pb2.JOB_TYPE_RENDERING else []
    return [{"Driver": "", "DeviceIDs": list(gpus), "Capabilities": [_GPU_CAPABILITIES + more]}]


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """These files as a tar: everybody may read and run them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o555
            tar.addfile(entry, io.BytesIO(content))
        end = tar.offset + 2 * tarfile.BLOCKSIZE
    # Podman stops reading where the tar ends, and does not bear the padding that follows.
    return buffer.getvalue()[:end]


def open_folders(image_volumes: int) -> bytes:
    """A tar that lets everybody write into the keeper's folders of the image's volumes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(image_volumes):
            entry = tarfile.TarInfo(kept_at(number).lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(entry)
        end = tar.offset + 2 * tarfile.BLOCKSIZE
    return buffer.getvalue()[:end]
