"""What a wheel brings along: everything that a project without this repository needs."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def call(*arguments: str, cwd: Path, path: str = "") -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with rcopt installed from a wheel, its dependencies elsewhere."""
    if find_spec("setuptools") is None:
        pytest.skip("needs setuptools, to build without a network")
    folder = tmp_path_factory.mktemp("wheel")
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = folder / "source"
    call(
        "-c",
        f"import shutil; shutil.copytree({str(ROOT / 'rcopt')!r}, 'source/rcopt')",
        cwd=folder,
    )
    for name in ("pyproject.toml", "README.md"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", "made", str(source), cwd=folder)
    (wheel,) = (folder / "made").iterdir()
    call(*pip, "install", "--no-deps", "--no-index", "--target", "site", str(wheel), cwd=folder)
    return str(folder / "site")


@pytest.mark.slow
def test_a_study_that_comes_along_runs_in_an_empty_folder(installed: str, tmp_path: Path) -> None:
    where = call("-c", "import rcopt; print(rcopt.__file__)", cwd=tmp_path, path=installed)
    assert where.startswith(installed)
    settings = ["training.epochs=1", "stages.resolutions=[16]", "data.base_side=16"]
    settings += ["stages.backbones=['mobilenet_v2-0.1']"]
    overrides = [part for one in settings for part in ("--set", one)]
    arguments = ["-m", "rcopt.cli", "run", "digits", "--trials", "1", "--quiet", *overrides]
    out = call(*arguments, cwd=tmp_path, path=installed)
    assert "1 trained stages" in out
    call("-m", "rcopt.cli", "report", "digits", cwd=tmp_path, path=installed)
    assert (tmp_path / "reports" / "digits" / "report.html").stat().st_size > 10_000
