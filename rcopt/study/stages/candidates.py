"""Which stages a study may train, and whether they can be trained at all."""

from collections.abc import Collection
from fnmatch import fnmatchcase

from rcopt.core.cascade import StageId
from rcopt.errors import InputError
from rcopt.study.file import Study

#: Enough to try whether a network takes images of a size.
_SOME_CLASSES = 2


def allow_own(study: Study) -> None:
    """Let this process import the networks of somebody's own that a study file names.

    Whoever runs a study file may run code here; names in what is stored are never enough.
    """
    from rcopt.models.families import own

    for names in study.settings.stages.table().values():
        own.allow(names)


def own_versions(study: Study) -> dict[str, str]:
    """Return what tells versions of a study's own networks apart: their code may be edited."""
    from rcopt.models.families import parse

    allow_own(study)
    named = {name for names in study.settings.stages.table().values() for name in names}
    versions = {f"stages.{name}": parse(name).version for name in named if ":" in name}
    return {key: version for key, version in sorted(versions.items()) if version}


def candidates(study: Study) -> dict[int, tuple[str, ...]]:
    """Return the backbones of each resolution, by their canonical names.

    Raises:
        InputError: If one is unknown, or an override is of no stage.
    """
    from rcopt.models.families import parse

    allow_own(study)
    table: dict[int, tuple[str, ...]] = {}
    for resolution, names in study.settings.stages.table().items():
        try:
            table[resolution] = tuple(parse(name).name for name in names)
        except InputError as error:
            raise InputError(f"{study.file.name}: stages.backbones: {error}") from error
    every = [f"{name}@{resolution}" for resolution in table for name in table[resolution]]
    for pattern in study.settings.training.override:
        if not any(fnmatchcase(name, pattern) for name in every):
            raise InputError(
                f"{study.file.name}: training.override: {pattern!r} matches none of the "
                f"stages, which are {', '.join(every)}"
            )
    return table


def check_sizes(study: Study, stages: Collection[StageId]) -> None:
    """Try whether networks take images of their stages' sizes, before any image is read.

    A recipe may train on smaller images than the stage's, at first or all the time.

    Raises:
        InputError: If one does not; names the sizes that it takes.
    """
    from rcopt.models.input_sizes import check_input_size, check_training_size
    from rcopt.models.schedules import smallest_side

    for stage in stages:
        resolution, backbone = stage
        recipe = study.settings.training.recipe_of(stage.name)
        smallest = smallest_side(recipe, resolution)
        try:
            check_input_size(backbone, _SOME_CLASSES, resolution)
            if smallest != resolution:
                check_training_size(backbone, _SOME_CLASSES, resolution, smallest)
        except InputError as error:
            raise InputError(f"{study.file.name}: stages.backbones: {error}") from error
