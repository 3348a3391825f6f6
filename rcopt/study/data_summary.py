"""What a study's numbers are measured on."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class DataSummary:
    """What a study's numbers are measured on.

    Attributes:
        name: Of the data set.
        classes: Class names.
        split_sizes: Images by split.
        digest: Of images and splits, or of the stored predictions.
        split_digest: Of the splits alone.
        source: Where it comes from.
        notes: What a person should know of it.
    """

    name: str
    classes: tuple[str, ...]
    split_sizes: Mapping[str, int]
    digest: str
    split_digest: str
    source: str
    notes: tuple[str, ...] = ()
