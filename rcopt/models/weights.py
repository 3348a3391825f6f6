"""Trained weights as files."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from rcopt.errors import InputError
from rcopt.models.backbones import skeleton
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
        model = skeleton(backbone, n_classes, resolution)
        model.load_state_dict(state)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such weights file; train the stage again") from error
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, InputError) as error:
        raise InputError(
            f"{path}: damaged, or not a weights file of rcopt; delete it to train again"
        ) from error
    return TrainedModel(model.to(device).eval(), backbone, n_classes, resolution)
