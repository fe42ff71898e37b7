"""The examples of the documents, taken out of the served pages and sent in their own languages to a market.

What the page says is in the environment is there: keys, and ids of objects that exist. The plain run sends
those of curl and one of each shape in the other languages; `--all` sends all.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.languages import ENGLISH
from gateway.openapi import document
from gateway.routes import discover
from gateway.web.doors import EMBEDDER, LINES, MODEL, doors
from gateway.web.reference import Reference
from gateway.web.samples import DIRECT_ORIGIN, FILE, OWN_VARIABLE
from scripts.market import UNLIMITED, Market
from tests.support import talking_server
from tests.support.browsers import Browser
from tests.support.openai_server import Script, openai_server
from tests.support.operators import Person, accept, local_passkey
from tests.support.patient_renter import eventually

pytestmark = pytest.mark.e2e

ADMIN_TOKEN = "operator-token-of-the-documents-examples"
ADMIN = {"x-admin-token": ADMIN_TOKEN}
SECONDS = 600
CURL_FAILED = 22
"""The exit status of curl for a refusal with `--fail`."""
CONTENT = b"what the example sends\n" * 100
LINE = (
    b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "%s", '
    b'"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}}\n' % MODEL.encode()
)
SETTINGS = {
    "DCP_SANDBOX_TOPUP": "true",
    "DCP_STANDING_COUNTS": "false",
    "DCP_PAYOUT_MATURES_HOURS": "0",
    "DCP_NEW_PAYOUT_MATURES_HOURS": "0",
}
MAIL = "codes come by mail"
MAIL_OFF = "this market has no mail server"
REFUSED: Mapping[str, tuple[str, str]] = {
    "register-provider": ("EMAIL_TAKEN", "an example before it has registered the same address"),
    "register-renter": ("EMAIL_TAKEN", "an example before it has registered the same address"),
    "download-artifact": ("ARTIFACT_NOT_FOUND", "only jobs in containers leave files"),
    "requeue-job": ("JOB_ALREADY_FINAL", "the job has ended"),
    "approve-provider": ("WRONG_STATE", "providers need no approval in this market"),
    "redeem-log-in-code": ("WRONG_CODE", MAIL),
    "redeem-key-code": ("WRONG_CODE", MAIL),
    "ask-to-log-in": ("MAIL_OFF", MAIL_OFF),
    "report-lost-key": ("MAIL_OFF", MAIL_OFF),
    "verify-email": ("MAIL_OFF", MAIL_OFF),
    "resend-email-code": ("MAIL_OFF", MAIL_OFF),
    "delete-own-account": ("WRONG_EMAIL", "the address is not that of the account"),
    "invite-operator": ("OPERATOR_NAME_TAKEN", "an example before it has invited the same name"),
    "open-invitation": ("INVITATION_OVER", "the code is that of no invitation"),
}
"""The reason with which an example is refused here, and why; any other is understood and carried out."""
TAKEN = "an account with this mailbox exists"
"""What `dcp` says of EMAIL_TAKEN: it shows sentences, not reasons."""
PROGRAMS = {
    "curl": ["bash", "-ceu"],
    "dcp": ["bash", "-ceu"],
    "Python": [sys.executable, "-c"],
    "OpenAI": [sys.executable, "-c"],
    "Anthropic": [sys.executable, "-c"],
    "JavaScript": ["node", "--input-type=module", "-e"],
}


@dataclass(frozen=True)
class Example:
    """Where an example is on the pages, and what it is like."""

    page: str
    place: str
    name: str
    shape: tuple[object, ...]


@cache
def examples() -> list[Example]:
    """All examples: those of the groups' pages, and those of the paths of other APIs."""
    found = []
    for group in Reference(document(discover()), ENGLISH).groups:
        for operation in group.operations:
            for sample in operation.samples:
                kinds = tuple(answer.rows == () for answer in operation.answers)
                shape = (sample.name, operation.method, "{" in operation.path, kinds, bool(operation.file))
                found.append(Example(group.path, operation.slug, sample.name, shape))
    for door in doors():
        for sample in door.samples:
            found.append(Example("/docs/inference", door.slug, sample.name, (sample.name, door.slug)))
    return found


def parameters() -> list[Any]:
    """The examples as parameters of a test: in the plain run one of each shape."""
    seen: set[tuple[object, ...]] = set()
    found = []
    for example in examples():
        marks = [] if example.name == "curl" or example.shape not in seen else [pytest.mark.slow]
        seen.add(example.shape)
        if example.name == "JavaScript" and shutil.which("node") is None:
            marks.append(pytest.mark.skip(reason="node is not installed"))
        found.append(pytest.param(example, id=f"{example.place}-{example.name}", marks=marks))
    return found


def code_of(page: str, place: str, name: str, url: str) -> str:
    """The code of an example in a page, with the address that the page's script puts there."""
    article = page.partition(f'<article id="{place}"')[2].partition("</article>")[0]
    section = article.partition(f'<section data-name="{name}">')[2].partition("</section>")[0]
    found = re.search(r"<code>(.*?)</code></pre>", section, re.DOTALL)
    assert found is not None, (place, name)
    return shown(found[1], url)


def shown(markup: str, url: str) -> str:
    """The text of markup, with the origin of the market."""
    assert DIRECT_ORIGIN not in re.sub(r'<span class="origin">[^<]*</span>', "", markup)
    markup = re.sub(r'<span class="origin">[^<]*</span>', url, markup)
    return html.unescape(re.sub(r"<[^>]+>", "", markup))


@dataclass(frozen=True)
class Joined:
    """What an operator of its own has."""

    key_id: int
    key: str


@dataclass
class Scene:
    """A market with a provider that serves both models, and everything that an example can name."""

    market: Market
    pages: dict[str, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=count)
    provider: str = ""
    """The key of the provider that serves."""
    renter: str = ""
    """The key of a renter with jobs."""

    def page(self, path: str) -> str:
        """A page as it is served."""
        if path not in self.pages:
            answer = self.market.http.get(path, params={"lang": "en"})
            self.pages[path] = answer.raise_for_status().text
        return self.pages[path]

    def begin(self, model_server: str) -> None:
        """Starts the provider, and gives the renter money."""
        _, self.provider = self.market.register_provider("Serving", "serving@example.com")
        self.market.add_daemon(self.provider, settings={"DCP_ATTACHED_URL": model_server})
        renter_id, self.renter = self.market.register_renter("With jobs", "jobs@example.com")
        for _ in range(10):
            self.market.credit(renter_id, 1_000_000)
        eventually("both models are served", self._serves)
        price = {"model": MODEL}
        kinds = ("input", "cached_input", "output")
        price |= {f"sar_per_million_{kind}_tokens": "100000" for kind in kinds}
        self.market.post("/api/admin/prices", price, **ADMIN)
        gpus = {"gpu_model": "RTX 4090", "sar_per_hour": "2.25"}
        self.market.post("/api/admin/prices", gpus, **ADMIN)

    def _serves(self) -> bool:
        return {each["id"] for each in self.market.get("/v1/models")["data"]} >= {MODEL, EMBEDDER}

    def chat(self, prompt: str = "Hello") -> str:
        """The id of a job that was completed and charged."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 8}
        answer = self.market.http.post(
            "/v1/chat/completions", json=body, headers={"x-renter-key": self.renter}
        )
        assert answer.status_code == 200, answer.text
        return answer.headers["x-request-id"]

    def earn(self, amount_halala: int) -> None:
        """Has the provider earn what it can withdraw."""
        if self._withdrawable() < amount_halala:
            self.chat("word " * 1000)
        eventually("the payouts have matured", lambda: self._withdrawable() >= amount_halala)

    def _withdrawable(self) -> int:
        own = self.market.get("/api/providers/earnings", **{"x-provider-key": self.provider})
        return int(own["claimable_halala"])

    def environment(self, place: str, code: str) -> dict[str, str]:
        """The variables that the code of an example reads, with new accounts where that matters not."""
        number = next(self.numbers)
        provider_id, provider = self.market.register_provider("Example", f"p{number}@example.com")
        renter_id, renter = self.market.register_renter("Example", f"r{number}@example.com")
        self.market.credit(renter_id, 50_000)
        keys = {"DCP_PROVIDER_KEY": provider, "DCP_RENTER_KEY": renter, "DCP_ADMIN_TOKEN": ADMIN_TOKEN}
        if "withdrawal" in place:
            keys["DCP_PROVIDER_KEY"] = self.provider
        if place == "request-withdrawal":
            self._end_withdrawals()
            self.earn(5_000)
        if place in ("unsuspend-provider", "unsuspend-renter"):
            whom = f"providers/{provider_id}" if place == "unsuspend-provider" else f"renters/{renter_id}"
            self.market.post(f"/api/admin/{whom}/suspend", {"reason": "Filler."}, **ADMIN)
        if OWN_VARIABLE in code:
            own = asyncio.run(self._join(f"Own {number}"))
            keys[OWN_VARIABLE] = own.key
        if "webhook" in place:
            self._set_webhooks(renter)
        needed = set(re.findall(r"\b[A-Z]+_ID\b|\bNAME\b|\bMODEL\b", code))
        makers: Mapping[str, Callable[[], object]] = {
            "PROVIDER_ID": lambda: provider_id,
            "RENTER_ID": lambda: renter_id,
            "MODEL": lambda: MODEL,
            "NAME": lambda: "result.txt",
            "JOB_ID": lambda: self._job(place, keys),
            "KEY_ID": lambda: own.key_id if OWN_VARIABLE in code else self._key(renter),
            "OPERATOR_ID": lambda: self._invite(f"Invited {number}")[0],
            "INPUT_ID": lambda: self._input(renter),
            "FILE_ID": lambda: self._file(renter),
            "BATCH_ID": lambda: self._batch(renter, place),
            "WITHDRAWAL_ID": lambda: self._withdrawal(place),
            "DISPUTE_ID": self._dispute,
        }
        return keys | {name: str(makers[name]()) for name in needed if name in makers}

    def _of(self, key: str, path: str, body: object) -> Any:
        return self.market.post(path, body, **{"x-renter-key": key})

    def _key(self, renter: str) -> int:
        body = {"name": "Nightly batch", "scopes": ["read"]}
        return int(self._of(renter, "/api/renters/keys", body)["key"]["id"])

    def _job(self, place: str, keys: dict[str, str]) -> str:
        keys["DCP_RENTER_KEY"] = self.renter
        if place != "cancel-job":
            return self.chat()
        body = {
            "job_type": "llm-inference",
            "wait_for_supply": True,
            "params": {"model": "nobody/serves-this", "prompt": "Hello"},
        }
        return str(self._of(self.renter, "/api/jobs/submit", body)["job"]["job_id"])

    def _input(self, renter: str) -> str:
        digest = hashlib.sha256(CONTENT).hexdigest()
        body = {"name": FILE, "size_bytes": len(CONTENT), "sha256": digest}
        return str(self._of(renter, "/api/inputs", body)["input"]["input_id"])

    def _file(self, renter: str, lines: bytes = LINE) -> str:
        answer = self.market.http.post(
            "/v1/files",
            data={"purpose": "batch"},
            files={"file": (LINES, lines)},
            headers={"x-renter-key": renter},
        )
        return str(answer.raise_for_status().json()["id"])

    def _batch(self, renter: str, place: str) -> str:
        # What is to be cancelled must not end before.
        number_of_lines = 1000 if place == "cancel-batch" else 1
        lines = (LINE.replace(b'"1"', b'"%d"' % number) for number in range(number_of_lines))
        body = {
            "input_file_id": self._file(renter, b"".join(lines)),
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        return str(self._of(renter, "/v1/batches", body)["id"])

    def _withdrawal(self, place: str) -> int:
        self._end_withdrawals()
        self.earn(1_000)
        body = {"amount_halala": 1_000, "iban": "SA0380000000608010167519"}
        answer = self.market.post("/api/providers/withdrawals", body, **{"x-provider-key": self.provider})
        withdrawal_id = int(answer["withdrawal"]["id"])
        if place == "pay-withdrawal":
            self.market.post(f"/api/admin/withdrawals/{withdrawal_id}/process", {}, **ADMIN)
        return withdrawal_id

    def _end_withdrawals(self) -> None:
        """Rejects what an example before has left open: a provider has one open request at a time."""
        own = self.market.get("/api/providers/withdrawals", **{"x-provider-key": self.provider})
        for each in own["withdrawals"]:
            if each["status"] in ("pending", "processing"):
                path = f"/api/admin/withdrawals/{each['id']}/reject"
                self.market.post(path, {"reason": "Filler."}, **ADMIN)

    def _invite(self, name: str) -> tuple[int, str]:
        """A new operator's id, and the code of its invitation."""
        answer = self.market.post("/api/admin/operators", {"name": name, "role": "admin"}, **ADMIN)
        return int(answer["operator"]["id"]), answer["link"].partition("#")[2]

    async def _join(self, name: str) -> Joined:
        """A new operator with a passkey and a key."""
        operator_id, code = self._invite(name)
        async with httpx.AsyncClient(base_url=self.market.url) as http:
            person = Person(operator_id, Browser(http), local_passkey())
            answer = await accept(person.browser, code, person.passkey)
            assert answer.status_code == 200, answer.text
            key_id, key = await person.create_key()
            return Joined(key_id, key)

    def _dispute(self) -> int:
        answer = self._of(self.renter, f"/api/jobs/{self.chat()}/dispute", {"reason": "Filler."})
        return int(answer["dispute"]["id"])

    def _set_webhooks(self, renter: str) -> None:
        self._of(renter, "/api/renters/webhook", {"url": "https://renter.example/events"})
        address = {"url": "https://pager.example/dcp"}
        self.market.post(
            "/api/admin/webhook/remove", {}, **ADMIN
        )  # with the test event that it waits to send
        self.market.post("/api/admin/webhook", address, **ADMIN)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    talking = talking_server.talking()
    script = Script(
        models=[{"id": MODEL, "max_model_len": talking_server.CONTEXT_TOKENS}, {"id": EMBEDDER}],
        answers=talking.answers,
        embeds=[EMBEDDER],
        without_chat=[EMBEDDER],
    )
    market = Market(tmp_path_factory.mktemp("market"), ADMIN_TOKEN, settings={**UNLIMITED, **SETTINGS})
    with openai_server(script) as url, market:
        scene = Scene(market)
        scene.begin(url)
        yield scene


def run(code: str, name: str, variables: Mapping[str, str], folder: Path) -> tuple[bool, str]:
    """Whether the code of an example succeeded, and all that it printed."""
    (folder / FILE).write_bytes(CONTENT)
    (folder / LINES).write_bytes(LINE)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", **variables}
    if name == "curl":
        code += " -w '\\n%{http_code}'"

    def send(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAMS[name], code],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    done = send(code)
    if name == "curl" and done.returncode == CURL_FAILED:
        done = send(code + " --no-fail")  # --fail keeps the reason from us
    printed = done.stdout + done.stderr
    if name != "curl":
        return done.returncode == 0, printed
    status = int(done.stdout.rpartition("\n")[2])
    saved = "".join(path.read_text() for path in folder.iterdir() if path.name not in (FILE, LINES))
    return done.returncode == 0 and 200 <= status < 400, printed + saved


@pytest.mark.parametrize("example", parameters())
def test_example_runs_as_it_stands(scene: Scene, example: Example, tmp_path: Path) -> None:
    code = code_of(scene.page(example.page), example.place, example.name, scene.market.url)
    succeeded, printed = run(code, example.name, scene.environment(example.place, code), tmp_path)
    if succeeded:
        return
    reason, _ = REFUSED.get(example.place, ("", ""))
    plain = re.sub(r"[^a-z]", "", printed.lower())
    assert reason, printed
    assert reason.replace("_", "").lower() in plain or (reason == "EMAIL_TAKEN" and TAKEN in printed), printed


def test_pages_have_no_other_examples(scene: Scene) -> None:
    sections = 0
    for page in {example.page for example in examples()}:
        sections += scene.page(page).count("<section data-name=")
    assert sections == len(examples())


@pytest.mark.parametrize("address", ["/", "/docs"])
def test_commands_of_a_first_visit_run_as_they_stand(scene: Scene, tmp_path: Path, address: str) -> None:
    blocks = re.findall(r"<code>(.*?)</code></pre>", scene.page(address), re.DOTALL)
    found = [shown(block, scene.market.url) for block in blocks]
    commands = [code for code in found if code.startswith("curl ")]
    assert len(commands) >= 3
    for number, command in enumerate(commands):
        command = command.replace("HuggingFaceTB/SmolLM2-135M-Instruct", MODEL)
        folder = tmp_path / str(number)
        folder.mkdir()
        succeeded, printed = run(command, "curl", scene.environment("", command), folder)
        assert succeeded or "EMAIL_TAKEN" in printed, (command, printed)
