"""scikit-learn's scanned digits."""

import hashlib

import numpy as np

from rcopt.data.dataset import Pictures, Request

NEEDS_ROOT = False

#: Share of the digits that is trained on; the others are held out.
DIGITS_TRAIN = 0.6


def load(request: Request) -> Pictures:
    """Return the 1,797 digits, enlarged; which are held out follows from the seed."""
    import torch
    from sklearn.datasets import load_digits
    from torch.nn import functional

    side, seed = request.side, request.seed
    scans = load_digits()
    grey = torch.from_numpy(np.rint(scans.images * (255 / 16)).astype(np.uint8))[:, None]
    enlarged = functional.interpolate(grey.float(), (side, side), mode="bilinear", antialias=True)
    pixels = enlarged.round().to(torch.uint8).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
    base = pixels.contiguous().numpy()
    base.setflags(write=False)
    labels = scans.target.astype(np.int64)
    held_out = np.ones(len(labels), dtype=np.bool_)
    rng = np.random.default_rng(seed)
    for label in range(10):
        members = rng.permutation(np.flatnonzero(labels == label))
        held_out[members[: round(DIGITS_TRAIN * len(members))]] = False
    images = tuple(
        f"{'val' if out else 'train'}/{label}/{number:04d}"
        for number, (label, out) in enumerate(zip(labels, held_out, strict=True))
    )
    classes = tuple(str(digit) for digit in range(10))
    return Pictures(
        classes,
        base,
        labels,
        images,
        np.where(held_out, "held_out", "train"),
        hashlib.sha256(base.tobytes()).hexdigest(),
    )
