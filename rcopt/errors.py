"""The two ways a command ends badly, each with its exit code, and how they are worded."""

#: What taking the content of a damaged file apart raises.
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)

#: Characters of a line that people read; a damaged file can put any amount into one.
_LONGEST = 800


class InputError(Exception):
    """What the user gave is wrong; one line says what, where, what was expected, how to mend it.

    The command line prints the line and exits with code 2.
    """


class WorkError(Exception):
    """The input was fine but the work failed; the command line exits with code 1."""


def one_line(text: str) -> str:
    r"""Return text as one line of printable characters, its middle left out if it is long.

    What is shown may come from a damaged file or a stranger's file name, and must neither move
    a terminal's cursor nor fill its screen.

    Example:
        >>> print(one_line("two\n  lines, \x1b[31mred"))
        two lines, \x1b[31mred
    """
    plain = " ".join(text.split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)
    if len(shown) <= _LONGEST:
        return shown
    half = _LONGEST // 2
    return f"{shown[:half]} ... {shown[-half:]}"
