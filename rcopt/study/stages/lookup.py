"""The stages a study rests on, from the store; and as files for others."""

from dataclasses import replace
from pathlib import Path

from rcopt import tracking
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import save_stage
from rcopt.errors import InputError
from rcopt.files import file_name
from rcopt.study.file import Study
from rcopt.study.results_file import load_results
from rcopt.study.stages.recorded import read_predictions


def trained_stages(study: Study, tracker: tracking.Tracker) -> list[TrainedStage]:
    """Return the stages a study's front rests on, with their predictions on every split.

    Raises:
        InputError: If the study has no front yet, or the store lost a stage.
    """
    wanted = load_results(study.results_file).stages
    if study.settings.data.source == "predictions":
        known = read_predictions(study)
        found = {trained.key: trained for trained in known.values()}
    else:
        found = tracker.stages.find_stages(summary.key for summary in wanted)
    for summary in wanted:
        if summary.key not in found:
            told = tracker.stages.why_missing(summary.key)
            raise InputError(
                f"{study.name}: the predictions of {summary.stage.name} are no longer stored; "
                f"'rcopt run {study.name}' trains it again{told and f' ({told})'}"
            )
    return [found[summary.key] for summary in wanted]


def export_predictions(study: Study, folder: Path) -> list[Path]:
    """Write the predictions of a study's stages on the held-out splits, one file a stage.

    A study with ``source = "predictions"`` on the folder repeats search, front and report
    without images or training.

    Raises:
        InputError: If the study has no front yet, or the store lost a stage.
    """
    tracker = study.open_tracker()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for trained in trained_stages(study, tracker):
        held_out = dict(trained.predictions)
        held_out.pop("train", None)
        path = folder / f"{file_name(trained.stage.name)}.safetensors"
        save_stage(path, replace(trained, predictions=held_out))
        written.append(path)
    return written
