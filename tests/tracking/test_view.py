"""What someone sees who opens a study in a real browser."""

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from rcopt.tracking import CascadeLog, StudyRun, open_tracker, view_link
from rcopt.tracking.view import run_link
from tests.support.tracking_helpers import Server, make_point, open_study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed"),
]

#: ms that a page may take on a busy machine.
PATIENCE = 90_000


@pytest.fixture(scope="module")
def study(server: Server, tmp_path_factory: pytest.TempPathFactory) -> StudyRun:
    """Ten trials, the last four of which are the front, and a report."""
    folder = tmp_path_factory.mktemp("view")
    tracker = open_tracker(server.uri, folder)
    study = open_study(tracker, "seen")
    points = [make_point(n, accuracy=0.7 + n / 100) for n in range(10)]
    log = CascadeLog(tracker, study, cascade_runs=10)
    for point in points:
        log.add(point)
    assert log.close() == 0
    tracker.cascades.mark_front(study, [replace(p, test=p.validation) for p in points[6:]])
    report = folder / "report.html"
    report.write_text("<h1>The report of this study</h1>")
    tracker.log_files(study, [report])
    for step, colour in enumerate(("red", "blue"), 1):
        picture = io.BytesIO()
        Image.new("RGB", (80, 45), colour).save(picture, format="png")
        tracker.show_progress(study, picture.getvalue(), step)
    tracker.tell_result(study, "Cascades save half.", "More.\n\n" * 30, picture.getvalue())
    return study


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a fresh profile."""
    context = browser.new_context(viewport={"width": 1500, "height": 950})
    context.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    yield context.new_page()
    context.close()


def test_the_link_lands_on_the_front_with_its_charts(
    server: Server, study: StudyRun, page: Page
) -> None:
    page.goto(view_link(server.uri, study.experiment_id))
    # The front's, and the study's own with the pictures of its front.
    expect(page.get_by_text("5 matching runs")).to_be_visible()
    for accuracy in ("0.76", "0.77", "0.78", "0.79"):
        run = page.get_by_role("link", name=f"r18@32 > r50@224 {accuracy}")
        expect(run.first).to_be_visible()
    expect(page.get_by_text("val/log10_mflops vs. val/accuracy")).to_be_visible()
    expect(page.get_by_role("link", name="Open the Pareto front").first).to_be_visible()


def test_the_view_shows_the_front_of_the_last_stages(
    server: Server, study: StudyRun, page: Page
) -> None:
    page.goto(view_link(server.uri, study.experiment_id))
    expect(page.get_by_text("val/log10_mflops vs. val/accuracy")).to_be_visible()
    page.get_by_text("val/log10_mflops vs. val/accuracy").hover()
    page.mouse.wheel(0, 500)
    shown = page.locator("img[src*='front'], img[src^='blob:']").first
    expect(shown).to_be_visible()
    assert loaded(shown)


def test_the_notes_begin_with_the_result_and_show_the_front(
    server: Server, study: StudyRun, page: Page
) -> None:
    page.goto(run_link(server.uri, study.experiment_id, study.run_id))
    expect(page.get_by_text("Cascades save half.")).to_be_visible()
    page.get_by_text("Show more").click()
    picture = page.locator("img[src*='get-artifact']").first
    expect(picture).to_be_visible()
    assert loaded(picture)
    link = page.get_by_role("link", name="Open the Pareto front").first
    assert str(link.get_attribute("href")).endswith(view_link("", study.experiment_id))


def loaded(picture: Locator) -> bool:
    """Whether a picture has come and can be drawn."""
    done = "image => image.decode().then(() => image.naturalWidth > 0, () => false)"
    return bool(picture.evaluate(done))


def test_a_filter_typed_by_hand_finds_the_cascades(
    server: Server, study: StudyRun, page: Page
) -> None:
    plain = f"{server.uri}/#/experiments/{study.experiment_id}/runs"
    page.goto(f"{plain}?workflowType=machine_learning&orderByKey=metrics.%60val%2Faccuracy%60")
    expect(page.get_by_text("11 matching runs")).to_be_visible()
    box = page.get_by_placeholder("metrics.rmse < 1")
    box.fill("tags.\"rcopt.kind\" = 'cascade'")
    box.press("Enter")
    expect(page.get_by_text("10 matching runs")).to_be_visible()


def test_the_study_run_shows_the_report(server: Server, study: StudyRun, page: Page) -> None:
    page.goto(
        f"{server.uri}/#/experiments/{study.experiment_id}/runs/{study.run_id}"
        "/artifacts/report.html"
    )
    shown = page.frame_locator("iframe").get_by_text("The report of this study")
    expect(shown).to_be_visible()
