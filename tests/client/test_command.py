"""The command `dcp` as a program, against the real market: what people and programs get from it."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dcp_client import Client

from tests.client.conftest import ADMIN_TOKEN, Stage, Terminal, unique_email
from tests.client.test_market import LONG, SHORT, asks, leaves
from tests.support.file_daemon import content
from tests.support.patient_renter import eventually
from tests.support.scripted_daemon import MODEL, answer_to, script
from tests.support.tcp_proxy import Cut, Pass, TcpProxy

pytestmark = pytest.mark.e2e


def told(text: str) -> Any:
    return json.loads(text)


# The key


def files_of(terminal: Terminal) -> dict[str, int]:
    folder = terminal.folder / ".config" / "dcp"
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_login_keeps_the_key_where_only_its_owner_reads_it(
    stage: Stage, terminal: Terminal, key: str
) -> None:
    file = terminal.folder / "key.txt"
    file.write_text(f"{key}\n")
    done = terminal.run("login", "--url", stage.market.url, "--key-file", str(file), DCP_API_URL="")
    assert done.returncode == 0, done.stderr
    assert key not in done.stdout + done.stderr
    assert files_of(terminal) == {"client.json": 0o600, "keys.json": 0o600}
    assert (terminal.folder / ".config" / "dcp").stat().st_mode & 0o777 == 0o700
    who = told(terminal.output("whoami", "--json", DCP_API_URL=""))
    assert who["accounts"] == [{"role": "renter", "name": "Acme AI", "kept_in": "file"}]
    assert "50.00 SAR" in terminal.output("wallet", DCP_API_URL="")
    terminal.output("logout", DCP_API_URL="")
    assert terminal.run("wallet", DCP_API_URL="").returncode == 3
    assert key not in "".join(path.read_text() for path in (terminal.folder / ".config" / "dcp").iterdir())


def test_keys_of_several_roles_are_kept_beside_one_another(
    stage: Stage, terminal: Terminal, key: str
) -> None:
    for each in (key, stage.talker[1], ADMIN_TOKEN):
        terminal.output("login", "--url", stage.market.url, "--key-file", "-", stdin=each)
    assert "Riyadh Talker" in terminal.output("provider", "show")
    assert "The ledger balances." in terminal.output("admin", "proof")
    assert "Acme AI" in terminal.output("wallet")
    terminal.output("logout", "--role", "admin")
    assert terminal.run("admin", "proof").returncode == 3


def test_kept_key_is_not_sent_to_another_address(stage: Stage, terminal: Terminal, key: str) -> None:
    terminal.output("login", "--url", stage.market.url, "--key-file", "-", stdin=key)
    elsewhere = stage.market.url.replace("127.0.0.1", "localhost")
    assert terminal.run("wallet", DCP_API_URL=elsewhere).returncode == 3


@pytest.mark.parametrize("text", ["", "dcp-renter-wrong", "two words"])
def test_key_that_is_wrong_is_not_kept(stage: Stage, terminal: Terminal, text: str) -> None:
    done = terminal.run("login", "--url", stage.market.url, "--key-file", "-", stdin=text)
    assert done.returncode in (2, 3)
    assert not (terminal.folder / ".config").exists()


KEYRING = "tests.support.keyrings"


@pytest.mark.parametrize(
    ("backend", "place"), [("FileKeyring", "keyring"), ("LockedKeyring", "file"), ("BrokenKeyring", "file")]
)
def test_keyring_is_used_if_it_works(
    stage: Stage, terminal: Terminal, key: str, backend: str, place: str
) -> None:
    environ = {
        "PYTHON_KEYRING_BACKEND": f"{KEYRING}.{backend}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TEST_KEYRING": str(terminal.folder / "ring.json"),
    }
    login = ("login", "--url", stage.market.url, "--key-file", "-", "--json")
    assert told(terminal.output(*login, stdin=key, **environ))["kept_in"] == place
    kept = [path.read_text() for path in (terminal.folder / ".config" / "dcp").iterdir()]
    assert any(key in text for text in kept) is (place == "file")
    assert "Acme AI" in terminal.output("wallet", **environ)
    terminal.output("logout", **environ)
    assert terminal.run("wallet", **environ).returncode == 3


def test_login_asks_on_a_terminal_and_does_not_show_the_key(
    stage: Stage, terminal: Terminal, key: str
) -> None:
    window = terminal.open("login", "--url", stage.market.url)
    window.until("Key: ")
    window.type(f"{key}\n")
    assert window.end() == 0
    assert "Logged in" in window.shown
    assert key not in window.shown


def test_registered_key_is_shown_once_and_kept(stage: Stage, terminal: Terminal) -> None:
    made = terminal.run("register", "--name", "Acme", "--email", unique_email("cli"))
    assert re.fullmatch(r"dcp-renter-\S+\n", made.stdout)
    assert "Balance: 20.50 SAR" in terminal.output("topup", "20.50")


# Answers


def test_market_is_a_table_for_people_and_json_for_programs(stage: Stage, terminal: Terminal) -> None:
    lines = terminal.output("market").splitlines()
    assert lines[0].split()[:2] == ["Id", "Name"]
    assert {"Riyadh Talker", "Jeddah Files"} <= {line[4:20].strip() for line in lines[1:]}
    found = told(terminal.output("market", "--json", "--model", MODEL, "--type", "llm-inference"))
    assert [each["id"] for each in found] == [stage.talker[0]]
    assert told(terminal.output("market", "--json", "--limit", "1", "--sort", "price"))[0]["is_live"] is True
    refused = terminal.run("market", "--sort", "beauty")
    assert refused.returncode == 4
    assert "sort" in refused.stderr


def test_models_and_quote(user: Terminal) -> None:
    assert MODEL in terminal_column(user.output("models"))
    text = user.output("quote", "--model", MODEL, "--prompt", "-", stdin=SHORT)
    assert "SAR per hour" in text
    assert told(user.output("quote", "--model", MODEL, "--prompt", SHORT, "--json"))["able"] == 1
    assert user.run("quote").returncode == 2


def terminal_column(table: str) -> list[str]:
    return [line.split()[0] for line in table.splitlines()[1:]]


def test_question_is_answered_to_a_pipe(user: Terminal) -> None:
    assert user.output("ask", "--model", MODEL, SHORT).strip() == answer_to(SHORT).strip()
    answer = told(user.output("ask", "--model", MODEL, "--json", stdin=SHORT))
    assert answer["answer"] == answer_to(SHORT)
    assert answer["job"]["status"] == "completed"
    assert user.run("ask", "--model", MODEL).returncode == 2


def test_chat_goes_on_after_an_error_and_ends_with_the_input(user: Terminal) -> None:
    again = script("again", 2, 0)
    done = user.run(
        "chat", "--model", MODEL, stdin=f"{SHORT}\n/model none\nx\n/model {MODEL}\n/new\n{again}\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*answer_to(SHORT).split(), *answer_to(again).split()]
    assert "none" in done.stderr
    assert done.stderr.count("SAR, ") == 2


def test_job_is_listed_shown_read_and_explained(user: Terminal, client: Client) -> None:
    job = client.wait(client.submit(asks(SHORT)).job_id)
    assert terminal_column(user.output("jobs")) == [job.job_id]
    assert "completed" in user.output("jobs", job.job_id)
    assert user.output("get", job.job_id) == answer_to(SHORT) + "\n"
    assert "succeeded" in user.output("why", job.job_id)
    assert MODEL in user.output("usage", "--by", "model")
    assert told(user.output("statement", "--json"))[0]["job_id"] == job.job_id
    assert user.run("cancel", job.job_id).returncode == 4


def test_files_are_downloaded_by_get(user: Terminal, client: Client) -> None:
    job = client.wait(client.submit(leaves(model__weights=300, notes=1)).job_id)
    listed = user.run("get", job.job_id)
    assert "model/weights" in listed.stderr
    user.output("get", job.job_id, "--output", "out")
    assert (user.folder / "out/model/weights").read_bytes() == b"".join(content("model/weights", 300))
    again = told(user.output("get", job.job_id, "-o", "out", "--json"))
    assert sorted(again["files"]) == ["out/model/weights", "out/notes"]


def test_logs_follow_a_job_to_its_end(user: Terminal, client: Client) -> None:
    prompt = script("dune", 10, 0.1)
    job = client.submit(asks(prompt))
    done = user.run("logs", "-f", job.job_id)
    assert (done.returncode, done.stdout) == (0, answer_to(prompt))
    assert "completed" in done.stderr


def test_keys_are_created_limited_and_revoked(user: Terminal) -> None:
    made = user.output(
        "keys", "create", "laptop", "--scope", "read", "--scope", "inference", "--per-day", "10"
    )
    assert made.startswith("dcp-renter-")
    (found,) = [each for each in told(user.output("keys", "list", "--json")) if each["name"] == "laptop"]
    assert (found["budget_halala_per_day"], sorted(found["scopes"])) == (1000, ["inference", "read"])
    user.output("keys", "limits", str(found["id"]), "--per-month", "12.34")
    assert user.run("wallet", DCP_API_KEY=made.strip()).returncode == 0
    user.output("keys", "revoke", str(found["id"]))
    assert user.run("wallet", DCP_API_KEY=made.strip()).returncode == 3


def test_provider_and_operator_have_their_commands(stage: Stage, terminal: Terminal) -> None:
    _, key = stage.market.register_provider("Calm Node", unique_email("calm"))
    provider = Terminal(terminal.folder, {**terminal.environ, "DCP_API_KEY": key})
    assert "Paused" in provider.output("provider", "pause")
    assert "paused" in provider.output("provider", "show")
    provider.output("provider", "resume")
    provider.output("provider", "rates", "set", "training", "2.60")
    assert "2.60 SAR" in provider.output("provider", "rates", "list")
    assert len(provider.output("provider", "earnings", "--days", "7").splitlines()) == 12
    assert provider.run("provider", "withdraw", "10", "--iban", "SA0380000000608010167519").returncode == 4
    assert told(provider.output("provider", "withdrawals", "--json")) == []
    operator = Terminal(terminal.folder, {**terminal.environ, "DCP_API_KEY": ADMIN_TOKEN})
    assert "Providers" in operator.output("admin", "dashboard")
    assert told(operator.output("admin", "proof", "--json"))["balanced"] is True
    link = operator.output("admin", "operators", "invite", "Sara", "--role", "finance").split()[0]
    assert re.fullmatch(r"http://[^ ]+/invitation#[a-z2-7]{26}", link)
    [sara] = told(operator.output("admin", "operators", "list", "--json"))
    assert (sara["name"], sara["role"]) == ("Sara", "finance")
    operator.output("admin", "operators", "role", str(sara["id"]), "support")
    assert operator.output("admin", "operators", "invite-again", str(sara["id"])).split()[0] != link
    operator.output("admin", "operators", "remove", str(sara["id"]))
    for words in (("discards",), ("withdrawals", "list"), ("disputes", "list"), ("operators", "list")):
        operator.output("admin", *words)
    assert operator.run("admin", "withdrawals", "pay", "1", "--reference", "x").returncode == 6


@pytest.mark.parametrize(
    "words",
    [
        ("topup", "20"),
        ("ask", "--model", MODEL, SHORT),
        ("batch", "--detach", "--model", MODEL, "questions.txt"),
    ],
    ids=lambda words: words[0],
)
def test_act_whose_answer_was_lost_is_done_once(
    stage: Stage, user: Terminal, client: Client, words: tuple[str, ...]
) -> None:
    """The proxy lets requests through and loses the answer of one; the command sends it again."""
    (user.folder / "questions.txt").write_text(f"{SHORT}\n")

    def done() -> int:
        return len(list(client.statement())) + len(list(client.batches.list())) + len(list(client.jobs()))

    before = done()
    with TcpProxy(stage.market.url.rpartition("/")[2]) as proxy, ThreadPoolExecutor(1) as pool:
        proxy.switch(Cut(_ANSWERS[words[0]], is_silent=True))
        acting = pool.submit(user.run, *words, DCP_API_URL=f"http://{proxy.address}")
        eventually("the act", lambda: done() > before)
        proxy.switch(Pass())
        ended = acting.result(60)
    assert ended.returncode == 0, ended.stderr
    assert sum(line.kind == "topup" for line in client.statement()) == int(words[0] == "topup")
    assert len(list(client.batches.list())) == int(words[0] == "batch")
    assert len(list(client.jobs())) == int(words[0] in ("ask", "batch")), "a line of a batch is a job"


_ANSWERS = {"topup": b"balance_halala", "ask": b"job_id", "batch": b'"validating"'}
"""What is in the answer of the act, and in none before it."""


# Errors


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("jobs", "job-none"), 6, "job-none"),
        (("get", "job-none"), 6, "job-none"),
        (("topup", "much"), 2, "AMOUNT"),
        (("run",), 2, "--image"),
        (("run", "none.py"), 2, "none.py"),
        (("run", "--input", "data", "x.py"), 2, "--input"),
        (("run", "--env", "A", "--image", "x"), 2, "NAME=VALUE"),
        (("quote", "--body", "none.json"), 8, "none.json"),
        (("provider", "show"), 3, "provider's key"),
        (("login",), 2, "--key-file"),
        (("register",), 2, "--email"),
        (("provider", "withdraw", "10"), 2, "--iban"),
        (("market", "--what"), 2, "--what"),
        (("nothing",), 2, "nothing"),
    ],
)
def test_error_is_a_sentence_with_an_exit_code(
    user: Terminal, arguments: tuple[str, ...], code: int, text: str
) -> None:
    done = user.run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_error_for_programs_is_json_with_the_reason(user: Terminal) -> None:
    done = user.run("jobs", "job-none", "--json")
    assert (told(done.stderr)["code"], told(done.stderr)["field"]) == ("JOB_NOT_FOUND", "job_id")


def test_market_that_is_not_there_is_an_error_with_its_address(user: Terminal) -> None:
    done = user.run("wallet", DCP_API_URL="http://127.0.0.1:9")
    assert done.returncode == 7
    assert "127.0.0.1:9" in done.stderr


def test_too_little_money_says_how_much_is_missing(stage: Stage, terminal: Terminal) -> None:
    _, key = stage.market.register_renter("Poor", unique_email("poor"))
    done = terminal.run("ask", "--model", MODEL, "x 1 0", DCP_API_KEY=key)
    assert done.returncode == 5
    assert "dcp topup" in done.stderr


# Terminals


def test_nothing_is_coloured_in_a_pipe_or_without_colour(user: Terminal) -> None:
    assert "\x1b" not in user.output("market") + user.run("jobs", "job-none").stderr
    window = user.open("jobs", "job-none", NO_COLOR="1")
    assert window.end() == 6
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", window.raw)


def test_narrow_terminal_shows_blocks_instead_of_a_table(user: Terminal) -> None:
    window = user.open("market", columns=20)
    assert window.end() == 0
    assert "Name: Riyadh Talker" in window.shown.replace("\n", " ")
    assert max(len(line) for line in window.shown.splitlines()) <= 20
    assert window.widest <= 20
    for words in (("--help",), ("run", "--help"), ("wallet",), ("models",)):
        assert user.open(*words, columns=20).end() == 0
    window = user.open("market", "--watch", "2", columns=20)
    window.until("Riyadh Talker")
    assert window.widest <= 20
    window.type("\x03")
    assert window.end() == 130


def test_what_a_job_writes_cannot_steer_the_terminal(user: Terminal, client: Client) -> None:
    job = client.wait(client.submit(asks("\x1b]0;title\x07\x1b[31m 2 0")).job_id)
    window = user.open("get", job.job_id)
    assert window.end() == 0
    assert "-0 -1" in window.shown
    assert "\x1b]0" not in window.raw
    assert "\x1b" in user.output("get", job.job_id)


@pytest.mark.parametrize(("answer", "status"), [("d\n", "running"), ("c\n", "cancelled")])
def test_interrupt_asks_whether_to_detach_or_to_cancel(
    user: Terminal, client: Client, answer: str, status: str
) -> None:
    job = client.submit(asks(LONG))
    window = user.open("logs", "-f", job.job_id)
    window.until("wadi-1")
    window.type("\x03")
    window.until("[d]etach, [c]ancel")
    window.type(answer)
    assert window.end() == (0 if status == "running" else 1)
    assert "Traceback" not in window.shown
    assert eventually("the state", lambda: client.job(job.job_id).status == status)
    if status == "running":
        client.cancel(job.job_id)


def test_interrupt_without_a_terminal_leaves_the_job_alone(user: Terminal, client: Client) -> None:
    job = client.submit(asks(LONG))
    following = subprocess.Popen(
        user.command(("logs", "-f", job.job_id)),
        env=user.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    assert following.stdout.read(4) == "wadi"
    following.send_signal(signal.SIGINT)
    _, errors = following.communicate(timeout=60)
    assert following.returncode == 130
    assert f"dcp logs -f {job.job_id}" in errors
    assert "Traceback" not in errors
    assert client.job(job.job_id).status == "running"
    client.cancel(job.job_id)


def test_download_shows_its_progress_on_a_terminal(user: Terminal, client: Client) -> None:
    job = client.wait(client.submit(leaves(weights=4000)).job_id)
    window = user.open("get", job.job_id, "-o", "out")
    assert window.end() == 0
    assert "4.1/4.1 MB" in window.shown
    assert "weights (3.9 MiB)" in window.shown


def test_watch_shows_the_market_again_until_interrupted(user: Terminal) -> None:
    window = user.open("market", "--watch", "2")
    window.until("Riyadh Talker")
    window.type("\x03")
    assert window.end() == 130


def test_reader_that_goes_away_is_no_error(user: Terminal) -> None:
    line = f"{user.command(())[0]} market --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    shell = Shell(user)
    assert shell.run("bash", line) == (0, "[", "")


class Shell:
    """Runs lines in a shell."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def run(self, shell: str, line: str) -> tuple[int, str, str]:
        """The exit code, the output and the errors."""
        done = subprocess.run(
            [shell, "-c", line], env=self._terminal.environ, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("shell", "variables"),
    [
        ("bash", {"_DCP_COMPLETE": "complete_bash", "COMP_WORDS": "dcp prov", "COMP_CWORD": "1"}),
        ("zsh", {"_DCP_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "dcp prov"}),
        (
            "fish",
            {
                "_DCP_COMPLETE": "complete_fish",
                "_TYPER_COMPLETE_ARGS": "dcp prov",
                "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            },
        ),
    ],
)
def test_shells_complete_commands(terminal: Terminal, shell: str, variables: dict[str, str]) -> None:
    assert "provider" in terminal.run(**variables).stdout
    assert os.environ.get("_DCP_COMPLETE") is None


def test_inputs_are_uploaded_listed_counted_and_deleted(user: Terminal, client: Client) -> None:
    (user.folder / "data").mkdir()
    (user.folder / "data" / "a.txt").write_text("few")
    (user.folder / "data" / "big.bin").write_bytes(b"x" * (2 << 20))
    sent = told(user.output("inputs", "upload", "--json", "data"))
    assert {each["path"] for each in sent} == {"data", "data/big.bin"}
    assert {each["input_id"] for each in sent} == {each.input_id for each in client.inputs()}
    again = told(user.output("inputs", "upload", "--json", "data"))
    assert again == sent, "what the account has is not sent again"
    listed = user.output("inputs", "list")
    assert "big.bin" in listed
    assert "2.0 MiB" in listed
    quota = told(user.output("inputs", "quota", "--json"))
    assert quota["inputs"] == 2
    assert 2 << 20 <= quota["stored_bytes"] <= quota["stored_bytes_limit"]
    assert re.search(r"Inputs +2\n", user.output("inputs", "quota"))
    gone = told(user.output("inputs", "delete", "--json", *(each["input_id"] for each in sent)))
    assert gone == {"deleted": [each["input_id"] for each in sent]}
    assert told(user.output("inputs", "list", "--json")) == []
    assert told(user.output("inputs", "quota", "--json"))["inputs"] == 0


def test_inputs_that_are_wrong_are_refused_with_a_remedy(user: Terminal, stage: Stage) -> None:
    none = user.run("inputs", "upload", "nothing")
    assert (none.returncode, "nothing" in none.stderr) == (2, True)
    unknown = user.run("inputs", "delete", "input-none")
    assert unknown.returncode == 6
    assert "dcp inputs list" in unknown.stderr
    _, other_key = stage.market.register_renter("Other", unique_email("other"))
    (user.folder / "a.txt").write_text("mine")
    (mine,) = told(user.output("inputs", "upload", "--json", "a.txt"))
    assert user.run("inputs", "delete", mine["input_id"], DCP_API_KEY=other_key).returncode == 6
    assert [each["input_id"] for each in told(user.output("inputs", "list", "--json"))] == [mine["input_id"]]


def test_usage_and_its_errors_are_in_the_language_of_the_locale(user: Terminal) -> None:
    whole = user.output("jobs", "--help", LANG="ar_SA.UTF-8")
    assert not re.search("Usage:|Options:|Arguments:|default:|Show this message", whole), whole
    assert "[الافتراضي: 20]" in whole
    for words in (("jobs", "--what"), ("logs",), ("jobs", "--limit", "x"), ("nothing",)):
        done = user.run(*words, LANG="ar_SA.UTF-8")
        assert done.returncode == 2
        assert not re.search("Usage|Error|Missing|No such|Invalid|Try ", done.stderr), done.stderr


def test_arabic_locale_speaks_arabic(user: Terminal) -> None:
    for words in ((), ("--help",), ("market", "--help"), ("jobs",), ("wallet",)):
        done = user.run(*words, LANG="ar_SA.UTF-8")
        assert re.search("[\u0600-\u06ff]{3}", done.stdout + done.stderr), words
    assert re.search("[\u0600-\u06ff]{3}", user.run("topup", "x", LANG="ar").stderr)
    assert not re.search("[\u0600-\u06ff]", user.output("--help", LANG="en_US.UTF-8"))
    assert "completed" not in told(user.output("jobs", "--json", LANG="ar_SA.UTF-8"))
