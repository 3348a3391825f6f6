"""A trained stage's predictions as one file: safetensors, no pickle, readable anywhere."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rcopt.core.cascade import Stage
from rcopt.core.predictions import Predictions, Split
from rcopt.core.trained_stage import TrainedStage
from rcopt.errors import InputError
from rcopt.files import tensors_digest, write_whole

FORMAT = "rcopt-stage-1"

#: Also ``timm/NAME`` and ``module:function``, but no path that leads upwards.
_PART = "[A-Za-z0-9_][A-Za-z0-9._+-]*"
_NAME = rf"^{_PART}([/:]{_PART})*$"


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


class _Header(BaseModel):
    """What a stage's file says besides its numbers; whatever else it says is left alone."""

    resolution: int
    backbone: Annotated[str, Field(pattern=_NAME, max_length=150)]
    flops: float
    macs: int
    parameters: int
    key: str
    seconds: float
    details: dict[str, str]
    images: dict[Split, tuple[str, ...]]


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
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata.get("stage", "")
        header = _Header.model_validate_json(text)
        # Files of other makers need not carry one.
        if metadata.get("sha256") not in (None, tensors_digest(tensors, text)):
            raise ValueError("SHA-256 mismatch")
        predictions = {
            split: Predictions(
                split=split,
                probabilities=_tensor(tensors, f"{split}.probabilities"),
                labels=_tensor(tensors, f"{split}.labels"),
                images=names,
            )
            for split, names in header.images.items()
        }
        stage = Stage(header.resolution, header.backbone, header.flops)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such predictions file") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(path, f"{place}: {first['msg']}" if place else first["msg"]) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    return TrainedStage(
        stage=stage,
        predictions=predictions,
        key=header.key,
        macs=header.macs,
        parameters=header.parameters,
        run_id=run_id,
        seconds=header.seconds,
        details=header.details,
    )


def _tensor(tensors: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in tensors:
        raise ValueError(f"it holds no tensor {name}")
    if tensors[name].dtype.kind not in "fiu":
        raise ValueError(f"tensor {name} holds no numbers but {tensors[name].dtype}")
    return tensors[name]


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path}: damaged predictions file ({' '.join(reason.split())[:200]}); delete it, and it "
        "is made again or can be copied again"
    )
