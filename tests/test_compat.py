import subprocess
import sys

import torch

from rcopt.compat import import_torchvision


def test_torchvision_imports_in_a_fresh_interpreter_and_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from rcopt.compat import import_torchvision\n"
        "models = import_torchvision('torchvision.models')\n"
        "assert callable(models.resnet18)\n"
        "import torchvision.datasets\n"
        "assert not {'optuna', 'mlflow', 'ptflops'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_operators_are_declared_exactly_once() -> None:
    import_torchvision()
    import_torchvision("torchvision.models")
    assert hasattr(torch.ops.torchvision, "nms")
