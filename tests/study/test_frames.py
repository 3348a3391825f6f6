from pathlib import Path

import numpy as np
import pytest

import rcopt
from rcopt.core.cascade import Cascade, OperatingPoint, Stage
from rcopt.core.cost import Amount
from rcopt.core.evaluating import evaluate_stages
from rcopt.study.frames import Front, points_frame
from tests.support.study_helpers import STORED, store_predictions, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> rcopt.Study:
    project: Path = tmp_path_factory.mktemp("frames")
    store_predictions(project / "stored")
    study = rcopt.load_study(write_study(project, STORED))
    rcopt.run(study)
    return study


def test_a_front_is_a_frame_of_its_numbers(study: rcopt.Study) -> None:
    front = rcopt.front(study)
    frame = front.to_frame()
    assert len(frame) == len(front) > 3
    assert frame["val_accuracy"].tolist() == [p.validation.accuracy for p in front]
    assert frame["test_mflops"].tolist() == [p.test.mean_flops / 1e6 for p in front if p.test]
    assert frame["cascade"].tolist() == [str(p.cascade) for p in front]


def test_a_notebook_shows_a_table_and_a_prompt_one_line(study: rcopt.Study) -> None:
    front = rcopt.front(study)
    assert repr(front).startswith(f"<Front of {len(front)} points: ")
    assert "\n" not in repr(front)
    html = front._repr_html_()
    assert html.count("<tr") == len(front) + 1
    assert repr(Front()) == "Front()"


def test_a_choice_is_a_frame_of_one_row(study: rcopt.Study) -> None:
    choice = rcopt.select(study, rcopt.Criterion(knee=True))
    frame = choice.to_frame()
    assert frame["val_accuracy"].tolist() == [choice.point.validation.accuracy]
    assert "&lt;" not in choice.verdict()
    assert choice._repr_html_().startswith("<p>")


def test_another_cost_has_columns_of_its_own_and_no_test_is_nan() -> None:
    stages = tuple(Stage(32, f"b{k}", 1e6 * k, Amount("latency", 0.002 * k)) for k in (1, 2))
    evaluation = evaluate_stages([[0.9, 0.1]], [[True, True]] * 2, stages, [0.5])
    (row,) = points_frame([OperatingPoint(Cascade(stages, (0.5,)), evaluation)]).to_dict("records")
    latency = [key for key in row if str(key).startswith("val_")]
    assert len(latency) == 3
    assert np.isnan(row["test_accuracy"])


def test_a_plot_has_the_front_and_its_test_points(study: rcopt.Study) -> None:
    from matplotlib.figure import Figure

    front = rcopt.front(study)
    axis = rcopt.plot.front(front, ax=Figure().subplots())
    line, dots = axis.get_lines()
    assert np.asarray(line.get_ydata()).tolist() == [100 * p.validation.accuracy for p in front]
    assert len(np.asarray(dots.get_xdata())) == len(front)
    assert axis.get_xscale() == "log"
    with pytest.raises(ValueError, match="at least one"):
        rcopt.plot.front([])
