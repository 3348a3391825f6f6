"""A mirrored backbone is the same network, asked twice."""

from pathlib import Path

import pytest
import torch

from rcopt.errors import InputError
from rcopt.models.backbones import build
from rcopt.models.families import parse
from rcopt.models.macs import count_macs
from rcopt.models.weights import load_weights, save_weights
from rcopt.serving.prepacked import prepared

NAMES = ("compact-8", "resnet18-s2", "mobilenet_v2-0.25", "timm/test_efficientnet")


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_the_mean_of_an_image_and_its_mirror_image(
    name: str, tmp_path: Path
) -> None:
    once, twice = build(name, 3, 32), build(f"{name}-mirrored", 3, 32)
    twice.load_state_dict(once.state_dict())
    images = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        once.eval()
        expected = (once(images) + once(images.flip(3))) / 2
        assert torch.equal(twice.eval()(images), expected)
        assert torch.equal(twice(images.flip(3)), expected)
        packed = prepared(twice, "float32", torch.device("cpu"))
        assert torch.allclose(packed(images), expected, atol=1e-4)
    save_weights(tmp_path / "w", twice, backbone=f"{name}-mirrored", n_classes=3, resolution=32)
    with torch.inference_mode():
        assert torch.equal(load_weights(tmp_path / "w").model(images), expected)


@pytest.mark.parametrize("name", NAMES)
def test_both_looks_are_paid_for(name: str) -> None:
    once, twice = (count_macs(build(n, 3, 32), 32) for n in (name, f"{name}-mirrored"))
    assert twice.macs == 2 * once.macs
    assert twice.parameters == once.parameters


def test_training_looks_once() -> None:
    once, twice = build("compact-8", 3, 32).train(), build("compact-8-mirrored", 3, 32).train()
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(once(images), twice(images))


def test_names_are_those_of_the_network_and_mirrored_once() -> None:
    assert parse("mobilenet_v2-0.50-mirrored").name == "mobilenet_v2-0.5-mirrored"
    assert parse("resnet18-mirrored").pretrained is not None
    assert parse("compact-8-mirrored").pretrained is None
    for wrong in ("nonsense-mirrored", "resnet18-mirrored-mirrored", "-mirrored"):
        with pytest.raises(InputError, match="unknown backbone"):
            parse(wrong)
