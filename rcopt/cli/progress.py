"""Progress as the terminal shows it."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

from rcopt.progress import Progress


class Shown(Progress):
    """Bars where the stream is a terminal, a line now and then where it is not.

    Args:
        stream: Where to write; standard error keeps results on standard output clean.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream = stream or sys.stderr
        self._tty = stream.isatty()
        self._bars: dict[str, Any] = {}
        self._tenths: dict[str, int] = {}

    def note(self, text: str) -> None:
        """Write a line, above the bars."""
        if self._tty:
            tqdm.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def count(self, what: str, done: int, total: int, detail: str = "") -> None:
        """Move a bar, or write a line at each tenth."""
        if self._tty:
            self._move(what, done, total, detail)
            return
        tenth = 10 * done // max(total, 1)
        if tenth > self._tenths.get(what, -1):
            self._tenths[what] = tenth
            if done:
                self.note(f"{what}: {done}/{total}{'  ' + detail if detail else ''}")
        if done >= total:
            self._tenths.pop(what, None)

    def close(self) -> None:
        """End bars that are still open."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()

    def _move(self, what: str, done: int, total: int, detail: str) -> None:
        bar = self._bars.get(what)
        if bar is None:
            bar = tqdm(total=total, desc=what, file=self._stream, leave=False, dynamic_ncols=True)
            self._bars[what] = bar
        bar.total = total
        bar.set_postfix_str(detail, refresh=False)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()
            del self._bars[what]
