"""The report page in Debian's chromium: it draws, tells and gives commands without an error."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rcopt.report.page import page as report_page
from tests.support.report_example import HOSTILE, example_data

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    Request,
    sync_playwright,
)

BROWSER = Path("/usr/bin/chromium")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        not BROWSER.exists(), reason=f"{BROWSER} is missing (apt install chromium)"
    ),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report_page(example_data()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(BROWSER), headless=True, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    tab = context.new_page()
    tab.set_default_timeout(10_000)
    errors: list[str] = []

    def said(message: ConsoleMessage) -> None:
        errors.append(message.text)

    def failed(error: Error) -> None:
        errors.append(str(error))

    def foreign(request: Request) -> None:
        if not request.url.startswith(("file:", "data:")):
            errors.append(request.url)

    tab.on("console", said)
    tab.on("pageerror", failed)
    tab.on("request", foreign)
    tab.goto(address)
    yield tab
    context.close()
    assert errors == []


def _big_mark(tab: Page) -> Locator:
    """A point of the front, one of those in the table."""
    return tab.locator("#fig-front svg.wide g:not(.off) path.dot[data-t]").nth(8)


def _open(tab: Page, section: str) -> None:
    tab.locator(f"#{section} > details > summary").click()


def test_links_open_the_section_they_lead_to(tab: Page) -> None:
    part = tab.locator("#stages table")
    assert not part.is_visible()
    tab.locator('nav a[href="#stages"]').click()
    part.wait_for()


def test_sections_fold_and_leave_a_short_page(tab: Page) -> None:
    assert tab.evaluate("document.documentElement.scrollHeight") < 11_000 / 3
    summary = tab.locator("#limits > details > summary")
    summary.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("#limits li").first.is_visible()


def test_hovering_over_a_point_shows_its_configuration(tab: Page) -> None:
    _big_mark(tab).hover()
    shown = tab.locator("#tip")
    assert shown.is_visible()
    text = shown.inner_text()
    assert "resnet18@32" in text
    assert "validation" in text
    assert "test" in text
    tab.mouse.move(5, 5)
    assert not shown.is_visible()


def test_hovering_near_a_point_is_enough(tab: Page) -> None:
    _big_mark(tab).scroll_into_view_if_needed()
    box = _big_mark(tab).bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + 4, box["y"] + 22)
    assert tab.locator("#tip").is_visible()


def test_a_click_gives_the_command_that_selects_the_point(tab: Page) -> None:
    _big_mark(tab).click()
    tab.locator("#tip", has_text="rcopt select").wait_for()
    command = tab.locator("#pick code").inner_text()
    assert command.startswith(("rcopt select digits --trial ", "rcopt select digits --max-flops "))
    assert tab.locator("#pick .copy").is_visible()
    assert command in tab.locator("#tip").inner_text()
    _open(tab, "front")
    listed = tab.locator("table.front code").all_inner_texts()
    assert command in listed


def test_the_keyboard_does_what_the_pointer_does(tab: Page) -> None:
    tab.locator("#fig-front svg.wide").focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#tip").is_visible()
    tab.keyboard.press("Enter")
    assert tab.locator("#pick code").inner_text().startswith("rcopt select digits --")
    tab.keyboard.press("Escape")
    assert not tab.locator("#tip").is_visible()


def test_copying_puts_the_command_on_the_clipboard(tab: Page) -> None:
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    _open(tab, "front")
    row = tab.locator("table.front tbody tr").nth(2)
    row.locator(".copy").click()
    tab.get_by_text("Copied").wait_for()
    copied = tab.evaluate("navigator.clipboard.readText()")
    assert copied == row.locator("code").inner_text()


def test_the_legend_hides_and_shows_a_series(tab: Page) -> None:
    entry = tab.get_by_role("button", name="single stages on test", exact=True)
    drawn = tab.locator("#fig-front svg.wide path.dot").last
    assert drawn.is_visible()
    entry.click()
    assert entry.get_attribute("aria-pressed") == "false"
    assert not drawn.is_visible()
    entry.click()
    assert drawn.is_visible()


def test_the_first_look_has_three_series_and_the_others_are_one_click_away(tab: Page) -> None:
    drawn = tab.locator("#fig-front svg.wide g.s:not(.off)")
    assert drawn.count() == 3
    tab.get_by_role("button", name="optimistic test front", exact=True).click()
    assert drawn.count() == 4


def test_no_axis_repeats_a_label(tab: Page) -> None:
    repeated = tab.evaluate(
        """[...document.querySelectorAll("svg.chart")].flatMap((svg) =>
          ["end", "middle"].flatMap((anchor) => {
            const texts = [...svg.querySelectorAll(`.tick[text-anchor="${anchor}"]`)]
              .map((tick) => tick.textContent).filter((text) => text);
            return texts.filter((text, i) => texts.indexOf(text) !== i);
          }))"""
    )
    assert repeated == []


def test_hovering_over_a_map_tells_the_cell(tab: Page) -> None:
    _open(tab, "map")
    tab.locator('rect[data-map="map-accuracy"]').hover()
    text = tab.locator("#tip").inner_text()
    assert text.count("resnet") == 2
    assert "%" in text


def test_names_of_users_stay_text(tab: Page) -> None:
    assert tab.title() == "rcopt: digits"
    assert tab.get_by_text(HOSTILE).count() >= 1


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_no_width_needs_scrolling_sideways(tab: Page, width: int) -> None:
    tab.set_viewport_size({"width": width, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("#fig-front svg.narrow").is_visible() == (width <= 640)


def test_dark_mode_and_paper_change_the_colours(tab: Page) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    tab.emulate_media(color_scheme="light")
    light = tab.evaluate(colour)
    tab.emulate_media(color_scheme="dark")
    dark = tab.evaluate(colour)
    tab.emulate_media(color_scheme="dark", media="print")
    assert light == tab.evaluate(colour) == "rgb(255, 255, 255)"
    assert dark != light
