"""What may know of what, tested in fresh interpreters and on the sources."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import rcopt

SOURCES = sorted(Path(rcopt.__file__).parent.rglob("*.py"))
OUTSIDE = ("torch", "torchvision", "mlflow", "optuna", "pydantic", "ptflops", "sklearn", "pandas")
CORE = (
    "answers",
    "attainment",
    "baselines",
    "bootstrap",
    "cascade",
    "certify",
    "cost",
    "cuts",
    "errors",
    "fronts",
    "generalization",
    "intervals",
    "outcomes",
    "pool",
    "predictions",
    "savings",
    "selection",
    "sweep",
    "threshold_grid",
    "threshold_maps",
)
#: What runs the code that a file holds.
UNPICKLERS = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal", "yaml"}
#: What training needs is loaded on machines that only train.
IMAGES_AND_TRAINING = (
    "augmentation",
    "backbones",
    "checkpoints",
    "data",
    "images",
    "torchvision_ops",
    "training",
)


def loaded_after(code: str) -> set[str]:
    """Which of the outside libraries a fresh interpreter has loaded after running code."""
    script = (
        f"import sys, json\n{code}\n"
        f"print(json.dumps([name for name in {OUTSIDE!r} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_the_core_loads_numpy_and_numba_alone() -> None:
    code = "\n".join(f"import rcopt.{module}" for module in CORE)
    assert loaded_after(code) == set()


@pytest.mark.slow
def test_the_core_can_be_used_from_the_package_without_anything_else() -> None:
    code = (
        "from rcopt import evaluate, threshold_front, hypervolume\n"
        "front = threshold_front([[0.9, 0.4]], [[True, False], [True, True]], [1.0, 10.0])\n"
        "assert front.accuracy.tolist() == [0.5, 1.0]\n"
        "assert hypervolume(front.accuracy, front.mean_flops, reference=(0.0, 11.0)) > 0\n"
        "assert evaluate([[0.9, 0.4]], [[True, False], [True, True]], [1.0, 10.0], [0.5])"
    )
    assert loaded_after(code) == set()


@pytest.mark.slow
def test_data_and_training_know_neither_study_nor_store() -> None:
    code = "\n".join(f"import rcopt.{module}" for module in IMAGES_AND_TRAINING)
    loaded = loaded_after(code)
    assert "torch" in loaded
    assert not loaded & {"optuna", "mlflow", "pydantic", "ptflops"}


@pytest.mark.slow
def test_help_and_a_refused_study_file_load_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("sead = 1")
    code = (
        "import contextlib, io\nfrom rcopt.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
    )
    assert loaded_after(code) == set()
    refused = (
        f"from rcopt.config import load_study\ntry: load_study({str(tmp_path / 'bad.toml')!r})"
    )
    code = f"{refused}\nexcept Exception as error: assert 'seed' in str(error)"
    assert not loaded_after(code) & {"torch", "mlflow", "optuna"}


@pytest.mark.slow
def test_every_public_name_is_there() -> None:
    for name in rcopt.__all__:
        assert getattr(rcopt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        rcopt.nonsense  # noqa: B018


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_module_takes_an_underscore_name_of_another(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    own = {"rcopt"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rcopt":
            own |= {alias.asname or alias.name for alias in node.names}
            taken = [a.name for a in node.names if a.name.startswith("_")]
            assert not taken, f"{source.name}:{node.lineno} imports {taken}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            assert not (private and node.value.id in own), f"{source.name}:{node.lineno}"


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_no_edge(module: str) -> None:
    source = Path(rcopt.__file__).with_name(f"{module}.py")
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rcopt."):
            assert (node.module or "").split(".")[1] in CORE, f"{source.name}:{node.lineno}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_nothing_is_pickled(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            assert not names & UNPICKLERS, source.name
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in UNPICKLERS, source.name
        if isinstance(node, ast.Call):
            where = f"{source.name}:{node.lineno}"
            called = ast.unparse(node.func)
            given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            assert called not in ("eval", "exec", "__import__", "os.system"), where
            assert called.split(".")[-1] not in ("read_pickle", "extractall"), where
            assert given.get("shell") in (None, False), where
            assert called != "torch.load" or given.get("weights_only") is True, where
            assert called != "np.load" or given.get("allow_pickle") is False, where


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_page_of_the_layout_names_every_module(source: Path) -> None:
    root = Path(rcopt.__file__).parent
    page = (root.parent / "docs" / "layout.md").read_text(encoding="utf-8")
    place = source.relative_to(root).parts[0] + ("" if source.parent == root else "/")
    assert source.name == "__init__.py" or f"`{place}`" in page
