"""A study's front by another cost than its own, such as time instead of FLOPs."""

from dataclasses import dataclass, replace

from rcopt.core.cascade import OperatingPoint
from rcopt.core.cost import COSTS, CostName
from rcopt.core.outcomes import with_test
from rcopt.core.statistics.cascade_gain import MeanGain, cascade_gain
from rcopt.core.study_front import study_front
from rcopt.progress import Progress
from rcopt.study.file import Study
from rcopt.study.results_file import load_results
from rcopt.study.stages.lookup import trained_stages
from rcopt.study.stages.times import StageTimes, priced, stage_times


@dataclass(frozen=True)
class Ranking:
    """The front of a study's trained stages by a cost.

    Attributes:
        points: Cheapest first, strictly rising in cost and accuracy on validation, each with
            its test numbers. They come from the exact sweep, so they are no trials.
        exact: Whether the front is exact over all cascades and thresholds of the stages.
        limits: What it leaves out; see `rcopt.core.study_front.StudyFront.limits`.
        gain: What cascading brings by this cost.
        times: The stages' times; None where the cost is not measured.
    """

    points: tuple[OperatingPoint, ...]
    exact: bool
    limits: str
    gain: MeanGain | None
    times: StageTimes | None


def rank(
    study: Study, cost: CostName, *, again: bool = False, progress: Progress | None = None
) -> Ranking:
    """Return the front over all cascades of a study's trained stages, by a cost of choice.

    Args:
        study: A study that has a front; its ``[latency]`` says where and how to measure.
        cost: What to minimize.
        again: Measure the stages' times even if they are known.
        progress: Shows what goes on.

    Raises:
        InputError: If the study has no front yet, or a stage cannot be timed.
    """
    results = load_results(study.results_file)
    tracker = study.open_tracker()
    stages = trained_stages(study, tracker)
    times = None
    if COSTS[cost].meter is not None:
        times = stage_times(
            study,
            [trained.stage for trained in stages],
            len(results.classes),
            cost,
            again=again,
            progress=progress,
        )
    stages = [replace(trained, stage=priced(trained.stage, cost, times)) for trained in stages]
    settings = study.settings
    rule = study.answer_rule
    front = study_front(
        stages,
        rule=rule,
        optional=settings.stages.optional,
        resolutions=settings.stages.resolutions or None,
    )
    gain = cascade_gain(front.points, stages, rule)
    return Ranking(
        with_test(front.points, stages, rule),
        front.exact and front.complete,
        front.limits,
        None if gain is None else gain.over_all,
        times,
    )
