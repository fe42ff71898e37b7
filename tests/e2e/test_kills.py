"""Programs that are killed, frozen or disconnected during a job: nothing is lost or billed twice.

The processes are real. A real model's process is frozen while another program is killed, so that
this happens in the middle of its answer however fast or slow the machine is.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from scripts.market import Program
from tests.support import scripted_daemon
from tests.support.journals import in_folder
from tests.support.patient_renter import eventually, request
from tests.support.scene import Scene, played
from tests.support.scripted_daemon import answer_to, script
from tests.support.tcp_proxy import BlackHole, Pass

SLOW_MOTION_SECONDS = 0.005
TRIES = 5

pytestmark = pytest.mark.e2e


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with played(tmp_path) as scene:
        yield scene


def model_server(daemon: Program) -> psutil.Process:
    """The process in which a daemon's model runs, beside the one that now and then looks for a GPU."""
    children = psutil.Process(daemon.process.pid).children()
    (child,) = [each for each in children if "llamacpp_child" in " ".join(each.cmdline())]
    return child


def freeze_in_the_middle(scene: Scene, daemon: Program) -> tuple[str, psutil.Process]:
    """Submits a long job, slows its model until some output has arrived, and freezes the model then."""
    model = model_server(daemon)
    for _ in range(TRIES):
        model.suspend()
        job_id = scene.story()
        while (job := scene.renter.job(job_id))["output_bytes"] == 0:
            model.resume()
            time.sleep(SLOW_MOTION_SECONDS)
            model.suspend()
        if job["status"] == "running" and scene.renter.job(job_id)["status"] == "running":
            return job_id, model
        model.resume()
    raise AssertionError("the model was always faster than the test")


@pytest.mark.model
def test_job_of_a_killed_daemon_runs_again_and_is_charged_once(scene: Scene) -> None:
    daemon = scene.daemons[scene.add_daemon(real=True)]
    expected = scene.renter.output(scene.renter.until_final(scene.story())["job_id"])
    job_id, _ = freeze_in_the_middle(scene, daemon)
    daemon.kill()
    daemon.restart()
    scene.assert_whole(job_id, expected, attempt=2)
    assert [attempt["outcome"] for attempt in scene.renter.attempts(job_id)] == ["released", "succeeded"]
    scene.assert_books()


def test_result_of_a_killed_daemon_is_reported_from_its_journal(scene: Scene) -> None:
    provider_id = scene.add_daemon()
    daemon, proxy = scene.daemons[provider_id], scene.proxies[provider_id]
    prompt = script("river", 20, 0.05)
    job_id = scene.play(prompt)
    scene.renter.until_it_writes(job_id)
    proxy.switch(BlackHole())
    eventually("a result in the journal", lambda: has_result(scene.state_dir(1)))
    daemon.kill()
    assert scene.renter.job(job_id)["status"] == "running", "no program has reported the result to the server"
    proxy.switch(Pass())
    daemon.restart()
    scene.assert_whole(job_id, answer_to(prompt), attempt=1)
    scene.assert_books()


def test_output_that_the_network_lost_is_sent_again(scene: Scene) -> None:
    provider_id = scene.add_daemon()
    prompt = script("stream", 20, 0.05)
    job_id = scene.play(prompt)
    scene.renter.until_it_writes(job_id)
    scene.proxies[provider_id].switch(BlackHole())
    eventually("a result in the journal", lambda: has_result(scene.state_dir(1)))
    assert scene.renter.job(job_id)["output_bytes"] < len(answer_to(prompt))
    scene.proxies[provider_id].switch(Pass())
    scene.assert_whole(job_id, answer_to(prompt), attempt=1)
    scene.assert_books()


def has_result(state_dir: Path) -> bool:
    """Whether the journal has the result of the only attempt."""
    (history,) = in_folder(state_dir / "journal")
    return history.finished is not None


@pytest.mark.model
@pytest.mark.parametrize("until_the_end", [False, True], ids=["back before the end", "away until the end"])
def test_job_outlives_a_killed_server_and_is_billed_for_its_run(scene: Scene, until_the_end: bool) -> None:
    daemon = scene.daemons[scene.add_daemon(real=True)]
    expected = scene.renter.output(scene.renter.until_final(scene.story())["job_id"])
    job_id, model = freeze_in_the_middle(scene, daemon)
    started_at = scene.renter.job(job_id)["started_at"]
    scene.server.kill()
    poll = scene.renter.ask_once("GET", f"/api/jobs/{job_id}")
    assert (poll.status_code, poll.json()["code"]) == (503, "UNAVAILABLE")
    if until_the_end:
        model.resume()
        scene.until_logged(f"job finished .* job_id={job_id} ")
        scene.server.restart()
    else:
        scene.server.restart()
        scene.until_logged("session opened", times=2)
        assert scene.renter.job(job_id)["status"] == "running"
        model.resume()
    job = scene.assert_whole(job_id, expected, attempt=1)
    assert job["started_at"] == started_at
    assert scene.gateway.process.poll() is None, "the same gateway answers"
    scene.assert_books()


# A lease is lost after a minute at the soonest. The short form is tests/protocol/test_late_results.py, which
# moves its clocks by hand.
@pytest.mark.slow
def test_late_results_of_silent_daemons_change_nothing(scene: Scene) -> None:
    first, second = scene.add_daemon(), scene.add_daemon()
    prompt = script("lake", 40, 0.05)
    jobs = {}
    for _ in range(2):
        job_id = scene.play(prompt, lost_after_seconds=60)
        jobs[scene.renter.until_it_writes(job_id)["provider_id"]] = job_id
    assert jobs.keys() == {first, second}
    scene.daemons[first].pause()
    scene.proxies[second].switch(BlackHole())
    rescuer = scene.add_daemon()
    for job_id in jobs.values():
        assert scene.renter.until_final(job_id)["provider_id"] == rescuer
        scene.assert_whole(job_id, answer_to(prompt), attempt=2)
    scene.assert_books()
    before = [everything_about(scene, job_id) for job_id in jobs.values()], scene.market.prove_ledger()
    scene.daemons[first].resume()
    scene.proxies[second].switch(Pass())
    scene.until_logged(rf"(lease discarded|result acknowledged .*) job_id={jobs[first]} .*lease_epoch=1 ")
    eventually(
        "a success that came too late",
        lambda: f"result stale job_id={jobs[second]} lease_epoch=1 outcome=succeeded" in log_of(scene.server),
    )
    scene.until_logged(rf"(lease discarded|result acknowledged .*) job_id={jobs[second]} .*lease_epoch=1 ")
    after = [everything_about(scene, job_id) for job_id in jobs.values()], scene.market.prove_ledger()
    assert after == before
    for provider_id in (first, second):
        again = scene.play(script("brook", 2, 0.01), provider_id=provider_id)
        scene.assert_whole(again, answer_to("brook 2 0"), attempt=1)
    scene.assert_books()


def everything_about(scene: Scene, job_id: str) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """Everything that a renter can read about a job."""
    renter = scene.renter
    return renter.job(job_id), renter.attempts(job_id), renter.output(job_id)


def test_submit_whose_gateway_died_is_repeated_and_gives_one_job(scene: Scene) -> None:
    scene.add_daemon()
    prompt = script("sea", 20, 0.02)
    scene.gateway_proxy.switch(BlackHole(answers_only=True))
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(
            scene.renter.ask_once,
            "POST",
            "/api/jobs/submit",
            request(scripted_daemon.MODEL, prompt),
            **{"idempotency-key": "once"},
        )
        submitted = eventually("a submit", lambda: re.search(r"submitted job_id=(\S+)", log_of(scene.server)))
        scene.gateway.kill()
        with pytest.raises(httpx.TransportError):
            lost.result()
    scene.gateway_proxy.switch(Pass())
    scene.gateway.restart()
    job_id = scene.play(prompt, key="once")
    assert job_id == submitted[1]
    scene.assert_whole(job_id, answer_to(prompt), attempt=1)
    scene.assert_books()


def log_of(program: Program) -> str:
    return program.log.read_text()


@pytest.mark.model
def test_cancel_stops_the_model_and_charges_for_the_time_run(scene: Scene) -> None:
    scene.add_daemon(real=True)
    tokens = 1900
    job_id = scene.story(params={"max_tokens": tokens})
    scene.renter.until_it_writes(job_id)
    assert scene.renter.ask("POST", f"/api/jobs/{job_id}/cancel").status_code == 200
    job = scene.renter.until_final(job_id)
    assert (job["status"], job["failure_reason"]) == ("cancelled", "CANCELLED")
    scene.assert_billed_for_its_run(job)
    assert scene.renter.ask("GET", f"/api/jobs/{job_id}/output").status_code == 410
    assert scene.renter.ask("POST", f"/api/jobs/{job_id}/cancel").status_code == 409
    following = scene.renter.until_final(scene.story())
    assert following["status"] == "completed"
    # The only slot was free; otherwise the first token would have waited for the rest of the old answer.
    usage = following["usage"]
    rest_ms = (tokens - job["output_bytes"]) / usage["tokens_per_second"] * 1000
    assert usage["first_token_ms"] < rest_ms / 2
    scene.assert_books()


def test_job_outlives_a_drained_server(scene: Scene) -> None:
    first, second = scene.add_daemon(), scene.add_daemon()
    prompt = script("pond", 60, 0.05)
    job_id = scene.play(prompt)
    scene.renter.until_it_writes(job_id)
    assert scene.server.stop(signal.SIGTERM) == 0
    scene.server.restart()
    scene.until_logged("session opened", times=4)
    assert [scene.daemons[number].process.poll() for number in (first, second)] == [None, None]
    scene.assert_whole(job_id, answer_to(prompt), attempt=1)
    scene.assert_books()
