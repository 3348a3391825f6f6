"""Which images a network can take."""

import torch

from rcopt.errors import InputError
from rcopt.models.families import parse
from rcopt.models.families.base import Backbone, outline

#: Sizes that are tried to say which ones a network takes.
_SIZES = (32, 48, 64, 96, 128, 160, 192, 224, 240, 256, 288, 320, 384, 448, 512)


def check_input_size(name: str, n_classes: int, resolution: int) -> None:
    """Try whether a backbone takes images of a size, at next to no cost.

    Raises:
        InputError: If not; names the sizes that it takes.
    """
    backbone = parse(name)
    problem = _problem(backbone, n_classes, resolution)
    if problem is None:
        return
    taken = [side for side in _SIZES if _problem(backbone, n_classes, side) is None]
    if len(taken) == len(_SIZES):
        hint = f"it takes all usual sizes from {taken[0]} to {taken[-1]}"
    elif taken:
        hint = f"of {', '.join(map(str, _SIZES))} it takes {', '.join(map(str, taken))}"
    else:
        hint = "nor any other of the usual sizes"
    raise InputError(f"{name} cannot take images of {resolution} pixels ({problem}); {hint}")


def check_training_size(name: str, n_classes: int, resolution: int, side: int) -> None:
    """Try whether the backbone of a stage can be trained on images of another size.

    Raises:
        InputError: If not; names the settings that make them smaller.
    """
    problem = _problem(parse(name), n_classes, resolution, side)
    if problem is not None:
        raise InputError(
            f"{name}@{resolution} cannot take images of {side} pixels, which its recipe trains "
            f"on at times ({problem}); raise progressive, or crop_side if crop is 'plain', in "
            f'[training.override."{name}@{resolution}"]'
        )


def _problem(
    backbone: Backbone, n_classes: int, resolution: int, side: int | None = None
) -> str | None:
    """Return why a network answers two images of a size with an error; None if it does not.

    Args:
        backbone: The network.
        n_classes: Of its answers.
        resolution: That it is made for.
        side: Of the images, if another.
    """
    pixels = side or resolution
    reason = None
    for device in ("meta", "cpu"):  # not every network can work on shapes alone
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                model = (
                    outline(backbone, n_classes, resolution)
                    if device == "meta"
                    else backbone.construct(n_classes, resolution)
                )
                images = torch.zeros(2, 3, pixels, pixels, device=device)
                _check(model(images), n_classes)
        except InputError:
            raise
        except Exception as error:  # any network raises anything
            reason = reason or (" ".join(str(error).split())[:160] or type(error).__name__)
        else:
            return None
    return reason


def _check(answer: object, n_classes: int) -> None:
    if not isinstance(answer, torch.Tensor) or answer.shape != (2, n_classes):
        got = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise ValueError(f"it answers 2 images with {got}, expected logits (2, {n_classes})")
