"""A folder of pictures, one folder a class."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rcopt.data.dataset import Pictures, Progress
from rcopt.data.decoded import decoded
from rcopt.errors import InputError

#: Readable names of Imagenette's classes.
IMAGENETTE_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def folder_pictures(root: Path, side: int, cache: Path, *, progress: Progress | None) -> Pictures:
    """Return the pictures of ``ROOT/{train,val}/CLASS/IMAGE``, decoded once."""
    folders = class_folders(root)
    files, labels, held_out = _list_files(root, folders)
    base, pixel_digest = decoded(root, files, side, cache, progress=progress)
    return Pictures(
        classes=tuple(IMAGENETTE_CLASSES.get(folder, folder) for folder in folders),
        base=base,
        labels=np.array(labels, dtype=np.int64),
        images=tuple(files),
        held_out=np.array(held_out, dtype=np.bool_),
        pixel_digest=pixel_digest,
    )


def class_folders(root: Path) -> list[str]:
    """Return the class folders' names, the same in train and val."""
    if not root.is_dir():
        raise InputError(f"[data] root: no folder {root}; expected ROOT/{{train,val}}/CLASS/IMAGE")
    found: dict[str, list[str]] = {}
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise InputError(
                f"[data] root: {root} has no folder {part!r}; "
                "expected ROOT/{train,val}/CLASS/IMAGE"
            )
        found[part] = sorted(
            entry.name
            for entry in (root / part).iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        )
    for one, other in (("train", "val"), ("val", "train")):
        if lonely := sorted(set(found[one]) - set(found[other])):
            raise InputError(
                f"[data] root: class {lonely[0]!r} is in {root / one} but not in "
                f"{root / other}; both must have the same classes"
            )
    if len(found["train"]) < 2:
        raise InputError(
            f"[data] root: {root / 'train'} has {len(found['train'])} class folders, "
            "at least 2 are needed"
        )
    return found["train"]


def _list_files(root: Path, folders: Sequence[str]) -> tuple[list[str], list[int], list[bool]]:
    files: list[str] = []
    labels: list[int] = []
    held_out: list[bool] = []
    for part in ("train", "val"):
        for label, folder in enumerate(folders):
            names = sorted(_walk(root / part / folder, f"{part}/{folder}"))
            if not names:
                raise InputError(
                    f"[data] root: class folder {root / part / folder} is empty; add images or "
                    "remove the class from both train and val"
                )
            files += names
            labels += [label] * len(names)
            held_out += [part == "val"] * len(names)
    return files, labels, held_out


def _walk(folder: Path, name: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:
        raise InputError(
            f"[data] root: {folder} is a link to a folder that it lies in; remove the link"
        )
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
        for entry in shown:
            if entry.is_dir():
                yield from _walk(folder / entry.name, f"{name}/{entry.name}", (*above, real))
            else:
                yield f"{name}/{entry.name}"
    except OSError as error:
        raise InputError(
            f"[data] root: {error.filename or folder} cannot be read ({error.strerror})"
        ) from None
