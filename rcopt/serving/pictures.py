"""Answer pictures with a packaged cascade: files and folders, or the rows of a request."""

import base64
import binascii
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from rcopt.data.images import decode
from rcopt.errors import InputError
from rcopt.serving.bundle import LoadedCascade

#: Pictures decoded and answered at a time; bounds the memory.
BATCH = 64


@dataclass(frozen=True)
class Answer:
    """What a cascade says of one picture.

    Attributes:
        file: Path, or the row of a request.
        class_name: The class answered; None like the rest where there is an error.
        probability: Of that class.
        stage: Index of the stage that answered.
        stage_name: Such as ``resnet18@32``.
        flops: Spent by all stages that ran.
        error: One line saying why there is no answer.
        first_confidence: Of the first stage, in [0, 1]; what drift is noticed by.
    """

    file: str
    class_name: str | None = None
    probability: float | None = None
    stage: int | None = None
    stage_name: str | None = None
    flops: float | None = None
    error: str | None = None
    first_confidence: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON and tables show it."""
        return {
            "file": self.file,
            "class": self.class_name,
            "probability": self.probability,
            "stage": self.stage,
            "stage_name": self.stage_name,
            "flops": self.flops,
            "error": self.error,
        }


def predict_files(
    loaded: LoadedCascade, paths: Sequence[Path], *, batch_size: int = BATCH
) -> Iterator[Answer]:
    """Answer picture files.

    Args:
        loaded: From `rcopt.packaging.load_cascade`.
        paths: Files, and folders, of which all pictures are taken at any depth, in the order
            of their names.
        batch_size: Pictures decoded and answered at a time.

    Returns:
        One answer per picture as it is ready; what cannot be read has an ``error`` instead.

    Raises:
        InputError: If a folder holds no picture.
    """
    files = [file for path in paths for file in picture_files(path)]
    return _answer_files(loaded, files, batch_size)


def answer_rows(loaded: LoadedCascade, rows: Sequence[object]) -> list[Answer]:
    """Answer the rows of a request, each a JPEG or PNG (or other picture) in base64.

    Args:
        loaded: The cascade.
        rows: Base64 text each; anything else gets an ``error``, as does what is no picture.

    Returns:
        One answer per row; ``file`` is ``row 0``, ``row 1``, ...
    """
    answers: list[Answer] = []
    for start in range(0, len(rows), BATCH):
        names = [f"row {start + place}" for place in range(len(rows[start : start + BATCH]))]
        decoded = [
            _decoded_row(row, loaded, name)
            for row, name in zip(rows[start : start + BATCH], names, strict=True)
        ]
        answers += _answer(loaded, names, decoded)
    return answers


def picture_files(path: Path) -> list[Path]:
    """Return a file as it is, or all pictures in a folder at any depth, by name.

    Raises:
        InputError: If the folder holds none.
    """
    if not path.is_dir():
        return [path]
    Image.init()
    known = {suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN}
    found = sorted(f for f in path.rglob("*") if f.suffix.lower() in known and f.is_file())
    if not found:
        raise InputError(f"{path}: no pictures in this folder; name files or another folder")
    return found


def _answer_files(
    loaded: LoadedCascade, files: Sequence[Path], batch_size: int
) -> Iterator[Answer]:
    def decoded(file: Path) -> NDArray[np.uint8] | str:
        try:
            return decode(file, loaded.base_side, str(file), loaded.levels)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            yield from _answer(loaded, [str(f) for f in batch], list(pool.map(decoded, batch)))


def _decoded_row(row: object, loaded: LoadedCascade, name: str) -> NDArray[np.uint8] | str:
    if not isinstance(row, str) or not row.strip():
        return f"{name}: empty; send a JPEG or PNG file in base64"
    try:
        # Command-line tools break base64 into lines.
        content = base64.b64decode("".join(row.split()), validate=True)
    except (binascii.Error, ValueError):
        return f"{name}: not base64; send a JPEG or PNG file in base64"
    try:
        return decode(content, loaded.base_side, name, loaded.levels)
    except InputError as error:
        return str(error)


def _answer(
    loaded: LoadedCascade, names: Sequence[str], decoded: Sequence[NDArray[np.uint8] | str]
) -> list[Answer]:
    readable = [image for image in decoded if not isinstance(image, str)]
    side = loaded.base_side
    base = np.stack(readable) if readable else np.empty((0, side, side, 3), dtype=np.uint8)
    output = loaded.executor(torch.from_numpy(base))
    classes, stages = output.classes.tolist(), output.stages.tolist()
    sure = output.probabilities.amax(dim=1).tolist() if readable else []
    first = output.first_confidence.tolist()
    rows = iter(zip(classes, sure, stages, output.flops.tolist(), first, strict=True))
    answers = []
    for name, image in zip(names, decoded, strict=True):
        if isinstance(image, str):
            answers.append(Answer(name, error=image))
            continue
        label, probability, stage, flops, confidence = next(rows)
        answers.append(
            Answer(
                file=name,
                class_name=loaded.classes[label],
                probability=probability,
                stage=stage,
                stage_name=loaded.cascade.stages[stage].name,
                flops=flops,
                first_confidence=confidence,
            )
        )
    return answers
