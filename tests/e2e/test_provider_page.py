"""The provider's page in a real Chromium: from set-up to a withdrawal, charts, rates, missed jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from scripts.market import UNLIMITED, Market
from tests.support.browsers import PATIENCE_MS
from tests.support.nvml_stub.stub import Machine, build
from tests.support.openai_server import Script, openai_server
from tests.support.patient_renter import eventually

pytestmark = pytest.mark.e2e
ADMIN_TOKEN = "operator-token-of-the-provider-page"
ADMIN = {"x-admin-token": ADMIN_TOKEN}
MODEL = "public/llama"
IBAN = "SA03 8000 0000 6080 1016 7519"
NUMBERS = count(1)
HOSTILE = "<img_src=x_onerror=document.title='hacked'>RTX"
GPU = f"device GPU-aaaa {HOSTILE} 24564 20000 4564 42 55 120500 8 9"
OTHER = "device GPU-bbbb NVIDIA_A100-SXM4-80GB 81920 81000 920 7 33 60000 8 0"
# The highest rate: an answer of seconds earns what can be withdrawn.
RATE = 100_000
WORDS = {
    "en": {
        "name": "Name",
        "email": "E-mail address",
        "open": "Open the account",
        "saved": "I saved it, go on",
        "waiting": "Waiting for your daemon…",
        "connected": "Your daemon is connected.",
        "jobs": "Jobs",
        "completed": "completed",
        "earnings": "Earnings",
        "amount": "Amount in SAR",
        "continue": "Continue",
        "change": "Change it",
        "fee": "Fee",
        "request": "Request the withdrawal",
        "withdrawals": "Withdrawals",
        "pending": "waiting",
        "paid": "paid",
        "cancel": "Cancel the withdrawal of",
        "rejected": "rejected",
    },
    "ar": {
        "name": "الاسم",
        "email": "البريد الإلكتروني",
        "open": "افتح الحساب",
        "saved": "حفظته، لنتابع",
        "waiting": "في انتظار برنامجك…",
        "connected": "برنامجك متصل.",
        "jobs": "المهام",
        "completed": "مكتملة",
        "earnings": "الأرباح",
        "amount": "المبلغ بالريال",
        "continue": "متابعة",
        "change": "تعديل",
        "fee": "الرسوم",
        "request": "طلب السحب",
        "withdrawals": "السحوبات",
        "pending": "تنتظر",
        "paid": "مدفوع",
        "cancel": "إلغاء سحب",
        "rejected": "مرفوض",
    },
}


@pytest.fixture(scope="module")
def script() -> Script:
    return Script(models=[{"id": "llama"}], accept_seconds=2.5)


@pytest.fixture(scope="module")
def model_server(script: Script) -> Iterator[str]:
    with openai_server(script) as url:
        yield url


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """A market in which an answer earns much, at once. Its GPUs are those of a scripted driver."""
    settings = UNLIMITED | {"DCP_PAYOUT_MATURES_HOURS": "0", "DCP_NEW_PAYOUT_MATURES_HOURS": "0"}
    folder = tmp_path_factory.mktemp("market")
    with Market(folder, admin_token=ADMIN_TOKEN, settings=settings) as running:
        running.post("/api/admin/rates", {"job_type": "llm-inference", "halala_per_minute": RATE}, **ADMIN)
        yield running


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("driver")
    machine = Machine(build(folder), folder / "script")
    machine.script.write_text(f"{GPU}\n{OTHER}\n")
    return machine


@pytest.fixture
def context(browser: Browser, market: Market) -> Iterator[BrowserContext]:
    """A browser of one provider. The test fails if a page logs an error."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, base_url=market.url, reduced_motion="reduce"
    )
    context.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    yield context
    context.close()
    assert complaints == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def start_daemon(market: Market, machine: Machine, key: str, model_server: str, folder: Path) -> None:
    """Starts a daemon whose GPUs are the driver's and whose model server is scripted."""
    market.add_daemon(
        key,
        folder,
        settings={
            "LD_LIBRARY_PATH": str(machine.library),
            "NVIDIA_STUB_SCRIPT": str(machine.script),
            "DCP_ATTACHED_URL": model_server,
            "DCP_ALIASES": f"{MODEL}=llama",
        },
    )


@pytest.fixture(scope="module")
def provider(
    market: Market, machine: Machine, model_server: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The key of a provider whose daemon runs."""
    _, key = market.register_provider("Riyadh RTX Node", "node@example.com")
    start_daemon(market, machine, key, model_server, tmp_path_factory.mktemp("daemon"))
    return key


def rented(market: Market, provider_id: int) -> None:
    """A renter pays for an answer of this provider."""
    renter_id, key = market.register_renter("Acme AI", f"renter-{next(NUMBERS)}@example.com")
    market.credit(renter_id, 10**9)
    body = {
        "job_type": "llm-inference",
        "duration_minutes": 1,
        "provider_id": provider_id,
        "params": {"model": MODEL, "prompt": "Hello?"},
    }
    job = market.post("/api/jobs/submit", body, **{"x-renter-key": key})["job"]
    eventually(
        "the end of the job",
        lambda: (
            market.get(f"/api/jobs/{job['job_id']}", **{"x-renter-key": key})["job"]["status"] == "completed"
        ),
        seconds=60,
    )


def log_in(page: Page, key: str, language: str = "en", view: str = "earnings") -> None:
    page.goto(f"/log-in?lang={language}&role=provider")
    page.locator("#key").fill(key)
    page.locator("form:has(#key) button").click()
    page.wait_for_url("**/provider")
    page.wait_for_selector("html[data-ready]")
    open_view(page, view, language)


def open_view(page: Page, view: str, language: str = "en") -> None:
    page.goto("about:blank")
    page.goto(f"/provider?lang={language}#{view}")
    page.wait_for_selector("html[data-ready]")


@pytest.mark.parametrize("language", ["en", "ar"])
def test_from_the_set_up_page_over_an_earned_job_to_a_withdrawal(
    page: Page, market: Market, machine: Machine, model_server: str, tmp_path: Path, language: str
) -> None:
    words = WORDS[language]
    page.goto(f"/log-in?lang={language}&role=provider#new")
    page.get_by_label(words["name"]).fill("Jeddah Node")
    page.get_by_label(words["email"]).fill(f"jeddah-{language}@example.com")
    page.get_by_role("button", name=words["open"]).click()
    key = page.locator(".once code").inner_text()
    page.get_by_role("link", name=words["saved"]).click()

    expect(page.get_by_text(words["waiting"])).to_be_visible()
    shown = page.locator(".steps").first.inner_text()
    (server,) = re.findall(r"sudo dcp-daemon setup --server (\S+)", shown)
    assert server == market.grpc_address
    assert key not in page.content()
    start_daemon(market, machine, key, model_server, tmp_path)
    expect(page.get_by_text(words["connected"])).to_be_visible()
    me = market.get("/api/providers/me", **{"x-provider-key": key})["provider"]
    rented(market, me["id"])

    page.get_by_role("link", name=words["jobs"], exact=True).click()
    expect(page.get_by_role("table", name=words["jobs"], exact=True)).to_contain_text(words["completed"])
    page.get_by_role("link", name=words["earnings"], exact=True).click()
    expect(page.locator(".column")).to_have_count(1)

    page.get_by_label(words["amount"]).fill("12.34")
    page.locator("#iban").fill(IBAN)
    page.get_by_role("button", name=words["continue"]).click()
    confirm = page.locator("form.confirm")
    expect(confirm).to_contain_text("12.34")
    expect(confirm).to_contain_text(words["fee"])
    expect(confirm).to_contain_text(IBAN)
    page.get_by_role("button", name=words["change"]).click()
    page.get_by_label(words["amount"]).fill("10.50")
    page.get_by_role("button", name=words["continue"]).click()
    expect(confirm).to_contain_text("10.50")
    page.get_by_role("button", name=words["request"]).click()
    table = page.get_by_role("table", name=words["withdrawals"])
    expect(table).to_contain_text(words["pending"])
    expect(table).to_contain_text("…7519")
    page.get_by_role("button", name=re.compile(words["cancel"])).click()
    expect(table).to_contain_text(words["rejected"])

    page.get_by_label(words["amount"]).fill("10")
    page.locator("#iban").fill(IBAN)
    page.get_by_role("button", name=words["continue"]).click()
    page.get_by_role("button", name=words["request"]).click()
    expect(table).to_contain_text(words["pending"])
    newest = market.get("/api/providers/withdrawals", **{"x-provider-key": key})["withdrawals"][0]
    assert newest["amount_halala"] == 1000
    for act, body in (("process", {}), ("pay", {"reference": "SARIE-7"})):
        market.post(f"/api/admin/withdrawals/{newest['id']}/{act}", body, **ADMIN)
    expect(table).to_contain_text("SARIE-7")  # by itself
    expect(table).to_contain_text(words["paid"])
    market.check_ledger()


def test_refused_withdrawal_says_why_and_keeps_what_was_typed(page: Page, provider: str) -> None:
    log_in(page, provider)
    page.get_by_label("Amount in SAR").fill("99")
    page.locator("#iban").fill("SA03 8000 0000 6080 1016 7510")
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Request the withdrawal").click()
    expect(page.locator("form.confirm").get_by_role("alert")).to_contain_text("iban")
    page.get_by_role("button", name="Change it").click()
    expect(page.get_by_label("Amount in SAR")).to_have_value("99")


def test_gpu_charts_show_what_the_driver_measures_and_names_stay_text(page: Page, provider: str) -> None:
    log_in(page, provider, view="machine")
    charts = page.locator(".gpu-charts .graph")
    expect(charts).to_have_count(4)
    expect(page.get_by_role("slider", name="Read the chart: Power")).to_have_attribute(
        "aria-valuetext", re.compile(r"GPU 0 · <img.*121 W.*GPU 1 · NVIDIA A100.*60 W")
    )
    expect(page.get_by_role("slider", name="Read the chart: Utilization")).to_have_attribute(
        "aria-valuetext", re.compile("42 %.*7 %")
    )
    expect(page.get_by_role("slider", name="Read the chart: Temperature")).to_have_attribute(
        "aria-valuetext", re.compile("55 °C.*33 °C")
    )
    expect(charts.first.locator(".legend")).to_contain_text("<img")
    assert page.locator("#view img").count() == 0
    assert page.title() != "hacked"
    for name in ("6h", "24h", "7d"):
        button = page.get_by_role("button", name=name, exact=True)
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_role("slider", name="Read the chart: Power")).to_have_attribute("max", "119")
    charts.first.get_by_text("As a table").click()
    expect(charts.first.get_by_role("table")).to_contain_text("42 %")


def test_rates_are_edited_beside_what_others_ask(page: Page, market: Market, provider: str) -> None:
    log_in(page, provider, view="terms")
    form = page.get_by_role("form", name="Language model")
    expect(form).to_contain_text("others ask")
    own = form.get_by_label("Your rate, SAR per minute")
    own.fill(str(RATE * 2 / 100))
    expect(form.get_by_role("status")).to_contain_text("Above all others")
    expect(form.get_by_role("status")).to_contain_text("only jobs that name this machine come")
    form.get_by_role("button", name="Save").click()
    form.get_by_role("button", name="Use the platform's rate").wait_for()

    def stored() -> list[int]:
        rates = market.get("/api/providers/rates", **{"x-provider-key": provider})["rates"]
        return [rate["halala_per_minute"] for rate in rates if rate["job_type"] == "llm-inference"]

    assert stored() == [2 * RATE]
    form.get_by_role("button", name="Use the platform's rate").click()
    expect(form.get_by_role("button", name="Use the platform's rate")).to_have_count(0)
    assert stored() == [RATE]
    own.fill("0")
    form.get_by_role("button", name="Save").click()
    assert stored() == [RATE], "the browser refuses what is out of bounds"


def test_hours_and_limits_are_edited(page: Page, market: Market, provider: str) -> None:
    log_in(page, provider, view="terms")
    page.get_by_role("button", name="Add hours").click()
    page.get_by_label("Sun", exact=True).check()
    page.get_by_label("Mon", exact=True).check()
    page.get_by_label("From", exact=True).fill("22:00")
    page.get_by_label("To", exact=True).fill("06:30")
    page.get_by_label("Time zone of the hours").fill("Asia/Riyadh")
    page.get_by_label("Hottest GPU").fill("80")
    page.get_by_label("GPU memory for yourself").fill("4")
    page.get_by_role("button", name="Save hours and limits").click()
    expect(page.get_by_text("Saved. It counts for new jobs.")).to_be_visible()
    settings = market.get("/api/providers/settings", **{"x-provider-key": provider})["settings"]
    assert settings == {
        "timezone": "Asia/Riyadh",
        "hours": [{"days": ["monday", "sunday"], "start": "22:00", "end": "06:30"}],
        "max_temp_c": 80,
        "vram_reserve_mib": 4096,
    }
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(page.get_by_label("From", exact=True)).to_have_value("22:00")
    page.get_by_label("Time zone of the hours").fill("Mars/Olympus")
    page.get_by_role("button", name="Save hours and limits").click()
    expect(page.get_by_role("alert").filter(has_text="timezone")).to_be_visible()
    page.get_by_label("Time zone of the hours").fill("Asia/Riyadh")
    page.get_by_role("button", name="Remove").click()
    page.get_by_label("Hottest GPU").fill("")
    page.get_by_label("GPU memory for yourself").fill("")
    page.get_by_role("button", name="Save hours and limits").click()
    expect(page.get_by_text("Saved. It counts for new jobs.")).to_be_visible()
    settings = market.get("/api/providers/settings", **{"x-provider-key": provider})["settings"]
    assert settings.get("hours", []) == []
    assert not settings.get("vram_reserve_mib")


def test_view_that_was_drawn_anew_is_watched_once(page: Page, market: Market, provider: str) -> None:
    page.clock.install()
    log_in(page, provider, view="machine")
    for button, state in (("Pause", "paused"), ("Take jobs again", "online")):
        page.get_by_role("button", name=button).click()
        expect(page.locator(".head .badge").first).to_have_text(state)
    asked: list[str] = []
    page.on("request", lambda each: asked.append(each.url) if "/metrics?" in each.url else None)
    with page.expect_response(re.compile(r"/metrics\?")):
        page.clock.run_for(20_000)
    page.evaluate("fetch('/healthz').then((answer) => answer.status)")  # what was sent before is known now
    assert len(asked) == 1


def test_pause_keeps_jobs_away_and_the_page_says_which(page: Page, market: Market, provider: str) -> None:
    log_in(page, provider, view="machine")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".head .badge").first).to_have_text("paused")
    renter_id, key = market.register_renter("Acme AI", f"renter-{next(NUMBERS)}@example.com")
    market.credit(renter_id, 10**9)
    body = {
        "job_type": "llm-inference",
        "duration_minutes": 1,
        "params": {"model": "nobody/serves-this", "prompt": "Hello?"},
        "wait_for_supply": True,
    }
    job = market.post("/api/jobs/submit", body, **{"x-renter-key": key})["job"]
    open_view(page, "jobs")
    waiting = page.get_by_role("table", name="Jobs that wait now without you")
    expect(waiting).to_contain_text("Language model")
    expect(waiting).to_contain_text("You paused the machine.")
    expect(page.locator("#view")).not_to_contain_text("nobody/serves-this")
    page.get_by_role("link", name="Machine").click()
    page.get_by_role("button", name="Take jobs again").click()
    expect(page.locator(".head .badge").first).to_have_text("online")
    open_view(page, "jobs")
    expect(waiting).to_contain_text("The machine does not serve the models that are asked for.")
    market.post(f"/api/jobs/{job['job_id']}/cancel", {}, **{"x-renter-key": key})


def test_new_key_is_shown_once(page: Page, market: Market) -> None:
    _, key = market.register_provider("Key node", f"key-{next(NUMBERS)}@example.com")
    log_in(page, key, view="setup")
    page.get_by_label("Present key").fill(key)
    page.get_by_role("button", name="Replace the key").click()
    new = page.locator(".once code").inner_text()
    assert new.startswith("dcp-provider-")
    assert new != key
    expect(page.get_by_text("Waiting for your daemon…")).to_be_visible()
    assert market.http.get("/api/providers/me", headers={"x-provider-key": key}).status_code == 401
    open_view(page, "setup")
    assert new not in page.content()


@pytest.mark.parametrize("language", ["en", "ar"])
def test_pages_with_data_fit_and_axe_finds_nothing(
    page: Page, market: Market, provider: str, language: str
) -> None:
    me = market.get("/api/providers/me", **{"x-provider-key": provider})["provider"]
    if not me["total_jobs"]:
        rented(market, me["id"])
    log_in(page, provider, language)
    for view in ("earnings", "jobs", "machine", "terms", "setup"):
        open_view(page, view, language)
        if view == "terms":
            page.locator(".hours + p button").click()
        if view == "earnings":
            page.locator("#amount").fill("10")
            page.locator("#iban").fill(IBAN)
            page.locator("form:has(#iban) button").click()
        for theme, width in (("light", 320), ("dark", 390), ("dark", 768), ("light", 1280), ("light", 2560)):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (view, width)
            if width in (390, 1280):
                found = [
                    (each["id"], [node["html"][:160] for node in each["nodes"][:3]])
                    for each in Axe().run(page).response["violations"]
                ]
                assert found == [], (view, theme)
