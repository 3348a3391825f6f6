"""How stages, cascades and numbers are written, wherever a person reads them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rcopt.core.confidences import CONFIDENCES

if TYPE_CHECKING:
    from rcopt.core.answers import AnswerRule
    from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Stage
    from rcopt.core.statistics.intervals import Interval

#: Short for the beginning of a backbone's name, where there is little room.
SHORT = {"resnet": "r", "mobilenet_": "mn", "efficientnet_": "en"}


def flops_text(flops: float) -> str:
    """Return FLOPs with three significant digits and their unit.

    Example:
        >>> flops_text(7.4e7), flops_text(3_424_932_721)
        ('74.0 MFLOPs', '3.42 GFLOPs')
    """
    return f"{amount(flops)}FLOPs"


def amount(value: float) -> str:
    """Return a number with three significant digits and k, M, G or T.

    Example:
        >>> amount(25_560_000), amount(999_999)
        ('25.6 M', '1.00 M')
    """
    value = float(f"{value:.3g}")
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{_three(value / size)} {unit}"
    return f"{_three(value)} "


def axis_amount(value: float) -> str:
    """Return a round number as short as it can be said, such as ``200 M``."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def percent(share: float, digits: int = 2) -> str:
    """Return a share as per cent.

    Example:
        >>> percent(0.8963)
        '89.63 %'
    """
    return f"{100 * share:.{digits}f} %"


def plural(number: float) -> str:
    """Return a number of percentage points.

    Example:
        >>> plural(0.1), plural(1.0)
        ('0.1 points', '1 point')
    """
    return f"{number:g} point{'' if number == 1 else 's'}"


def points(difference: float) -> str:
    """Return a difference of shares in percentage points, signed.

    Example:
        >>> points(-0.0015), points(0.0)
        ('−0.15', '±0.00')
    """
    text = f"{100 * difference:.2f}"
    if text in ("0.00", "-0.00"):
        return "±0.00"
    return text.replace("-", "−") if text.startswith("-") else f"+{text}"


def times(ratio: float) -> str:
    """Return how many times.

    Example:
        >>> times(2.4117), times(111.6)
        ('2.41×', '112×')
    """
    return f"{_three(ratio)}×"


def flops_against(ratio: float, reference: str) -> str:
    """Return how FLOPs compare with a reference's; ``ratio`` is the reference's over them.

    Example:
        >>> flops_against(2.4117, "r18@96"), flops_against(0.581, "r18@96")
        ('2.41× fewer FLOPs than r18@96', '1.72× the FLOPs of r18@96')
    """
    if ratio >= 1:
        return f"{times(ratio)} fewer FLOPs than {reference}"
    return f"{times(1 / ratio)} the FLOPs of {reference}"


def times_interval(interval: Interval) -> str:
    """Return an interval of ratios."""
    return f"{_three(interval.low)} to {_three(interval.high)}"


def points_interval(interval: Interval) -> str:
    """Return an interval of differences in percentage points."""
    return f"{points(interval.low)} to {points(interval.high)}"


def duration(seconds: float) -> str:
    """Return a time with its unit.

    Example:
        >>> duration(42), duration(600), duration(9000)
        ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def threshold_text(threshold: float, digits: int = 4) -> str:
    """Return a threshold; ``never`` where no confidence reaches it, ``always`` where all do.

    Example:
        >>> threshold_text(0.913), threshold_text(1.1), threshold_text(0.0)
        ('0.9130', 'never', 'always')
    """
    if threshold <= 0:
        return "always"
    return "never" if threshold > 1 else f"{threshold:.{digits}f}"


def answers_at(threshold: float | None) -> str:
    """Return at which confidences a stage answers; None is the last one's.

    Example:
        >>> answers_at(0.913), answers_at(1.1), answers_at(None)
        ('>= 0.9130', 'never', 'always')
    """
    text = "always" if threshold is None else threshold_text(threshold)
    return f">= {text}" if text[0].isdigit() else text


def short_backbone(backbone: str) -> str:
    """Return a backbone's name as a label.

    Example:
        >>> short_backbone("resnet18"), short_backbone("mobilenet_v2-0.5"), short_backbone("vit")
        ('r18', 'mnv2-0.5', 'vit')
    """
    for beginning, short in SHORT.items():
        if backbone.startswith(beginning):
            return short + backbone.removeprefix(beginning)
    return backbone


def short_name(stage: Stage) -> str:
    """Return a stage's name as a label: ``r50@224`` for ``resnet50@224``."""
    return stage.name.replace(stage.backbone, short_backbone(stage.backbone), 1)


def cascade_name(cascade: Cascade, *, short: bool = False) -> str:
    """Return the stages of a cascade on one line: ``resnet18@32 > resnet50@224``."""
    return " > ".join(short_name(s) if short else s.name for s in cascade.stages)


def cascade_text(cascade: Cascade, *, short: bool = False) -> str:
    """Return the stages of a cascade, each with the threshold it answers at.

    ``r18@32 0.913 > r50@224``; a stage that is never left has ``always``.
    """
    *earlier, last = [short_name(s) if short else s.name for s in cascade.stages]
    parts = [
        f"{name} {threshold_text(threshold, 3)}"
        for name, threshold in zip(earlier, cascade.thresholds, strict=True)
    ]
    return " > ".join([*parts, last])


def configuration(point: OperatingPoint) -> tuple[str, ...]:
    """Return a point's stages, each with its threshold and exit rate, one a line."""
    if len(point.cascade.stages) == 1:
        return (f"{point.cascade.stages[0].name} answers all",)
    *rates, rest = (point.test or point.validation).exit_rates
    *earlier, last = point.cascade.stages
    return (
        *(
            f"{stage.name} ({answers_at(threshold)}) answers {percent(rate, 1)}"
            for stage, threshold, rate in zip(
                earlier, point.cascade.thresholds, rates, strict=True
            )
        ),
        f"{last.name} answers the rest, {percent(rest, 1)}",
    )


def numbers(evaluation: Evaluation) -> str:
    """Return accuracy and mean FLOPs."""
    return f"{percent(evaluation.accuracy)} at {flops_text(evaluation.mean_flops)}"


def rule_text(rule: AnswerRule) -> str:
    """Return an answer rule in words."""
    text = f"Confidence is {CONFIDENCES[rule.confidence].text}"
    if rule.temperature:
        text += ", after temperature scaling fitted on validation (cross-fitted there)"
    if rule.weighted:
        text += (
            "; a stage answers with the weighted log-average of the probabilities of the stages "
            "run so far, weights fitted on validation (cross-fitted there)"
        )
    if rule.average:
        text += "; a stage answers with the mean probabilities of the stages run so far"
    return text + "."


def _three(value: float) -> str:
    """Return three significant digits without an exponent."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(float(f"{value:.3g}"))))
    return f"{value:.{max(digits, 0)}f}"
