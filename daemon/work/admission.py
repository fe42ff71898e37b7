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
from daemon.runners import Runner
from daemon.work.roster import Roster
from daemon.work.selftest import SelfTests


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

    def obstacle(self, offer: sessions_pb2.JobOffer | None = None) -> str:
        """Why the rules refuse this offer, or every offer; empty when they do not."""
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
        slots = self._health.slots(sum(engine.slots for engine in passed))
        return Capacity(
            slots=0 if self.obstacle() else slots,
            models=[model for engine in passed for model in engine.models()],
            job_types=list(dict.fromkeys(kind for engine in passed for kind in engine.job_types())),
            self_tests=self._self_tests.report(),
            images=_images(self._roster.serving),
        )


def _images(runners: Sequence[Runner]) -> sessions_pb2.AllowedImages | None:
    """The patterns of all that run images; None: nothing here looks at one."""
    found = [patterns for runner in runners if (patterns := runner.images()) is not None]
    if not found:
        return None
    return sessions_pb2.AllowedImages(patterns=[pattern for patterns in found for pattern in patterns])
