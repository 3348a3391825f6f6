from pathlib import Path

import pytest

import rcopt
from rcopt.cli.main import main
from rcopt.serving.registry import load_cascade
from tests.support.generated_images import make_images
from tests.support.study_helpers import TRAINED, write_study


@pytest.mark.slow
def test_a_registered_cascade_gets_new_thresholds_and_the_old_version_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(tmp_path / "images", train=9, held_out=9)
    text = TRAINED.replace('["mobilenet_v2-0.1", "mobilenet_v2-0.25"]', '["mobilenet_v2-0.1"]')
    write_study(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "tiny", "--quiet"]) == 0
    assert main(["select", "tiny", "--min-accuracy", "0", "--register", "m"]) == 0
    capsys.readouterr()
    assert main(["recalibrate", "m", "images", "--max-drop", "90%"]) == 0
    out, err = capsys.readouterr()
    assert "Recalibrated on 27 pictures of images" in out.replace("\n", " ")
    assert "registered m version 2 as @recalibrated" in err
    tracker = rcopt.load_study("tiny").open_tracker()
    old, new = (load_cascade(f"m@{alias}", tracker) for alias in ("champion", "recalibrated"))
    assert old.folder != new.folder
    assert sum(new.seen_before.values()) == 27
    assert main(["recalibrate", "m", "nowhere", "--max-drop", "1%"]) == 2
    assert "no folder" in capsys.readouterr().err
