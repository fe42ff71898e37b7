"""The operator's page in a real Chromium with a real market: the market is run by clicking and typing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from dcp.v1.incidents_pb2 import IncidentCondition
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Route, expect

from scripts.market import UNLIMITED, Market
from scripts.operators import accept, add_authenticator, address, invite
from tests.e2e.test_account_pages import HOSTILE, Looks, in_each_language, look_at, open_view
from tests.support.browsers import PATIENCE_MS
from tests.support.openai_server import DONE, END, Script, event, openai_server, word
from tests.support.patient_renter import eventually

pytestmark = pytest.mark.e2e

ADMIN_TOKEN = "operator-token-of-the-operator-pages"
DESKTOP = {"width": 1280, "height": 900}
MODEL = "public/llama"
IBAN = "SA0380000000608010167519"
OTHER_IBAN = "SA4420000001234567891234"
NUMBERS = count(1)
TOKENS = 160
COUNTS = event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": TOKENS})
ANSWER = (*(word("Hello world ") for _ in range(TOKENS // 2)), END, COUNTS, DONE)
"""An answer for 16 SAR, of which 12 are the provider's, at the price that the market sets."""
VIEWS = (
    "health",
    "money",
    "payouts",
    "disputes",
    "search",
    "prices",
    "audit",
    "ledger",
    "incidents",
    "people",
)
ADMIN = {"x-admin-token": ADMIN_TOKEN}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """A market whose payouts mature at once, with one provider whose model server is scripted."""
    settings = UNLIMITED | {"DCP_PAYOUT_MATURES_HOURS": "0", "DCP_NEW_PAYOUT_MATURES_HOURS": "0"}
    folder = tmp_path_factory.mktemp("market")
    script = Script(models=[{"id": "llama"}], answers=ANSWER)
    with openai_server(script) as url, Market(folder, admin_token=ADMIN_TOKEN, settings=settings) as running:
        number, key = running.register_provider("Riyadh RTX Node", "node@example.com")
        running.keys |= {"provider": key, "provider_id": str(number)}
        running.add_daemon(key, settings={"DCP_ATTACHED_URL": url, "DCP_ALIASES": f"{MODEL}=llama"})
        price = {
            "model": MODEL,
            "sar_per_million_input_tokens": "0",
            "sar_per_million_cached_input_tokens": "0",
            "sar_per_million_output_tokens": "100000",
        }
        running.post("/api/admin/prices", price, **ADMIN)
        yield running


def new_context(browser: Browser, market: Market) -> BrowserContext:
    return browser.new_context(viewport=DESKTOP, base_url=address(market), reduced_motion="reduce")  # type: ignore[arg-type]


@pytest.fixture
def context(browser: Browser, market: Market) -> Iterator[BrowserContext]:
    """A browser of one person. The test fails if a page logs an error or sends a request to another host."""
    context = new_context(browser, market)
    context.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # Some tests send requests that are refused, and Chromium logs each as an error.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    context.on("console", listen)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    yield context
    context.close()
    assert complaints == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def log_in(
    page: Page, market: Market, role: str = "admin", language: str = "en", *, anew: bool = False
) -> str:
    """Opens the operator's page for an operator of this role; returns its name.

    The first one of a role comes by an invitation and a passkey; later tests go on with its log-in.
    """
    if anew or role not in market.keys:
        name, cookies = _joined(page, market, role)
        if not anew:
            market.keys[role] = json.dumps([name, cookies])
    else:
        name, cookies = json.loads(market.keys[role])
        page.context.add_cookies(cookies)
    open_view(page, f"/operator?lang={language}")
    return name


def _joined(page: Page, market: Market, role: str) -> tuple[str, Any]:
    name = f"{role.capitalize()} {next(NUMBERS)}"
    add_authenticator(page)
    accept(page, invite(market, name, role)[1])
    return name, page.context.cookies()


def dialog_of(page: Page) -> Locator:
    """The dialog that is open."""
    return page.locator("dialog[open]")


def chat(market: Market, name: str = "Acme AI") -> tuple[int, str, str]:
    """A charged job of a new renter: the renter's id, its key, and the job's id."""
    renter_id, key = market.register_renter(name, f"renter-{next(NUMBERS)}@example.com")
    market.credit(renter_id, 10_000)
    body = {"model": MODEL, "max_tokens": TOKENS, "messages": [{"role": "user", "content": "Hi"}]}
    answer = market.http.post("/v1/chat/completions", json=body, headers={"x-api-key": key})
    assert answer.status_code == 200, answer.text
    (job,) = market.get("/api/jobs", **{"x-renter-key": key})["jobs"]
    return renter_id, key, job["job_id"]


def requested(market: Market, iban: str = IBAN) -> int:
    """A new withdrawal request: its id. An open one is rejected first."""
    headers = {"x-provider-key": market.keys["provider"]}
    for each in market.get("/api/providers/withdrawals", **headers)["withdrawals"]:
        if each["status"] in ("pending", "processing"):
            market.post(f"/api/admin/withdrawals/{each['id']}/reject", {"reason": "for another"}, **ADMIN)
    chat(market)
    made = market.post("/api/providers/withdrawals", {"amount_halala": 1000, "iban": iban}, **headers)
    return int(made["withdrawal"]["id"])


def disputed(market: Market, reason: str = "The answer is filler.") -> tuple[int, str, str]:
    """A dispute: its id, its renter's key, and its job's id."""
    _, key, job_id = chat(market)
    made = market.post(f"/api/jobs/{job_id}/dispute", {"reason": reason}, **{"x-renter-key": key})
    return int(made["dispute"]["id"]), key, job_id


def state_of(market: Market, withdrawal_id: int) -> str:
    found = market.get(f"/api/admin/withdrawals/{withdrawal_id}", **ADMIN)["withdrawal"]["status"]
    return str(found)


# --- main paths, by clicking ---


def test_payout_from_the_list_to_the_bank_s_reference(page: Page, market: Market) -> None:
    number = requested(market)
    evidence = f"/api/admin/withdrawals/{number}/evidence"
    eventually("the look at payouts", lambda: market.get(evidence, **ADMIN).get("payers"), seconds=180)
    name = log_in(page, market, "finance", anew=True)
    page.get_by_role("link", name="Payouts", exact=True).click()
    waiting = page.get_by_role("table", name="Waiting for a decision")
    expect(waiting).to_contain_text("10.00")
    waiting.get_by_role("link", name=f"#{number}").click()
    expect(page.locator(".findings")).to_contain_text("registered less than 14 days")
    expect(page.get_by_role("table", name="Whose payments")).to_contain_text("Acme AI")
    expect(page.locator(".figures")).to_contain_text(IBAN)

    page.get_by_role("button", name="Approve", exact=True).click()
    dialog = page.get_by_role("dialog")
    for text in ("10.00", "Riyadh RTX Node", IBAN, "You order the bank transfer"):
        expect(dialog).to_contain_text(text)
    dialog.get_by_role("button", name=re.compile("^Approve")).dblclick()
    expect(page.locator(".head .badge")).to_have_text("ordered")
    page.get_by_role("button", name="Mark as paid").click()
    dialog_of(page).get_by_label("The bank's reference").fill("SARIE-0042")
    page.get_by_role("dialog").get_by_role("button", name=re.compile("were paid$")).click()
    expect(page.locator(".head .badge")).to_have_text("paid")
    assert state_of(market, number) == "paid"

    page.get_by_role("link", name="Audit log").click()
    page.get_by_label("Who").fill(name)
    page.get_by_role("button", name="Filter").click()
    log = page.get_by_role("table", name="Audit log")
    expect(log).to_contain_text("marked the payout as paid")
    expect(log).to_contain_text("SARIE-0042")
    expect(log.locator("tbody tr").filter(has_not_text=name)).to_have_count(0)
    acts = log.locator("tbody tr").all_inner_texts()
    assert len([each for each in acts if "ordered the transfer" in each]) == 1, "a double click acts once"


def test_payout_is_rejected_with_a_reason_that_the_provider_sees(page: Page, market: Market) -> None:
    number = requested(market, OTHER_IBAN)
    log_in(page, market, "finance")
    open_view(page, f"/operator#payout/{number}")
    page.get_by_role("button", name="Reject", exact=True).click()
    dialog_of(page).get_by_label("Reason").fill(HOSTILE)
    page.get_by_role("button", name="Reject the payout").click()
    expect(page.locator(".head .badge")).to_have_text("rejected")
    expect(page.locator("#view")).to_contain_text(HOSTILE)
    assert page.locator("#view b, #view img").count() == 0
    assert state_of(market, number) == "rejected"


def test_dispute_is_decided_with_its_evidence(page: Page, market: Market) -> None:
    number, key, _ = disputed(market, HOSTILE)
    log_in(page, market, "finance")
    page.get_by_role("link", name="Disputes", exact=True).click()
    page.get_by_role("table", name="Disputes").get_by_role("link", name=f"#{number}").click()
    expect(page.locator("blockquote")).to_have_text(HOSTILE)
    expect(page.get_by_role("table", name="Attempts", exact=True)).to_contain_text("succeeded")
    page.get_by_text("Output ·").click()
    expect(page.get_by_label("Output")).to_contain_text("Hello world")
    page.get_by_role("button", name="Uphold").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("16.00")
    dialog_of(page).get_by_label("Refund in SAR").fill("5")
    expect(dialog.locator(".sentence")).to_contain_text("5.00")
    dialog_of(page).get_by_label("Reasons for the decision").fill("It does not answer.")
    page.get_by_role("button", name="Refund the renter").click()
    expect(page.locator(".head .badge")).to_have_text("upheld")
    (dispute,) = market.get("/api/renters/disputes", **{"x-renter-key": key})["disputes"]
    assert (dispute["status"], dispute["refund_halala"]) == ("upheld", 500)
    assert page.locator("#view b, #view img").count() == 0


def test_renter_is_found_suspended_with_a_reason_and_lifted_again(page: Page, market: Market) -> None:
    renter_id, key, _ = chat(market, HOSTILE)
    name = log_in(page, market)
    page.get_by_role("link", name="Search", exact=True).click()
    page.get_by_label("Name, e-mail address or id").fill("onerror")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("table", name="Renters").get_by_role("link").first.click()
    expect(page.locator(".head h1")).to_contain_text(HOSTILE)
    assert page.locator("#view b, #view img").count() == 0
    expect(page.get_by_role("table", name="Wallet")).to_contain_text("credited by an operator")
    expect(page.get_by_role("table", name="Keys")).to_contain_text("Main key")
    assert key not in page.content()
    page.get_by_role("button", name="Suspend", exact=True).click()
    dialog_of(page).get_by_label("Reason").fill("Payment was reversed.")
    page.get_by_role("button", name="Suspend the account").click()
    expect(page.locator(".head .badge")).to_have_text("suspended")
    expect(page.get_by_role("table", name="Decisions about it")).to_contain_text("Payment was reversed.")
    expect(page.get_by_role("table", name="Decisions about it")).to_contain_text(name)
    page.get_by_role("button", name="Lift the suspension").click()
    page.get_by_role("dialog").get_by_role("button", name="Lift the suspension").click()
    expect(page.locator(".head .badge")).to_have_text("active")
    entries = market.get(f"/api/admin/audit?object=renter&object_id={renter_id}", **ADMIN)["entries"]
    assert [each["action"] for each in entries][:2] == ["renter.unsuspend", "renter.suspend"]


def test_provider_is_found_by_its_address_and_shows_its_ledger(page: Page, market: Market) -> None:
    chat(market)
    log_in(page, market)
    page.get_by_role("link", name="Search", exact=True).click()
    page.get_by_label("Name, e-mail address or id").fill("node@example.com")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("table", name="Providers").get_by_role("link").first.click()
    expect(page.locator(".head h1")).to_contain_text("Riyadh RTX Node")
    expect(page.get_by_role("table", name="Ledger")).to_contain_text("share of a job")
    page.get_by_role("button", name="Vouch for it").click()
    dialog_of(page).get_by_label("Reason").fill("We visited it.")
    page.get_by_role("dialog").get_by_role("button", name="Vouch for it").click()
    expect(page.get_by_role("table", name="Decisions about it")).to_contain_text("We visited it.")


def test_health_money_and_the_proof_show_what_is_so(page: Page, market: Market) -> None:
    renter_id, key = market.register_renter("Waiting", f"waiting-{next(NUMBERS)}@example.com")
    market.credit(renter_id, 10_000)
    job = {"job_type": "llm-inference", "duration_minutes": 1, "wait_for_supply": True}
    params = {"model": "nobody/serves-this", "prompt": "Hi"}
    made = market.post("/api/jobs/submit", {**job, "params": params}, **{"x-renter-key": key})
    log_in(page, market, "support")
    expect(page.get_by_text("Daemons connected").locator("xpath=..")).to_contain_text("1")
    queues = page.get_by_role("table", name="What waits")
    expect(queues).to_contain_text("nobody/serves-this")
    expect(queues).to_contain_text("No connected provider can run it.")
    queues.get_by_role("link", name=made["job"]["job_id"]).click()
    expect(page.locator(".head .badge")).to_have_text("waiting")
    expect(page.get_by_role("table", name="Providers that were considered")).to_contain_text(
        "It does not serve the model"
    )
    page.get_by_role("link", name="Money", exact=True).click()
    expect(page.get_by_role("table", name="By day")).to_contain_text("SAR")
    page.get_by_role("link", name="Ledger", exact=True).click()
    page.get_by_role("button", name="Run the proof").click()
    expect(page.locator(".verdict")).to_have_text("The ledger balances.")
    market.post(f"/api/jobs/{made['job']['job_id']}/cancel", {}, **{"x-renter-key": key})


def test_rate_is_changed_and_is_in_the_log(page: Page, market: Market) -> None:
    log_in(page, market, "finance")
    page.get_by_role("link", name="Prices", exact=True).click()
    page.locator("#rate-kind").select_option("benchmark")
    page.get_by_label("SAR per minute").fill("1.75")
    page.get_by_role("button", name="Set the rate").click()
    expect(page.get_by_role("table", name="Rates by kind of job")).to_contain_text("1.75")
    page.get_by_role("link", name="Audit log").click()
    expect(page.get_by_role("table", name="Audit log")).to_contain_text("changed the rate")


# --- roles, and two operators at once ---


def test_support_reads_and_sees_no_act_as_usable(page: Page, market: Market) -> None:
    number = requested(market)
    log_in(page, market, "support")
    open_view(page, f"/operator#payout/{number}")
    expect(page.locator(".figures")).not_to_contain_text(IBAN)
    for name in ("Approve", "Reject"):
        expect(page.get_by_role("button", name=name, exact=True)).to_be_disabled()
    expect(page.get_by_text("Only operators with the role finance or admin").first).to_be_visible()
    open_view(page, f"/operator#provider/{market.keys['provider_id']}")
    expect(page.get_by_role("button", name="Suspend", exact=True)).to_be_disabled()


def test_second_of_two_operators_sees_who_was_first(page: Page, browser: Browser, market: Market) -> None:
    number = requested(market)
    with new_context(browser, market) as other:
        slow, quick = page, other.new_page()
        log_in(slow, market, "finance")
        first = log_in(quick, market, "finance", anew=True)
        open_view(slow, f"/operator#payout/{number}")
        slow.get_by_role("button", name="Reject", exact=True).click()
        dialog_of(slow).get_by_label("Reason").fill("The account is closed.")
        open_view(quick, f"/operator#payout/{number}")
        quick.get_by_role("button", name="Reject", exact=True).click()
        dialog_of(quick).get_by_label("Reason").fill("Another reason.")
        quick.get_by_role("button", name="Reject the payout").click()
        expect(quick.locator(".head .badge")).to_have_text("rejected")
        slow.get_by_role("button", name="Reject the payout").click()
        dialog = slow.get_by_role("dialog")
        expect(dialog.get_by_role("alert")).to_contain_text(
            f"Already decided by {first}: rejected the payout"
        )
        dialog.get_by_role("button", name="Go back").click()
        expect(slow.locator(".head .badge")).to_have_text("rejected")
    found = market.get(f"/api/admin/withdrawals/{number}", **ADMIN)["withdrawal"]
    assert found["reason"] == "Another reason."


# --- hostile cases ---


def test_lines_of_a_log_and_output_stay_text(page: Page, market: Market) -> None:
    log_in(page, market)
    _, _, job_id = chat(market)
    answer = {"success": True, "response": HOSTILE, "log": HOSTILE}
    page.route(re.compile("/api/dc1/jobs/.*/(output|logs)"), lambda route: route.fulfill(json=answer))
    open_view(page, f"/operator#job/{job_id}")
    for label in ("Output", "Log"):
        page.get_by_text(f"{label} ·").click()
        expect(page.get_by_label(label, exact=True)).to_have_text(HOSTILE)
    assert page.locator("#view b, #view img").count() == 0
    assert "hacked" not in page.title()


def test_incident_of_each_kind_is_said_in_arabic(page: Page, market: Market) -> None:
    log_in(page, market, language="ar")
    disks = [{"place": "files", "free_bytes": 5 * 10**9, "total_bytes": 10**11}]
    facts: dict[str, tuple[dict[str, Any], str]] = {
        "model_unserved": ({"unserved": {"models": [{"model": HOSTILE, "jobs": 7}], "jobs": 7}}, HOSTILE),
        "payouts_wait": ({"payouts": {"requests": 3, "amount_halala": 123_400}}, "1,234.00"),
        "proof_unclean": ({"proof": {"discrepancies": 41}}, "41"),
        "disk_nearly_full": ({"disks": disks}, "5 "),
        "disk_full": ({"disks": disks}, "100 "),
        "sessions_lost": ({"sessions": {"before": 52, "present": 4}}, "52"),
    }
    kinds = [name.removeprefix("INCIDENT_CONDITION_").lower() for name in IncidentCondition.keys()[1:]]
    common = {"severity": "page", "summary": "In English.", "began_at": "2026-01-31T12:00:00.000Z"}
    found = [
        {"id": number, "condition": kind, **common, **facts[kind][0]} for number, kind in enumerate(kinds)
    ]
    answer = {"incidents": [*found, {"id": 99, "condition": "newer", **common}]}
    page.route(re.compile("/admin/incidents"), lambda route: route.fulfill(json=answer))
    open_view(page, "/operator?lang=ar#incidents")
    heads = page.get_by_role("table", name="الحوادث").locator("tbody th")
    expect(heads).to_have_count(len(kinds) + 1)
    rows = heads.all_inner_texts()
    for kind, said in zip(kinds, rows, strict=False):
        assert facts[kind][1] in said
        assert re.search("[\u0600-\u06ff]", said)
        assert "In English." not in said
    assert "In English." in rows[-1], "a kind that is newer than the page"
    assert page.locator("#view b, #view img").count() == 0


def test_typed_reason_survives_the_end_of_the_log_in(page: Page, market: Market) -> None:
    number = requested(market)
    name = log_in(page, market, "finance")
    open_view(page, f"/operator#payout/{number}")
    page.get_by_role("button", name="Reject", exact=True).click()
    dialog_of(page).get_by_label("Reason").fill("The account is closed.")
    cookies = page.context.cookies()
    page.context.clear_cookies()
    page.get_by_role("button", name="Reject the payout").click()
    expect(page.get_by_role("heading", name="Log in to go on")).to_be_visible()
    page.context.add_cookies(cookies)  # type: ignore[arg-type]
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(page.locator(".head .badge")).to_have_text("rejected")
    found = market.get(f"/api/admin/audit?object=withdrawal&object_id={number}", **ADMIN)["entries"]
    assert [each["actor"] for each in found] == [name]
    assert market.get(f"/api/admin/withdrawals/{number}", **ADMIN)["withdrawal"]["reason"] == (
        "The account is closed."
    )


def test_page_of_a_renter_is_refused_to_whoever_is_no_operator(page: Page, market: Market) -> None:
    _, key = market.register_renter("Curious", f"curious-{next(NUMBERS)}@example.com")
    open_view(page, "/log-in?lang=en")
    page.locator("#key").fill(key)
    page.locator("form:has(#key) button").click()
    page.wait_for_url("**/renter")
    page.goto("/operator")
    expect(page.locator("#view").get_by_role("alert")).to_be_visible()
    expect(page.locator("#view")).not_to_contain_text("Daemons connected")


def test_page_goes_on_by_itself_when_the_server_was_away(page: Page, market: Market) -> None:
    log_in(page, market)
    away = re.compile("/api/dc1/")

    def fail(route: Route) -> None:
        route.abort()

    page.route(away, fail)
    page.get_by_role("link", name="Payouts", exact=True).click()
    expect(page.locator("#away")).to_contain_text("tries again by itself")
    page.unroute(away)
    expect(page.get_by_role("table", name="All payouts")).to_be_visible()
    expect(page.locator("#away")).to_be_hidden()


def test_health_is_asked_for_again_only_while_it_is_seen(page: Page, market: Market) -> None:
    log_in(page, market)
    asked: list[str] = []
    page.on("request", lambda each: asked.append(each.url) if each.url.endswith("/admin/health") else None)
    page.clock.install()
    open_view(page, "/operator#health")
    seen = len(asked)
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    page.clock.run_for(60_000)
    assert len(asked) == seen
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    with page.expect_response(re.compile("/admin/health$")):
        page.clock.run_for(10_000)


# --- how it looks ---


@in_each_language
def test_operators_pages_fit_and_axe_finds_nothing(
    page: Page, market: Market, language: str, looks: Looks
) -> None:
    payout, (dispute, _, job_id) = requested(market), disputed(market, HOSTILE)
    renter_id, _, _ = chat(market, "Acme " + "AI" * 40)
    log_in(page, market, language=language)
    details = (
        f"payout/{payout}",
        f"dispute/{dispute}",
        f"job/{job_id}",
        f"renter/{renter_id}",
        f"provider/{market.keys['provider_id']}",
    )
    look_at(page, [f"/operator?lang={language}#{view}" for view in (*VIEWS, *details)], looks)


def test_first_load_is_small(page: Page, market: Market) -> None:
    log_in(page, market)
    client = page.context.new_cdp_session(page)
    client.send("Network.enable")
    client.send("Network.clearBrowserCache")
    sizes: list[int] = []
    client.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
    open_view(page, "/operator?lang=ar#health")
    assert len(sizes) > 5
    assert sum(sizes) < 150_000
