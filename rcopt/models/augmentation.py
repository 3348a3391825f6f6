"""Random crops and flips of a whole epoch, drawn at once and cut batch by batch.

Two cutters give the same pictures (to one grey level): on the CPU torch's integer kernel, crop
by crop, which takes some 30 microseconds each; elsewhere two batched matrix products with the
weights of the same antialiased filter, without a launch per image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rcopt.data.preprocessing import Interpolation

_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True, eq=False)
class Crops:
    """A crop for each of N images.

    Attributes:
        boxes: (N, 4) int64: top, left, height, width in pixels of the base image, which goes on
            beyond its edges as its reflection.
        flips: (N,) bool, mirrored left to right.
    """

    boxes: NDArray[np.int64]
    flips: NDArray[np.bool_]


def draw_crops(
    rng: np.random.Generator, n: int, side: int, *, min_area: float, flip: bool
) -> Crops:
    """Draw crops as torchvision's RandomResizedCrop does, for square images.

    The area is uniform in ``min_area``..1 of the image, the logarithm of the aspect ratio
    uniform in 3/4..4/3; a side that would leave the image is cut to it (torchvision draws
    again up to ten times).

    Args:
        rng: Source of randomness.
        n: Number of images.
        side: Side of the base images.
        min_area: Smallest area as a share, in (0, 1]; 1 takes whole images.
        flip: Whether half of the crops are mirrored.
    """
    area = rng.uniform(min_area, 1.0, n) * side * side
    ratio = np.exp(rng.uniform(np.log(_RATIO[0]), np.log(_RATIO[1]), n))
    if min_area == 1:
        ratio = np.ones(n)
    sides = np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], axis=1)
    sides = np.clip(np.rint(sides), 1, side).astype(np.int64)
    corners = rng.integers(0, side - sides + 1)
    flips = rng.random(n) < 0.5 if flip else np.zeros(n, dtype=np.bool_)
    return Crops(np.concatenate([corners, sides], axis=1), flips)


def draw_plain_crops(
    rng: np.random.Generator, n: int, side: int, *, share: float, shift: float, flip: bool
) -> Crops:
    """Draw squares of one size, at places that are equally likely.

    Args:
        rng: Source of randomness.
        n: Number of images.
        side: Side of the base images.
        share: Side of the squares, as a share of ``side``.
        shift: Share of ``side`` by which they may reach over the edge, at most 1/2.
        flip: Whether half of the crops are mirrored.
    """
    length, over = max(1, round(share * side)), round(shift * side)
    corners = rng.integers(-over, side - length + over + 1, (n, 2))
    flips = rng.random(n) < 0.5 if flip else np.zeros(n, dtype=np.bool_)
    return Crops(np.concatenate([corners, np.full((n, 2), length)], axis=1), flips)


def cut(
    base: NDArray[np.uint8],
    images: NDArray[np.int64],
    crops: Crops,
    resolution: int,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """Cut crops on the CPU.

    Args:
        base: (M, S, S, 3), may be memory-mapped; only the crops are read.
        images: (B,) which image each crop is of.
        crops: B crops.
        resolution: Side of the result.
        interpolation: Filter, antialiased.

    Returns:
        (B, 3, resolution, resolution) uint8, channels last in memory.
    """
    out = torch.empty((len(images), resolution, resolution, 3), dtype=torch.uint8)
    size = (resolution, resolution)
    for place, (image, box, flip) in enumerate(
        zip(images.tolist(), crops.boxes.tolist(), crops.flips.tolist(), strict=True)
    ):
        top, left, height, width = box
        if min(top, left) >= 0 and max(top + height, left + width) <= base.shape[1]:
            crop = np.array(base[image, top : top + height, left : left + width])
        else:
            rows, columns = np.arange(top, top + height), np.arange(left, left + width)
            crop = base[image][np.ix_(*(_reflected(i, base.shape[1]) for i in (rows, columns)))]
        pixels = torch.from_numpy(crop).permute(2, 0, 1)[None]
        if (height, width) != size:
            pixels = functional.interpolate(pixels, size, mode=interpolation, antialias=True)
        if flip:
            pixels = pixels.flip(3)
        out[place] = pixels[0].permute(1, 2, 0)
    return out.permute(0, 3, 1, 2)


def cut_batched(
    pixels: Tensor,
    boxes: Tensor,
    flips: Tensor,
    resolution: int,
    interpolation: Interpolation = "bilinear",
    *,
    over: int = 0,
) -> Tensor:
    """Cut crops with batched matrix products, on any device.

    Args:
        pixels: (B, S, S, 3) uint8.
        boxes: (B, 4), as `Crops`.
        flips: (B,) bool.
        resolution: Side of the result.
        interpolation: Filter, antialiased.
        over: By how many pixels boxes may reach over an edge, at most.

    Returns:
        (B, 3, resolution, resolution) whole grey levels 0..255, float16 on CUDA, else float32.
    """
    if over:
        around = np.arange(-over, pixels.shape[1] + over)
        places = torch.from_numpy(_reflected(around, pixels.shape[1])).to(pixels.device)
        pixels = pixels[:, places][:, :, places]
        boxes = torch.cat([boxes[:, :2] + over, boxes[:, 2:]], dim=1)
    n, side = pixels.shape[:2]
    # float16 holds grey levels to 1/8 and weights to 2^-11; the products sum in float32.
    kind = torch.float16 if pixels.is_cuda else torch.float32
    nobody = torch.zeros_like(flips)
    kernel = _KERNELS[interpolation]
    down = _filter(boxes[:, 0], boxes[:, 2], nobody, side, resolution, kernel).to(kind)
    across = _filter(boxes[:, 1], boxes[:, 3], flips, side, resolution, kernel).to(kind)
    columns = pixels.to(kind).transpose(1, 2).reshape(n, side, side * 3)
    mixed = torch.bmm(across, columns)
    if interpolation == "bicubic":
        # The integer kernel too cuts at each step what this filter overshoots.
        mixed = mixed.round().clamp(0, 255)
    rows = mixed.view(n, resolution, side, 3).transpose(1, 2).reshape(n, side, resolution * 3)
    mixed = torch.bmm(down, rows).round().clamp(0, 255)
    return mixed.view(n, resolution, resolution, 3).permute(0, 3, 1, 2)


def _reflected(places: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Return which pixel of a row of ``side`` stands at places on and around it."""
    inside: NDArray[np.int64] = (side - 1) - np.abs((side - 1) - np.abs(places))
    return inside


def _triangle(distance: Tensor) -> Tensor:
    return 1 - distance


def _cubic(distance: Tensor) -> Tensor:
    """Return Keys' convolution kernel with a = -1/2, as Pillow and torch's antialiasing use."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, far)


#: Weight by distance, in units of the reduction, and the distance from which on it is 0.
_KERNELS: dict[Interpolation, tuple[Callable[[Tensor], Tensor], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (_cubic, 2),
}


def _filter(
    start: Tensor,
    length: Tensor,
    flips: Tensor,
    side: int,
    resolution: int,
    kernel: tuple[Callable[[Tensor], Tensor], int],
) -> Tensor:
    """Return (B, resolution, side) weights of a kernel as wide as the reduction, as torch's."""
    weigh, support = kernel
    scale = length.float()[:, None] / resolution
    place = torch.arange(resolution, device=start.device).float()[None].expand(len(start), -1)
    place = torch.where(flips[:, None], resolution - 1 - place, place)
    centre = start.float()[:, None] + (place + 0.5) * scale
    pixel = torch.arange(side, device=start.device).float() + 0.5
    reach = scale.clamp(min=1)
    distance = (pixel[None, None] - centre[..., None]).abs() / reach[..., None]
    first, end = start.float()[:, None, None], (start + length).float()[:, None, None]
    inside = (pixel > first) & (pixel < end) & (distance < support)
    weight = weigh(distance) * inside
    return weight / weight.sum(dim=2, keepdim=True)
