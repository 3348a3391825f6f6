"""What a long command shows while it works: bars on a terminal, plain lines elsewhere."""


class Progress:
    """Shows stages, epochs and trials; this one shows nothing.

    Library functions call it and never print; the command line passes `Shown`.
    """

    def note(self, text: str) -> None:
        """Say one thing."""

    def count(self, what: str, done: int, total: int, detail: str = "") -> None:
        """Show that ``done`` of ``total`` of something are finished; the last ends it."""
