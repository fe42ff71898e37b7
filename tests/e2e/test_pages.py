"""The pages in a real Chromium with a real market: everything by clicking and typing."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect

from scripts.market import UNLIMITED, Market
from tests.support.clustered_market import StartMarket
from tests.support.lengths import lengths

pytestmark = pytest.mark.e2e

ADMIN_TOKEN = "operator-token-of-the-browser-tests"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1440, "height": 900}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    folder = tmp_path_factory.mktemp("market")
    with Market(folder, admin_token=ADMIN_TOKEN, settings=UNLIMITED) as running:
        yield running


@pytest.fixture
def page(browser: Browser, market: Market) -> Iterator[Page]:
    """A new tab. The test fails if the page logs an error or sends a request to another host."""
    context = browser.new_context(viewport=DESKTOP, base_url=market.url, reduced_motion="reduce")  # type: ignore[arg-type]
    tab = context.new_page()
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # Some tests send requests that are refused, and Chromium logs each as an error.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    tab.on("console", listen)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on(
        "request",
        lambda request: complaints.append(request.url) if not is_ours(request.url, market) else None,
    )
    yield tab
    context.close()
    assert complaints == []


def is_ours(address: str, market: Market) -> bool:
    """Whether an address belongs to the market; images that the page itself created do, too."""
    return address.startswith((market.url + "/", "blob:" + market.url))


def open_whole_market(page: Page, language: str) -> None:
    """Opens the market with all its providers; other tests leave theirs live for a while."""
    page.goto(f"/?lang={language}")
    page.wait_for_selector("#providers tr")
    if page.locator("#all").is_visible():
        page.locator("#all").click()


def open_docs(page: Page, address: str = "/docs/job?lang=en") -> None:
    """Opens the reference and waits until it can be used."""
    page.goto(address)
    page.wait_for_selector("html[data-ready]")


def choose(page: Page, label: str) -> None:
    """Chooses an endpoint by its text in the list."""
    page.get_by_label("Endpoint", exact=True).select_option(label=label)


def send(page: Page) -> tuple[int, Any]:
    """Sends the form; returns the status and the JSON of the response."""
    with page.expect_response(re.compile("/api/dc1/")) as waiting:
        page.get_by_role("button", name="Send", exact=True).click()
    status = waiting.value.status
    expect(page.locator("#response")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator("#status")).to_contain_text(str(status))
    text = page.locator("#payload").inner_text()
    return status, json.loads(text) if text.startswith("{") else None


def write_body(page: Page, body: dict[str, Any]) -> None:
    """Replaces the body the way pasting does."""
    page.get_by_label("Request Body (JSON)").fill(json.dumps(body, indent=2))


def register(page: Page, kind: str, name: str) -> dict[str, Any]:
    """Registers on the page and stores the new key for the tab."""
    choose(page, f"POST /api/{kind}s/register")
    write_body(page, {"name": name, "email": f"{kind}-{abs(hash(name))}@example.com"})
    status, answer = send(page)
    assert status == 201, answer
    page.get_by_role("button", name=f"Use as {kind.title()} key").click()
    expect(page.get_by_label(f"{kind.title()} key", exact=True)).to_have_value(answer["api_key"])
    return dict(answer)


@pytest.mark.model
def test_main_job_only_by_clicking(page: Page, market: Market) -> None:
    open_docs(page)
    expect(page.locator("#status")).to_have_text("No response yet.")
    provider = register(page, "provider", "Riyadh RTX Node")
    renter = register(page, "renter", "Acme AI")
    market.add_daemon(provider["api_key"])

    page.get_by_label("Admin token", exact=True).fill(ADMIN_TOKEN)
    choose(page, "POST /api/admin/renters/{renter_id}/credit")
    expect(page.locator("#parameter-renter_id")).to_have_value(str(renter["renter_id"]))
    write_body(page, {"amount_halala": 5000})
    assert send(page)[0] == 200

    # The example with the model that is served here; the platform chooses the provider.
    choose(page, "POST /api/jobs/submit")
    body = json.loads(page.get_by_label("Request Body (JSON)").input_value())
    assert "provider_id" not in body
    body["params"] = {"model": MODEL, "prompt": "What is a GPU?", "max_tokens": 24}
    write_body(page, body)
    status, answer = send(page)
    assert status == 201, answer
    job_id = answer["job"]["job_id"]
    assert answer["job"]["cost_halala"] == 450

    choose(page, "GET /api/jobs/{job_id}/output")
    expect(page.locator("#parameter-job_id")).to_have_value(job_id)
    expect(page.get_by_label("Send as")).to_have_value("renter")
    status, output = send(page)
    while status == 202:
        page.wait_for_timeout(100)
        status, output = send(page)
    assert status == 200
    assert output["response"].strip()
    billing = output["billing"]
    assert 0 < billing["actual_cost_halala"] == 450 - billing["refund_halala"]

    choose(page, "GET /api/jobs/{job_id}")
    status, answer = send(page)
    assert (status, answer["job"]["status"]) == (200, "completed")
    choose(page, "GET /api/renters/me")
    assert send(page)[1]["renter"]["balance_halala"] == 5000 - billing["actual_cost_halala"]
    assert market.prove_ledger()["discrepancies"] == []


def test_wrong_key_is_shown_as_a_clear_401(page: Page) -> None:
    open_docs(page, "/docs?lang=en#get-own-renter")
    assert page.get_by_label("Endpoint", exact=True).input_value() == "get-own-renter"
    assert send(page)[0] == 401
    expect(page.locator("#explained")).to_contain_text("this endpoint needs a Renter key")
    page.get_by_label("Renter key", exact=True).fill("dcp-renter-wrong")
    status, answer = send(page)
    assert (status, answer["code"]) == (401, "INVALID_CREDENTIAL")
    expect(page.locator("#explained")).to_contain_text("the Renter key was refused")


def test_keys_stay_in_the_tab_and_out_of_addresses(page: Page, browser: Browser, market: Market) -> None:
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    open_docs(page)
    renter = register(page, "renter", "Kept")
    choose(page, "GET /api/renters/me")
    assert send(page)[0] == 200
    assert not any("dcp-renter" in urllib.parse.unquote(address) for address in [*addresses, page.url])
    page.reload()
    expect(page.get_by_label("Renter key", exact=True)).to_have_value(renter["api_key"])
    assert "dcp-renter" not in page.evaluate("JSON.stringify({...localStorage}) + document.cookie")
    other = page.context.new_page()
    other.goto("/docs/job")
    expect(other.locator("#key-renter")).to_have_value("")


def test_markup_in_a_name_stays_text(page: Page, market: Market) -> None:
    name = "<img src=x onerror=\"document.title='hacked'\">"
    open_docs(page)
    register(page, "provider", name)
    choose(page, "GET /api/providers/me")
    status, answer = send(page)
    assert (status, answer["provider"]["name"]) == (200, name)
    expect(page.locator("#payload")).to_contain_text("<img src=x")
    choose(page, "POST /api/providers/heartbeat")
    write_body(page, {"gpu_status": {"gpu_name": "<b>RTX</b>"}})
    assert send(page)[0] == 200
    open_whole_market(page, "en")
    expect(page.locator("#providers")).to_contain_text("<img src=x onerror=")
    expect(page.locator("#providers")).to_contain_text("<b>RTX</b>")
    assert page.locator("#providers img, #providers b").count() == 0
    assert page.title() != "hacked"


def test_mistakes_are_marked_before_sending(page: Page) -> None:
    open_docs(page, "/docs?lang=en#submit-job")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    body = page.get_by_label("Request Body (JSON)")
    body.fill(
        '{"job_type": "inference", "duration_minutes": 0, "colour": 1, '
        '"params": {"messages": [{"role": "user"}]}}'
    )
    problems = page.locator("#problems")
    for text in ("Expected one of", "At least 0.1", "There is no such field", "The field content is missing"):
        expect(problems).to_contain_text(text)
    expect(body).to_have_attribute("aria-invalid", "true")
    assert page.locator("#mirror mark").all_inner_texts()[:3] == ['"inference"', "0", '"colour"']
    page.get_by_role("button", name=re.compile("At least 0.1")).click()
    assert page.evaluate("[document.activeElement.selectionStart, document.activeElement.selectionEnd]") == [
        46,
        47,
    ]
    page.get_by_role("button", name="Send", exact=True).click()
    assert requests == [], "nothing is sent before the person has seen what is wrong"
    page.get_by_role("button", name="Send anyway").click()
    expect(page.locator("#status")).to_contain_text("40")
    body.fill('{"job_type": "llm-inference",\n "duration_minutes": 1,}')
    expect(problems).to_contain_text("Line 2 · Expected a field name in double quotes.")
    page.get_by_role("button", name="Reset to the example").click()
    expect(problems).to_be_empty()


def test_network_failure_a_429_and_a_slow_response_are_explained(page: Page) -> None:
    open_docs(page, "/docs?lang=en#list-available-providers")
    address = re.compile("/api/dc1/renters/available-providers")
    page.route(address, lambda route: route.abort())
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#explained")).to_contain_text("Network failure")
    page.unroute(address)

    answer = {
        "status": 429,
        "headers": {"retry-after": "7"},
        "json": {"error": "slow down", "code": "RATE_LIMITED"},
    }
    page.route(address, lambda route: route.fulfill(**answer))
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#explained")).to_contain_text("Wait 7 s")
    page.unroute(address)

    held: list[Route] = []
    page.route(address, lambda route: held.append(route))  # list.append itself cannot be a handler
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#status")).to_contain_text("Waiting for the response")
    expect(page.locator("#response")).to_have_attribute("aria-busy", "true")
    page.get_by_role("button", name="Stop waiting").click()
    expect(page.locator("#explained")).to_contain_text("You stopped waiting")
    held[0].abort()


def test_events_of_a_job_are_shown_as_they_come(page: Page, market: Market) -> None:
    renter_id, key = market.register_renter("Watcher", "watcher@example.com")
    market.credit(renter_id, 5000)
    headers = {"x-renter-key": key}
    body = {
        "job_type": "llm-inference",
        "duration_minutes": 1,
        "wait_for_supply": True,
        "params": {"model": "nobody/serves-this", "prompt": "Hello"},
    }
    job = httpx.post(f"{market.url}/api/jobs/submit", json=body, headers=headers).json()["job"]
    open_docs(page)
    choose(page, "GET /api/jobs/{job_id}/events")
    page.get_by_label("Renter key", exact=True).fill(key)
    page.locator("#parameter-job_id").fill(job["job_id"])
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#payload")).to_contain_text("event: state")
    expect(page.get_by_role("button", name="Stop waiting")).to_be_visible()
    httpx.post(f"{market.url}/api/jobs/{job['job_id']}/cancel", headers=headers).raise_for_status()
    expect(page.locator("#payload")).to_contain_text("event: end")
    expect(page.locator("#response")).not_to_have_attribute("aria-busy", "true")


def test_language_switch_mirrors_the_page_and_is_remembered(page: Page) -> None:
    open_docs(page, "/docs?lang=en#submit-job")
    page.get_by_role("link", name="العربية").click()
    page.wait_for_selector("html[dir=rtl][data-ready]")
    assert urllib.parse.urlsplit(page.url)[3:] == ("lang=ar", "submit-job")
    search, reference = page.locator("#search").bounding_box(), page.locator(".reference").bounding_box()
    assert search
    assert reference
    assert search["x"] > reference["x"], "the list of endpoints stands on the right"
    assert page.locator("article pre").first.evaluate("e => getComputedStyle(e).direction") == "ltr"
    expect(page.locator("#send")).to_have_text("إرسال")
    page.goto("/docs")
    assert page.locator("html").get_attribute("lang") == "ar"
    page.get_by_role("link", name="English").click()
    page.wait_for_selector("html[dir=ltr]")


def test_theme_is_the_systems_until_another_is_chosen(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    open_docs(page)
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.get_by_role("button", name="Switch between light and dark").click()
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "light"


@pytest.mark.parametrize(
    ("language", "words", "title", "address"),
    [
        ("en", "wait_for_supply", "Submit renter compute job", "/docs/job?lang=en#submit-job"),
        ("en", "insufficient_balance", "INSUFFICIENT_BALANCE", "/docs/errors?lang=en#INSUFFICIENT_BALANCE"),
        ("en", "disputing a charge", "Disputing a charge", "/docs/guides/renters?lang=en#disputing-a-charge"),
        ("ar", "wait_for_supply", "إرسال مهمة حوسبة", "/docs/job?lang=ar#submit-job"),
        ("ar", "insufficient_balance", "INSUFFICIENT_BALANCE", "/docs/errors?lang=ar#INSUFFICIENT_BALANCE"),
        ("ar", "للمستأجرين", "للمستأجرين", "/docs/guides/renters?lang=ar#for-renters"),
        ("ar", "compare providers", "Compare providers", "/docs/guides/renters?lang=en#compare-providers"),
        ("en", "dcp_smtp_url", "DCP_SMTP_URL", "/docs/guides/settings?lang=en#DCP_SMTP_URL"),
    ],
)
def test_search_finds_fields_reasons_guides_and_settings_as_you_type(
    page: Page, market: Market, language: str, words: str, title: str, address: str
) -> None:
    open_docs(page, f"/docs?lang={language}")
    page.keyboard.press("/")
    page.keyboard.insert_text(words)
    found = page.locator(f'#results a[href="{address}"]')
    expect(found).to_contain_text(title)
    found.click()
    page.wait_for_url(market.url + address)
    page.wait_for_selector("html[data-ready]")


def test_search_says_when_nothing_matches_and_escape_ends_it(page: Page) -> None:
    open_docs(page, "/docs?lang=en")
    page.keyboard.press("/")
    page.keyboard.type("zzqx nowhere")
    expect(page.locator("#found")).to_have_text("Nothing matches.")
    page.keyboard.press("Escape")
    expect(page.locator("#found")).to_be_empty()
    expect(page.locator(".contents .list")).to_be_visible()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("submit-job", "/docs/job?lang=en#submit-job"),
        ("job-endpoints", "/docs/job?lang=en"),
        ("errors", "/docs/errors?lang=en"),
        ("type-Job", "/docs/objects?lang=en#type-Job"),
        ("event-job-completed", "/docs/events?lang=en#event-job-completed"),
    ],
)
def test_places_of_the_former_one_page_lead_to_their_pages(
    page: Page, market: Market, old: str, new: str
) -> None:
    page.goto(f"/docs?lang=en#{old}")
    page.wait_for_url(market.url + new)
    page.wait_for_selector("html[data-ready]")


def test_tabs_of_code_are_chosen_by_arrows_and_for_the_whole_page(page: Page) -> None:
    open_docs(page)
    tabs = page.locator("#submit-job [role=tab]")
    tabs.first.focus()
    page.keyboard.press("ArrowRight")
    expect(tabs.nth(1)).to_be_focused()
    expect(tabs.nth(1)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#submit-job [role=tabpanel]:visible")).to_contain_text("client.api.submit_job")
    expect(page.locator("#get-job [role=tabpanel]:visible")).to_contain_text("client.api.get_job")


def test_market_shows_six_providers_first_then_all_and_filters(page: Page, market: Market) -> None:
    for number in range(7):
        _, key = market.register_provider(f"Row {number}", f"row-{number}@example.com")
        gpu = {"gpu_name": "NVIDIA GeForce RTX 4090", "gpu_vram_mib": 24564}
        market.post("/api/providers/heartbeat", {"gpu_status": gpu}, **{"x-provider-key": key})
    page.goto("/?lang=en")
    rows = page.locator("#providers tr")
    expect(rows).to_have_count(6)
    page.get_by_role("button", name=re.compile("Show all")).click()
    expect(page.get_by_role("button", name="Show fewer")).to_be_visible()
    assert rows.count() > 6
    page.get_by_label("Least memory, GB").fill("500")
    expect(rows).to_have_count(0)
    expect(page.locator("#nothing")).to_be_visible()
    page.get_by_label("Least memory, GB").fill("")
    page.get_by_label("Kind of job").select_option(label="Language model")
    expect(page.locator(".live-count")).to_contain_text("match")
    expect(page.get_by_label("Sort by").locator("option[data-needs-model]")).to_be_disabled()


def test_form_can_be_used_by_keyboard_alone(page: Page) -> None:
    open_docs(page, "/docs/renter?lang=en")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.get_by_role("button", name="Try it: GET /api/renters/available-providers").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "endpoint"
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "send":
            break
    with page.expect_response(re.compile("/api/dc1/renters/available-providers")):
        page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("200")


def test_copied_curl_refers_to_the_key_without_containing_it(page: Page, market: Market) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=market.url)
    open_docs(page, "/docs?lang=en#submit-job")
    page.get_by_label("Renter key", exact=True).fill("dcp-renter-secret")
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert f"{market.url}/api/jobs/submit" in copied
    assert '-H "x-renter-key: $DCP_RENTER_KEY"' in copied
    assert "secret" not in copied


@dataclass(frozen=True)
class Look:
    """A theme and a width in which a page is shown."""

    theme: str
    width: str

    def __str__(self) -> str:
        return f"{self.theme}-{self.width}"


LOOKS = [Look(*values) for values in product(["light", "dark"], ["phone", "desktop"])]
# Colours depend on the theme alone and sizes on the width alone, so the plain run shows each of them once.
EACH_ONCE = [Look("light", "phone"), Look("dark", "desktop")]
# On the long page each is examined in one of the languages, whose colours and sizes are the same.
EXAMINED = {"en": EACH_ONCE[:1], "ar": EACH_ONCE[1:]}
DOCUMENTS = [
    "/docs",
    "/docs/inference",
    "/docs/job",
    "/docs/guides/renters",
    "/docs/guides/operators",
    "/docs/guides/settings",
    "/docs/events",
    "/docs/errors",
    "/docs/objects",
]
PAGES = list(product(["/", "/log-in", *DOCUMENTS], ["en", "ar"]))
WIDTHS = (320, 375, 768, 821, 1181, 1280, 2560)
"""Phones, a tablet, the least width of each layout in site.css, a laptop and a wide screen."""
LEAST_WIDTHS = (320, 821, 1181)
"""The least width of each layout, where there is the least room."""
# Removes all but a few of the many similar endpoints and objects. Those that stay have every kind of content
# and every colour, so axe's findings about them apply to the others.
SHORTEN = """() => {
    const articles = 'article:not(#submit-job, #get-own-renter)';
    const many = document.querySelectorAll(`${articles}, .objects details:nth-of-type(n + 4)`);
    many.forEach((part) => part.remove());
    return many.length;
}"""


def show(page: Page, address: str, language: str) -> None:
    """Opens the page and all its details."""
    page.goto(f"{address}?lang={language}")
    page.wait_for_selector(".live-count:not(:empty)" if address == "/" else "html[data-ready]")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")


def dress(page: Page, look: Look) -> None:
    """Shows the page that is open in another theme and width."""
    page.set_viewport_size(PHONE if look.width == "phone" else DESKTOP)  # type: ignore[arg-type]
    page.emulate_media(color_scheme="dark" if look.theme == "dark" else "light")


def serious_findings(page: Page) -> list[Any]:
    """What axe finds in the page that is serious."""
    return [
        (v["id"], [(n["html"][:160], n["failureSummary"][:200]) for n in v["nodes"][:3]])
        for v in Axe().run(page).response["violations"]
        if v["impact"] in ("serious", "critical")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("look", LOOKS, ids=str)
@pytest.mark.parametrize("language", ["en", "ar"])
def test_axe_finds_nothing_serious_in_the_whole_reference(page: Page, language: str, look: Look) -> None:
    for address in ("/docs/job", "/docs/objects"):
        show(page, address, language)
        dress(page, look)
        assert serious_findings(page) == []


@lengths("widths", short=LEAST_WIDTHS, full=WIDTHS)
@pytest.mark.parametrize(("address", "language"), PAGES)
def test_no_page_scrolls_sideways_and_axe_finds_nothing_serious(
    page: Page, address: str, language: str, widths: tuple[int, ...]
) -> None:
    show(page, address, language)
    for width in widths:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    for look in EACH_ONCE:
        dress(page, look)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            f"{look}: scrolls sideways"
        )
        small = page.evaluate(
            "[...document.querySelectorAll('button:not(.small)')]"
            ".filter((b) => b.offsetParent && b.offsetHeight < 32).map((b) => b.id)"
        )
        assert small == [], look
    # Some pages are 80,000 px high: --all has a test of them as they are.
    page.evaluate(SHORTEN)
    for look in EXAMINED[language] if address in DOCUMENTS else EACH_ONCE:
        dress(page, look)
        assert serious_findings(page) == [], look


# Each is on the screen when it is looked at: what is far from it is not laid out.
_CUT = """async () => {
  const cut = [], frame = () => new Promise(requestAnimationFrame);
  for (const box of document.querySelectorAll('.scroll')) {
    box.scrollIntoView();
    await frame();
    await frame();
    if (box.scrollWidth > box.clientWidth + 1) cut.push(box.getAttribute('aria-label'));
  }
  return cut;
}"""


def cut_tables(page: Page) -> list[str]:
    """The tables of fields of which a part is beyond the edge of its box."""
    cut: list[str] = page.evaluate(_CUT)
    return cut


@lengths("widths", short=LEAST_WIDTHS, full=WIDTHS)
@pytest.mark.parametrize("language", ["en", pytest.param("ar", marks=pytest.mark.slow)])
def test_no_table_of_fields_is_cut(page: Page, language: str, widths: tuple[int, ...]) -> None:
    for address, tables in (("/docs/job", 15), ("/docs/objects", 50), ("/docs/events", 3)):
        show(page, address, language)
        assert page.locator(".fields").count() >= tables
        for width in widths:
            page.set_viewport_size({"width": width, "height": 800})
            assert cut_tables(page) == [], (address, width)


def test_editor_shows_its_whole_body_from_the_beginning(page: Page) -> None:
    open_docs(page)
    body = page.get_by_label("Request Body (JSON)")
    lines = body.input_value().count("\n") + 1
    assert lines > 5
    height, content = body.evaluate("e => [e.clientHeight, e.scrollHeight]")
    assert height >= content > lines * 15


def test_example_of_a_submit_is_accepted_by_a_fresh_market(
    start_market: StartMarket, browser: Browser, tmp_path: Path
) -> None:
    with start_market(tmp_path, admin_token=ADMIN_TOKEN, settings=UNLIMITED) as market:
        page = browser.new_page(base_url=market.url)
        open_docs(page)
        renter = register(page, "renter", "Example")
        market.credit(renter["renter_id"], 5000)
        choose(page, "POST /api/jobs/submit")
        status, answer = send(page)
        page.close()
        assert (status, answer["job"]["status"]) == (201, "queued")
        assert market.get("/api/jobs/" + answer["job"]["job_id"], **{"x-renter-key": renter["api_key"]})


@pytest.mark.parametrize(("language", "other"), [("en", "ar"), ("ar", "en")])
def test_summaries_are_in_the_readers_language_alone(page: Page, language: str, other: str) -> None:
    open_docs(page, f"/docs/job?lang={language}")
    summaries = {"en": "Submit renter compute job", "ar": "إرسال مهمة حوسبة"}
    expect(page.locator("#submit-job")).to_contain_text(summaries[language])
    expect(page.locator("#submit-job")).not_to_contain_text(summaries[other])
    assert page.locator(f"article [lang={other}]").count() == 0


def test_home_page_names_the_set_up_with_the_servers_own_port(page: Page, market: Market) -> None:
    page.goto("/?lang=en")
    steps = page.locator("#provider")
    expect(steps).to_contain_text(re.compile(rf"sudo dcp-daemon setup \\\s+--server {market.grpc_address}"))
    expect(steps).to_contain_text("It finds GPUs, Ollama, vLLM and Docker")


@pytest.mark.parametrize("language", ["en", "ar"])
def test_no_command_of_the_home_page_is_cut(page: Page, language: str) -> None:
    page.goto(f"/?lang={language}")
    for width in (390, 1000, 1280, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        cut = page.evaluate(
            "[...document.querySelectorAll('.starts pre')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
            ".map((e) => e.innerText)"
        )
        assert cut == [], width


def test_sentence_of_a_provider_without_a_gpu_runs_as_its_language(page: Page, market: Market) -> None:
    for name, gpu in (("Bare", {}), ("Card", {"gpu_name": "NVIDIA GeForce RTX 4090"})):
        _, key = market.register_provider(name, f"{name.lower()}-direction@example.com")
        market.post("/api/providers/heartbeat", {"gpu_status": gpu}, **{"x-provider-key": key})
    open_whole_market(page, "ar")
    directions = "e => getComputedStyle([...e.querySelectorAll('*')].at(-1) ?? e).direction"
    bare, card = (
        page.locator("#providers tr", has_text=name).locator("th > :not(.dot, small)")
        for name in ("Bare", "Card")
    )
    expect(bare).to_have_text(re.compile("[\u0600-\u06ff]"))
    assert bare.evaluate(directions) == "rtl"
    expect(card).to_have_text("RTX 4090")
    assert card.evaluate(directions) == "ltr"


def test_first_load_is_small(page: Page) -> None:
    client = page.context.new_cdp_session(page)
    client.send("Network.enable")
    sizes: list[int] = []
    client.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
    open_docs(page)
    assert len(sizes) > 5
    assert sum(sizes) < 150_000
