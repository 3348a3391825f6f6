"""Import torchvision beside a torch it was not built for.

The torchvision wheel on PyPI carries its compiled operators for one build of torch. Beside
another one (the CPU build, say) they cannot be loaded, and ``import torchvision`` dies with
"operator torchvision::nms does not exist", because it attaches shape rules to two operators
that nobody declared. Declaring them, without code, is enough: the models, the data sets and
everything else that rcopt uses are plain Python, and rcopt never calls either operator.
"""

import importlib
from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# A Library withdraws its operators when it is collected.
_declared: list[torch.library.Library] = []


def import_torchvision(module: str = "torchvision") -> ModuleType:
    """Import torchvision, or one of its modules, with or without its compiled operators.

    Where torchvision's own operators load, nothing is declared and all of it works; elsewhere
    detection models would fail at the call of ``nms``, classification is not concerned.

    Args:
        module: Such as ``"torchvision.models"``.
    """
    try:
        return importlib.import_module(module)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
    return importlib.import_module(module)
