"""The first screen: what the study came to, in words and three numbers of one cascade."""

from rcopt.core.wording import cascade_name, percent, plural, points, points_interval, times
from rcopt.core.wording import times_interval as interval_text
from rcopt.report.analysis.report_data import ReportData, SavingLine
from rcopt.report.html import Html, element, text


def verdict(data: ReportData) -> Html:
    """Return the verdict on the cheapest cascade as accurate as the top stage on validation.

    All numbers are of this cascade on test, and the words claim no more than their intervals.
    """
    equal, less = data.savings[0], data.savings[-1]
    top = data.top.trained.stage
    found = equal.interval
    name = cascade_name(equal.saving.point.cascade)
    words = (
        f"{name} is the cheapest that is as accurate on validation as {top.name}, the most "
        f"accurate single stage. Beside it on {found.n_images:,} test images:"
    )
    cards = (
        ("fewer FLOPs", times(found.saving.estimate), interval_text(found.saving)),
        ("points of accuracy", points(found.change.estimate), points_interval(found.change)),
        (
            "right on test",
            percent(found.accuracy.estimate),
            f"{percent(found.accuracy.low)} to {percent(found.accuracy.high)}",
        ),
    )
    blocks = "".join(
        f"<div><dt>{element('span', big, css='big')} {text(label)}</dt>{element('dd', ends)}</div>"
        for label, big, ends in cards
    )
    other = less.interval
    return Html(
        element("p", _in_short(equal, top.name), css="verdict")
        + element("p", words)
        + f'<dl class="numbers">{blocks}</dl>'
        + element(
            "p",
            f"Below each number its {percent(found.change.level, 0)} interval. Giving up "
            f"{plural(100 * less.saving.loss)} on validation, "
            f"{cascade_name(less.saving.point.cascade)} needs {times(other.saving.estimate)} "
            f"({interval_text(other.saving)}) fewer FLOPs at {points(other.change.estimate)} "
            f"points ({points_interval(other.change)}).",
            css="soft",
        )
    )


def _in_short(line: SavingLine, top: str) -> str:
    found = line.interval
    if line.saving.point.cascade.stages == (found.reference,):
        return f"Do not cascade to be as accurate as {top}: alone it is as good for less."
    if found.saving.low <= 1:
        return f"No saving beyond doubt against {top}."
    if found.change.high < 0:
        return f"Cheaper than {top}, and less accurate on test."
    if found.change.low > 0:
        return f"Cheaper than {top}, and more accurate on test."
    return f"Cheaper than {top}; test does not tell which is more accurate."
