import tomllib
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcopt.data.survey import Survey
from rcopt.study.file import load_study
from rcopt.study.starting import proposed_resolutions, study_file


def found(sizes: Mapping[str, int], side: int = 300) -> Survey:
    return Survey(("cat", "dog"), sizes, ("cat", 3), side, ())


@given(st.integers(1, 5000))
def test_resolutions_rise_and_show_no_more_than_the_pictures_do(side: int) -> None:
    proposed = proposed_resolutions(side)
    assert list(proposed) == sorted(set(proposed))
    assert 2 <= len(proposed) <= 3
    assert proposed[-1] <= max(32, side)
    assert proposed[-1] <= 224


@pytest.mark.parametrize("root", ["pictures", 'a "quoted" one', "tab\tand \\ more", "ünï"])
def test_the_file_is_one_that_can_be_run(root: str) -> None:
    text = study_file("mine", root, found({"train": 900, "held_out": 300}))
    assert tomllib.loads(text)["data"]["root"] == root


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"train": 900, "held_out": 2000}, "about 400 pictures."),
        ({"train": 900, "held_out": 300}, "about 60 pictures; to certify"),
        ({"all": 1000}, "about 60 pictures; to certify"),
        ({"train": 900, "validation": 900, "test": 10}, "about 300 pictures."),
    ],
)
def test_it_says_what_calibration_is_good_for(sizes: Mapping[str, int], told: str) -> None:
    assert told in study_file("mine", "x", found(sizes)).replace("\n# ", " ")


def test_a_study_that_comes_with_rcopt_is_found_by_its_name_anywhere(
    tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    study = load_study("digits")
    assert study.name == "digits"
    assert str(study.project) == str(tmp_path)
