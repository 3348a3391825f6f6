"""What may be shown: no logins from addresses, no control characters, no endless lines."""

import re

#: Characters of a line that people read; a damaged file can put any amount into one.
_LONGEST = 800

#: User and password as SQLAlchemy finds them: the password may hold anything but an @.
_LOGIN = re.compile(r"^[\w+.-]+://[^:/@]*:[^@]*@")
_QUERY = re.compile(r"[?&](?:ssl)?passw(?:or)?d=", re.IGNORECASE)
_SHOWN_LOGIN = re.compile(r"([\w+.-]+://[^\s:/@]*:)\S*@")
_SHOWN_QUERY = re.compile(r"((?:ssl)?passw(?:or)?d=)[^\s&'\"]+", re.IGNORECASE)


def has_password(address: str) -> bool:
    """Return whether a database's address holds a password."""
    return bool(_LOGIN.match(address) or _QUERY.search(address))


def has_login(address: str) -> bool:
    """Return whether a server's address holds a password, a token or a user's name."""
    authority = re.match(r"https?://([^/?#]*)", address)
    return has_password(address) or (authority is not None and "@" in authority[1])


def redacted(text: str) -> str:
    """Return text with the passwords of the addresses in it replaced by ``***``.

    Rather too much than too little goes: a password may hold the very marks that end one.

    Example:
        >>> redacted("cannot reach postgresql://me:secret@host/db")
        'cannot reach postgresql://me:***@host/db'
    """
    return _SHOWN_QUERY.sub(r"\1***", _SHOWN_LOGIN.sub(r"\1***@", text))


def one_line(text: str) -> str:
    r"""Return text as one line of printable characters, its middle left out if it is long.

    What is shown may come from a damaged file or a stranger's file name, and must neither move
    a terminal's cursor nor fill its screen. Passwords in addresses are replaced.

    Example:
        >>> print(one_line("two\n  lines, \x1b[31mred"))
        two lines, \x1b[31mred
    """
    plain = " ".join(redacted(text).split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)
    if len(shown) <= _LONGEST:
        return shown
    half = _LONGEST // 2
    return f"{shown[:half]} ... {shown[-half:]}"
