"""The runners port: what an accepted job is given to, and what comes of it.

A model server is one (see `daemon.engines`), containers are another. It must not
know sessions, leases' fate or how any runner works.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from dcp.v1 import jobs_pb2, sessions_pb2

from daemon.runners.input_files import Given
from daemon.work.artifacts import Artifact

COMMAND_JOB_TYPES = (
    jobs_pb2.JOB_TYPE_TRAINING,
    jobs_pb2.JOB_TYPE_RENDERING,
    jobs_pb2.JOB_TYPE_BENCHMARK,
    jobs_pb2.JOB_TYPE_CUSTOM_CONTAINER,
)
"""The types of job that are a command, which any runner of commands runs."""

MAX_MODELS = 200
"""The server takes so many models of one daemon: a limit in protos/dcp/v1/sessions.proto."""


class RunnerError(Exception):
    """A job could not be done; `message` is for the renter: no paths, keys or prompts."""

    def __init__(
        self, reason: jobs_pb2.FailureReason.ValueType, message: str, *, gives_back: bool = False
    ) -> None:
        """`gives_back`: it can be done elsewhere, so that another provider gets it instead of a failure."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.gives_back = gives_back


def inputs_not_kept(error: OSError) -> RunnerError:
    """This machine could not keep a job's inputs: another may, so it is given back."""
    text = "The provider has no room for the job's inputs."
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        # Not the error's whole text: that names paths.
        text = f"The provider could not keep the job's inputs: {error.strerror or type(error).__name__}."
    return RunnerError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, text, gives_back=True)


class Ability(StrEnum):
    """What a model can do, as its test found."""

    CHAT = "chat"
    IMAGE = "image"
    COMPLETION = "completion"
    """It continues texts, and answers no chat."""
    EMBEDDING = "embedding"


NOT_SOLD = {
    Ability.COMPLETION: "It only completes texts, as it has no chat template: the market sells chats.",
}
"""What models can do that no job asks for. Such a model works, and is not offered."""


@dataclass(frozen=True)
class Log:
    """A piece of a job's log."""

    data: bytes


@dataclass(frozen=True)
class WorkDone:
    """The work is done: the meter stops and these files are uploaded. It may come twice, first empty."""

    artifacts: tuple[Artifact, ...] = ()


@dataclass(frozen=True)
class Picture:
    """An output that is not text: its media type and its bytes."""

    content_type: str
    data: bytes


@dataclass(frozen=True)
class Logprobs:
    """How likely the first tokens of an answer were."""

    tokens: tuple[sessions_pb2.TokenLogprob, ...]


@dataclass(frozen=True)
class Chunk:
    """A piece of a chat's answer: what a model server's event says, as `choices`."""

    values: dict[str, Any]


Piece = str | bytes | Chunk | Picture | Log | WorkDone | Logprobs | jobs_pb2.Usage
"""Output as text, bytes, chunks or one picture, log, what was left, what is known of tokens, or counts."""
Pieces = AsyncGenerator[Piece, None]
Report = Callable[[jobs_pb2.PreparationStep.ValueType, int, int], None]
"""Hears how many bytes of how many are there; 0: their number is not known. It may be called often."""


def no_report(step: jobs_pb2.PreparationStep.ValueType, done_bytes: int, total_bytes: int) -> None:
    """Nobody hears."""


class ResumeOffsets(NamedTuple):
    """What the journal knows of an earlier daemon's run."""

    output_bytes: int
    log_bytes: int


class Runner(Protocol):
    """What runs jobs of some types. Inherit it for what has a default."""

    name: str = "runner"
    """What its self-test is called."""
    self_test_seconds: float = 60.0
    """How long a self-test may take, of each model."""

    @property
    def slots(self) -> int:
        """How many jobs it runs at once."""
        return 1

    def job_types(self) -> Sequence[jobs_pb2.JobType.ValueType]:
        """The types of job that it runs."""
        ...

    def models(self) -> Sequence[sessions_pb2.ServedModel]:
        """The models that it answers for, and whether each is loaded; none for what runs no models."""
        return ()

    def images(self) -> Sequence[str] | None:
        """Patterns of the images that it runs for jobs; None: it runs none, or looks at no image."""
        return None

    def takes(self, offer: sessions_pb2.JobOffer) -> bool:
        """Whether the offered job is one for it."""
        return offer.job_type in self.job_types()

    async def refresh(self) -> None:
        """Looks what it serves now; asked every few seconds. Never raises."""
        return

    def take_inputs(self, lease: sessions_pb2.Lease, given: Sequence[Given]) -> None:
        """Takes the inputs of a job that is prepared next; they stay until it is. Raises RunnerError."""
        text = "This provider gives jobs of this type no inputs."
        raise RunnerError(jobs_pb2.FAILURE_REASON_ENGINE_FAILED, text, gives_back=True)

    def watch_preparation(self, lease: sessions_pb2.Lease, report: Report) -> None:
        """Takes what is to hear how far the preparation that follows is; without it, nobody hears."""
        return

    async def prepare(self, offer: sessions_pb2.JobOffer) -> None:
        """Checks the job and makes all ready; the meter does not run yet. Raises RunnerError."""
        ...

    def run(self, offer: sessions_pb2.JobOffer) -> Pieces:
        """Does the work and yields what comes of it. Raises RunnerError.

        Closing the generator stops the work at once.
        """
        ...

    async def self_test(self, model: str = "") -> Ability | None:
        """Proves that it works, by the smallest job that there is. Raises RunnerError with what is wrong.

        `model`: the one of its models that is to be tested; empty where it has none. Returns what the model
        can do, None where there is none or that is not looked at.
        """
        return None

    def has_loaded(self, model: str) -> bool:
        """Whether a test of the model would load nothing; False also where that is not known."""
        return any(served.name == model and served.warm for served in self.models())

    def why_not_load(self, model: str) -> str:
        """Why a test must not load the model now, for its owner; empty: it drives out nothing of theirs."""
        return ""

    def fingerprint(self, model: str) -> str:
        """What identifies a model over restarts of the daemon, with its content where that is known.

        Empty: nothing does, or its test costs nobody anything.
        """
        return ""

    def learn(self, model: str, ability: Ability) -> None:
        """Takes what a test has found that a model can do, also one of an earlier daemon."""
        return

    def gpus(self, lease: sessions_pb2.Lease) -> Collection[str] | None:
        """The UUIDs of the GPUs that a run is on; None: it may be on any of the machine's."""
        return None

    def visible_gpus(self, lease: sessions_pb2.Lease) -> Collection[str] | None:
        """The UUIDs of the GPUs that a run can see, whether it uses them or not; None: all."""
        return self.gpus(lease)

    def image_digest(self, lease: sessions_pb2.Lease) -> str:
        """Which content the image of a run is; empty: it runs none. Asked when the run begins."""
        return ""

    def pids(self) -> Collection[int]:
        """The processes of its runs that do not descend from the daemon. Asked from another thread."""
        return ()

    async def adopt(self, offer: sessions_pb2.JobOffer, written: ResumeOffsets) -> Pieces | None:
        """What is left of a run that an earlier daemon began, after what is known of it.

        None: it does not run any more, as with every runner whose runs end with the daemon.
        """
        return None

    async def kill(self, lease: sessions_pb2.Lease) -> None:
        """Ends the work on a lease that did not stop when asked, whatever else that ends."""
        return

    async def end(self, lease: sessions_pb2.Lease) -> None:
        """Asks the work on a lease to end, so that its files can be handed over; it has ten seconds."""
        await self.kill(lease)

    async def sweep(self) -> None:
        """Removes what unknown runs have left on this machine."""
        return

    async def tidy(self) -> None:
        """Removes what is not needed and only takes room. It may take minutes, and nothing waits for it."""
        return

    async def close(self) -> None:
        """Ends whatever the runner started."""
        ...
