from dataclasses import replace

import pytest

from rcopt.core.statistics.intervals import Interval
from rcopt.report.analysis.report_data import ReportData
from rcopt.report.verdict import verdict
from tests.support.report_example import example_data


@pytest.fixture(scope="module")
def data() -> ReportData:
    return example_data()


@pytest.mark.parametrize(
    ("saving", "change", "said"),
    [
        (Interval(1.1, 1.0, 1.3, 0.95), Interval(0.0, -0.1, 0.1, 0.95), "No saving beyond doubt"),
        (Interval(2.0, 1.8, 2.2, 0.95), Interval(-0.02, -0.03, -0.01, 0.95), "and less accurate"),
        (Interval(2.0, 1.8, 2.2, 0.95), Interval(0.02, 0.01, 0.03, 0.95), "and more accurate"),
        (Interval(2.0, 1.8, 2.2, 0.95), Interval(0.0, -0.01, 0.01, 0.95), "does not tell"),
    ],
)
def test_the_words_claim_no_more_than_the_intervals(
    data: ReportData, saving: Interval, change: Interval, said: str
) -> None:
    first = data.savings[0]
    shown = replace(first, interval=replace(first.interval, saving=saving, change=change))
    written = verdict(replace(data, savings=(shown, *data.savings[1:])))
    assert said in written
    assert f"{saving.low:.2f} to {saving.high:.2f}" in written


def test_a_stage_alone_is_no_cascade() -> None:
    assert "Do not cascade" in verdict(example_data(1))
