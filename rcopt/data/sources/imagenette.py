"""Imagenette, downloaded when first asked for."""

import errno
import shutil
from pathlib import Path

from filelock import FileLock

from rcopt.compat import import_torchvision
from rcopt.errors import WorkError, no_space


def imagenette_root(root: Path) -> Path:
    """Return the folder that holds train and val, downloading it if there is none."""
    archive = "imagenette2-320"
    folder = root if root.name == archive or (root / "train").is_dir() else root / archive
    if folder.is_dir():
        return folder
    part = folder.with_name(f".{folder.name}.part")
    datasets = import_torchvision("torchvision.datasets")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir():
                return folder
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            datasets.Imagenette(part, split="train", size="320px", download=True)
            (part / archive).rename(folder)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise no_space(folder, None) from None
        raise WorkError(
            f"cannot download Imagenette ({error}); unpack imagenette2-320.tgz of "
            f"https://github.com/fastai/imagenette as {folder}"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder
