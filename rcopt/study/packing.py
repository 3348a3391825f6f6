"""Make a chosen configuration a model: registered in MLflow, or opened to answer."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rcopt import tracking
from rcopt.core.answering import Answering, fitted
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import OperatingPoint, Stage
from rcopt.core.first_weights import weights_details
from rcopt.core.predictions import Split
from rcopt.core.statistics.drift import count_confidences
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.levels import Levels
from rcopt.errors import InputError
from rcopt.serving import registry
from rcopt.serving.bundle import CascadePackage, LoadedCascade, open_cascade, save_cascade
from rcopt.study.choice import Choice
from rcopt.study.file import Study
from rcopt.study.model_card import card_tags, model_card
from rcopt.study.results_file import load_results
from rcopt.study.stages.candidates import allow_own
from rcopt.study.stages.lookup import trained_stages


def register(
    study: Study, choice: Choice, name: str, *, alias: str = registry.ALIAS
) -> registry.RegisteredCascade:
    """Pack a chosen configuration as an MLflow model and register it.

    Raises:
        InputError: If its weights are not stored (``source = "predictions"``) or damaged.
    """
    check_weights(study)
    settings = study.settings
    tracker = study.open_tracker()
    run = tracker.study_of(study.name, settings.stages.resolutions)
    if run is None:
        raise InputError(f"{study.name}: not in the MLflow store; 'rcopt run' logs it again")
    # The run that the results name may have been deleted since.
    point = replace(choice.point, run_id=tracker.cascades.run_of(run, choice.point))
    package, weights = _packed(study, point, tracker)
    card = model_card(
        choice,
        run=tracking.run_link("", run.experiment_id, str(point.run_id)),
        picture=tracking.picture_link(run.run_id),
    )
    return registry.register(
        tracker,
        package,
        weights,
        name,
        experiment_id=run.experiment_id,
        alias=alias,
        note=card,
        tags=card_tags(choice),
    )


def opened(study: Study, choice: Choice, *, device: str = "cpu") -> LoadedCascade:
    """Return a chosen configuration ready to answer, without registering it.

    Raises:
        InputError: As `register`.
    """
    check_weights(study)
    tracker = study.open_tracker()
    package, weights = _packed(study, choice.point, tracker)
    with TemporaryDirectory(prefix="rcopt-") as made:
        folder = Path(made) / "cascade"
        save_cascade(folder, package, weights)
        return open_cascade(folder, device)


def check_weights(study: Study) -> None:
    """Refuse a study whose stages are stored predictions alone.

    Raises:
        InputError: Saying so.
    """
    if study.settings.data.source == "predictions":
        raise InputError(
            f"{study.name}: its stages come from stored predictions, without weights, so there "
            "is nothing to run; pick from a study that trains its stages"
        )


def _packed(
    study: Study, point: OperatingPoint, tracker: tracking.Tracker
) -> tuple[CascadePackage, dict[Stage, Path]]:
    settings = study.settings
    allow_own(study)
    rule = study.answer_rule
    used = {
        trained.stage: trained
        for trained in trained_stages(study, tracker)
        if trained.stage in point.cascade.stages
    }
    first = used[point.cascade.stages[0]]
    fit = fitted([used[s].predictions["validation"] for s in point.cascade.stages], rule)
    package = CascadePackage(
        point=point,
        rule=rule,
        fitted=fit,
        classes=load_results(study.results_file).classes,
        base_side=study.base_side,
        data_digest=first.details["data_digest"],
        split_digest=first.details["split_digest"],
        precision=settings.training.recipe_of().precision,
        levels=_levels(first),
        seen_before=_seen_before(list(used.values()), point.cascade.stages[0], rule),
        started_from={stage: weights_details(t.details) for stage, t in used.items()},
    )
    weights = {}
    for stage, trained in used.items():
        try:
            weights[stage] = tracker.stages.weights_path(str(trained.run_id))
        except InputError as error:
            raise InputError(
                f"{error}; 'rcopt run {study.name}' trains {stage.name} again, then repeat this"
            ) from error
    return package, weights


def _seen_before(stages: Sequence[TrainedStage], first: Stage, rule: AnswerRule) -> dict[int, int]:
    """Count the first stage's confidences on calibration, or on validation without one."""
    held_out = stages[0].predictions
    split: Split = "calibration" if len(held_out.get("calibration", ())) else "validation"
    return count_confidences(Answering(stages, split, rule, {first})([first]).confidence[0])


def _levels(trained: TrainedStage) -> Levels | None:
    kept = trained.details.get("levels")
    if kept is None:
        return None
    black, white = json.loads(kept)
    return float(black), float(white)
