"""A folder of pictures, one folder a class: with train and held-out parts, or without."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rcopt.data.dataset import Pictures, Request
from rcopt.errors import InputError

NEEDS_ROOT = True

#: What the folders of the parts are called, whatever their case.
PARTS: Mapping[str, frozenset[str]] = {
    "train": frozenset({"train", "training", "trn"}),
    "validation": frozenset({"val", "valid", "validation", "dev", "eval"}),
    "test": frozenset({"test", "testing", "tst"}),
}
#: Files and folders that other programs leave beside pictures; hidden ones are left out too.
LITTER = frozenset(
    {
        "@eadir", "#recycle", "@recycle", "__macosx", "$recycle.bin", "system volume information",
        "lost+found", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
    }
)  # fmt: skip
_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
_EXPECTED = "expected ROOT/{train,val}/CLASS/IMAGE"


@dataclass
class Listing:
    """The pictures of a folder, found and not yet opened.

    Attributes:
        classes: Names as they are stored; labels index them.
        parts: The folder of each part, below the root; ``{"all": ""}`` where there are none.
        files: Paths below the root, with ``/``.
        labels: Of each file.
        part_of: The key in ``parts`` of each file.
        notes: What to tell: what was left out, what was assumed.
        litter: How many files and folders of other programs were left out, by name.
    """

    classes: tuple[str, ...]
    parts: Mapping[str, str]
    files: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    part_of: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    litter: Counter[str] = field(default_factory=Counter)


def listed(root: Path) -> Listing:
    """Find the pictures of ``ROOT/PART/CLASS/IMAGE`` or ``ROOT/CLASS/IMAGE``.

    Raises:
        InputError: On missing folders, empty classes, classes that differ between parts.
    """
    parts, notes = _parts(root)
    folders = {part: _classes(root / place) for part, place in parts.items()}
    classes = _same_classes(root, parts, folders)
    found = Listing(tuple(classes), parts)
    for part, place in parts.items():
        for label, name in enumerate(classes):
            _add(found, root, place, folders[part][name], label, part)
    found.notes += notes + _notes(root, found)
    return found


def load(request: Request) -> Pictures:
    """Return the pictures of ``ROOT/PART/CLASS/IMAGE`` or ``ROOT/CLASS/IMAGE``, decoded once.

    Parts are called train, val (valid, validation, dev, eval) and test, in any case. With train
    and one held-out part, that is dealt out to validation, calibration and test; with three,
    val is dealt out to validation and calibration, and test is the test split; without parts, a
    share of each class is held out at random. The same class may be spelt by composed and by
    decomposed letters in different parts.

    Raises:
        InputError: On missing folders, empty classes, classes that differ between parts.
    """
    from rcopt.data.decoded import decoded

    root = request.root
    if root is None:
        raise InputError("[data] root is missing; source = 'folder' needs a folder")
    found = listed(root)
    notes = list(found.notes)
    images = decoded(root, found.files, request)
    kept = [i for i, file in enumerate(found.files) if file not in images.bad]
    if images.bad:
        notes.append(_skipped(images.bad))
    labels = np.array(found.labels, dtype=np.int64)[kept]
    part_of = np.array(found.part_of)[kept]
    if "all" in found.parts:
        part_of = _held_out(labels, request)
        notes.append(
            f"{root.name} has no train and val folders: {request.held_out:g} of each class is "
            "held out at random (data.held_out)"
        )
    names = tuple(_text(found.files[i]) for i in kept)
    return Pictures(
        classes=found.classes,
        base=images.base,
        labels=labels,
        images=names,
        part=part_of,
        pixel_digest=images.pixel_digest,
        row_digests=images.row_digests,
        levels=images.levels,
        notes=tuple(notes) + images.notes,
    )


def _parts(root: Path) -> tuple[dict[str, str], list[str]]:
    """Return the folder of each part, ``{"all": ""}`` where there are none; and what to tell."""
    if not root.is_dir():
        raise InputError(f"[data] root: no folder {root}; {_EXPECTED}")
    folders = sorted(entry for entry in _entries(root) if (root / entry).is_dir())
    found: dict[str, str] = {}
    for part, names in PARTS.items():
        matching = [entry for entry in folders if entry.lower() in names]
        if len(matching) > 1:
            raise InputError(
                f"[data] root: {root} has {matching[0]!r} and {matching[1]!r}, both for "
                f"{part}; leave one"
            )
        if matching:
            found[part] = matching[0]
    notes = _unlabelled(root, found)
    if "train" in found and len(found) == 1:
        # A class may be called so in a folder without parts; then it lies beside pictures.
        raise InputError(
            f"[data] root: {root} has no folder 'val' or 'test' with class folders; {_EXPECTED}, "
            f"or set data.root to {root / found['train']} and a share of it is held out"
        )
    if "train" in found:
        beside = sorted(set(folders) - set(found.values()) - {note.folder for note in notes})
        told = [note.text for note in notes]
        if beside:
            told.append(f"left out, as it is neither train, val nor test: {', '.join(beside)}")
        if len(found) == 2:
            held = next(part for part in found if part != "train")
            return {"train": found["train"], "held_out": found[held]}, told
        return found, told
    if found:
        raise InputError(f"[data] root: {root} has no folder 'train'; {_EXPECTED}")
    inside = [e for e in folders if any((root / e / part).is_dir() for part in ("train", "val"))]
    if len(folders) >= 2 and len(inside) < len(folders):
        return {"all": ""}, []
    if len(folders) >= 2:
        raise InputError(
            f"[data] root: {root} is ROOT/CLASS/{{train,val}}; {_EXPECTED}: move the parts above "
            f"the classes, or name one data set, such as {root / inside[0]}"
        )
    hint = f"; did you mean {root / inside[0]}?" if inside else ""
    raise InputError(f"[data] root: {root} has no folder 'train'; {_EXPECTED}{hint}")


class _LeftOut(NamedTuple):
    folder: str
    text: str


def _unlabelled(root: Path, parts: dict[str, str]) -> list[_LeftOut]:
    """Take out the parts of pictures without class folders, as competitions have them."""
    notes = []
    for part in [part for part in parts if part != "train"]:
        entries = _entries(root / parts[part])
        if entries and not any((root / parts[part] / entry).is_dir() for entry in entries):
            folder = parts.pop(part)
            text = (
                f"left out {root.name}/{folder}: its {len(entries)} files are in no class folder"
            )
            notes.append(_LeftOut(folder, text))
    return notes


def _entries(folder: Path) -> list[str]:
    try:
        return [e for e in os.listdir(folder) if not e.startswith(".") and not _litter(e)]
    except OSError as error:
        raise InputError(f"[data] root: {folder} cannot be read ({error.strerror})") from error


def _litter(name: str) -> bool:
    return name.lower() in LITTER


def _classes(folder: Path) -> dict[str, str]:
    """Return the class folders by the names they are stored by: composed (NFC) letters."""
    found: dict[str, str] = {}
    for entry in sorted(_entries(folder)):
        if (folder / entry).is_dir():
            name = unicodedata.normalize("NFC", _text(entry))
            if name in found:
                raise InputError(
                    f"[data] root: {folder} has two folders that would both be stored as "
                    f"{name!r}: one is spelt by decomposed letters, or is no UTF-8; rename "
                    "it, or put the pictures of both into one"
                )
            found[name] = entry
    return found


def _same_classes(
    root: Path, parts: Mapping[str, str], folders: Mapping[str, Mapping[str, str]]
) -> list[str]:
    first = next(iter(folders))
    for one in folders:
        for other in folders:
            if lonely := sorted(set(folders[one]) - set(folders[other])):
                raise InputError(
                    f"[data] root: class {lonely[0]!r} is in {root / parts[one]} but not in "
                    f"{root / parts[other]}; both must have the same classes"
                )
    if len(folders[first]) < 2:
        raise InputError(
            f"[data] root: {root / parts[first]} has {len(folders[first])} class folders, "
            "at least 2 are needed"
        )
    return sorted(folders[first])


def _add(found: Listing, root: Path, place: str, folder: str, label: int, part: str) -> None:
    prefix = f"{place}/{folder}" if place else folder
    names = sorted(_walk(root / prefix, prefix, found.litter))
    if not names:
        raise InputError(
            f"[data] root: class folder {root / prefix} is empty; add images or remove the "
            "class from every part"
        )
    found.files += names
    found.labels += [label] * len(names)
    found.part_of += [part] * len(names)


def _walk(
    folder: Path, name: str, litter: Counter[str], above: tuple[str, ...] = ()
) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:
        raise InputError(
            f"[data] root: {folder} is a link to a folder that it lies in; remove the link"
        )
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
        for entry in shown:
            if _litter(entry.name):
                litter[entry.name.strip()] += 1
            elif entry.is_dir():
                yield from _walk(
                    folder / entry.name, f"{name}/{entry.name}", litter, (*above, real)
                )
            else:
                yield f"{name}/{entry.name}"
    except OSError as error:
        raise InputError(
            f"[data] root: {error.filename or folder} cannot be read ({error.strerror})"
        ) from error


def _notes(root: Path, found: Listing) -> list[str]:
    notes, parts = [], found.parts
    if found.litter:
        named = ", ".join(f"{count} {name}" for name, count in sorted(found.litter.items()))
        notes.append(f"left out, as other programs put them there: {named}")
    for place in parts.values():
        loose = [entry for entry in _entries(root / place) if not (root / place / entry).is_dir()]
        pictures = [entry for entry in loose if Path(entry).suffix.lower() in _PICTURES]
        if pictures:
            notes.append(
                f"left out {len(pictures)} pictures of {Path(root.name) / place} that are in no "
                f"class folder, such as {_text(sorted(pictures)[0])}"
            )
    if "test" in parts:
        sizes = Counter(found.part_of)
        notes.append(
            f"{root.name}/{parts['test']} is the test split; {parts['validation']} is dealt out "
            "to validation and calibration"
        )
        if 10 * sizes["validation"] < sizes["test"]:
            notes.append(
                f"{parts['validation']} holds only {sizes['validation']} pictures beside "
                f"{sizes['test']} of {parts['test']}: what is chosen on so few is left to chance; "
                f"move pictures from {parts['train']} to {parts['validation']}"
            )
    elif "held_out" in parts and parts["held_out"].lower() not in PARTS["validation"]:
        notes.append(
            f"{root.name}/{parts['held_out']} is dealt out to validation, calibration and test"
        )
    return notes


def _held_out(labels: np.ndarray, request: Request) -> np.ndarray:
    part = np.full(len(labels), "train", dtype="<U10")
    rng = np.random.default_rng(request.seed)
    for label in range(int(labels.max()) + 1):
        members = rng.permutation(np.flatnonzero(labels == label))
        part[members[: round(request.held_out * len(members))]] = "held_out"
    return part


def _skipped(bad: Mapping[str, str]) -> str:
    first = ", ".join(_text(file) for file in list(bad)[:10])
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    return f"left out {len(bad)} pictures that cannot be read (data.skip_bad): {first}{more}"


def _text(name: str) -> str:
    """Return a name that can be stored, bytes that are no UTF-8 escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
