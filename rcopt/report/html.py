"""Small pieces of HTML; whatever is not already HTML is escaped."""

from collections.abc import Sequence
from html import escape


class Html(str):
    """Text that is HTML already and goes into a page as it is."""

    __slots__ = ()


def text(value: str) -> Html:
    """Return text as HTML: escaped unless it is HTML already."""
    return value if isinstance(value, Html) else Html(escape(value))


def element(name: str, content: str, **attributes: str) -> Html:
    """Return an element; an attribute ``css`` becomes ``class``, ``_`` in names becomes ``-``.

    Example:
        >>> element("p", "1 < 2", css="note")
        '<p class="note">1 &lt; 2</p>'
    """
    written = "".join(
        f' {"class" if key == "css" else key.replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{written}>{text(content)}</{name}>")


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, *, css: str = ""
) -> Html:
    """Return a table that scrolls sideways where it is too wide; the first column names rows."""
    top = "".join(element("th", name, scope="col") for name in head)
    body = "".join(
        f"<tr>{element('th', row[0], scope='row')}"
        + "".join(element("td", cell) for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return Html(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="{css}">{element("caption", caption)}'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )
