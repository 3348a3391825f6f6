"""What MLflow and optuna-dashboard show first of a study."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from PIL import Image

from rcopt.core.statistics.cascade_gain import MeanGain
from rcopt.core.statistics.intervals import Interval
from rcopt.core.wording import times_interval
from rcopt.study.dashboard import show_result
from rcopt.study.file import Study
from rcopt.study.findings import front_table, result_metrics, verdict
from rcopt.study.front_picture import front_picture, front_plotly
from rcopt.study.results import Results
from rcopt.study.results_file import load_results
from rcopt.study.run_study import run
from rcopt.study.trials import Trials
from rcopt.tracking.view import RESULT_METRICS
from tests.support.study_helpers import stored_study


@pytest.fixture(scope="module")
def study(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished study on stored predictions."""
    study = stored_study(tmp_path_factory.mktemp("found"), store_template)
    run(study, trials=6)
    return study


@pytest.fixture(scope="module")
def results(study: Study) -> Results:
    return load_results(study.results_file)


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (1.2, 2.0, "At equal accuracy, cascades cost 1.50× less than single stages mixed"),
        (0.9, 2.0, "Cascades save nothing beyond doubt: at equal accuracy, single stages"),
        (0.5, 0.9, "Cascades save nothing: at equal accuracy, single stages"),
    ],
)
def test_the_verdict_says_no_more_than_its_interval(
    results: Results, low: float, high: float, told: str
) -> None:
    middle = 1.5 if high > 1 else 0.7
    interval = Interval(middle, low, high, 0.95)
    text = verdict(replace(results, gain=MeanGain(interval, interval, ("a", "b"), 100)))
    assert text.startswith(told)
    assert f"(95 % interval {times_interval(interval)}, 100 test images)" in text
    assert "\n" not in text


def test_without_a_gain_there_is_nothing_to_cascade(results: Results) -> None:
    assert verdict(replace(results, gain=None)).startswith("Nothing to cascade yet. Most accurate")


def test_the_result_is_few_numbers_that_the_view_knows(study: Study, results: Results) -> None:
    metrics = result_metrics(results)
    assert set(metrics) <= set(RESULT_METRICS)
    assert len(metrics) <= 9
    best = results.points[-1].test
    assert best is not None
    assert metrics["best/accuracy"] == round(best.accuracy, 4)
    assert metrics["stages"] == len(results.stages)
    tracker = study.open_tracker()
    logged = tracker.study_of(study.name)
    assert logged is not None
    shown = tracker.store.client.get_run(logged.run_id).data
    assert {key: shown.metrics[key] for key in metrics} == metrics
    assert "hypervolume" not in shown.metrics
    assert shown.tags["mlflow.note.content"].startswith(verdict(results))
    for text in ("rcopt select tiny --max-drop 0.01 --register NAME", front_table(results)):
        assert text in shown.tags["mlflow.note.content"]


def test_equal_results_give_equal_pictures(results: Results) -> None:
    picture = front_picture(results)
    assert front_picture(results) == picture
    assert has_green(picture), "the points on test"
    assert not has_green(front_picture(results, tested=False))


def has_green(picture: bytes) -> bool:
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    return bool((np.abs(pixels - (0, 158, 115)).sum(axis=2) < 30).any())


def test_optuna_dashboard_finds_note_and_front(study: Study, results: Results) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

    stored = Trials(study.storage, study.name, study.folder, None).study
    attributes = stored._storage.get_study_system_attrs(stored._study_id)
    (plot,) = get_plotly_graph_objects(attributes).values()
    assert plot == front_plotly(results)
    series = {entry["name"]: entry for entry in json.loads(plot)["data"]}
    assert set(series) == {"front", "single stages", "front on test"}
    assert len(series["front"]["x"]) == len(series["front"]["text"]) <= 20
    assert dashboard.get_note(stored).startswith(verdict(results))
    trial = next(t for t in stored.trials if "cascade" in t.user_attrs)
    assert "@" in trial.user_attrs["cascade"]
    assert "%" in trial.user_attrs["answered by each"]


@pytest.mark.parametrize("lengths", [(5000, 100), (100, 5000), (2045, 4090), (4090, 0)])
def test_what_a_longer_text_left_behind_is_not_read(lengths: tuple[int, int]) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    study = optuna.create_study()
    for length in lengths:
        show_result(study, "n" * length, json.dumps({"data": "p" * length}))
        assert dashboard.get_note(study) == "n" * length
    version = study._storage.get_study_system_attrs(study._study_id)["dashboard:note_ver"]
    show_result(study, "n" * lengths[1], json.dumps({"data": "p" * lengths[1]}))
    after = study._storage.get_study_system_attrs(study._study_id)["dashboard:note_ver"]
    assert after == version, "the same again writes nothing"
