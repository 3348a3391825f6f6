"""Data sets loaded with the settings that most tests use."""

from pathlib import Path
from typing import Any

from rcopt.data.dataset import Dataset
from rcopt.data.loading import load_data
from rcopt.data.settings import DataSettings


def load_pictures(
    root: Path | None, cache: Path, *, base_side: int = 16, seed: int = 0, **settings: Any
) -> Dataset:
    """Load a folder, or the digits without one; the held-out half is validation, half test."""
    source = {"source": "folder" if root else "digits", "root": root and str(root)}
    chosen = DataSettings(**(source | settings))
    return load_data(chosen, root=root, base_side=base_side, seed=seed, cache=cache)
