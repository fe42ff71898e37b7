"""Decides which jobs this machine takes: by its owner's rules, its GPUs' health and its engines' free slots.

It must not know the session's state: what runs is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from dcp.v1 import jobs_pb2, sessions_pb2, terms_pb2

from daemon.machine.health import Health
from daemon.machine.machine import GpuSampler
from daemon.machine.policy import Rules, refusal, rules_of, stricter
from daemon.protocol.events import Capacity
from daemon.runners import MAX_MODELS, Runner
from daemon.work.gpu_proof import GpuProof
from daemon.work.roster import Roster
from daemon.work.selftest import SelfTests, job_types_of

# A limit of the server, as MAX_MODELS is. Engines that keep them may exceed them together.
MAX_SLOTS = 1000


class Admission:
    """The jobs that this machine takes."""

    def __init__(
        self,
        rules: Rules,
        local_time: Callable[[], datetime],
        sampler: GpuSampler,
        health: Health,
        roster: Roster,
        self_tests: SelfTests,
        proof: GpuProof,
    ) -> None:
        """`local_time`: the time of day, with its zone."""
        self.rules = rules
        """The rules that the owner set on this machine."""
        self.settings = terms_pb2.ProviderSettings()
        """The rules that the owner set on the server; the stricter of the two apply."""
        self._local_time = local_time
        self._sampler = sampler
        self._health = health
        self._roster = roster
        self._self_tests = self_tests
        self._proof = proof
        self._left_out: list[str] = []

    def obstacle(self, offer: sessions_pb2.JobOffer | None = None) -> str:
        """Why the rules refuse this offer, or every offer; empty when they do not."""
        if self._health.is_all_kept:
            return "this provider's owner keeps its GPUs for now"
        if self._proof.is_running:
            return "this machine proves its GPUs to the server, for some minutes"
        if self._health.is_driver_lost:
            return "this machine's NVIDIA driver does not answer"
        spec = offer.container_spec if offer is not None else jobs_pb2.ContainerSpec()
        return refusal(
            stricter(self.rules, rules_of(self.settings)),
            self._sampler.fresh,
            self._local_time(),
            vram_required_mib=spec.vram_required_mb,
            gpu_count=spec.gpu_count,
        )

    def objection(self, offer: sessions_pb2.JobOffer, others: Sequence[sessions_pb2.JobOffer]) -> str:
        """Why the offer cannot be taken beside the unfinished ones; empty when it can."""
        if obstacle := self.obstacle(offer):
            return obstacle
        able = [engine for engine in self._roster.serving if engine.takes(offer)]
        if not able:
            return f"nothing here runs such a job for the model {offer.params.model}"
        busy = sum(any(engine.takes(other) for engine in able) for other in others)
        return "" if busy < sum(engine.slots for engine in able) else "no slot of what runs such jobs is free"

    def capacity(self) -> Capacity:
        """What passed its self-test, on healthy GPUs; no slots while the rules refuse every job."""
        passed = self._self_tests.passed
        slots = min(self._health.slots(sum(engine.slots for engine in passed)), MAX_SLOTS)
        models: list[sessions_pb2.ServedModel] = []
        kinds: list[jobs_pb2.JobType.ValueType] = []
        for engine in passed:
            served = self._self_tests.passed_models(engine)
            models += served
            kinds += job_types_of(served) or engine.job_types()
        self._left_out = [model.name for model in models[MAX_MODELS:]]
        return Capacity(
            slots=0 if self.obstacle() else slots,
            models=models[:MAX_MODELS],
            job_types=list(dict.fromkeys(kinds)),
            self_tests=self._self_tests.report(),
            images=_images(self._roster.serving),
        )

    def not_offered(self) -> list[dict[str, str]]:
        """What is not offered and why, for the owner."""
        reason = f"The server takes {MAX_MODELS} models of one daemon; name fewer."
        left_out = [{"engine": "", "model": name, "reason": reason} for name in self._left_out]
        return [*self._self_tests.not_passed(), *left_out]


def _images(runners: Sequence[Runner]) -> sessions_pb2.AllowedImages | None:
    """The patterns of all that run images; None: nothing here looks at one."""
    found = [patterns for runner in runners if (patterns := runner.images()) is not None]
    if not found:
        return None
    return sessions_pb2.AllowedImages(patterns=[pattern for patterns in found for pattern in patterns])
