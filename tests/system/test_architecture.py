"""What may know of what, tested in fresh interpreters and on the sources."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

import rcopt

SOURCES = sorted(Path(rcopt.__file__).parent.rglob("*.py"))
OUTSIDE = ("torch", "torchvision", "mlflow", "optuna", "pydantic", "ptflops", "sklearn", "pandas")
#: What each room may import besides itself and the shared files. A path in the table stands for
#: that room or module alone, so `core` includes `core/statistics`.
MAY_IMPORT: Mapping[str, Sequence[str]] = {
    "core": (),
    "data": ("core",),
    "models": ("core", "data"),
    "tracking": ("core", "data.prediction_files"),
    "serving": ("core", "data", "models", "tracking"),
    "study": ("core", "data", "models", "tracking", "serving"),
    "report": ("core", "tracking", "study", "serving", "data"),
    "report.analysis": ("core",),
    "cli": ("core", "data", "models", "tracking", "serving", "study", "report"),
}
SHARED = ("errors", "files", "interruption", "processes", "progress", "redaction", "compat")
PACKAGE = Path(rcopt.__file__).parent
CORE = [
    ".".join(source.relative_to(PACKAGE.parent).with_suffix("").parts)
    for folder in ("core", "report/analysis")
    for source in sorted((PACKAGE / folder).rglob("*.py"))
    if source.name != "__init__.py"
]
#: What runs the code that a file holds.
UNPICKLERS = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal", "yaml"}


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
    code = "\n".join(f"import {module}" for module in CORE)
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
    code = "\n".join(
        f"import rcopt.{folder}.{source.stem}"
        for folder in ("data", "models")
        for source in sorted((PACKAGE / folder).glob("[!_]*.py"))
    )
    loaded = loaded_after(code)
    assert "torch" in loaded
    assert not loaded & {"optuna", "mlflow", "ptflops"}


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
        f"from rcopt.study.file import load_study\ntry: load_study({str(tmp_path / 'bad.toml')!r})"
    )
    code = f"{refused}\nexcept Exception as error: assert 'seed' in str(error)"
    assert not loaded_after(code) & {"torch", "mlflow", "optuna"}


@pytest.mark.slow
def test_every_public_name_is_there() -> None:
    assert set(rcopt.__all__) <= set(dir(rcopt)), "tab completion shows them"
    for name in rcopt.__all__:
        assert getattr(rcopt, name) is not None
    with pytest.raises(AttributeError, match="No rcopt attribute nonsense"):
        getattr(rcopt, "nonsense")  # noqa: B009


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


def _room(module: str) -> str:
    """The longest room of the table that a module of rcopt lies in; its own name if in none."""
    inside = module.removeprefix("rcopt.")
    parts = inside.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in MAY_IMPORT:
            return ".".join(parts[:length])
    return parts[0]


def _imported(source: Path) -> Iterator[tuple[int, str]]:
    """Every module of rcopt that a source imports, at any depth, with its line."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.startswith("rcopt"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rcopt":
            base = PACKAGE.parent.joinpath(*str(node.module).split("."))
            for alias in node.names:
                submodule = (base / alias.name).is_dir() or (base / f"{alias.name}.py").is_file()
                yield node.lineno, f"{node.module}.{alias.name}" if submodule else str(node.module)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards_only(source: Path) -> None:
    module = ".".join(source.relative_to(PACKAGE.parent).with_suffix("").parts)
    own = _room(module)
    if own not in MAY_IMPORT:
        allowed: set[str] = set(SHARED) if own in SHARED else set(MAY_IMPORT) | set(SHARED)
    else:
        allowed = {own, *MAY_IMPORT[own], *SHARED}
        if own == "report":
            allowed.add("report.analysis")
    for line, name in _imported(source):
        if name == "rcopt" and own == "cli":
            continue  # its version
        inside = name.removeprefix("rcopt.")
        fits = any(inside == room or inside.startswith(f"{room}.") for room in allowed)
        assert fits, f"{source.name}:{line} imports {name}"


def test_the_package_holds_no_other_loose_files() -> None:
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    # What registered models of rcopt 0.1 import, and what notebooks call rcopt.plot.
    assert loose == {*SHARED, "cascade_files", "plot"}


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
