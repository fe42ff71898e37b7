"""The client against the real gateway, server and daemons."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dcp_client import AsyncClient, Client, DigestError, WaitTimeoutError, bodies, objects, reasons

from tests.client.conftest import Stage, unique_email
from tests.support.clustered_market import both_forms
from tests.support.file_daemon import content, order
from tests.support.patient_renter import eventually
from tests.support.scripted_daemon import MODEL, answer_to, script
from tests.support.tcp_proxy import BlackHole, Pass, Reset, Slice, TcpProxy

pytestmark = [pytest.mark.e2e, both_forms]

# It takes time, so that it costs something.
SHORT = script("wadi", 3, 0.01)
LONG = script("wadi", 400, 0.1)


def asks(prompt: str, **fields: Any) -> bodies.SubmitJobBody:
    body: Any = {"job_type": "llm-inference", "params": {"model": MODEL, "prompt": prompt}, **fields}
    return body  # type: ignore[no-any-return]


def leaves(**kib: int) -> bodies.SubmitJobBody:
    """A job that leaves files of these sizes."""
    return {
        "job_type": "custom_container",
        "duration_minutes": 5,
        "params": {"model": MODEL, "prompt": order(**kib)},
        "container_spec": {"image": "busybox"},
    }


def test_job_from_quote_to_bill(client: Client) -> None:
    price = client.quote(asks(SHORT))
    assert price.able == 1
    job = client.submit({**asks(SHORT), "quote_id": price.quote_id})
    kinds: list[str] = []
    ended = client.wait(job.job_id, on_event=lambda event: kinds.append(event.kind))
    assert (ended.status, kinds[-1]) == (objects.JobState.COMPLETED, "end")
    assert client.output(job.job_id).response == answer_to(SHORT)
    assert client.job(job.job_id) == ended
    assert [each.job_id for each in client.jobs()] == [job.job_id]
    assert client.why(job.job_id).attempts[0].outcome == "succeeded"
    assert ended.billing is not None
    charge = ended.billing.actual_cost_halala
    assert client.wallet().balance_halala == 5000 - charge
    assert sum(line.amount_halala for line in client.statement()) == 5000 - charge
    assert client.spending(days=1).spent_halala == charge
    (row,) = client.usage(group_by=["model"])
    assert (row.model, row.jobs, row.charged_halala) == (MODEL, 1, charge)


async def test_asynchronous_client_does_the_same(stage: Stage, key: str) -> None:
    async with AsyncClient(stage.market.url, key) as client:
        job = await client.submit(asks(SHORT))
        texts = [event.text async for event in client.stream(job.job_id) if event.kind == "output"]
        assert "".join(texts) == answer_to(SHORT)
        assert (await client.wait(job.job_id)).status == "completed"
        assert [each.job_id async for each in client.jobs()] == [job.job_id]


def test_market_models_and_prices_need_no_key(stage: Stage) -> None:
    with Client(stage.market.url, "") as client:
        assert {each.id for each in client.market(page_size=1)} == {stage.talker[0], stage.filer[0]}
        assert [each.id for each in client.market(model=MODEL, job_type="llm-inference")] == [stage.talker[0]]
        assert MODEL in [each.id for each in client.models()]
        assert all(each.price for each in client.prices())


def test_registered_renter_has_an_account_and_keys(stage: Stage) -> None:
    with Client(stage.market.url, "") as nobody:
        key = nobody.register("Acme", unique_email("new"), "Acme Ltd")
    with Client(stage.market.url, key) as client:
        client.api.top_up_own_wallet({"amount_halala": 500})
        assert client.wallet().balance_halala == 500
        made = client.api.create_key({"name": "laptop", "scopes": ["read"]})
        names = [each.name for each in client.keys()]  # noqa: SIM118
        assert names[0] == "laptop"
        with Client(stage.market.url, made.api_key) as reader, pytest.raises(reasons.MissingScopeError):
            reader.submit(asks(SHORT))


def test_errors_have_the_class_of_their_reason(stage: Stage, client: Client) -> None:
    with pytest.raises(reasons.JobNotFoundError):
        client.job("job-none")
    with pytest.raises(reasons.ModelNotServedError):
        client.submit({"job_type": "llm-inference", "params": {"model": "none", "prompt": "x"}})
    with pytest.raises(reasons.InsufficientBalanceError) as caught:
        client.submit(asks(SHORT, duration_minutes=1000))
    assert (caught.value.facts.shortfall_halala or 0) > 0
    with Client(stage.market.url, "dcp-renter-wrong") as other, pytest.raises(reasons.InvalidCredentialError):
        other.wallet()


def test_job_is_cancelled_and_its_wait_ends(client: Client) -> None:
    job = client.submit(asks(LONG))
    with pytest.raises(WaitTimeoutError):
        client.wait(job.job_id, timeout_seconds=0.5)
    client.cancel(job.job_id)
    assert client.wait(job.job_id).status == objects.JobState.CANCELLED
    with pytest.raises(reasons.JobCancelledError):
        client.output(job.job_id)


@pytest.fixture
def proxy(stage: Stage) -> Iterator[TcpProxy]:
    with TcpProxy(stage.market.url.rpartition("/")[2]) as proxy:
        yield proxy


def test_submit_whose_answer_was_lost_makes_one_job(
    stage: Stage, client: Client, key: str, proxy: TcpProxy
) -> None:
    """The proxy lets the request through and loses the answer; the client sends it again."""
    proxy.switch(BlackHole(answers_only=True))
    found: list[objects.Job] = []
    with Client(f"http://{proxy.address}", key) as behind:
        sending = threading.Thread(target=lambda: found.append(behind.submit(asks(SHORT))))
        sending.start()
        (first,) = eventually("the job", lambda: list(client.jobs()))
        proxy.switch(Pass())
        sending.join(60)
    assert [job.job_id for job in found] == [first.job_id]
    assert [job.job_id for job in client.jobs()] == [first.job_id]
    ended = client.wait(first.job_id)
    assert ended.billing is not None
    assert client.wallet().balance_halala == 5000 - ended.billing.actual_cost_halala


def test_stream_continues_over_cut_connections_without_gap_or_repeat(
    key: str, stage: Stage, proxy: TcpProxy
) -> None:
    prompt = script("river", 30, 0.05)
    with Client(f"http://{proxy.address}", key) as behind:
        job = behind.submit(asks(prompt))
        text, cuts = "", 0
        for event in behind.stream(job.job_id):
            text += event.text
            if event.kind == "output" and cuts < 3:
                cuts += 1
                proxy.switch(Reset())
                proxy.switch(Pass())
    assert (text, cuts) == (answer_to(prompt), 3)


def test_files_are_downloaded_whole_over_cut_connections(
    client: Client, key: str, proxy: TcpProxy, tmp_path: Path
) -> None:
    job = client.wait(client.submit(leaves(model__weights=3000, notes=1)).job_id)
    assert (job.status, job.artifact_count) == ("completed", 2)
    proxy.switch(Slice(most_bytes=60_000))
    cuts: list[int] = []

    def cut_at_a_third(name: str, done: int, total: int) -> None:
        if name == "model/weights" and not cuts and done > total // 3:
            cuts.append(done)
            proxy.switch(Reset())
            proxy.switch(Pass())

    with Client(f"http://{proxy.address}", key) as behind:
        paths = behind.download_all(job.job_id, tmp_path, on_progress=cut_at_a_third)
    assert len(cuts) == 1
    assert {path.relative_to(tmp_path).as_posix() for path in paths} == {"model/weights", "notes"}
    assert (tmp_path / "model/weights").read_bytes() == b"".join(content("model/weights", 3000))
    assert sorted(path.name for path in tmp_path.rglob("*.part")) == []


def test_interrupted_download_is_continued_by_a_later_one(client: Client, tmp_path: Path) -> None:
    job = client.wait(client.submit(leaves(weights=2000)).job_id)
    (file,) = client.artifacts(job.job_id)
    starts: list[int] = []

    def stop(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.download(job.job_id, file, tmp_path, on_progress=stop)
    (part,) = tmp_path.iterdir()
    had = part.stat().st_size
    assert had > 0
    client.download(job.job_id, file, tmp_path, on_progress=lambda name, done, total: starts.append(done))
    assert starts[0] > had
    assert (tmp_path / "weights").read_bytes() == b"".join(content("weights", 2000))


def test_file_that_differs_from_its_listing_is_refused(client: Client, tmp_path: Path) -> None:
    job = client.wait(client.submit(leaves(weights=10)).job_id)
    (file,) = client.artifacts(job.job_id)
    forged = objects.Artifact(name=file.name, size_bytes=file.size_bytes, sha256="0" * 64)
    with pytest.raises(DigestError):
        client.download(job.job_id, forged, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_provider_pauses_sets_rates_and_asks_for_money(stage: Stage) -> None:
    provider_id, key = stage.market.register_provider("Nobody", unique_email("provider"))
    with Client(stage.market.url, key) as client:
        client.api.pause_own_provider()
        own = client.api.get_own_provider().provider
        assert own is not None
        assert (own.id, own.status) == (provider_id, "paused")
        client.api.resume_own_provider()
        client.api.set_own_rate({"job_type": "training", "halala_per_minute": 260})
        rates = {each.job_type: each for each in client.api.list_own_rates().rates}
        assert (rates["training"].own, rates["training"].halala_per_minute) == (True, 260)
        assert client.api.get_own_earnings(days=7).earned_halala == 0
        with pytest.raises(reasons.EarningsTooLowError):
            client.api.request_withdrawal({"amount_halala": 1000, "iban": "SA0380000000608010167519"})


def test_operator_proves_the_ledger(admin: Client) -> None:
    assert admin.api.prove_ledger().balanced
    assert admin.api.get_dashboard().stats is not None


def test_chat_streams_its_answer(client: Client) -> None:
    jobs: list[str] = []
    messages = [{"role": "user", "content": SHORT}]
    assert "".join(client.chat.stream(MODEL, messages, on_job=jobs.append)) == answer_to(SHORT)
    assert client.job(jobs[0]).status == "completed"
    with pytest.raises(reasons.ModelNotServedError):
        list(client.chat.stream("none", messages))
