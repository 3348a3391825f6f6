"""Imagenette, downloaded when first asked for."""

import errno
import shutil
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from rcopt.data.dataset import Pictures, Request
from rcopt.data.sources import folder
from rcopt.errors import InputError, WorkError, no_space

NEEDS_ROOT = False

#: Readable names of Imagenette's classes.
CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def load(request: Request) -> Pictures:
    """Return Imagenette under its classes' readable names."""
    if request.root is None:
        raise InputError("[data] root is missing; source = 'imagenette' needs a folder")
    found = folder.load(replace(request, root=imagenette_root(request.root)))
    return replace(found, classes=tuple(CLASSES.get(name, name) for name in found.classes))


def imagenette_root(root: Path) -> Path:
    """Return the folder that holds train and val, downloading it if there is none."""
    archive = "imagenette2-320"
    place = root if root.name == archive or (root / "train").is_dir() else root / archive
    if place.is_dir():
        return place
    from rcopt.compat import import_torchvision

    part = place.with_name(f".{place.name}.part")
    datasets = import_torchvision("torchvision.datasets")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{place.name}.lock")):
            if place.is_dir():
                return place
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            datasets.Imagenette(part, split="train", size="320px", download=True)
            (part / archive).rename(place)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise no_space(place, None) from error
        raise WorkError(
            f"cannot download Imagenette ({error}); unpack imagenette2-320.tgz of "
            f"https://github.com/fastai/imagenette as {place}"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return place
