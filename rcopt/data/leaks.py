"""Pictures that are in a data set more than once where they must not."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rcopt.core.predictions import Split


def leaks(
    digests: NDArray[np.bytes_],
    labels: NDArray[np.int64],
    images: Sequence[str],
    splits: Mapping[Split, NDArray[np.int64]],
) -> tuple[str, ...]:
    """Return what to tell of equal pictures in different splits or under different labels.

    Pictures are equal where their pixels are, decoded; names and formats of files do not count.

    Args:
        digests: (N,) equal for equal pictures; empty for those of one colour, which are left
            alone.
        labels: (N,).
        images: N names.
        splits: Indices of the images of each split; those in none are left alone.

    Returns:
        A line for each kind: held-out pictures that are trained on, test pictures that are
        chosen on, pictures under two labels.
    """
    split = np.full(len(labels), "", dtype="<U16")
    for name, indices in splits.items():
        split[indices] = name
    _, group = np.unique(digests, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    trained_on: list[tuple[str, str]] = []
    chosen_on: list[tuple[str, str]] = []
    two_labels: list[tuple[str, str]] = []
    for members in np.split(order, starts[1:]):
        if len(members) < 2 or not digests[members[0]]:
            continue
        train, test = members[split[members] == "train"], members[split[members] == "test"]
        chosen = members[np.isin(split[members], ("validation", "calibration"))]
        if len(train):
            trained_on += [(images[i], images[train[0]]) for i in np.sort([*chosen, *test])]
        elif len(chosen):
            chosen_on += [(images[i], images[chosen[0]]) for i in test]
        other = members[labels[members] != labels[members[0]]]
        two_labels += [(images[i], images[members[0]]) for i in other]
    kinds = (
        (trained_on, "held-out pictures are training pictures too, so accuracy looks better than "
         "it is"),
        (chosen_on, "test pictures are in validation or calibration too, so test accuracy may "
         "look better than it is"),
        (two_labels, "pictures lie under two labels"),
    )  # fmt: skip
    return tuple(f"{len(pairs)} {text}: {_named(pairs)}" for pairs, text in kinds if pairs)


def _named(pairs: Sequence[tuple[str, str]]) -> str:
    shown = ", ".join(f"{one} = {other}" for one, other in pairs[:3])
    return shown + (f" and {len(pairs) - 3} more" if len(pairs) > 3 else "")
