import pytest

from rcopt.cli.main import main
from rcopt.data.prediction_files import save_stage
from rcopt.errors import InputError
from rcopt.study.file import Study, load_study
from rcopt.study.repeats import accuracy_within, repeats
from rcopt.study.results_file import load_results
from rcopt.study.run_study import run
from tests.support.simulated import simulated_stages


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    project = tmp_path_factory.mktemp("repeats")
    (project / "studies").mkdir()
    made = []
    for seed in range(3):
        # Other predictions in another folder stand for another training seed.
        folder = project / f"stages-{seed}"
        folder.mkdir()
        for trained in simulated_stages({"validation": 80, "test": 80}, seed=seed):
            save_stage(folder / f"{trained.stage.name}.safetensors", trained)
        file = project / "studies" / f"s{seed}.toml"
        file.write_text(
            f'seed = {seed}\n[data]\nsource = "predictions"\nroot = "stages-{seed}"\n'
            "[search]\ntrials = 3\nexact_trials = 2\n"
        )
        made.append(load_study(file))
        run(made[-1])
    return made


@pytest.mark.slow
def test_two_of_three_repeats_reach_the_median_front_and_no_two_reach_more(
    studies: list[Study],
) -> None:
    median = repeats(studies).validation[1]
    fronts = [load_results(study.folder / "results.json").points for study in studies]
    for budget in {p.validation.mean_flops for front in fronts for p in front}:
        best = sorted(
            max(
                (p.validation.accuracy for p in front if p.validation.mean_flops <= budget),
                default=-1.0,
            )
            for front in fronts
        )
        expected = None if best[1] < 0 else best[1]
        assert accuracy_within(median, budget) == expected


@pytest.mark.slow
def test_the_command_prints_the_levels_and_fits_100_columns(
    studies: list[Study], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(studies[0].project)
    assert main(["repeats", "s0", "s1", "s2"]) == 0
    text = capsys.readouterr().out
    assert "3 repeats" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.slow
def test_studies_that_differ_in_more_than_their_seed_are_refused(studies: list[Study]) -> None:
    other = load_study(studies[1].file, ["answers.average=true"])
    with pytest.raises(InputError, match=r"s0 and s1 differ in answers\.average"):
        repeats([studies[0], other])


@pytest.mark.slow
def test_one_study_is_not_a_repeat(studies: list[Study]) -> None:
    with pytest.raises(InputError, match="at least two different studies"):
        repeats([studies[0], studies[0]])


@pytest.mark.slow
def test_on_test_stands_what_was_chosen_on_validation(studies: list[Study]) -> None:
    found = repeats(studies)
    fronts = [load_results(study.results_file).points for study in studies]
    for at in (0, len(found.budgets) // 2, -1):
        budget = float(found.budgets[at])
        told = sorted(
            max(
                (p for p in front if p.validation.mean_flops <= budget),
                key=lambda p: p.validation.accuracy,
            ).test.accuracy  # type: ignore[union-attr]
            for front in fronts
        )
        assert found.test[1, at] == told[1], "two of three reach the median"
        assert found.test[0, at] == told[2], "one of three reaches the best"


def test_looks_at_test_are_counted_and_told(
    studies: list[Study], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(studies[0].project)
    (studies[0].folder / "test-looks").unlink(missing_ok=True)
    assert main(["status", "s0"]) == 0
    assert "test %" not in capsys.readouterr().out
    assert main(["front", "s0"]) == 0
    assert "test numbers of s0" not in capsys.readouterr().err
    assert main(["select", "s0", "--knee"]) == 0
    assert "test numbers of s0 were shown 2 times" in capsys.readouterr().err
    assert main(["report", "s0"]) == 0
    assert "test numbers of s0 were shown 3 times" in capsys.readouterr().err
    assert main(["repeats", "s0", "s1", "s2"]) == 0
    assert "test numbers of s0 were shown 4 times" in capsys.readouterr().err
    assert main(["run", "s0", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["run", "s0"]) == 0
    assert "test numbers of s0 were shown 6 times" in capsys.readouterr().err
    (studies[0].folder / "test-looks").write_text("damaged")
    assert main(["front", "s0", "--format", "csv"]) == 0
    assert "test numbers" not in capsys.readouterr().err
