import os
import string
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcopt.data.settings import DataSettings
from rcopt.errors import InputError
from rcopt.files import digest
from rcopt.models.named_recipes import RECIPES
from rcopt.models.recipe import Recipe
from rcopt.redaction import has_login
from rcopt.study.file import Study, load_study
from rcopt.study.settings import (
    RecipeChanges,
    SearchSettings,
    StageSettings,
    StudySettings,
    TrackingSettings,
    TrainingSettings,
    flatten,
    identity,
)

MINIMAL = '[stages]\nresolutions = [16, 32]\nbackbones = ["resnet18"]\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one study file, and the folder one works in."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.toml").write_text(MINIMAL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings_of(text: str, project: Path, *overrides: str) -> StudySettings:
    (project / "studies" / "mine.toml").write_text(text)
    return load_study("studies/mine.toml", overrides).settings


def refused(text: str, project: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        settings_of(text, project, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- finding and reading ---


def test_a_study_is_named_after_its_file_and_belongs_to_the_folder_that_holds_studies(
    project: Path,
) -> None:
    study = load_study("studies/mine.toml")
    assert (study.name, study.project) == ("mine", project)
    assert study.folder == project / "mlruns" / "studies" / "mine"
    assert study.settings.stages.table() == {16: ("resnet18",), 32: ("resnet18",)}


def test_a_study_is_found_by_name_from_any_folder_of_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "notes" / "deep").mkdir(parents=True)
    monkeypatch.chdir(project / "notes" / "deep")
    assert load_study("mine").file == project / "studies" / "mine.toml"


def test_the_started_copy_wins_over_the_file_and_keeps_the_project(project: Path) -> None:
    study = load_study("mine", ["seed=7"])
    study.folder.mkdir(parents=True)
    (study.folder / "study.toml").write_text(study.to_toml())
    again = load_study("mine")
    assert again.settings.seed == 7
    assert again.project == project
    assert load_study(str(again.file)).project == project


def test_an_unknown_study_names_the_known_ones(project: Path) -> None:
    with pytest.raises(InputError, match=r"^other: no study of that name .*: digits, mine$"):
        load_study("other")


def test_a_missing_file_names_its_neighbours(project: Path) -> None:
    with pytest.raises(InputError, match=r"no such study file; there is studies/mine\.toml$"):
        load_study("studies/mien.toml")


def test_what_is_not_toml_is_said_with_its_place(project: Path) -> None:
    message = refused("seed = \n", project)
    assert "mine.toml: not valid TOML: " in message
    assert "line 1" in message


def test_a_file_that_is_no_text_is_one_line(project: Path) -> None:
    (project / "studies" / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"mine\.toml: cannot be read"):
        load_study("mine")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_one_line(project: Path) -> None:
    (project / "studies" / "mine.toml").chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        load_study("mine")


def test_paths_belong_to_the_project_and_home_is_expanded(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = MINIMAL + '[data]\nsource = "folder"\n'
    monkeypatch.setenv("HOME", "/home/me")
    for given_root, expected in (
        ("pictures", project / "pictures"),
        ("/else/where", Path("/else/where")),
        ("~/pictures", Path("/home/me/pictures")),
    ):
        (project / "studies" / "mine.toml").write_text(text + f'root = "{given_root}"\n')
        assert load_study("mine").root == expected
    assert load_study("mine", ["data.source=digits"]).root is not None


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        ("journal", "journal"),
        ("sqlite:///optuna.db", "sqlite:///{project}/optuna.db"),
        ("sqlite+pysqlite:///a/b.db", "sqlite+pysqlite:///{project}/a/b.db"),
        ("sqlite:////abs/b.db", "sqlite:////abs/b.db"),
        ("postgresql+psycopg://me@host/db", "postgresql+psycopg://me@host/db"),
    ],
)
def test_an_sqlite_file_of_trials_belongs_to_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch, storage: str, expected: str
) -> None:
    study = load_study("mine", [f"search.storage={storage}"])
    monkeypatch.chdir("/")
    assert study.storage == expected.format(project=project)


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead = 1", "sead: unknown key; the nearest known one is 'seed'"),
        ("[trainign]", "trainign: unknown key; the nearest known one is 'training'"),
        (
            "[training]\nepoch = 3",
            "training.epoch: unknown key; the nearest known one is 'epochs'",
        ),
        (
            "[training.override.'mobilenet*']\nepoch = 3",
            "training.override.mobilenet*.epoch: unknown key; the nearest known one is 'epochs'",
        ),
        (
            "[training.override.'*']\ndevice = 'cpu'",
            "training.override.*.device: unknown key; the nearest known one is",
        ),
        ("[search]\ntrails = 3", "search.trails: unknown key; the nearest known one is 'trials'"),
        ("[data]\nvalid = 0.5", "data.valid: unknown key; the nearest known one is 'validation'"),
        ("[answers]\nmean = 1", "answers.mean: unknown key; the nearest known one is"),
        ("[tracking]\nurl = ''", "tracking.url: unknown key; the nearest known one is 'uri'"),
        ("[stages]\nresolution = [8]", "stages.resolution: unknown key; the nearest known one is"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(
    project: Path, text: str, message: str
) -> None:
    assert message in refused(text, project)


def test_an_unknown_key_is_named_first_whatever_else_is_wrong(project: Path) -> None:
    message = refused("seed = 'x'\n[training]\nepoch = 3\nlr = -1\n", project)
    assert "training.epoch: unknown key" in message
    assert message.endswith("(and 2 more)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 'one'", "seed: expected a valid integer, got 'one'"),
        ("seed = 1.0", "seed: expected a valid integer, got 1.0"),
        ("seed = -1", "seed: expected greater than or equal to 0, got -1"),
        ("name = 3", "name: expected a valid string, got 3"),
        ("name = 'a/b'", "name: expected letters, digits, '.', '_' and '-'"),
        ("name = ''", "name: expected letters, digits, '.', '_' and '-'"),
        ("data = 3", "data: expected a section ([data]), got 3"),
        (
            "[data]\nsource = 'disk'",
            "data.source: expected one of predictions, digits, folder, imagenette",
        ),
        ("[data]\nvalidation = 1.5", "data.validation: expected less than or equal to 1"),
        ("[data]\nvalidation = '1'", "data.validation: expected a valid number, got '1'"),
        ("[data]\nvalidation = nan", "data.validation: expected"),
        ("[data]\nvalidation = 0", "data: validation and test must be above 0"),
        ("[data]\ntest = 0.0", "data: validation and test must be above 0"),
        ("[data]\nvalidation = 0.6", "must not exceed 1: the splits would overlap"),
        ("[data]\ncalibration = 0.1", "must not exceed 1: the splits would overlap"),
        ("[data]\nsource = 'folder'", 'data: root is needed with source = "folder"'),
        ("[data]\nsource = 'predictions'", 'data: root is needed with source = "predictions"'),
        ("[training]\nepochs = 0", "training.epochs: expected greater than or equal to 1, got 0"),
        ("[training]\nepochs = 1.5", "training.epochs: expected a valid integer, got 1.5"),
        ("[training]\nlr = 0", "training.lr: expected greater than 0, got 0"),
        ("[training]\nlr = inf", "training.lr: expected"),
        ("[training.override]\nlr = 1", "training.override.lr: expected a section"),
        ("[training.override.'*']\nlr = 0", "training.override.*.lr: expected greater than 0"),
        ("[training]\nflip = 1", "training.flip: expected a valid boolean, got 1"),
        ("[training]\nflip = 'yes'", "training.flip: expected a valid boolean, got 'yes'"),
        (
            "[training]\nrecipe = 'x'",
            "training.recipe: expected 'plain', 'fast', 'half', 'long' or",
        ),
        ("[training]\nschedule = 'x'", "training.schedule: expected 'cosine' or 'onecycle'"),
        ("[search]\ntrials = 0", "search.trials: expected greater than or equal to 1, got 0"),
        (
            "[search]\nsampler = 'cmaes'",
            "search.sampler: expected 'auto', 'tpe', 'nsga2', 'gp' or",
        ),
        ("[tracking]\ncascade_runs = -1", "tracking.cascade_runs: expected greater than or equal"),
        ("[answers]\nconfidence = 'max2'", "answers.confidence: expected 'max', 'margin' or"),
    ],
)
def test_a_wrong_type_or_range_is_said_with_what_was_expected(
    project: Path, text: str, message: str
) -> None:
    with_stages = MINIMAL if not text.startswith("[") else ""
    assert message in refused(text + "\n" + with_stages, project)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            "resolutions = [32, 16]\nbackbones = ['resnet18']",
            "resolutions must rise, got [32, 16]",
        ),
        (
            "resolutions = [16, 16]\nbackbones = ['resnet18']",
            "resolutions must rise, got [16, 16]",
        ),
        ("resolutions = [4]\nbackbones = ['resnet18']", "stages.resolutions.0: expected greater"),
        (
            "resolutions = ['16']\nbackbones = ['resnet18']",
            "stages.resolutions.0: expected a valid",
        ),
        (
            "resolutions = 16\nbackbones = ['resnet18']",
            "stages.resolutions: expected a list, got 16",
        ),
        (
            "resolutions = [16]\nbackbones = 'resnet18'",
            "stages.backbones: expected a list, got 'res",
        ),
        ("resolutions = [16]\nbackbones = []", "backbones must not be empty"),
        ("resolutions = [16]\nbackbones = ['a', 'a']", "backbones are named twice in ['a', 'a']"),
        ("resolutions = [16]", "backbones must not be empty"),
        ("backbones = ['resnet18']", "stages.resolutions and stages.backbones are needed"),
        ("", "stages.resolutions and stages.backbones are needed"),
        (
            "resolutions = [16, 32]\n[stages.backbones]\n16 = ['resnet18']",
            "backbones must have one list per resolution (16, 32), got 16",
        ),
    ],
)
def test_stages_that_make_no_cascade_are_refused(project: Path, stages: str, message: str) -> None:
    assert message in refused(f"[stages]\n{stages}\n", project)


def test_a_base_image_smaller_than_a_stage_is_refused(project: Path) -> None:
    message = refused(MINIMAL + "[data]\nbase_side = 24\n", project)
    assert "data.base_side must be at least the largest resolution (32), got 24" in message


def test_a_long_wrong_value_is_cut(project: Path) -> None:
    assert len(refused(f"seed = '{'x' * 5000}'\n{MINIMAL}", project)) < 200


# --- overrides ---


def test_overrides_win_over_the_file_and_are_toml(project: Path) -> None:
    settings = settings_of(
        MINIMAL,
        project,
        "seed=3",
        "training.lr=0.5",
        "training.flip=false",
        "stages.resolutions=[8, 24]",
        "data.root=some where/else",
        'training.device="cpu"',
        "name=other",
    )
    assert (
        settings.seed,
        settings.training.recipe_of().lr,
        settings.training.recipe_of().flip,
    ) == (
        3,
        0.5,
        False,
    )
    assert settings.stages.resolutions == (8, 24)
    assert settings.data.root == "some where/else"
    assert (settings.training.device, settings.name) == ("cpu", "other")


def test_the_last_of_two_overrides_wins(project: Path) -> None:
    assert settings_of(MINIMAL, project, "seed=3", "seed=4").seed == 4


@pytest.mark.parametrize("override", ["seed", "", "=3", "a b=3", "training..lr=1", ".seed=1"])
def test_a_malformed_override_is_shown_as_it_should_be(project: Path, override: str) -> None:
    message = refused(MINIMAL, project, override)
    assert message == f"--set {override}: expected section.key=value, such as data.root=images"


def test_an_override_below_a_value_is_refused(project: Path) -> None:
    message = refused("seed = 1\n" + MINIMAL, project, "seed.deep=3")
    assert message == "--set seed.deep=3: seed is a value, not a section"


def test_an_override_is_checked_like_the_file(project: Path) -> None:
    assert "search.trials: expected greater" in refused(MINIMAL, project, "search.trials=0")
    assert "nearest known one is 'seed'" in refused(MINIMAL, project, "sed=0")


# --- logins ---


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg://me:hunter2@host/db",
        "postgresql+psycopg://me:hun/ter2@host/db",
        "postgresql+psycopg://:hunter2@host:5432/db",
        "postgresql+psycopg://host/db?user=me&password=hunter2",
        "postgresql+psycopg://me@host/db?sslpassword=hunter2",
        "mysql://me:hunter2@host/db",
    ],
)
def test_a_password_of_the_storage_is_refused_unshown(project: Path, address: str) -> None:
    line = refused(MINIMAL + f"[search]\nstorage = '{address}'\n", project)
    assert "search.storage: must not hold a password" in line
    assert "PGPASSWORD" in line
    assert "ter2" not in line
    assert "ter2" not in refused(MINIMAL, project, f"search.storage={address}")
    assert "ter2" not in refused(MINIMAL, project, f"search={address}")


@pytest.mark.parametrize(
    "address",
    [
        "http://me:hunter2@host:5000",
        "https://hunter2@host",
        "https://me:hun/ter2@host",
        "http://host/?password=hunter2",
    ],
)
def test_a_login_of_the_tracking_server_is_refused_unshown(project: Path, address: str) -> None:
    line = refused(MINIMAL + f"[tracking]\nuri = '{address}'\n", project)
    assert "tracking.uri: must not hold a login" in line
    assert "MLFLOW_TRACKING_PASSWORD" in line
    assert "ter2" not in line


@pytest.mark.parametrize(
    "setting",
    [
        "search.storage='postgresql+psycopg://me@host:5432/db?host=/tmp/pg'",
        "search.storage='sqlite:///a:b@c.db'",
        "tracking.uri='http://host/a@b'",
        "tracking.uri='sqlite:////a:b@c/mlflow.db'",
    ],
)
def test_an_address_without_a_login_is_taken(project: Path, setting: str) -> None:
    settings_of(MINIMAL, project, setting)


@pytest.mark.parametrize("key", ["data.root", "training.weights", "search.storage"])
def test_a_place_with_control_characters_is_refused(project: Path, key: str) -> None:
    line = refused(MINIMAL, project, f'{key}="a\\u0000b"')
    assert f"{key}: expected text without control characters" in line


def test_a_home_folder_that_does_not_exist_is_named(project: Path) -> None:
    line = refused(MINIMAL, project, "data.root='~nobody-at-all/x'")
    assert "data.root: there is no home folder ~nobody-at-all" in line
    with pytest.raises(InputError, match="there is no such home folder"):
        load_study("~nobody-at-all/x.toml")


# --- recipes ---


def test_an_override_changes_what_it_names_for_the_stages_it_matches() -> None:
    override = {
        "mobilenet_v2*": {"lr": 0.05, "flip": False},
        "*@32": {"epochs": 50},
    }
    training = training_settings(lr=0.2, epochs=10, override=override)
    plain = training.recipe_of("resnet18@64")
    assert plain == Recipe(lr=0.2, epochs=10) == training.recipe_of()
    assert training.recipe_of("resnet18@32") == replace(plain, epochs=50)
    assert training.recipe_of("mobilenet_v2-0.5@64") == replace(plain, lr=0.05, flip=False)
    assert training.recipe_of("mobilenet_v2@32") == replace(plain, lr=0.05, flip=False, epochs=50)


def test_of_two_overrides_the_later_one_in_the_file_wins(project: Path) -> None:
    for first, second, lr in (("*", "resnet18@*", 0.2), ("resnet18@*", "*", 0.1)):
        values = {"*": 0.1, "resnet18@*": 0.2}
        text = "".join(
            f"[training.override.'{pattern}']\nlr = {values[pattern]}\n"
            for pattern in (first, second)
        )
        assert settings_of(MINIMAL + text, project).training.recipe_of("resnet18@8").lr == lr


def test_every_part_of_a_recipe_can_be_overridden() -> None:
    names = {field.name for field in fields(Recipe)}
    assert set(RecipeChanges.model_fields) == {*names, "recipe"}
    assert names < set(TrainingSettings.model_fields)


def test_a_study_starts_from_a_named_recipe_and_changes_it() -> None:
    fast = Recipe(**RECIPES["fast"].settings)
    assert training_settings(recipe="fast").recipe_of() == fast
    override = {"*@32": {"recipe": "half", "epochs": 5}, "*-2@32": {"lr": 0.5}}
    training = training_settings(recipe="fast", filter_lr=0.1, override=override)
    assert training.recipe_of("compact-8@64") == replace(fast, filter_lr=0.1)
    half = replace(Recipe(**RECIPES["half"].settings), epochs=5)
    assert training.recipe_of("compact-8@32") == half
    assert training.recipe_of("x-2@32") == replace(half, lr=0.5)


def test_stages_with_weights_to_start_from_are_fine_tuned_by_default() -> None:
    tuned = training_settings(weights="pretrained").recipe_of("resnet18@32")
    assert tuned == Recipe(**RECIPES["finetune"].settings) != Recipe()
    assert tuned.lr < Recipe().lr / 100
    assert tuned.head_lr > 1
    assert tuned.epochs < Recipe().epochs
    assert tuned.ema > 0
    assert training_settings(weights="w.safetensors", lr=0.1).recipe_of().lr == 0.1
    some = training_settings(override={"*@32": {"weights": "pretrained"}})
    assert some.recipe_of("resnet18@32") == tuned
    assert some.recipe_of("resnet18@64") == Recipe()
    assert training_settings(weights="pretrained", recipe="plain").recipe_of() == Recipe()


def test_what_stages_were_trained_by_before_is_found_by_the_same_digest() -> None:
    """Digests as they were when a recipe was a dictionary of twelve settings."""
    plain = TrainingSettings().recipe_of("resnet18@32").identity()
    assert digest(plain) == "a312badf71b501b1a99518475aeb228809931330824b3d1c0a964f506948989c"
    training = training_settings(epochs=3, lr=0.1, override={"*@32": {"flip": False}})
    changed = training.recipe_of("resnet18@32").identity()
    assert digest(changed) == "afd21e0632aa92cb0730312da0b70854304b29eeef052eb3bf90d5c54c341a34"


def training_settings(**values: object) -> TrainingSettings:
    return TrainingSettings.model_validate(values)


# --- what is written down ---

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
places = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30).filter(
    lambda text: not text.startswith("~") and not has_login(text)
)
names = st.text(string.ascii_letters + string.digits, min_size=1, max_size=12)
shares = st.floats(0.01, 0.33)
resolution_sets = st.sets(st.integers(8, 1024), min_size=1, max_size=4)
backbone_lists = st.lists(texts, min_size=1, max_size=3, unique=True).map(tuple)
recipe_changes = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 10_000),
        "flip": st.booleans(),
        "schedule": st.sampled_from(["cosine", "onecycle"]),
    },
)


@st.composite
def studies(draw: st.DrawFn) -> StudySettings:
    resolutions = tuple(sorted(draw(resolution_sets)))
    table = st.fixed_dictionaries({str(r): backbone_lists for r in resolutions})
    backbones: Any = draw(st.one_of(backbone_lists, table))
    return StudySettings(
        name=draw(names),
        seed=draw(st.integers(0, 2**32 - 1)),
        data=DataSettings(
            source="folder",
            root=draw(places),
            validation=draw(shares),
            calibration=draw(shares),
            test=draw(shares),
            base_side=draw(st.sampled_from([None, 1024])),
        ),
        stages=StageSettings(
            resolutions=resolutions, backbones=backbones, optional=draw(st.booleans())
        ),
        training=training_settings(
            lr=draw(st.floats(1e-9, 100)),
            weight_decay=draw(st.floats(0, 1)),
            weights=draw(places),
            override=draw(st.dictionaries(texts, recipe_changes, max_size=2)),
        ),
        search=SearchSettings(trials=draw(st.integers(1, 10**6)), storage=draw(places)),
        tracking=TrackingSettings(uri=draw(places)),
    )


@given(studies())
def test_the_resolved_file_says_exactly_what_the_settings_were(settings: StudySettings) -> None:
    study = Study(settings, Path("p"), Path("p/studies/s.toml"))
    text = study.to_toml()
    raw = tomllib.loads(text)
    again = StudySettings.model_validate_json(settings.model_dump_json())
    assert again == settings
    dumped = settings.model_dump(mode="json")
    assert raw == _without_none(dumped)


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if value is not None
    }


@given(studies())
def test_the_resolved_file_reads_back_as_the_same_study(settings: StudySettings) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.toml"
        path.write_text(Study(settings, Path(folder), path).to_toml(), encoding="utf-8")
        assert load_study(path).settings == settings


def test_identity_holds_what_changes_the_numbers_and_nothing_else(project: Path) -> None:
    before = identity(load_study("mine").settings)
    for override in (
        "name=other",
        "search.trials=9",
        "search.sampler=random",
        "search.exact=false",
        "search.storage=sqlite:///x.db",
        "tracking.uri=http://localhost:1",
        "tracking.cascade_runs=0",
        "training.device=cuda",
        "data.root=elsewhere",
    ):
        assert identity(load_study("mine", [override]).settings) == before, override
    for override in (
        "seed=1",
        "training.lr=0.3",
        "training.epochs=3",
        "training.weights=pretrained",
        "data.validation=0.4",
        "data.calibration=0.0001",
        "data.base_side=64",
        "stages.optional=false",
        "stages.resolutions=[16, 24]",
        "answers.average=true",
        "training.override={'*@16' = {lr = 0.3}}",
    ):
        overrides = [override, "data.test=0.4"]
        free = identity(load_study("mine", ["data.test=0.4"]).settings)
        assert identity(load_study("mine", overrides).settings) != free, override


def test_a_digest_depends_on_content_and_not_on_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": (1, 2), "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": "ü"}) == digest({"a": "\u00fc"})
    assert len(digest(None)) == 64


def test_flatten_joins_the_keys_of_nested_tables() -> None:
    assert flatten({"a": 1, "b": {"c": {"d": [2]}, "e": None}}) == {
        "a": 1,
        "b.c.d": [2],
        "b.e": None,
    }


def test_stored_predictions_may_be_narrowed_to_resolutions_alone(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text('[data]\nsource = "predictions"\nroot = "p"\n[stages]\nresolutions = [32]\n')
    assert load_study(file).settings.stages.resolutions == (32,)
