import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcopt.report import write_report
from rcopt.report.analysis.report_data import ReportData
from rcopt.report.files import save_charts
from rcopt.report.front_chart import front_chart
from rcopt.report.page import page
from rcopt.report.thumbnails import thumbnails
from tests.support.report_example import HOSTILE, example_data

VOID = {"meta", "img", "br", "link", "input", "hr"}
PICTURES = thumbnails((), np.zeros((0, 4, 4, 3), np.uint8))


class _Structure(HTMLParser):
    """Collects tags, attributes and text, and refuses wrong nesting."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def _parsed(html: str) -> _Structure:
    structure = _Structure()
    structure.feed(html)
    structure.close()
    assert structure.open == []
    return structure


@pytest.fixture(scope="module")
def data() -> ReportData:
    return example_data()


@pytest.fixture(scope="module")
def html(data: ReportData) -> str:
    return page(data)


@pytest.fixture(scope="module")
def structure(html: str) -> _Structure:
    return _parsed(html)


def test_the_page_is_well_nested_and_has_one_heading(structure: _Structure) -> None:
    assert structure.tags.count("h1") == 1
    assert structure.tags.count("script") == 2  # the data and the code, none of a user's


def test_names_of_users_are_text_and_nothing_else(structure: _Structure) -> None:
    assert any(HOSTILE in text for text in structure.text)
    assert ("onerror", "document.title=1") not in structure.attributes
    assert ("src", "x") not in structure.attributes


def test_nothing_is_loaded_from_elsewhere(structure: _Structure) -> None:
    for name, value in structure.attributes:
        if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            assert value is not None
            assert value.startswith(("data:image/", "#")), (name, value[:80])


def test_the_style_loads_nothing(html: str) -> None:
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles
    assert "default-src 'none'" in html


def test_the_page_follows_colour_scheme_width_and_paper(html: str) -> None:
    for query in ("prefers-color-scheme: dark", "max-width: 640px", "@media print"):
        assert query in html


def test_every_chart_has_a_text_alternative(structure: _Structure) -> None:
    labels = [value for name, value in structure.attributes if name == "aria-label"]
    titles = [label for label in labels if label and label.startswith("Accuracy against FLOPs. ")]
    assert len(titles) == 2  # wide and narrow
    assert all(labels)


def test_ids_are_unique(structure: _Structure) -> None:
    ids = [value for name, value in structure.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_main_numbers_are_on_the_page(data: ReportData, structure: _Structure) -> None:
    text = " ".join(structure.text)
    assert f"{data.savings[0].interval.saving.estimate:.2f}×" in text
    assert f"{100 * data.top.test.estimate:.2f} %" in text
    for i in data.rows:
        assert data.front[i].command in text


def test_a_report_with_little_in_it_has_no_empty_sections(data: ReportData) -> None:
    bare = replace(data, history=None, featured=None)
    structure = _parsed(page(bare))
    anchors = {value for name, value in structure.attributes if name == "id"}
    assert anchors.isdisjoint({"map", "images", "progress"})
    assert {"front", "stages", "limits", "repeat"} <= anchors
    links = {value for name, value in structure.attributes if name == "href" and value}
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= anchors


@pytest.mark.parametrize("count", [1, 2])
def test_studies_of_fewer_stages_have_a_page_too(count: int) -> None:
    _parsed(page(example_data(count)))


def test_images_are_shown_where_their_pictures_are_known(data: ReportData) -> None:
    assert data.featured is not None
    shown = [x.image for part in data.featured.images for x in (*part.first, *part.last)]
    base = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    structure = _parsed(page(data, thumbnails(shown[:1], base)))
    pictures = [v for n, v in structure.attributes if n == "src" and v]
    assert len(pictures) == 1
    assert pictures[0].startswith("data:image/jpeg;base64,")


def test_thumbnails_are_square_pictures_of_the_named_row(tmp_path: Path) -> None:
    base = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    base[1] = 200
    picture = thumbnails(("dark", "light"), base, side=40)("light")
    assert picture is not None
    (tmp_path / "x.jpg").write_bytes(picture)
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.size == (40, 40)
        assert np.asarray(image).mean() == pytest.approx(200, abs=3)


def test_an_unknown_image_has_no_thumbnail() -> None:
    assert PICTURES("nowhere") is None


@pytest.mark.slow
def test_files_are_a_small_page_and_each_figure_twice(data: ReportData, tmp_path: Path) -> None:
    paths = write_report(data, tmp_path / "new")
    assert paths[0] == tmp_path / "new" / "report.html"
    assert paths[0].stat().st_size < 5_000_000
    assert sorted(p for p in (tmp_path / "new").rglob("*") if p.is_file()) == sorted(paths)
    names = {path.stem for path in paths[1:]}
    assert {p.name for p in paths[1:]} == {f"{n}.{kind}" for n in names for kind in ("png", "svg")}
    assert {"front", "exit-rates", "reach-rates", "map-accuracy", "progress-time"} <= names
    assert not [name for name in names if name.startswith("original")]
    with Image.open(tmp_path / "new" / "figures" / "front.png") as image:
        assert image.size[0] > 1000


@pytest.mark.slow
def test_equal_charts_give_equal_files(data: ReportData, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_charts([front_chart(data)], tmp_path / name)
    for kind in ("png", "svg"):
        first, second = (tmp_path / name / f"front.{kind}" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
