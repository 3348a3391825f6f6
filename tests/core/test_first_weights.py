from dataclasses import replace

from rcopt.core.first_weights import seen_note
from tests.support.simulated import simulated_stages
from tests.support.study_helpers import SIZES


def test_whether_weights_have_seen_the_images_is_told() -> None:
    plain = simulated_stages(SIZES, 0)
    assert seen_note(plain, "imagenette") == ""
    started = [
        replace(plain[0], details={"weights_source": "x", "weights_images": "ImageNet-1k"}),
        *plain[1:],
    ]
    note = seen_note(started, "imagenette")
    assert note.startswith(f"{plain[0].stage.name} started from weights")
    assert "these weights have seen them" in note
    assert "rcopt cannot look into" in seen_note(started, "my pictures")
    assert "on ImageNet-1k." in seen_note(started, "my pictures")
