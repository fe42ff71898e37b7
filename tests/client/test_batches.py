"""Batches by the client and by `dcp batch`, against the real market and a daemon that plays scripts."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dcp_client import AsyncClient, Client, WaitTimeoutError, objects, reasons

from tests.client.conftest import Stage, Terminal
from tests.support.patient_renter import eventually
from tests.support.scripted_daemon import MODEL, answer_to, script

pytestmark = pytest.mark.e2e

CHATS = "/v1/chat/completions"
SLOW = script("wadi", 400, 0.1)


def prompt(number: int) -> str:
    return script(f"river{number}", 2, 0.01)


def line(number: int, text: str = "", **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text or prompt(number)}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 8}
    return {"custom_id": f"c{number}", "method": "POST", "url": CHATS, "body": body, **changes}


def written(folder: Path, *lines: dict[str, Any], name: str = "prompts.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


def answers(text: str) -> dict[str, str]:
    """The answers in the lines of an output file, by custom_id."""
    lines = [json.loads(each) for each in text.splitlines()]
    return {x["custom_id"]: x["response"]["body"]["choices"][0]["message"]["content"] for x in lines}


def texts_of(results: Any) -> dict[str, str]:
    return {each.custom_id: each.body["choices"][0]["message"]["content"] for each in results}


GOOD = json.dumps(line(1)).encode() + b"\n"


# The client


def test_batch_from_upload_to_answers(client: Client, tmp_path: Path) -> None:
    source = written(tmp_path, *(line(number) for number in range(3)))
    sent: list[tuple[str, int, int]] = []
    file = client.batches.upload(source, on_progress=lambda *seen: sent.append(seen))
    size = source.stat().st_size
    assert (file.bytes, sent[-1]) == (size, ("prompts.jsonl", size, size))
    batch = client.batches.create(file.id, max_cost_halala=4000, idempotency_key="my-batch")
    assert client.batches.create(file.id, max_cost_halala=4000, idempotency_key="my-batch").id == batch.id
    totals: list[int] = []
    ended = client.batches.wait(
        batch.id, on_progress=lambda now: totals.append(now.request_counts.total if now.request_counts else 0)
    )
    assert (ended.status, totals[-1]) == (objects.BatchStatus.COMPLETED, 3)
    assert texts_of(client.batches.output(batch.id)) == {f"c{x}": answer_to(prompt(x)) for x in range(3)}
    assert list(client.batches.errors(batch.id)) == []
    assert [each.id for each in client.batches.list()] == [batch.id]
    assert client.batches.get(batch.id) == ended


async def test_asynchronous_client_does_the_same(stage: Stage, key: str, tmp_path: Path) -> None:
    async with AsyncClient(stage.market.url, key) as client:
        file = await client.batches.upload(written(tmp_path, line(1)))
        batch = await client.batches.create(file.id)
        assert (await client.batches.wait(batch.id)).status == "completed"
        assert texts_of([each async for each in client.batches.output(batch.id)]) == {
            "c1": answer_to(prompt(1))
        }


def test_cancelled_batch_tells_what_was_not_done(client: Client, tmp_path: Path) -> None:
    batch = client.batches.create(client.batches.upload(written(tmp_path, line(1, SLOW))).id)
    with pytest.raises(WaitTimeoutError):
        client.batches.wait(batch.id, timeout_seconds=0.5)
    client.batches.cancel(batch.id)
    assert client.batches.wait(batch.id).status == "cancelled"
    (result,) = client.batches.errors(batch.id)
    assert (result.custom_id, result.body) == ("c1", None)
    assert result.error_code in ("job_cancelled", "batch_cancelled")
    with pytest.raises(reasons.BatchNotOpenError):
        client.batches.cancel(batch.id)


def test_errors_have_the_class_of_their_reason(client: Client, tmp_path: Path) -> None:
    with pytest.raises(reasons.BatchNotFoundError):
        client.batches.get("batch_none")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(reasons.InvalidFieldError, match="empty"):
        client.batches.upload(tmp_path / "empty.jsonl")


# The command


def test_command_brings_answers_to_a_file(user: Terminal, client: Client) -> None:
    written(user.folder, *(line(number) for number in range(4)))
    done = user.run("batch", "prompts.jsonl", "--output", "out/answers.jsonl", "--max-cost", "40")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "completed, 4 of 4 done, 0 failed" in done.stderr
    found = answers((user.folder / "out" / "answers.jsonl").read_text())
    assert found == {f"c{x}": answer_to(prompt(x)) for x in range(4)}
    (batch,) = client.batches.list()
    assert batch.metadata == {"max_cost_halala": "4000"}
    assert batch.id in user.output("batches")
    assert json.loads(user.output("batches", batch.id, "--json"))["status"] == "completed"


def test_piped_output_is_the_answers_without_colour(user: Terminal) -> None:
    (user.folder / "questions.txt").write_text(f"{prompt(1)}\n{prompt(2)}\n")
    done = user.run("batch", "--model", MODEL, "questions.txt")
    assert done.returncode == 0, done.stderr
    assert answers(done.stdout) == {f"line-{x}": answer_to(prompt(x)) for x in (1, 2)}
    assert "\x1b" not in done.stdout + done.stderr


def test_terminal_of_20_columns_shows_how_much_is_done_and_breaks_no_line(user: Terminal) -> None:
    written(user.folder, *(line(number, script("wadi", 10, 0.1)) for number in range(3)))
    window = user.open("batch", "prompts.jsonl", "--output", "answers.jsonl", columns=20)
    window.until("%")
    assert window.end() == 0
    assert "3 of 3 done" in " ".join(window.shown.split())
    assert window.widest <= 20


def test_simple_lines_of_json_become_requests(user: Terminal) -> None:
    named = {"prompt": prompt(2), "model": MODEL, "custom_id": "mine", "max_tokens": 5}
    messages = {"messages": [{"role": "user", "content": prompt(3)}]}
    written(user.folder, {"prompt": prompt(1)}, named, messages)
    found = answers(user.output("batch", "--model", MODEL, "prompts.jsonl"))
    assert found == {
        "line-1": answer_to(prompt(1)),
        "mine": answer_to(prompt(2)),
        "line-3": answer_to(prompt(3)),
    }


def test_killed_command_goes_on_with_the_same_batch(user: Terminal, client: Client) -> None:
    written(user.folder, line(1), line(2, script("wadi", 20, 0.2)))
    process = subprocess.Popen(
        user.command(("batch", "prompts.jsonl")),
        env=user.environ,
        cwd=user.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually("the batch", lambda: len(list(client.batches.list())) == 1, 60)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    done = user.run("batch", "prompts.jsonl")
    assert done.returncode == 0, done.stderr
    assert set(answers(done.stdout)) == {"c1", "c2"}
    assert answers(user.output("batch", "prompts.jsonl")) == answers(done.stdout)
    assert len(list(client.batches.list())) == 1
    folder = user.folder / ".local" / "state" / "dcp" / "batches"
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert user.environ["DCP_API_KEY"] not in "".join(path.read_text() for path in folder.iterdir())


def test_creation_whose_answer_was_lost_makes_no_second_batch(user: Terminal, client: Client) -> None:
    written(user.folder, line(1))
    batch_id = user.output("batch", "--detach", "prompts.jsonl").strip()
    (state,) = (user.folder / ".local" / "state" / "dcp" / "batches").glob("*.json")
    kept = json.loads(state.read_text())
    assert kept["batches"][0].pop("batch_id") == batch_id
    state.write_text(json.dumps(kept))
    assert user.output("batch", "--detach", "prompts.jsonl").strip() == batch_id
    assert len(list(client.batches.list())) == 1
    assert user.output("batch", "--detach", "--new", "prompts.jsonl").strip() != batch_id


@pytest.mark.parametrize(("answer", "code"), [("c\n", 1), ("d\n", 0)])
def test_interrupt_detaches_or_cancels(user: Terminal, client: Client, answer: str, code: int) -> None:
    written(user.folder, line(1, SLOW))
    window = user.open("batch", "prompts.jsonl")
    window.until("0 of 1 done")
    window.type("\x03")
    window.until("[d]etach, [c]ancel")
    window.type(answer)
    assert window.end() == code, window.shown
    (batch,) = client.batches.list()
    assert (batch.status == "cancelled") is (code == 1)
    if code == 0:
        assert "cancelling" in user.output("cancel", batch.id)
        client.batches.wait(batch.id)


def test_lines_that_gave_no_answer_are_in_a_file_and_in_the_exit_code(user: Terminal) -> None:
    written(user.folder, line(1, SLOW))
    batch_id = user.output("batch", "--detach", "prompts.jsonl").strip()
    user.output("cancel", batch_id)
    done = user.run("batch", "prompts.jsonl", "--errors", "errors.jsonl", "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["batch"]["status"], told["errors"]) == ("cancelled", "errors.jsonl")
    (failed,) = (json.loads(x) for x in (user.folder / "errors.jsonl").read_text().splitlines())
    assert failed["custom_id"] == "c1"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(b"", ["is empty"], id="empty"),
        pytest.param(GOOD + b"\n", ["line 2: it is empty"], id="empty line"),
        pytest.param(
            GOOD + b"{no\n[]\n", ["line 2: it is not JSON", "line 3: it is not a JSON object"], id="json"
        ),
        pytest.param(GOOD + GOOD, ["line 2: custom_id is that of line 1"], id="twice"),
        pytest.param(
            json.dumps(line(1, url="/v1/models")).encode(), ["line 1: url must be one of"], id="url"
        ),
        pytest.param(
            json.dumps(line(1, method="GET")).encode(), ["line 1: method must be POST"], id="method"
        ),
        pytest.param(
            json.dumps(line(1, body={"model": "no/model"})).encode(),
            ["line 1: no provider serves the model 'no/model'"],
            id="model",
        ),
        pytest.param(
            b'{"prompt": "x"}\n{"prompt": ""}\n',
            ["line 1: it names no model", "line 2: it needs a prompt"],
            id="prompt",
        ),
        pytest.param(b"what?\n\xff\n", ["line 2: it is not a text in UTF-8"], id="utf8"),
        pytest.param(b"x\n" * 50_001, ["more than 50,000 lines"], id="lines"),
        pytest.param(
            b'{"prompt": "' + b"x" * (9 << 20) + b'"}\n{}\n',
            ["line 1: it has more than 8 MiB", "line 2: it needs"],
            id="long line",
        ),
    ],
)
def test_wrong_lines_are_told_by_number_and_nothing_is_sent(
    user: Terminal, client: Client, data: bytes, told: list[str]
) -> None:
    (user.folder / "prompts.jsonl").write_bytes(data)
    model = ["--model", MODEL] if data.startswith((b"x\n", b"what")) else []
    done = user.run("batch", *model, "prompts.jsonl")
    assert done.returncode == 8, done.stderr
    for each in told:
        assert each in done.stderr
    assert list(client.batches.list()) == []
    assert client.api.list_files().data == []
