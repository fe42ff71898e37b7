"""Jobs in containers through the whole market: real programs, a real engine, kills, and exact bills."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from scripts.market import UNLIMITED, Market, Program
from tests.support.clustered_market import StartMarket
from tests.support.private_engine import IMAGE, PrivateEngine

pytestmark = [pytest.mark.e2e, pytest.mark.engine]

FINAL = ("completed", "failed", "cancelled")


@dataclass
class Scene:
    """A market with a provider that runs containers, and a renter."""

    market: Market
    daemon: Program
    engine: PrivateEngine
    key: str

    def submit(self, script: str, **fields: Any) -> str:
        """Submits a shell script; returns the job's id."""
        spec = {"image": IMAGE, "command": ["sh", "-c", script]} | fields.pop("container_spec", {})
        body = {"job_type": "custom_container", "duration_minutes": 1, "container_spec": spec, **fields}
        return str(self.post("/api/jobs/submit", body)["job"]["job_id"])

    def post(self, path: str, body: object) -> dict[str, Any]:
        return self.market.post(path, body, **{"x-renter-key": self.key})

    def get(self, path: str) -> dict[str, Any]:
        return self.market.get(path, **{"x-renter-key": self.key})

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.get(f"/api/jobs/{job_id}")["job"])

    def log(self, job_id: str, after_seq: int = 0) -> str:
        return str(self.get(f"/api/jobs/{job_id}/logs?after_seq={after_seq}")["log"])

    def until_final(self, job_id: str) -> dict[str, Any]:
        self.until(lambda: self.job(job_id)["status"] in FINAL, 90)
        return self.job(job_id)

    def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.daemon.last_words()
            time.sleep(0.05)

    def assert_nothing_is_left(self) -> None:
        self.until(lambda: self.engine.left() == [])
        assert self.market.prove_ledger()["balanced"] is True


@pytest.fixture(scope="module")
def scene(
    start_market: StartMarket, tmp_path_factory: pytest.TempPathFactory, docker_engine: PrivateEngine
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("containers")
    with start_market(folder, admin_token="operator-token-of-all-of-the-tests", settings=UNLIMITED) as market:
        _, provider_key = market.register_provider("Container node", "p@example.com")
        renter_id, key = market.register_renter("Acme AI", "r@example.com")
        market.credit(renter_id, 5000)
        settings = {
            "DCP_CONTAINER_SOCKET": str(docker_engine.socket),
            "DCP_CONTAINER_IMAGES": "busybox,127.0.0.1:1/*",
            "DCP_CONTAINER_MEMORY_MB": "64",
            "DCP_CONTAINER_CPUS": "1",
            "DCP_CONTAINER_TMP_MB": "16",
            "DCP_CONTAINER_OUTPUT_MB": "16",
        }
        yield Scene(market, market.add_daemon(provider_key, settings=settings), docker_engine, key)
    docker_engine.prove_empty()


def test_container_runs_and_its_output_log_and_bill_are_exact(scene: Scene) -> None:
    job_id = scene.submit("echo out; echo err >&2; echo file > /output/result.txt; sleep 1")
    job = scene.until_final(job_id)
    assert (job["status"], job["attempt"]) == ("completed", 1), job
    assert scene.get(f"/api/jobs/{job_id}/output")["response"] == "out\n"
    log = scene.log(job_id)
    (attempt,) = scene.get(f"/api/jobs/{job_id}/why")["attempts"]
    assert attempt["image_digest"].startswith("sha256:")
    assert log.startswith(f"[dcp] image docker.io/library/busybox:test {attempt['image_digest']}")
    assert {"out", "err"} <= set(log.splitlines())
    bill = job["billing"]
    assert 1 <= bill["billed_seconds"] < 60
    assert bill["actual_cost_halala"] == -(-100 * round(bill["billed_seconds"] * 1000) // 60_000)
    assert bill["actual_cost_halala"] + bill["refund_halala"] == bill["hold_halala"] == 100
    scene.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("script", "spec", "reason", "is_charged"),
    [
        ("exit 3", {}, "CONTAINER_EXIT", True),
        ("x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done", {}, "OUT_OF_MEMORY", True),
        ("dd if=/dev/zero of=/output/x bs=64k", {}, "DISK_LIMIT", True),
        ("true", {"image": "127.0.0.1:1/nothing/there:1"}, "IMAGE_PULL_FAILED", False),
        ("true", {"command": ["/no/such/program"]}, "CONTAINER_START_FAILED", False),
    ],
)
def test_failed_job_shows_its_reason_and_the_next_one_runs(
    scene: Scene, script: str, spec: dict[str, Any], reason: str, is_charged: bool
) -> None:
    job = scene.until_final(scene.submit(script, container_spec=spec))
    assert (job["status"], job["failure_reason"]) == ("failed", reason), job
    assert (job["billing"]["actual_cost_halala"] > 0) is is_charged
    assert scene.until_final(scene.submit("echo next"))["status"] == "completed"
    scene.assert_nothing_is_left()


def test_image_that_the_provider_does_not_allow_is_refused_at_the_submit(scene: Scene) -> None:
    with pytest.raises(httpx.HTTPStatusError) as refused:
        scene.submit("true", container_spec={"image": "ghcr.io/acme/other:1"})
    error = refused.value.response.json()
    assert (refused.value.response.status_code, error["code"]) == (400, "IMAGE_NOT_ALLOWED")
    assert error["field"] == "container_spec.image"
    assert "127.0.0.1:1/*, busybox" in error["error"]
    (provider,) = scene.get("/api/renters/available-providers")["providers"]
    assert provider["image_patterns"] == ["busybox", "127.0.0.1:1/*"]
    assert provider["architecture"] in ("amd64", "arm64")


def test_job_of_a_killed_daemon_continues_and_is_charged_once(scene: Scene) -> None:
    job_id = scene.submit("i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.2; done")
    scene.until(lambda: "line 3" in scene.log(job_id))
    scene.daemon.kill()
    scene.daemon.restart()
    job = scene.until_final(job_id)
    assert (job["status"], job["attempt"]) == ("completed", 1), job
    lines = [f"line {i}" for i in range(40)]
    assert scene.log(job_id).splitlines()[1:] == lines, "nothing is missing, and nothing is there twice"
    assert scene.get(f"/api/jobs/{job_id}/output")["response"].splitlines() == lines
    scene.assert_nothing_is_left()


def test_cancelled_job_ends_though_it_ignores_signals(scene: Scene) -> None:
    job_id = scene.submit("trap '' TERM INT; echo up; while true; do sleep 1; done")
    scene.until(lambda: "up" in scene.log(job_id))
    scene.post(f"/api/jobs/{job_id}/cancel", {})
    assert scene.until_final(job_id)["status"] == "cancelled"
    scene.assert_nothing_is_left()


def test_job_that_does_not_end_is_stopped_at_its_time_limit_and_charged(scene: Scene) -> None:
    job = scene.until_final(scene.submit("echo up; sleep 600", duration_minutes=0.1))
    assert (job["status"], job["failure_reason"]) == ("failed", "DURATION_LIMIT"), job
    # The job gets SIGTERM when a tenth of its time is left.
    assert (job["billing"]["actual_cost_halala"], job["billing"]["hold_halala"]) in ((9, 10), (10, 10))
    scene.assert_nothing_is_left()


@pytest.mark.parametrize(
    "on_term", ["echo saved > /output/checkpoint; exit 0", pytest.param("", marks=pytest.mark.slow)]
)
def test_training_that_reaches_its_limit_keeps_its_checkpoints(scene: Scene, on_term: str) -> None:
    script = f"echo epoch > /output/log; trap '{on_term}' TERM; while true; do sleep 600 & wait; done"
    job_id = scene.submit(script, job_type="training", duration_minutes=0.2)
    job = scene.until_final(job_id)
    assert (job["status"], job["failure_reason"]) == ("failed", "DURATION_LIMIT"), job
    cost, hold = job["billing"]["actual_cost_halala"], job["billing"]["hold_halala"]
    assert hold * 9 // 10 <= cost <= hold
    files = [file["name"] for file in scene.get(f"/api/jobs/{job_id}/artifacts")["artifacts"]]
    assert files == (["checkpoint", "log"] if on_term else ["log"])
    scene.assert_nothing_is_left()


def test_log_is_followed_piece_by_piece(scene: Scene) -> None:
    job_id = scene.submit("echo one; sleep 1; echo two")
    scene.until(lambda: "one" in scene.log(job_id))
    first = scene.get(f"/api/jobs/{job_id}/logs")
    assert not first["is_complete"]
    scene.until_final(job_id)
    rest = scene.get(f"/api/jobs/{job_id}/logs?after_seq={first['through_seq']}")
    assert rest["log"] == "two\n"
    assert rest["is_complete"]
    assert first["lease_epoch"] == rest["lease_epoch"] == 1


def test_files_of_the_submit_are_the_jobs_input(scene: Scene) -> None:
    spec = {
        "input_files": {
            "say.sh": "echo $1 > $DCP_OUTPUT_DIR/said; cat $DCP_INPUT_DIR/words",
            "words": "مرحبا",
        }
    }
    job_id = scene.submit("sh /input/say.sh loud", container_spec=spec)
    assert scene.until_final(job_id)["status"] == "completed"
    assert scene.get(f"/api/jobs/{job_id}/output")["response"] == "مرحبا"
    names = [file["name"] for file in scene.get(f"/api/jobs/{job_id}/artifacts")["artifacts"]]
    assert names == ["said"]
    with pytest.raises(httpx.HTTPStatusError) as refused:
        scene.submit("true", container_spec={"input_files": {"../x": "y"}})
    error = refused.value.response.json()
    assert (refused.value.response.status_code, error["field"]) == (400, "container_spec.input_files.../x")
