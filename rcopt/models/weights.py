"""Trained weights as files."""

import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rcopt.data.preprocessing import IMAGENET, Preprocessing
from rcopt.errors import InputError
from rcopt.models.backbones import preprocessing_of, skeleton
from rcopt.models.checkpoints import write_tensors


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model read back from its weights file.

    Attributes:
        model: In evaluation mode.
        backbone: Name, see `rcopt.backbones.parse`.
        n_classes: Size of the head.
        resolution: Side of the input it was trained for.
    """

    model: nn.Module
    backbone: str
    n_classes: int
    resolution: int


def save_weights(
    path: Path, model: nn.Module, *, backbone: str, n_classes: int, resolution: int
) -> None:
    """Write a model's weights as safetensors, with what is needed to build it again."""
    metadata = {
        "backbone": backbone,
        "n_classes": str(n_classes),
        "resolution": str(resolution),
        "preprocessing": json.dumps(preprocessing_of(model).to_json()),
    }
    write_tensors(path, model.state_dict(), metadata)


def load_weights(path: Path, device: str | torch.device = "cpu") -> TrainedModel:
    """Read a model written by `save_weights`.

    Raises:
        InputError: If the file is missing, damaged, or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        backbone, n_classes = metadata["backbone"], int(metadata["n_classes"])
        resolution = int(metadata["resolution"])
        stated = metadata.get("preprocessing")  # files of before it could differ have none
        preprocessing = IMAGENET if stated is None else Preprocessing.from_json(json.loads(stated))
        if not any(n_classes in tensor.shape for tensor in state.values()):
            raise ValueError(f"no weights of a head for {n_classes} classes")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such weights file; train the stage again") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error
    try:
        model = skeleton(backbone, n_classes, resolution, preprocessing)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    try:
        model.load_state_dict(_versioned(state, model))
    except RuntimeError as error:
        raise _damaged(path) from error
    return TrainedModel(model.to(device).eval(), backbone, n_classes, resolution)


def _versioned(state: dict[str, Tensor], model: nn.Module) -> OrderedDict[str, Tensor]:
    """Return a state with its layers' versions, which files of tensors do not hold.

    Some networks rename what older versions saved, and take a state without one for such.
    """
    known = OrderedDict(state)
    vars(known)["_metadata"] = vars(model.state_dict())["_metadata"]
    return known


def stored_preprocessing(path: Path) -> Preprocessing:
    """Return what a weights file says of its stage's images; `IMAGENET` if it is of before.

    Raises:
        InputError: If the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            stated = (file.metadata() or {}).get("preprocessing")
        return IMAGENET if stated is None else Preprocessing.from_json(json.loads(stated))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: damaged, or not a weights file of rcopt; delete it to train again")
