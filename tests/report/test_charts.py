from collections.abc import Callable
from dataclasses import replace

import pytest

from rcopt.report.analysis.report_data import ReportData
from rcopt.report.chart import Chart, Plot
from rcopt.report.charts import CHARTS, charts
from rcopt.report.page import page
from tests.support.report_example import example_data


@pytest.fixture(scope="module")
def data() -> ReportData:
    return example_data()


@pytest.mark.parametrize("make", CHARTS, ids=lambda make: make.__name__)
def test_every_chart_says_what_it_shows(
    make: Callable[[ReportData], Chart | None], data: ReportData
) -> None:
    chart = make(data)
    assert chart is not None
    assert chart.title
    assert chart.text
    assert chart.x_label
    assert chart.y_label
    if isinstance(chart, Plot):
        for series in chart.series:
            assert len(series.whiskers) in (0, len(series.x))


def test_names_are_unique_and_charts_without_data_are_left_out(data: ReportData) -> None:
    names = [chart.name for chart in charts(data)]
    assert len(set(names)) == len(names) == len(CHARTS)
    bare = charts(replace(data, history=None, featured=None))
    assert [chart.name for chart in bare] == ["front", "exit-rates", "reach-rates"]


def test_a_map_of_one_colour_is_no_chart(data: ReportData) -> None:
    assert data.featured is not None
    flat = replace(data.featured.map, accuracy=0 * data.featured.map.accuracy + 0.5)
    little = replace(data, featured=replace(data.featured, map=flat))
    found = charts(little)
    assert "fig-map-flops" in page(little)
    assert "map-accuracy" not in [chart.name for chart in found]
    assert "map-flops" in [chart.name for chart in found]
