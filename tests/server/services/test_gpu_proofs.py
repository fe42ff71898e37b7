"""Proofs of GPUs: machines that kept what they were given to keep, and those that did not, over real gRPC."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from dcp.v1 import gpu_proofs_pb2 as pb
from dcp.v1 import honesty_pb2

from server.domain.gpu_proofs import VALID_MS, Scale
from server.store import canaries
from server.store.models import GpuProof
from tests.server.services.test_verdicts import SERVED, gpu_status, post_heartbeat, verdict
from tests.support import running_server
from tests.support.manual_clock import ManualClock
from tests.support.running_server import Market, Party, refusal

pytestmark = pytest.mark.in_turns

CLAIMED, VERIFIED, SUSPECT = (
    honesty_pb2.VERDICT_CLAIMED,
    honesty_pb2.VERDICT_VERIFIED,
    honesty_pb2.VERDICT_SUSPECT,
)
# The machines of these tests have GPUs of 23,034 MiB, of which they fill one MiB: it is hashed here.
SMALL = Scale(rounds=2, chunk_cells=16, group_digests=100, samples=24, least_share=0.0)
WEEK, DAY, HOUR = 7 * 24 * 3600, 24 * 3600, 3600


class Machine:
    """A machine that carries out a proof as a daemon does, and changes what it was told to change."""

    def __init__(self, market: Market, party: Party, mib: dict[str, int] | None = None) -> None:
        self.market, self.party = market, party
        self.mib = mib or {"GPU-a": 1}
        self.task = pb.ProofTask()
        self.kept: Callable[[int, int], bool] = lambda gpu, chunk: True
        """Whether it keeps a chunk of a GPU; of the others it has only rubbish."""
        self.before: Callable[[str], None] = lambda step: None
        """Called before it sends a message."""
        self.change: Callable[[str, Any], Any] = lambda step, message: message
        """What it sends in place of a message."""

    async def prove(self) -> pb.ProofResult | pb.ProofLater:
        """Goes through a proof."""
        call: Any = self.market.gpu_proof_service.ProveGpus(metadata=self.party.metadata)
        gpus = [pb.ProvableGpu(uuid=uuid, memory_mib=mib) for uuid, mib in self.mib.items()]
        await self._send(call, "start", pb.ProofStart(gpus=gpus))
        answer: Any = await call.read()
        if answer.HasField("later"):
            later: pb.ProofLater = answer.later
            return later
        self.task = answer.task
        cells = [self._cells(gpu) for gpu in range(len(gpus))]
        await self._send(call, "filled", pb.ProofFilled())
        nonce = (await call.read()).nonce.nonce
        groups = [self._groups(nonce, chunks) for chunks in cells]
        for each in groups:
            hashes = b"".join(hashlib.sha256(group).digest() for group in each)
            await self._send(call, "groups", pb.ProofGroups(hashes=hashes))
        answer = await call.read()
        for sample in answer.samples.samples:
            await self._send(call, "digests", pb.ProofDigests(digests=groups[sample.gpu][sample.group]))
        last: pb.ProofResult = (answer if answer.HasField("result") else await call.read()).result
        return last

    async def outcome(self) -> str:
        """What a proof showed."""
        result = await self.prove()
        assert isinstance(result, pb.ProofResult), result
        return pb.GpuProofOutcome.Name(result.outcome).removeprefix("GPU_PROOF_OUTCOME_")

    async def _send(self, call: Any, step: str, message: Any) -> None:
        self.before(step)
        await call.write(pb.ProveGpusRequest(**{step: self.change(step, message)}))

    def _cells(self, gpu: int) -> list[bytes]:
        return [
            self._chunk(gpu, chunk) if self.kept(gpu, chunk) else bytes(32 * self.task.chunk_cells)
            for chunk in range(self.task.chunks[gpu])
        ]

    def _chunk(self, gpu: int, chunk: int) -> bytes:
        first, salt = chunk * self.task.chunk_cells, gpu.to_bytes(4, "big")
        return b"".join(
            hashlib.pbkdf2_hmac(
                "sha256", self.task.seed, salt + cell.to_bytes(8, "big"), self.task.rounds, 32
            )
            for cell in range(first, first + self.task.chunk_cells)
        )

    def _groups(self, nonce: bytes, chunks: Sequence[bytes]) -> list[bytes]:
        digests = [hashlib.sha256(nonce + chunk).digest()[:16] for chunk in chunks]
        size = self.task.group_digests
        return [b"".join(digests[at : at + size]) for at in range(0, len(digests), size)]


@pytest.fixture
async def market(database_url: str, clock: ManualClock) -> Any:
    async with running_server.running(database_url, clock, canary_percent=1) as started:
        started.server.services.gpu_proofs.scale = SMALL
        yield started


async def machine(market: Market, *uuids: str) -> Machine:
    """A machine with these GPUs, which it has reported."""
    party = await market.provider()
    await market.daemon(party, gpu_status=gpu_status(*(uuids or ("GPU-a",))), models=SERVED)
    await market.judge()
    return Machine(market, party, dict.fromkeys(uuids or ("GPU-a",), 1))


async def findings(proving: Machine) -> tuple[int, list[str]]:
    """The verdict on a machine, a minute later."""
    proving.market.clock.advance(61)
    await post_heartbeat(proving.market, proving.party, gpu_status(*proving.mib, temp_c=40))
    return await verdict(proving.market, proving.party)


async def test_figures_stay_claimed_until_the_memory_is_proved(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    proving = await machine(market)
    assert await findings(proving) == (CLAIMED, ["NOT_CHECKED", "NOT_PROVED"])
    assert await proving.outcome() == "PASSED"
    assert await findings(proving) == (CLAIMED, ["NOT_CHECKED"])
    monkeypatch.setattr(canaries, "has_passed", lambda provider_id: True)
    market.clock.advance(HOUR)
    assert await findings(proving) == (VERIFIED, [])


async def test_machine_with_several_gpus_fills_each_with_its_own_cells(market: Market) -> None:
    proving = await machine(market, "GPU-a", "GPU-b", "GPU-c")
    assert await proving.outcome() == "PASSED"
    assert list(proving.task.chunks) == [2048, 2048, 2048]
    assert await market.sql(lambda: GpuProof.select().get().mib) == 3


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(lambda gpu, chunk: False, id="nothing"),
        pytest.param(lambda gpu, chunk: chunk % 3 > 0, id="two thirds"),
        pytest.param(lambda gpu, chunk: gpu == 0, id="one of two GPUs"),
    ],
)
async def test_machine_that_kept_less_is_suspect(market: Market, kept: Callable[[int, int], bool]) -> None:
    proving = await machine(market, "GPU-a", "GPU-b")
    proving.kept = kept
    assert await proving.outcome() == "WRONG"
    seen, reasons = await findings(proving)
    assert seen == SUSPECT
    assert "PROOF_FAILED" in reasons


async def test_one_gpu_cannot_stand_for_two(market: Market) -> None:
    proving = await machine(market, "GPU-a", "GPU-b")
    whole = proving._chunk
    proving._chunk = lambda gpu, chunk: whole(0, chunk)  # type: ignore[method-assign]
    assert await proving.outcome() == "WRONG"


async def test_digests_must_be_those_that_were_committed_to(market: Market) -> None:
    proving = await machine(market)

    def change(step: str, message: Any) -> Any:
        # Right digests for hashes that were made up.
        return pb.ProofGroups(hashes=bytes(len(message.hashes))) if step == "groups" else message

    proving.change = change
    assert await proving.outcome() == "WRONG"


async def test_answer_that_comes_late_proves_nothing_and_accuses_nobody(market: Market) -> None:
    proving = await machine(market)

    def wait(step: str) -> None:
        if step == "groups":
            market.clock.advance(3)

    proving.before = wait
    assert await proving.outcome() == "LATE"
    assert (await findings(proving))[1] == ["NOT_CHECKED", "NOT_PROVED"]


async def test_gpu_far_slower_than_two_others_of_its_model_is_suspect(market: Market) -> None:
    def fill_within(seconds: float) -> Callable[[str], None]:
        return lambda step: market.clock.advance(seconds) if step == "filled" else None

    outcomes = []
    for number, seconds in enumerate((10, 12, 29, 60)):
        proving = await machine(market, f"GPU-{number}")
        proving.before = fill_within(seconds)
        outcomes.append(await proving.outcome())
    assert outcomes == ["PASSED", "PASSED", "PASSED", "SLOW"]
    assert (await findings(proving))[0] == SUSPECT


async def test_proof_is_refused_while_it_could_show_nothing(market: Market) -> None:
    async def why(proving: Machine) -> tuple[str, float]:
        later = await proving.prove()
        assert isinstance(later, pb.ProofLater), later
        return later.message, later.ask_after.ToMilliseconds() / 1000

    party = await market.provider()
    text, seconds = await why(Machine(market, party))
    assert text == "this machine has reported no GPU with a UUID and memory of its own"
    assert seconds == 600
    proving = await machine(market)
    proving.mib = {"GPU-b": 1}
    assert (await why(proving))[0] == "the GPUs are not those that the machine reported last"
    proving.mib = {"GPU-a": 18_426}
    market.server.services.gpu_proofs.scale = Scale()
    text, seconds = await why(proving)
    assert text == "18427 MiB of GPU GPU-a must be free, and 18426 are"
    assert seconds == HOUR
    market.server.services.gpu_proofs.scale = SMALL
    proving.mib = {"GPU-a": 1}
    assert await proving.outcome() == "PASSED"
    assert await why(proving) == ("its GPUs were proved lately: passed", WEEK)
    market.clock.advance(WEEK)
    assert await proving.outcome() == "PASSED"


async def test_new_set_of_gpus_is_proved_at_once_and_the_old_proof_does_not_count(market: Market) -> None:
    proving = await machine(market)
    assert await proving.outcome() == "PASSED"
    proving.mib = {"GPU-a": 1, "GPU-b": 1}
    assert "NOT_PROVED" in (await findings(proving))[1]
    assert await proving.outcome() == "PASSED"
    assert "NOT_PROVED" not in (await findings(proving))[1]


async def test_proof_is_forgotten_after_a_month(market: Market) -> None:
    proving = await machine(market)
    assert await proving.outcome() == "PASSED"
    market.clock.advance(VALID_MS / 1000 - 3 * HOUR)
    assert "NOT_PROVED" not in (await findings(proving))[1]
    market.clock.advance(4 * HOUR)
    assert "NOT_PROVED" in (await findings(proving))[1]


async def test_failed_proof_can_be_repeated_after_some_hours(market: Market) -> None:
    proving = await machine(market)
    proving.kept = lambda gpu, chunk: False
    assert await proving.outcome() == "WRONG"
    proving.kept = lambda gpu, chunk: True
    assert isinstance(await proving.prove(), pb.ProofLater)
    market.clock.advance(6 * HOUR)
    assert await proving.outcome() == "PASSED"
    assert (await findings(proving))[0] == CLAIMED


@pytest.mark.parametrize(
    ("step", "message", "text"),
    [
        ("start", pb.ProofFilled(), "the next message of the proof must be start"),
        ("filled", pb.ProofDigests(digests=b"x"), "the next message of the proof must be filled"),
        ("groups", pb.ProofGroups(hashes=b"x"), "a GPU must have one hash of 32 bytes"),
        ("digests", pb.ProofDigests(digests=b"x"), "a sample needs all digests of its group"),
    ],
)
async def test_message_out_of_order_or_of_another_length_ends_the_proof(
    market: Market, step: str, message: Any, text: str
) -> None:
    proving = await machine(market)
    names = {pb.ProofFilled: "filled", pb.ProofDigests: "digests", pb.ProofGroups: "groups"}
    send = Machine._send

    async def instead(self: Machine, call: Any, at: str, usual: Any) -> None:
        if at == step:
            await call.write(pb.ProveGpusRequest(**{names[type(message)]: message}))
            await call.read()
        else:
            await send(self, call, at, usual)

    proving._send = instead.__get__(proving)  # type: ignore[method-assign]
    refused = await refusal(proving.prove())
    assert refused.reason == "PROTOCOL_VIOLATION"
    assert text in refused.message
    assert not await market.sql(lambda: GpuProof.select().exists())


async def test_machine_that_goes_away_leaves_nothing_and_may_come_back(market: Market) -> None:
    proving = await machine(market)
    call: Any = market.gpu_proof_service.ProveGpus(metadata=proving.party.metadata)
    gpus = [pb.ProvableGpu(uuid="GPU-a", memory_mib=1)]
    await call.write(pb.ProveGpusRequest(start=pb.ProofStart(gpus=gpus)))
    assert (await call.read()).HasField("task")
    assert isinstance(await proving.prove(), pb.ProofLater), "two proofs of one machine at once"
    call.cancel()
    for _ in range(200):
        if not market.server.services.gpu_proofs._running:
            break
        await asyncio.sleep(0.02)
    assert await proving.outcome() == "PASSED"


async def test_log_tells_the_outcome_and_no_secret(market: Market, caplog: pytest.LogCaptureFixture) -> None:
    proving = await machine(market)
    with caplog.at_level(logging.INFO):
        await proving.outcome()
    (line,) = [record.getMessage() for record in caplog.records if "proved GPUs" in record.getMessage()]
    assert f"provider_id={proving.party.id} outcome=passed mib=1" in line
    assert proving.task.seed.hex() not in line
    assert json.loads(await market.sql(lambda: GpuProof.select().get().uuids)) == ["GPU-a"]
