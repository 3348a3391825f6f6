"""Ways in which pictures get worse, each at five strengths: blur, noise, JPEG and others.

What is degraded is the base image, before any stage's resize, so that every stage of a cascade
sees the same worse picture. In the manner of Dodge and Karam 2016 (arXiv:1604.04004) and
Hendrycks and Dietterich 2019 (arXiv:1903.12261); the strengths are our own.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from rcopt.compat import import_torchvision
from rcopt.core.predictions import Split
from rcopt.data.dataset import Dataset

#: Images degraded at a time; bounds the memory.
_BATCH = 64


@dataclass(frozen=True)
class Corruption:
    """One way.

    Attributes:
        title: What it is, with the unit of its strengths.
        values: Of strengths 1 to 5, from mild to severe.
        apply: Degrades a batch (B, 3, S, S) of uint8 by a value; what is random comes from the
            generator.
    """

    title: str
    values: tuple[float, float, float, float, float]
    apply: Callable[[Tensor, float, np.random.Generator], Tensor]


def _v2() -> ModuleType:
    return import_torchvision("torchvision.transforms.v2.functional")


def _blur(images: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    sigma = share * images.shape[3]
    # Mirrored at the border, which reaches no further than the image.
    size = min(2 * int(np.ceil(3 * sigma)) + 1, 2 * images.shape[3] - 1)
    return _whole(_v2().gaussian_blur(images.float(), [size, size], [sigma, sigma]))


def _noise(images: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    drawn = rng.standard_normal(images.shape, dtype=np.float32) * np.float32(255 * share)
    return _whole(images + torch.from_numpy(drawn))


def _jpeg(images: Tensor, quality: float, rng: np.random.Generator) -> Tensor:
    # torchvision's own needs its compiled operators.
    done = []
    for pixels in images.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(quality))
        done.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2)


def _contrast(images: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    return _whole(_v2().adjust_contrast(images.float() / 255, factor) * 255)


def _brightness(images: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    return _whole(images * factor)


def _rotation(images: Tensor, degrees: float, rng: np.random.Generator) -> Tensor:
    bilinear = import_torchvision("torchvision.transforms.v2").InterpolationMode.BILINEAR
    signs = rng.choice([-1, 1], len(images))
    turned = [
        _v2().rotate(image.float(), float(sign * degrees), interpolation=bilinear)
        for image, sign in zip(images, signs, strict=True)
    ]
    return _whole(torch.stack(turned))


def _resolution(images: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    side = images.shape[3]
    small = max(1, round(share * side))
    less = functional.interpolate(images.float(), (small, small), mode="bilinear", antialias=True)
    return _whole(functional.interpolate(less, (side, side), mode="bilinear"))


#: By the name that the command line takes.
CORRUPTIONS: Mapping[str, Corruption] = {
    "blur": Corruption(
        "Gaussian blur (sigma as a share of the side)", (0.005, 0.01, 0.015, 0.025, 0.04), _blur
    ),
    "noise": Corruption(
        "Gaussian noise (standard deviation as a share of the range)",
        (0.04, 0.08, 0.12, 0.2, 0.3),
        _noise,
    ),
    "jpeg": Corruption("JPEG compression (quality)", (50, 30, 20, 10, 5), _jpeg),
    "contrast": Corruption("less contrast (factor)", (0.7, 0.5, 0.35, 0.2, 0.1), _contrast),
    "brightness": Corruption("overexposure (factor)", (1.2, 1.5, 2.0, 2.5, 3.0), _brightness),
    "rotation": Corruption("rotation to either side (degrees)", (5, 10, 20, 30, 45), _rotation),
    "resolution": Corruption(
        "lower source resolution (share of the side)", (0.75, 0.5, 0.35, 0.25, 0.125), _resolution
    ),
}


def degrade(base: NDArray[np.uint8], name: str, strength: int, seed: int) -> NDArray[np.uint8]:
    """Return degraded copies of base images.

    Args:
        base: (N, S, S, 3) uint8.
        name: Of `CORRUPTIONS`.
        strength: 1 to 5.
        seed: Of what is random in it.

    Raises:
        ValueError: On an unknown name or strength.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption must be one of {', '.join(CORRUPTIONS)}, got {name!r}")
    if not 1 <= strength <= 5:
        raise ValueError(f"strength must lie in 1..5, got {strength}")
    corruption = CORRUPTIONS[name]
    value = corruption.values[strength - 1]
    rng = np.random.default_rng([seed, list(CORRUPTIONS).index(name), strength])
    done = np.empty_like(base)
    for start in range(0, len(base), _BATCH):
        images = torch.from_numpy(base[start : start + _BATCH].copy()).permute(0, 3, 1, 2)
        worse = corruption.apply(images, value, rng)
        done[start : start + _BATCH] = worse.permute(0, 2, 3, 1).numpy()
    return done


def degraded(dataset: Dataset, split: Split, name: str, strength: int, seed: int) -> Dataset:
    """Return a data set of one split's images alone, degraded.

    Raises:
        ValueError: As `degrade`.
    """
    indices = dataset.splits[split]
    return replace(
        dataset,
        base=degrade(dataset.base[indices], name, strength, seed),
        labels=dataset.labels[indices],
        images=tuple(dataset.images[i] for i in indices),
        splits={split: np.arange(len(indices))},
    )


def _whole(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8)
