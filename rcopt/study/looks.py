"""How often test numbers of a study were looked at: each look makes them a little less honest."""

from filelock import FileLock

from rcopt.files import write_whole
from rcopt.study.file import Study


def count_look(study: Study) -> int:
    """Note that test numbers are shown now; return how often they were, this time included.

    Where nothing can be written, as in a folder that is read only, nothing is counted.
    """
    path = study.folder / "test-looks"
    try:
        with FileLock(study.folder / "test-looks.lock"):
            looks = _read(study) + 1
            write_whole(path, f"{looks}\n".encode())
    except OSError:
        return _read(study) + 1
    return looks


def _read(study: Study) -> int:
    try:
        return int((study.folder / "test-looks").read_text())
    except (OSError, ValueError):
        return 0
