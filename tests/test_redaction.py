import pytest

from rcopt.redaction import has_login, has_password, one_line, redacted


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:secret@host/db",
        "cannot reach 'postgresql+psycopg://me:se/c@r:et@host/db' now",
        "http://:secret@host",
        "postgresql://host/db?user=me&password=secret",
        "postgresql://host/db?sslpassword=secret&x=1",
        "connection to host failed: password=secret user=me",
    ],
)
def test_passwords_in_addresses_are_not_shown(text: str) -> None:
    for shown in (redacted(text), one_line(text)):
        assert "***" in shown
        assert "secret" not in shown
        assert "et@" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://me@host:5432/db",
        "http://127.0.0.1:5000/#/experiments/1",
        "sqlite:////a/b@c.db",
        "resnet18@32: another process is training it",
    ],
)
def test_what_holds_no_login_is_shown_as_it_is(text: str) -> None:
    assert redacted(text) == text
    assert not has_password(text)
    assert not has_login(text)


def test_a_token_in_place_of_a_user_is_a_login() -> None:
    assert has_login("https://token@host/")
    assert not has_login("https://host/a@b")


def test_a_line_is_printable_and_bounded() -> None:
    assert one_line("two\n  lines, \x1b[31mred \udcff") == r"two lines, \x1b[31mred \udcff"
    long = one_line("a" * 5000 + "z")
    assert len(long) < 1000
    assert long.endswith("az")
    assert one_line("ünïcödé 名前") == "ünïcödé 名前"
