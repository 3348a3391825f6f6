"""A trained stage's predictions as one file: safetensors, no pickle, readable anywhere."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rcopt.core.cascade import Stage
from rcopt.core.predictions import Predictions, Split
from rcopt.core.trained_stage import TrainedStage
from rcopt.errors import DAMAGE, InputError
from rcopt.files import tensors_digest, write_whole

FORMAT = "rcopt-stage-1"

#: A stage's file is named after its backbone, so that must not lead to another folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def save_stage(path: Path, trained: TrainedStage) -> None:
    """Write a stage's predictions on every split, its costs and its details.

    Each split is two tensors, ``SPLIT.probabilities`` (N, C) float32 and ``SPLIT.labels`` (N,)
    int64; the image names and everything scalar are JSON in the file's metadata, and with it
    the SHA-256 of it all. The file appears whole or not at all.
    """
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    images: dict[str, list[str]] = {}
    for split, predictions in trained.predictions.items():
        tensors[f"{split}.probabilities"] = np.ascontiguousarray(predictions.probabilities)
        tensors[f"{split}.labels"] = np.ascontiguousarray(predictions.labels)
        images[split] = list(predictions.images)
    header = {
        "resolution": trained.stage.resolution,
        "backbone": trained.stage.backbone,
        "flops": trained.stage.flops,
        "macs": trained.macs,
        "parameters": trained.parameters,
        "key": trained.key,
        "seconds": trained.seconds,
        "details": dict(trained.details),
        "images": images,
    }
    text = json.dumps(header)
    metadata = {"format": FORMAT, "stage": text, "sha256": tensors_digest(tensors, text)}
    # As bytes: safetensors' own files are readable by their owner alone.
    write_whole(path, save(tensors, metadata))


def load_stage(path: Path, *, run_id: str | None = None) -> TrainedStage:
    """Read what `save_stage` wrote.

    Raises:
        InputError: If the file is missing, damaged, or not such a file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InputError(
                    f"{path}: not a stage's predictions (format {metadata.get('format')!r:.40}, "
                    f"expected {FORMAT!r}); name a file that rcopt wrote"
                )
            header = json.loads(metadata["stage"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            # Files of other makers need not carry one.
            if metadata.get("sha256") not in (None, tensors_digest(tensors, metadata["stage"])):
                raise ValueError("its sha256 is another")
            predictions: dict[Split, Predictions] = {}
            for split, names in header["images"].items():
                if split not in get_args(Split):
                    raise ValueError(f"unknown split {split!r}")
                predictions[split] = Predictions(
                    split=split,
                    probabilities=tensors[f"{split}.probabilities"],
                    labels=tensors[f"{split}.labels"],
                    images=tuple(names),
                )
        return TrainedStage(
            stage=Stage(
                resolution=int(header["resolution"]),
                backbone=_checked_name(str(header["backbone"])),
                flops=float(header["flops"]),
            ),
            predictions=predictions,
            key=str(header["key"]),
            macs=int(header["macs"]),
            parameters=int(header["parameters"]),
            run_id=run_id,
            seconds=float(header["seconds"]),
            details={str(k): str(v) for k, v in header["details"].items()},
        )
    except FileNotFoundError:
        raise InputError(f"{path}: no such predictions file") from None
    except (SafetensorError, OSError, *DAMAGE) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: damaged predictions file ({reason}); delete it, and it is made again "
            "or can be copied again"
        ) from None


def _checked_name(backbone: str) -> str:
    if not _NAME.fullmatch(backbone):
        raise ValueError(f"backbone {backbone!r} is no name of letters, digits and . _ + -")
    return backbone
