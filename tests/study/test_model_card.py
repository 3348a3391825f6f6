"""What a registered version tells about itself."""

from pathlib import Path

import pytest

from rcopt.study.choice import Choice, Criterion
from rcopt.study.choosing import select
from rcopt.study.model_card import card_tags, model_card
from rcopt.study.run_study import run
from tests.support.study_helpers import stored_study


@pytest.fixture(scope="module")
def choice(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Choice:
    """A configuration of a study on stored predictions."""
    study = stored_study(tmp_path_factory.mktemp("card"), store_template)
    run(study, trials=6)
    return select(study, Criterion(knee=True))


def test_each_number_is_named_after_its_split(choice: Choice) -> None:
    card = model_card(choice, run="#/run", picture="front.png")
    assert choice.verdict() in card
    accuracy = choice.test.accuracy
    on_test = (
        f"| test, {choice.test.n_images} images | {100 * accuracy.estimate:.2f} % "
        f"({100 * accuracy.low:.2f} % to {100 * accuracy.high:.2f} %, 95 %)"
    )
    assert on_test in card
    validation = f"{100 * choice.validation.estimate:.2f} %"
    assert f"| validation, where it was chosen, so too favourable | {validation}" in card
    for part in ("**Saving on test**", "None was asked for", "[its run](#/run)", "(front.png)"):
        assert part in card
    tags = card_tags(choice)
    assert tags["rcopt.test_accuracy"] == f"{accuracy.estimate:.4f}"
    assert tags["rcopt.certificate"] == "none"
    assert tags["rcopt.study"] == choice.study
    assert all(len(value) < 5000 for value in tags.values())
