"""The recipes of docs/recipes, as far as they can be run without Slurm and Docker."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rcopt.cli.main import main
from tests.support.sites import NewSite
from tests.support.study_helpers import runs_of, statuses

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"


def test_the_compose_file_publishes_on_loopback_alone_and_holds_no_password() -> None:
    services = yaml.safe_load((RECIPES / "compose.yaml").read_text())["services"]
    assert set(services) == {"postgres", "mlflow", "worker"}
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    for service in services.values():
        for name, value in service["environment"].items():
            assert "PASSWORD" not in name or value.startswith("${PGPASSWORD"), name
        for built in filter(None, [service.get("build")]):
            assert (RECIPES / built["context"] / built["dockerfile"]).is_file()
    for source in services["postgres"]["volumes"][1:]:
        assert (RECIPES / source.split(":")[0]).is_file()


def test_the_compose_files_worker_has_a_command_line_that_rcopt_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    services = yaml.safe_load((RECIPES / "compose.yaml").read_text())["services"]
    program, *arguments = services["worker"]["command"]
    assert program == "rcopt"
    file = tmp_path / "studies" / "none.toml"
    monkeypatch.chdir(tmp_path)
    assert main([a.replace("${STUDY:-studies/digits.toml}", str(file)) for a in arguments]) == 2
    # Past the command line and the settings: only the file is missing.
    assert "no such study file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_slurm_script_runs_a_worker_and_hands_back_when_told(new_site: NewSite) -> None:
    site = new_site("journal", http=False)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    environment.pop("SLURM_JOB_ID", None)
    command = ["bash", str(RECIPES / "slurm.sh"), "studies/tiny.toml", "--trials"]
    done = subprocess.run([*command, "3"], cwd=site.project, env=environment, check=False)
    assert done.returncode == 0
    assert site.sampled() == 3
    script = subprocess.Popen([*command, "100000"], cwd=site.project, env=environment)
    try:
        while site.sampled() < 6:
            assert script.poll() is None
            time.sleep(0.1)
        script.send_signal(signal.SIGTERM)
        assert script.wait(60) == 130
    finally:
        script.kill()
    assert statuses(site.project, "study") == {"KILLED": 1}
    assert {run.status for run in runs_of(site.project, "stage")} <= {"FINISHED", "KILLED"}
