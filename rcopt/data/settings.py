"""The ``[data]`` part of a study file: a source, and how its held-out images are divided."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from rcopt.core.cascade import PIXELS
from rcopt.data.sources import NAMES
from rcopt.data.sources import source as source_of

#: Stored predictions, or images of one of `rcopt.data.sources`.
SOURCES: tuple[str, ...] = ("predictions", *NAMES)


def _without_controls(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("expected text without control characters")
    return text


Share = Annotated[float, Field(ge=0, le=1)]
Resolution = Annotated[int, Field(ge=PIXELS, le=1024)]
#: A path, an address or one of a few words.
Location = Annotated[str, AfterValidator(_without_controls)]


class DataSettings(BaseModel):
    """Where the images come from and how the held-out ones are divided."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    source: str = "digits"
    """``folder``: pictures of yours; ``digits``: scikit-learn's; ``imagenette``: downloaded;
    ``predictions``: stages that are trained already."""
    root: Location | None = None
    """Relative to the project. folder: ROOT/{train,val}/CLASS/IMAGE; imagenette: where it is
    downloaded to; predictions: a folder of stage files."""
    validation: Share = 0.5
    """Share of the held-out images that cascades are chosen by."""
    calibration: Share = 0.0
    """Share of the held-out images that certificates are tested on."""
    test: Share = 0.5
    """Share of the held-out images that results are reported on; nothing is chosen by them."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of each class that is held out of a folder without train and val parts."""
    skip_bad: bool = False
    """Go on without pictures that cannot be read; every report says how many."""
    scaled_jpeg: bool = False
    """Decode large JPEG files at a fraction of their size: 2 to 4 times as fast. Pixels differ by
    less than half a grey level on average (`benchmarks/README.md`) from those of full decoding,
    which a served cascade always uses."""
    base_side: Resolution | None = None
    """Side in pixels of the base image every stage input is made from; the largest resolution
    where it is left out."""

    @field_validator("source")
    @classmethod
    def _check_source(cls, source: str) -> str:
        if source not in SOURCES:
            raise ValueError(f"expected one of {', '.join(SOURCES)}")
        return source

    @field_validator("root")
    @classmethod
    def _check_root(cls, root: str | None) -> str | None:
        try:
            Path(root or "").expanduser()
        except RuntimeError as error:
            raise ValueError(f"there is no home folder {Path(root or '').parts[0]}") from error
        return root

    @model_validator(mode="after")
    def _check(self) -> Self:
        stored = self.source == "predictions"
        if self.root is None and (stored or source_of(self.source).NEEDS_ROOT):
            raise ValueError(f'root is needed with source = "{self.source}"')
        if self.validation == 0 or self.test == 0:
            raise ValueError("validation and test must be above 0")
        if self.validation + self.calibration + self.test > 1 + 1e-9:
            raise ValueError(
                "validation + calibration + test must not exceed 1: the splits would overlap"
            )
        return self
