"""What a study found, in the words and numbers that MLflow and optuna-dashboard show first."""

from rcopt.core.cascade import OperatingPoint
from rcopt.core.cost import COSTS, CostName
from rcopt.core.wording import cascade_name, percent, times, times_interval
from rcopt.study.data_summary import DataSummary
from rcopt.study.file import Study
from rcopt.study.results import Results, well_spread
from rcopt.study.space import Space


def verdict(results: Results) -> str:
    """Return what the study came to: what cascading saves on test, with its interval."""
    gain, n_stages = results.gain, len(results.stages)
    best = results.points[-1]
    said = (
        f"Most accurate of {n_stages} trained stages and all their cascades: "
        f"{cascade_name(best.cascade)}, {_numbers(best)}."
    )
    if gain is None:
        return f"Nothing to cascade yet. {said}"
    mean = gain.mean
    interval = f"{percent(mean.level, 0)} interval {times_interval(mean)}"
    interval = f"{interval}, {gain.n_images:,} test images"
    if mean.low > 1:
        return (
            f"At equal accuracy, cascades cost {times(mean.estimate)} less than single stages "
            f"mixed at random ({interval}). {said}"
        )
    doubt = "Cascades save nothing" if mean.high < 1 else "Cascades save nothing beyond doubt"
    return (
        f"{doubt}: at equal accuracy, single stages mixed at random cost {times(mean.estimate)} "
        f"as much ({interval}). {said}"
    )


def result_metrics(results: Results) -> dict[str, float]:
    """Return the result as a few rounded numbers; accuracies and costs are on test."""
    gain = results.gain
    metrics = {"stages": float(len(results.stages)), "trials": float(results.sampled)}
    if gain is not None:
        metrics["saving"] = round(gain.mean.estimate, 3)
        metrics["saving/low"] = round(gain.mean.low, 3)
        metrics["saving/high"] = round(gain.mean.high, 3)
    for name, point in (("cheapest", results.points[0]), ("best", results.points[-1])):
        if point.test is not None:
            metrics[f"{name}/accuracy"] = round(point.test.accuracy, 4)
            cost = COSTS[_cost(point)]
            metrics[f"{name}/{cost.metric}"] = float(f"{point.test.cost / cost.per_unit:.4g}")
    return metrics


def front_table(results: Results) -> str:
    """Return well-spread points of the front as a Markdown table."""
    rows = [
        f"| {cascade_name(p.cascade, short=True)} | {percent(p.validation.accuracy)} | "
        f"{'' if p.test is None else percent(p.test.accuracy)} | "
        f"{COSTS[_cost(p)].text(p.validation.cost)} |"
        for p in well_spread(results.points)
    ]
    head = "| stages | validation | test | cost an image |\n|---|---|---|---|"
    return "\n".join([head, *rows])


def about(study: Study, space: Space, data: DataSummary) -> tuple[str, str]:
    """Return what a study searches: one sentence, and Markdown to read below it."""
    sizes = ", ".join(f"{count} {split}" for split, count in data.split_sizes.items())
    table = "\n".join(
        f"| {resolution} | {', '.join(names)} |" for resolution, names in space.backbones.items()
    )
    description = (
        "Which backbone at which resolution, and when to stop: a resolution cascade on "
        f"{data.name} ({len(data.classes)} classes; {sizes} images)."
    )
    note = (
        f"Accuracy is maximized and {COSTS[study.settings.search.cost].title} per image minimized "
        "on validation; test numbers are on the front's runs only.\n\n| resolution | backbones |\n"
        f"|---|---|\n{table}\n\n"
        "Runs: `stage` = one trained network, `cascade` = one evaluated cascade. Filters: "
        "`tags.\"rcopt.pareto\" = 'true'`, `tags.\"rcopt.kind\" = 'stage'`."
    )
    return description, note


def choosing_text(study: str) -> str:
    """Return the commands that choose from the front and report it, as Markdown."""
    return (
        "Choose one, and make it a model:\n\n"
        f"    rcopt select {study} --max-drop 0.01 --register NAME\n\n"
        f"All figures: `rcopt report {study}`."
    )


def _cost(point: OperatingPoint) -> CostName:
    minimized = point.validation.minimized
    return "flops" if minimized is None else minimized.cost


def _numbers(point: OperatingPoint) -> str:
    cost = COSTS[_cost(point)]
    text = f"{percent(point.validation.accuracy)} on validation"
    if point.test is not None:
        text += f" and {percent(point.test.accuracy)} on test"
    return f"{text}, {cost.text(point.validation.cost)} an image"
