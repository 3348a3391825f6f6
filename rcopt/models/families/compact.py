"""Compact residual networks for images of 24 to 160 pixels, of any width.

After hlb-imagenette (LouisCaubet, commit 0c904b3) and airbench94 (KellerJordan, commit f1c599c):
a frozen whitening convolution, three wide and shallow groups, global max-pool.
"""

import re
from functools import partial

import torch
from torch import Tensor, nn

from rcopt.errors import InputError
from rcopt.models.families.base import Backbone, Family, Head

#: Added to the variances of patches, so that noise is not blown up.
_EPSILON = 1e-2
#: The logits start small: label smoothing and SGD at high rates want it so.
_SCALE = 0.1


class Whitening(nn.Conv2d):
    """A frozen 2x2 convolution whose 12 outputs are uncorrelated on training images.

    Its filters are zero until they are set.
    """

    def __init__(self) -> None:
        super().__init__(3, 12, 2, bias=False)
        nn.init.zeros_(self.weight)
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def fit_images(self, images: Tensor) -> None:
        """Set the filters from normalized images (B, 3, H, W).

        They are the eigenvectors of the patches' covariance, each divided by its standard
        deviation. Filters that are set already stay, for the layers behind know no others.
        """
        if self.weight.any():
            return
        # (B, 3, H - 1, W - 1, 2, 2), on the CPU, where the decomposition is the same everywhere.
        patches = images.detach().float().cpu().unfold(2, 2, 1).unfold(3, 2, 1)
        flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).double()
        flat = flat - flat.mean(dim=0)
        variances, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        filters = (vectors / (variances + _EPSILON).sqrt()).T.reshape(12, 3, 2, 2)
        self.weight.copy_(filters)


class _Group(nn.Module):
    """Half the side, more channels, one residual block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.narrow = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            _norm(outputs),
            nn.GELU(),
        )
        self.residual = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), _norm(outputs), nn.GELU()
        )

    def forward(self, features: Tensor) -> Tensor:
        narrow: Tensor = self.narrow(features)
        residual: Tensor = self.residual(narrow)
        return narrow + residual


class Compact(nn.Module):
    """The network; see the module.

    Args:
        width: W: the groups have 2 W, 4 W and 8 W channels.
        n_classes: C.
    """

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.whitening = Whitening()
        self.stem = nn.Sequential(nn.Conv2d(12, width, 1, bias=False), _norm(width), nn.GELU())
        self.groups = nn.Sequential(
            _Group(width, 2 * width), _Group(2 * width, 4 * width), _Group(4 * width, 8 * width)
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.head = Head(8 * width, n_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        features = self.groups(self.stem(self.whitening(images)))
        logits: Tensor = self.head(self.pool(features).flatten(1))
        return logits * _SCALE


def _norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm that learns an offset and no scale."""
    norm = nn.BatchNorm2d(channels)
    norm.weight.requires_grad_(False)
    return norm


def _parse(name: str) -> Backbone | None:
    found = re.fullmatch(r"compact-([1-9]\d*)", name)
    if found is None:
        return None
    width = int(found[1])
    if not 4 <= width <= 512:
        raise InputError(f"unknown backbone {name!r}: the width must lie in 4..512")
    return Backbone(name, partial(_construct, width), bare=True)


def _construct(width: int, n_classes: int, resolution: int) -> nn.Module:
    return Compact(width, n_classes)


_NAMES = tuple(f"compact-{width}" for width in (16, 20, 24, 32, 40, 48, 64, 96, 128))

FAMILY = Family("compact-WIDTH", lambda: _NAMES, _parse)
