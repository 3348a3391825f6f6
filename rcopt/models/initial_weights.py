"""Weights that training starts from."""

from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rcopt.compat import import_torchvision
from rcopt.errors import InputError, WorkError
from rcopt.models.families import Backbone


def initial_state(backbone: Backbone, weights: str | Path) -> dict[str, Tensor] | None:
    """Return the weights that a setting names; None where training starts from random ones."""
    if weights == "none":
        return None
    if weights == "pretrained":
        return _download(backbone)
    path = Path(weights)
    if not path.is_file():
        raise InputError(
            f"weights: no file {path}; give 'none', 'pretrained' or the path of a weights file"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise _damaged(path, error) from None
    except Exception as error:  # the unpickling errors of weights_only have no common class
        raise _damaged(path, error) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"weights: {path} must hold a state dict of tensors alone")
    return state


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"weights: {path} is not a readable weights file ({reason})")


def _download(backbone: Backbone) -> dict[str, Tensor]:
    if backbone.family == "mobilenet_v2" and backbone.size != 1:
        raise InputError(
            f"weights = 'pretrained': torchvision has none for {backbone.name}, only for "
            "mobilenet_v2; use 'none' or a file"
        )
    models = import_torchvision("torchvision.models")
    stock = backbone.name.split("-")[0]
    weights = models.get_model_weights(stock)["IMAGENET1K_V1"]
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise WorkError(
            f"weights = 'pretrained': cannot download {weights.url} ({error}); download it "
            "elsewhere and give the file's path"
        ) from None
    return {name: tensor for name, tensor in state.items() if not name.startswith(_HEADS)}


_HEADS = ("fc.", "classifier.1.")


def load_initial(
    model: nn.Module, state: dict[str, Tensor], backbone: Backbone, weights: str | Path
) -> None:
    """Put weights into a network, all but its head where the classes differ."""
    own = model.state_dict()
    new_stem = weights == "pretrained" and backbone.stem == 1
    fitting = {
        name: tensor
        for name, tensor in state.items()
        if not (name.startswith(_HEADS) and name in own and own[name].shape != tensor.shape)
        and not (new_stem and name == "conv1.weight")
    }
    missing = {n for n in own if n not in fitting and not n.endswith("num_batches_tracked")}
    missing -= {n for n in missing if n.startswith(_HEADS) or (new_stem and n == "conv1.weight")}
    wrong = [n for n, t in fitting.items() if n not in own or own[n].shape != t.shape]
    if missing or wrong:
        first = sorted(missing or wrong)[0]
        raise InputError(
            f"weights: {weights} does not fit {backbone.name} (first at {first!r}); give the "
            "weights of the same backbone"
        )
    try:
        model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise InputError(
            f"weights: {weights} cannot be copied into {backbone.name} "
            f"({' '.join(str(error).split())[:200]})"
        ) from None
