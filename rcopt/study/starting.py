"""A study file to start from, for a folder of pictures."""

import textwrap

import tomli_w

from rcopt.data.survey import Survey

#: The largest resolution that is proposed; public weights were trained at it.
_TOP = 224
#: Images that a certificate of one point with 90 % confidence takes, if nothing is lost.
_CERTIFIED = 230
_SHARES = {"validation": 0.4, "calibration": 0.2, "test": 0.4}
_HELD_OUT = 0.3


def study_file(name: str, root: str, found: Survey) -> str:
    """Return a commented study file.

    Args:
        name: Of the study.
        root: The folder, as the file is to name it.
        found: What lies there.

    Example:
        >>> found = Survey(("cat", "dog"), {"train": 900, "held_out": 300}, ("cat", 440), 500, ())
        >>> print(study_file("pets", "../pets", found).splitlines()[0])
        # 1,200 pictures of 2 classes, 900 to train on; short side 500 pixels (median)
    """
    resolutions = proposed_resolutions(found.short_side)
    sizes = ", ".join(map(str, resolutions))
    return f"""\
{_comment(_seen(found))}
name = {_value(name)}
seed = 0

[data]
source = "folder"
root = {_value(root)}
# What is held out is divided by chance, the same way each time:
validation = {_SHARES["validation"]}        # cascades are chosen by these
calibration = {_SHARES["calibration"]}       # `rcopt select --certify` tests its promise on these
test = {_SHARES["test"]}              # what to expect is reported on these, chosen by never
{_comment(_calibration(found))}

[stages]
resolutions = [{sizes}]
# Networks by their names in torchvision; "timm/NAME" takes one of timm (pip install timm).
backbones = ["mobilenet_v2", "resnet18", "resnet34"]

[training]
weights = "pretrained"  # public ImageNet weights, downloaded once, trained on by the recipe
                        # "finetune"; with "none" and recipe = "long" from scratch
# A picture and its mirror image are taken to be of one class; not so for text or arrows:
flip = true

[search]
trials = 200            # in all, over every restart; each costs next to nothing once its stages
                        # are trained
"""


def proposed_resolutions(short_side: int) -> tuple[int, ...]:
    """Return resolutions to search, rising by about 1.8, none beyond what the pictures show.

    Args:
        short_side: Of the pictures, in pixels.

    Example:
        >>> proposed_resolutions(500), proposed_resolutions(96), proposed_resolutions(28)
        ((64, 128, 224), (32, 48, 96), (16, 32))
    """
    top = min(_TOP, max(32, short_side // 32 * 32))
    return tuple(sorted({max(16, round(top * share / 16) * 16) for share in (0.28, 0.56, 1.0)}))


def _seen(found: Survey) -> str:
    total = sum(found.sizes.values())
    training = found.sizes.get("train")
    several = len(found.classes)
    text = f"{total:,} pictures of {several} classes"
    if training is not None:
        text += f", {training:,} to train on"
    return f"{text}; short side {found.short_side} pixels (median)"


def _calibration(found: Survey) -> str:
    if "all" in found.sizes:
        held_out = _HELD_OUT * found.sizes["all"]
    else:
        held_out = sum(n for part, n in found.sizes.items() if part in ("held_out", "validation"))
    share = _SHARES["calibration"]
    if "validation" in found.sizes:
        # Test pictures lie in a part of their own.
        share /= _SHARES["validation"] + _SHARES["calibration"]
    count = round(share * held_out)
    if count >= _CERTIFIED:
        return f"Calibration has about {count:,} pictures."
    return (
        f"Calibration has about {count:,} pictures; to certify a drop of 1 % with 90 % confidence "
        f"takes {_CERTIFIED} or more."
    )


def _comment(text: str) -> str:
    return textwrap.fill(text, 98, initial_indent="# ", subsequent_indent="# ")


def _value(text: str) -> str:
    return tomli_w.dumps({"x": text}).removeprefix("x = ").rstrip("\n")
