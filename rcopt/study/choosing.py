"""Pick one configuration of a study, say how sure its numbers are, make it a model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rcopt import tracking
from rcopt.core.answers import AnswerRule, fit_temperature
from rcopt.core.cascade import OperatingPoint, Stage
from rcopt.core.evaluations import outcomes
from rcopt.core.predictions import Split
from rcopt.core.statistics.certify import Certificate, certify
from rcopt.core.statistics.intervals import Interval, accuracy_interval
from rcopt.core.statistics.selection import (
    by_max_drop,
    by_max_flops,
    by_max_milliseconds,
    by_min_accuracy,
    by_trial,
    knee,
)
from rcopt.core.trained_stage import TrainedStage
from rcopt.errors import InputError
from rcopt.serving import registry
from rcopt.serving.bundle import CascadePackage, LoadedCascade, open_cascade, save_cascade
from rcopt.study.file import Study
from rcopt.study.results import StageSummary, load_results
from rcopt.study.stages.lookup import trained_stages

_SHOWN: tuple[Split, Split] = ("validation", "test")


@dataclass(frozen=True)
class Wish:
    """What is asked of a configuration; exactly one of the first six.

    Attributes:
        max_flops: Most mean FLOPs per image.
        max_milliseconds: Most mean time per image; only on a front by time.
        min_accuracy: Least validation accuracy.
        max_drop: Most accuracy given up against the best single stage, as a share.
        knee: The front's bend.
        trial: What this trial found.
        certify: With ``max_drop``: the confidence of a guarantee on the calibration split.
    """

    max_flops: float | None = None
    max_milliseconds: float | None = None
    min_accuracy: float | None = None
    max_drop: float | None = None
    knee: bool = False
    trial: int | None = None
    certify: float | None = None

    def __post_init__(self) -> None:
        """Refuse none or several wishes."""
        asked = [
            self.max_flops,
            self.max_milliseconds,
            self.min_accuracy,
            self.max_drop,
            self.trial,
            self.knee or None,
        ]
        if sum(wish is not None for wish in asked) != 1:
            raise InputError(
                "select: expected exactly one of --max-flops, --max-milliseconds, "
                "--min-accuracy, --max-drop, --knee, --trial"
            )
        if self.certify is not None and self.max_drop is None:
            raise InputError("select: --certify needs --max-drop, which it then guarantees")


@dataclass(frozen=True)
class Choice:
    """A chosen configuration.

    Attributes:
        study: The study's name.
        point: With validation and test numbers.
        validation: 95 % interval of its accuracy on validation (it was chosen there, so the
            estimate is optimistic).
        test: 95 % interval of its accuracy on test.
        reference: The best single stage on validation.
        certificate: What is guaranteed; None unless asked for.
    """

    study: str
    point: OperatingPoint
    validation: Interval
    test: Interval
    reference: StageSummary
    certificate: Certificate | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as JSON."""
        tree = self.point.to_dict()
        for split, interval in (("validation", self.validation), ("test", self.test)):
            tree[split]["accuracy_interval"] = [interval.low, interval.high]
        tree["reference"] = {
            "stage": self.reference.stage.name,
            "flops": self.reference.stage.flops,
            "validation": self.reference.validation,
            "test": self.reference.test,
        }
        if self.certificate is not None:
            tree["certificate"] = {
                "drop": self.certificate.drop,
                "confidence": self.certificate.confidence,
                "n_images": self.certificate.n_images,
                "certified": self.certificate.point is not None,
                "images_without_loss": self.certificate.images_without_loss,
                "images_at_this_rate": self.certificate.images_at_this_rate,
                "text": str(self.certificate),
            }
        return tree


def select(study: Study, wish: Wish, front: Sequence[OperatingPoint] | None = None) -> Choice:
    """Pick one point of a study's front by its validation numbers alone.

    Args:
        study: A study that has a front.
        wish: What to pick.
        front: Another front of the study's stages, such as `rcopt.ranking.rank` makes.

    Raises:
        InputError: If no point satisfies the wish (the nearest is named), nothing can be
            certified (it says what would suffice), or the study has no front yet.
    """
    results = load_results(study.folder / "results.json")
    points = results.points if front is None else front
    tracker = tracking.open_tracker(study.settings.tracking.uri, study.project)
    stages = trained_stages(study, tracker)
    rule = AnswerRule(**study.settings.answers.model_dump())
    reference = max(results.stages, key=lambda s: (s.validation, -s.stage.flops))
    certificate = None
    try:
        if wish.certify is not None and wish.max_drop is not None:
            certificate = _certificate(
                points, stages, reference, wish.max_drop, wish.certify, rule
            )
            point = certificate.point
            if point is None:
                raise InputError(f"{study.name}: {certificate}")
        else:
            point = _wished(points, wish, reference.validation)
    except ValueError as error:
        raise InputError(f"{study.name}: {error}") from None
    on_validation, on_test = (
        outcomes([point.cascade], stages, split, rule)[0].correct for split in _SHOWN
    )
    return Choice(
        study=study.name,
        point=point,
        validation=accuracy_interval(on_validation),
        test=accuracy_interval(on_test),
        reference=reference,
        certificate=certificate,
    )


def register(
    study: Study, choice: Choice, name: str, *, alias: str = registry.ALIAS
) -> registry.RegisteredCascade:
    """Pack a chosen configuration as an MLflow model and register it.

    Raises:
        InputError: If its weights are not stored (``source = "predictions"``) or damaged.
    """
    _check_weights(study)
    settings = study.settings
    tracker = tracking.open_tracker(settings.tracking.uri, study.project)
    run = tracker.study_of(study.name, settings.stages.resolutions)
    if run is None:
        raise InputError(f"{study.name}: not in the MLflow store; 'rcopt run' logs it again")
    point = choice.point
    if point.run_id is None:
        point = replace(point, run_id=tracker.log_cascade(run, point))
    package, weights = _packed(study, point, tracker)
    note = f"Chosen from study `{study.name}`."
    if choice.certificate is not None:
        note += f" {str(choice.certificate).capitalize()}."
    return registry.register(
        tracker, package, weights, name, experiment_id=run.experiment_id, alias=alias, note=note
    )


def opened(study: Study, choice: Choice, *, device: str = "cpu") -> LoadedCascade:
    """Return a chosen configuration ready to answer, without registering it.

    Raises:
        InputError: As `register`.
    """
    _check_weights(study)
    tracker = tracking.open_tracker(study.settings.tracking.uri, study.project)
    package, weights = _packed(study, choice.point, tracker)
    with TemporaryDirectory(prefix="rcopt-") as made:
        folder = Path(made) / "cascade"
        save_cascade(folder, package, weights)
        return open_cascade(folder, device)


def _check_weights(study: Study) -> None:
    if study.settings.data.source == "predictions":
        raise InputError(
            f"{study.name}: its stages come from stored predictions, without weights, so there "
            "is nothing to run; pick from a study that trains its stages"
        )


def _packed(
    study: Study, point: OperatingPoint, tracker: tracking.Tracker
) -> tuple[CascadePackage, dict[Stage, Path]]:
    settings = study.settings
    rule = AnswerRule(**settings.answers.model_dump())
    used = {
        trained.stage: trained
        for trained in trained_stages(study, tracker)
        if trained.stage in point.cascade.stages
    }
    first = used[point.cascade.stages[0]]
    temperatures = None
    if rule.temperature:
        temperatures = tuple(
            fit_temperature(used[stage].predictions["validation"])
            for stage in point.cascade.stages
        )
    package = CascadePackage(
        point=point,
        rule=rule,
        temperatures=temperatures,
        classes=load_results(study.folder / "results.json").classes,
        base_side=settings.data.base_side or max(settings.stages.resolutions),
        data_digest=first.details["data_digest"],
        split_digest=first.details["split_digest"],
        precision=settings.training.recipe().precision,
    )
    weights = {}
    for stage, trained in used.items():
        try:
            weights[stage] = tracker.weights_path(str(trained.run_id))
        except InputError as error:
            raise InputError(
                f"{error}; 'rcopt run {study.name}' trains {stage.name} again, then repeat this"
            ) from None
    return package, weights


def _wished(
    points: Sequence[OperatingPoint], wish: Wish, reference_accuracy: float
) -> OperatingPoint:
    if wish.max_flops is not None:
        return by_max_flops(points, wish.max_flops)
    if wish.max_milliseconds is not None:
        return by_max_milliseconds(points, wish.max_milliseconds)
    if wish.min_accuracy is not None:
        return by_min_accuracy(points, wish.min_accuracy)
    if wish.max_drop is not None:
        return by_max_drop(points, wish.max_drop, reference_accuracy)
    if wish.trial is not None:
        return by_trial(points, wish.trial)
    return knee(points)


def _certificate(
    points: Sequence[OperatingPoint],
    stages: Sequence[TrainedStage],
    reference: StageSummary,
    drop: float,
    confidence: float,
    rule: AnswerRule,
) -> Certificate:
    if not all(len(t.predictions.get("calibration", ())) for t in stages):
        raise InputError(
            "select: --certify needs calibration images and the study has none; set "
            "data.calibration (such as 0.2) in the study file, under another name"
        )
    return certify(points, stages, reference.stage, drop, confidence, rule)
