"""Put images, code and plan into a folder that can be carried to another machine."""

import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

import rcopt
from benchmarks.gpu.plan import Planned, write_images, write_plan
from rcopt.data.loading import load_data
from rcopt.data.settings import DataSettings
from rcopt.errors import InputError
from rcopt.models.backbones import build
from rcopt.models.macs import count_macs
from rcopt.models.named_recipes import RECIPES, RecipeName
from rcopt.models.recipe import Recipe

#: For the estimate that is printed, not measured: what large networks reach of an H100's bfloat16
#: peak, and the seconds below which no step comes, for it launches some hundred kernels.
_FLOPS_PER_SECOND, _STEP = 0.15 * 800e12, 5e-3


def pack(plan: Path, packed: Path, *, images: Path | None = None, cache: Path) -> None:
    """Write what `benchmarks.gpu.train` needs.

    Args:
        plan: TOML: ``[data]`` as in a study file, ``base_side`` included, and a ``[[stages]]``
            for each stage, in the order of training: ``name``, ``recipe`` to start from, any
            setting of a recipe, ``seeds`` (how many) and ``compiled``.
        packed: Folder to make; ``packed/code`` is where to run from.
        images: Folder of the images, where it is not the plan's.
        cache: For decoded images.

    Raises:
        InputError: On a plan that cannot be followed, or if the folder is there already.
    """
    if packed.exists():
        raise InputError(f"{packed}: is there already; name a folder to make, or remove it")
    try:
        tree = tomllib.loads(plan.read_text(encoding="utf-8"))
        entries = tree["stages"]
        given = {} if images is None else {"root": str(images)}
        settings = DataSettings.model_validate({**tree["data"], **given})
    except (OSError, ValueError, KeyError, ValidationError) as error:
        raise InputError(f"{plan}: not a plan ({' '.join(str(error).split())[:200]})") from error
    if settings.base_side is None:
        raise InputError(f"{plan}: data.base_side is needed")
    root = None if settings.root is None else Path(settings.root)
    dataset = load_data(settings, root=root, base_side=settings.base_side, seed=0, cache=cache)
    stages = [stage for entry in entries for stage in planned(plan, entry, len(dataset.classes))]
    packed.mkdir(parents=True)
    write_images(packed, dataset)
    write_plan(packed, stages)
    here, code = Path(__file__).parent, packed / "code"
    left_out = shutil.ignore_patterns("__pycache__", "*.css", "*.js")
    shutil.copytree(Path(rcopt.__file__).parent, code / "rcopt", ignore=left_out)
    shutil.copytree(here, code / "benchmarks" / here.name, ignore=left_out)
    (code / "benchmarks" / "__init__.py").touch()
    training = len(dataset.splits["train"])
    total = 0.0
    for stage in stages:
        recipe, work = Recipe(**stage.recipe), training * stage.image_flops()
        steps = recipe.epochs * (training // recipe.batch_size)
        seconds = max(work / _FLOPS_PER_SECOND, steps * _STEP)
        total += seconds
        print(
            f"{stage.name} seed {stage.seed}: {stage.macs / 5e5:,.1f} MFLOPs, "
            f"training {work / 1e15:.2f} PFLOPs, about {seconds:.0f} s of an H100"
        )
    print(f"all of it: about {total / 60:.0f} minutes")
    print(f"there: cd {packed.name}/code && python -m benchmarks.gpu train .. ../results")


def planned(plan: Path, entry: Mapping[str, Any], n_classes: int) -> list[Planned]:
    """Return the trainings of an entry of a plan, one for each seed.

    Raises:
        InputError: On a key, name or value that cannot be followed.
    """
    given = dict(entry)
    try:
        name = str(given.pop("name"))
        backbone, _, resolution = name.rpartition("@")
        seeds, compiled = int(given.pop("seeds", 1)), bool(given.pop("compiled", False))
        start = TypeAdapter(RecipeName).validate_python(given.pop("recipe", "plain"))
        settings = {**RECIPES[start].settings, **given}
        Recipe(**settings)
        side = int(resolution)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{plan}: {entry}: {' '.join(str(error).split())[:200]}; a stage has a name such as "
            f"resnet18@32, a recipe of {', '.join(get_args(RecipeName))}, and a recipe's settings"
        ) from error
    cost = count_macs(build(backbone, n_classes, side), side)
    return [
        Planned(backbone, side, seed, settings, cost.macs, cost.parameters, compiled)
        for seed in range(seeds)
    ]
