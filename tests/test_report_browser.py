"""The report in headless Chromium: it works, asks nothing of the network, and stays safe."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_report import HOSTILE, SPACE, evaluation, shown, write_tiny_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

PATIENCE = 120_000  # ms, for machines that are busy with the rest of the suite
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium of this machine, or the one that playwright has installed."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        if found is None and not Path(own).exists():
            pytest.skip("no Chromium here: playwright install chromium, or a system package")
        # The sandbox of Chromium does not work for root, as in containers.
        running = driver.chromium.launch(
            executable_path=found, args=["--no-sandbox"], timeout=PATIENCE
        )
        yield running
        running.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_report(tmp_path_factory.mktemp("report"))


class Opened:
    """A page with everything it said and asked for."""

    def __init__(self, browser: Any, report: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(report.as_uri())


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Opened]:
    found = Opened(browser, report, viewport={"width": 1280, "height": 900})
    yield found
    # Whatever a test does with the page: no error, and nothing but data URIs.
    assert found.said == []
    assert [url for url in found.requests if not url.startswith("data:")] == [report.as_uri()]
    found.context.close()


def column(page: Any, table: str, number: int) -> list[str]:
    cells = page.locator(f"{table} tbody tr > :nth-child({number})")
    return [str(cell) for cell in cells.all_inner_texts()]


def test_a_slider_moves_by_keyboard_and_by_mouse(opened: Opened) -> None:
    page = opened.page
    stage = page.locator(".stage").first
    slider, truth = stage.locator("input"), stage.locator(".layer.truth")

    def clip() -> str:
        return str(truth.evaluate("e => getComputedStyle(e).clipPath"))

    assert slider.input_value() == "50"
    before = clip()
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "51"
    page.keyboard.press("End")
    assert slider.input_value() == "100"
    assert clip() not in (before, "none")
    # The stage's own click scrolls it into view and waits until it stands still.
    box = stage.bounding_box()
    stage.click(position={"x": 0.25 * box["width"], "y": 0.5 * box["height"]})
    assert abs(int(slider.input_value()) - 25) <= 3
    left = stage.locator(".divider").evaluate("e => e.offsetLeft / e.parentElement.clientWidth")
    assert abs(left - int(slider.input_value()) / 100) < 0.02
    # The other pictures have dividers of their own.
    assert page.locator(".stage input").nth(1).input_value() == "50"


def test_what_is_compared_can_be_chosen(opened: Opened) -> None:
    page = opened.page
    errors = page.locator(".layer.errors").first
    assert not errors.is_visible()
    page.get_by_role("button", name="Photo | errors").click()
    assert errors.is_visible()
    assert not page.locator(".layer.truth").first.is_visible()
    pressed = page.locator("button[aria-pressed=true]")
    assert pressed.all_inner_texts() == ["Photo | errors"]
    slider = page.locator(".stage input").first
    assert slider.get_attribute("aria-label") == "photo to the left, errors to the right"
    assert page.locator(".tag.right").first.inner_text() == "errors"


def test_tables_sort_by_their_values_and_say_so(opened: Opened) -> None:
    page = opened.page
    header = page.locator("#classes th", has_text="IoU %").first
    start = column(page, "#classes > .scroll table", 2)
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    falling = column(page, "#classes > .scroll table", 2)
    assert sorted(falling) == sorted(start)
    values = [float(v) for v in falling if v.strip() != "–"]
    assert values == sorted(values, reverse=True) and len(set(values)) > 2
    assert falling[-1].strip() == "–"
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    rising = column(page, "#classes > .scroll table", 2)
    assert [float(v) for v in rising[:-1]] == values[::-1]
    assert rising[-1].strip() == "–"
    name = page.locator("#classes th button", has_text="class").first
    name.click()
    assert header.get_attribute("aria-sort") == "none"
    names = column(page, "#classes > .scroll table", 1)
    assert names == sorted(names) and len(names) == 5


def test_the_confusion_matrix_tells_its_counts(opened: Opened) -> None:
    page = opened.page
    matrix = evaluation(shown())[0]["confusion_matrix"]
    readout = page.locator("#readout")
    page.locator(".matrix tbody tr").nth(2).locator("td").nth(0).hover()
    count, share = matrix[2][0], 100 * matrix[2][0] / sum(matrix[2])
    said = 100 * matrix[2][0] / sum(row[0] for row in matrix)
    assert readout.inner_text() == (
        f"house was taken for ground: {count:,} pixels, {share:.2f} % of all house "
        f"and {said:.2f} % of what was called ground."
    )
    page.locator(".matrix td[tabindex='0']").focus()
    assert readout.inner_text().startswith("ground was recognised: ")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("<b>kerb</b> was recognised: ")
    page.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("<b>kerb</b> was taken for house: ")
    # One stop of the tab key for the whole grid.
    assert page.locator(".matrix td[tabindex='0']").count() == 1
    page.locator(".matrix th[data-name='sky'] button").click()
    rows = page.locator(".matrix tbody tr")
    assert rows.nth(0).get_attribute("data-name") == "sky"
    assert rows.nth(4).get_attribute("data-name") == "boat"


def test_a_hostile_name_stays_text(opened: Opened) -> None:
    page = opened.page
    assert page.evaluate("typeof window.pwned") == "undefined"
    assert page.evaluate("document.scripts.length") == 1
    assert page.title().startswith(HOSTILE)
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.get_by_text(HOSTILE).count() >= 4
    assert page.locator("img[src=x], main b b").count() == 0
    alts = page.locator(".stage img").first.get_attribute("alt")
    assert HOSTILE in alts
    assert page.locator("#classes tbody th").nth(1).inner_text() == SPACE.class_names[1]


def test_the_policy_refuses_what_a_name_might_try(browser: Any, report: Path) -> None:
    found = Opened(browser, report)
    tried = """async () => {
        const seen = [];
        document.addEventListener("securitypolicyviolation", e => seen.push(e.violatedDirective));
        const script = document.createElement("script");
        script.textContent = "window.pwned = 1";
        document.body.append(script);
        const image = document.createElement("img");
        image.src = "http://127.0.0.1:9/x.png";
        document.body.append(image);
        document.body.insertAdjacentHTML("beforeend", "<p style='color:red' onclick='1'>x</p>");
        await fetch("http://127.0.0.1:9/").catch(() => 0);
        await new Promise(done => setTimeout(done, 300));
        return seen;
    }"""
    violated = set(found.page.evaluate(tried))
    assert {"script-src-elem", "img-src", "style-src-attr", "connect-src"} <= violated
    assert found.page.evaluate("typeof window.pwned") == "undefined"
    found.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, report: Path, scheme: str) -> None:
    found = Opened(browser, report, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    found.page.locator("details").evaluate_all("all => all.forEach(d => { d.open = true; })")
    wide = found.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 360
    paper = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in paper[4:-1].split(",")) / 3
    assert (brightness > 200) == (scheme == "light")
    assert (brightness < 60) == (scheme == "dark")
    assert found.said == []
    found.context.close()


def test_every_control_can_be_reached_and_seen_by_keyboard(opened: Opened) -> None:
    page = opened.page
    page.evaluate(
        """() => {
            window.reached = [];
            document.addEventListener("focusin", ({target: e}) => {
                const ring = [e, e.closest(".stage")].filter(Boolean)
                    .some(x => getComputedStyle(x).outlineStyle !== "none");
                window.reached.push([e.matches(".stage input") ? "slider" : e.tagName, ring]);
            });
        }"""
    )
    for _ in range(20):
        for _ in range(20):
            page.keyboard.press("Tab")
        if page.evaluate("window.reached.filter(([name]) => name === 'SUMMARY').length") > 8:
            break
    reached = page.evaluate("window.reached")
    assert [name for name, ring in reached if not ring] == []
    assert {"A", "BUTTON", "TD", "slider", "SUMMARY", "INPUT"} <= {name for name, _ in reached}
