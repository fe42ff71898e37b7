"""Charts in a real Chromium: what is drawn, read by pointer and keys, and written as a table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from scripts.market import Market

pytestmark = pytest.mark.e2e

MINUTE = 60_000
DAY = 24 * 60 * MINUTE
NOON = 1_800_100_800_000
"""2027-01-16T12:00:00Z."""
HOSTILE = "<img src=x onerror=\"document.title='hacked'\">\u202eGPU" + "W" * 200
DRAW = """async ({ title, options, times, series }) => {
  const folder = document.documentElement.dataset.static;
  const { Chart } = await import(`${folder}/charts.js`);
  const style = document.createElement("link");
  Object.assign(style, { rel: "stylesheet", href: `${folder}/charts.css` });
  document.head.append(style);
  await new Promise((resolve) => (style.onload = resolve));
  const say = options.unit && ((value) => `${value} ${options.unit}`);
  const chart = new Chart(title, { ...options, say });
  document.querySelector("main").replaceChildren(chart.element);
  chart.show(times, series);
  window.chart = chart;
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
}"""
Draw = Callable[..., Page]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with Market(
        tmp_path_factory.mktemp("market"), admin_token="operator-token-of-the-charts-alone"
    ) as running:
        yield running


@pytest.fixture
def draw(market: Market, browser: Browser) -> Iterator[Draw]:
    """Draws a chart on a page of ours, whose policy applies to it. The test fails if the page complains."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def drawn(
        times: list[int],
        *series: dict[str, Any],
        title: str = "Power",
        language: str = "en",
        zone: str = "Asia/Riyadh",
        width: int = 1000,
        **options: object,
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 700}, base_url=market.url, timezone_id=zone
        )
        contexts.append(context)
        context.on("console", lambda message: complaints.append(message.text))
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        page = context.new_page()
        page.goto(f"/log-in?lang={language}")
        page.wait_for_selector("html[data-ready]")
        page.evaluate(DRAW, {"title": title, "options": options, "times": times, "series": list(series)})
        return page

    yield drawn
    for context in contexts:
        context.close()
    assert complaints == []


def each_minute(count: int) -> list[int]:
    return [NOON + i * MINUTE for i in range(count)]


def marks(page: Page) -> list[str]:
    """The texts on the axes, without the marks that isolate their direction."""
    return [text.strip("\u2068\u2069") for text in page.locator(".drawing .mark").all_text_contents()]


def test_gaps_stay_gaps_and_a_lone_value_is_a_dot(draw: Draw) -> None:
    page = draw(each_minute(7), {"name": "GPU 0", "values": [1, 2, None, 4, None, 5, 6]})
    path = page.locator(".drawing .line").get_attribute("d") or ""
    assert [piece.count("L") for piece in path.split("M")[1:]] == [1, 1]
    assert (page.locator(".drawing .dots").get_attribute("d") or "").count("M") == 1


def test_axes_have_round_values_with_units_and_local_times(draw: Draw) -> None:
    values = [float(i) for i in range(0, 300, 5)]
    page = draw(each_minute(60), {"name": "GPU 0", "values": values}, unit="W")
    assert marks(page)[:4] == ["0 W", "100 W", "200 W", "300 W"]
    assert "3:15 PM" in marks(page), "noon UTC is 3 PM in Riyadh"


def test_days_of_utc_keep_their_dates_in_every_zone(draw: Draw) -> None:
    days = [NOON - NOON % DAY + i * DAY for i in range(3)]
    page = draw(
        days, {"name": "Earned", "values": [1, 2, 3]}, zone="America/Los_Angeles", bars=True, days=True
    )
    assert marks(page)[-3:] == ["Jan 16", "Jan 17", "Jan 18"]


def test_columns_are_stacked_and_what_is_nothing_is_not_drawn(draw: Draw) -> None:
    page = draw(each_minute(2), {"name": "a", "values": [2, 0]}, {"name": "b", "values": [1, 4]}, bars=True)
    boxes = [column.bounding_box() for column in page.locator(".column").all()]
    (first, above, second) = (box for box in boxes if box)
    assert first["height"] == pytest.approx(2 * above["height"], abs=1.5)
    assert above["y"] + above["height"] == pytest.approx(first["y"], abs=1.5)
    assert second["x"] > first["x"]


def test_chart_is_mirrored_in_arabic(draw: Draw) -> None:
    page = draw(each_minute(2), {"name": "a", "values": [1, 2]}, bars=True, language="ar", unit="W")
    boxes = [column.bounding_box() for column in page.locator(".column").all()]
    first, second = (box for box in boxes if box)
    assert first["x"] > second["x"]
    mark = page.locator(".drawing .mark").first.bounding_box()
    assert mark
    assert mark["x"] > first["x"]
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("slider")).to_have_js_property("value", "0")


def test_keys_read_one_time_after_the_other(draw: Draw) -> None:
    page = draw(each_minute(3), {"name": "GPU 0", "values": [10, None, 30]}, unit="W")
    reader = page.get_by_role("slider", name="Read the chart: Power")
    page.keyboard.press("Tab")
    while not reader.evaluate("(reader) => reader === document.activeElement"):
        page.keyboard.press("Tab")
    reading = page.locator(".reading")
    expect(reading).to_contain_text("30 W")
    page.keyboard.press("ArrowLeft")
    expect(reading).to_contain_text("no figure")
    page.keyboard.press("Home")
    expect(reading).to_contain_text("10 W")
    spoken = reader.get_attribute("aria-valuetext") or ""
    assert "Jan 16, 2027" in spoken
    assert "GPU 0: \u206810 W\u2069" in spoken
    page.keyboard.press("Escape")
    expect(reading).to_be_hidden()


def test_pointer_reads_what_is_under_it(draw: Draw) -> None:
    page = draw(each_minute(4), {"name": "GPU 0", "values": [10, 20, 30, 40]}, bars=True, unit="W")
    for column, value in zip(page.locator(".column").all(), ("10 W", "20 W", "30 W", "40 W"), strict=True):
        column.hover(force=True)
        expect(page.locator(".reading")).to_contain_text(value)
    page.mouse.move(1, 1)
    expect(page.locator(".reading")).to_be_hidden()


def test_same_figures_stand_in_a_table_newest_first(draw: Draw) -> None:
    page = draw(
        each_minute(3), {"name": "GPU 0", "values": [10, None, 30]}, {"name": "GPU 1", "values": [1, 2, 3]}
    )
    page.get_by_text("As a table").click()
    table = page.get_by_role("table", name="Power")
    expect(table.locator("thead th")).to_have_text(["Time", "GPU 0", "GPU 1"])
    rows = [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]
    assert [[cell.strip("\u2068\u2069") for cell in row] for row in rows] == [
        ["30", "3"],
        ["no figure", "2"],
        ["10", "1"],
    ]


def test_later_figures_replace_the_earlier_ones_and_keep_what_is_open(draw: Draw) -> None:
    page = draw(each_minute(2), {"name": "GPU 0", "values": [1, 2]})
    page.get_by_text("As a table").click()
    page.evaluate(
        "(times) => window.chart.show(times, [{ name: 'GPU 0', values: [1, 2, 7] }])", each_minute(3)
    )
    expect(page.get_by_role("table").locator("tbody tr").first).to_contain_text("7")
    page.evaluate("window.chart.show([], [])")
    expect(page.get_by_text("No figures in this time.")).to_be_visible()
    expect(page.locator(".plot")).to_be_hidden()


@pytest.mark.parametrize("language", ["en", "ar"])
@pytest.mark.parametrize(
    ("count", "step"), [(60, MINUTE), (120, 12 * MINUTE), (120, 84 * MINUTE), (366, DAY)]
)
def test_marks_never_overlap_or_leave_the_chart(draw: Draw, language: str, count: int, step: int) -> None:
    times = [NOON - NOON % DAY + i * step for i in range(count)]
    page = draw(
        times, {"name": "GPU 0", "values": [i * 1234.5 for i in range(count)]}, language=language, unit="MiB"
    )
    for width in (320, 390, 768, 1280, 2560):
        page.set_viewport_size({"width": width, "height": 700})
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        whole = page.locator(".drawing").bounding_box()
        assert whole
        boxes = sorted(
            (box["x"], box["x"] + box["width"])
            for mark in page.locator(".drawing .mark").all()
            if (box := mark.bounding_box()) and box["y"] > whole["y"] + whole["height"] - 26
        )
        assert len(boxes) >= 2, width
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(boxes)), width
        assert boxes[0][0] >= whole["x"] - 1, width
        assert boxes[-1][1] <= whole["x"] + whole["width"] + 1, width


def test_names_stay_text_and_axe_finds_nothing_in_both_themes(draw: Draw) -> None:
    page = draw(
        each_minute(3),
        *({"name": HOSTILE, "values": [10, None, 30]} for _ in range(7)),
        title=HOSTILE,
        width=320,
    )
    page.get_by_text("As a table").click()
    page.get_by_role("slider").focus()
    expect(page.locator(".reading")).to_be_visible()
    assert page.locator("main img").count() == 0
    assert page.title() != "hacked"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        found = [each["id"] for each in Axe().run(page).response["violations"]]
        assert set(found) <= {"page-has-heading-one"}, "the chart took the place of the page's heading"


def test_paper_has_the_drawing_without_what_only_a_screen_can_do(draw: Draw) -> None:
    page = draw(each_minute(3), {"name": "GPU 0", "values": [10, 20, 30]})
    page.get_by_role("slider").focus()
    page.emulate_media(media="print")
    expect(page.locator(".drawing .line")).to_be_visible()
    expect(page.locator(".reading")).to_be_hidden()
    expect(page.get_by_text("As a table")).to_be_hidden()
