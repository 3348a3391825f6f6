from pathlib import Path

from rcopt.study.describing import markdown, settings
from rcopt.study.settings import StudySettings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_of_settings_is_what_the_schema_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown() + "\n", (
        "the settings have changed: rcopt settings > docs/settings.md"
    )


def test_every_setting_says_what_it_does() -> None:
    assert [one for one in settings() if len(one.meaning) < 8 or not one.kind] == []


def test_no_setting_is_left_out() -> None:
    expected: set[tuple[str, str]] = set()
    for name, field in StudySettings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        expected |= {("", name)} if inner is None else {(name, key) for key in inner}
    assert {(one.section, one.name) for one in settings()} == expected


def test_bounds_choices_and_defaults_are_in_words() -> None:
    known = {(one.section, one.name): one for one in settings()}
    lr = known["training", "lr"]
    assert (lr.kind, lr.default) == ("number, above 0, at most 100", "0.2")
    assert known["search", "cost"].kind == '`"flops"` or `"latency"`'
    assert known["stages", "optional"].default == "true"
    assert known["data", "root"].default == ""
