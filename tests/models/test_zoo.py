"""What must hold of every family of torchvision and of many of timm: from a name to a file."""

from pathlib import Path

import numpy as np
import pytest

from rcopt.compat import import_torchvision
from rcopt.data.dataset import Dataset
from rcopt.errors import InputError
from rcopt.models.backbones import build
from rcopt.models.input_sizes import check_input_size
from rcopt.models.macs import count_macs
from rcopt.models.prediction import predict
from rcopt.models.recipe import Recipe
from rcopt.models.training import train
from rcopt.models.weights import load_weights, save_weights

#: The smallest of each of torchvision's families.
TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf"),
    *("resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11", "vit_b_32"),
)
#: Small ones of timm's families; each in another module of it.
TIMM = (
    *("test_byobnet", "test_convnext", "test_efficientnet", "test_mambaout", "test_nfnet"),
    *("test_resnet", "test_vit", "coat_tiny", "convit_tiny", "cs3darknet_focus_s"),
    *("edgenext_xx_small", "efficientformerv2_s0", "efficientvit_b0", "efficientvit_m0"),
    *("fastvit_t8", "fasternet_t0", "ghostnet_050", "hgnetv2_b0", "inception_next_atto"),
    *("levit_128s", "mixer_s32_224", "mobilenetv3_small_050", "mobilevit_xxs", "pit_ti_224"),
    *("poolformerv2_s12", "pvt_v2_b0", "regnetx_002", "repghostnet_050", "repvit_m0_9"),
    *("resnetv2_18", "rexnet_100", "selecsls42b", "shvit_s1", "starnet_s1", "swiftformer_xs"),
    *("tiny_vit_5m_224", "visformer_tiny", "xcit_nano_12_p16_224", "vovnet39a", "dla34"),
    "hardcorenas_a",
)


def test_every_family_of_torchvision_is_here() -> None:
    models = import_torchvision("torchvision.models")
    quantized = "torchvision.models.quantization"
    modules = {
        models.get_model_builder(name).__module__
        for name in models.list_models(module=models)
        if not models.get_model_builder(name).__module__.startswith(quantized)
    }
    assert {models.get_model_builder(name).__module__ for name in TORCHVISION} == modules


def test_at_least_forty_families_of_timm_are_here() -> None:
    import timm

    assert len(TIMM) == len(set(TIMM)) >= 40
    assert all(timm.is_model(name) for name in TIMM)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TORCHVISION, *(f"timm/{name}" for name in TIMM)])
def test_a_network_is_counted_trained_and_stored_and_answers_the_same(
    name: str, tmp_path: Path
) -> None:
    side = smallest_side(name)
    model = build(name, 3, side)
    cost = count_macs(model, side)
    assert cost.macs > 0
    assert cost.macs >= 0.98 * cost.torch
    pictures = noise(side)
    recipe = Recipe(epochs=1, batch_size=4, lr=1e-6, precision="float32")
    (record,) = train(model, pictures, side, recipe, seed=0)
    assert np.isfinite(record.loss)
    before = predict(model, pictures, "test", side, precision="float32")
    save_weights(tmp_path / "w", model, backbone=name, n_classes=3, resolution=side)
    again = predict(
        load_weights(tmp_path / "w").model, pictures, "test", side, precision="float32"
    )
    assert np.array_equal(before.probabilities, again.probabilities)


def smallest_side(name: str) -> int:
    """The first of a few sizes that a network takes."""
    for side in (64, 224):
        try:
            check_input_size(name, 3, side)
        except InputError:
            continue
        return side
    raise AssertionError(f"{name} takes none of the sizes")


def noise(side: int) -> Dataset:
    """Four images to train on and two to answer."""
    return Dataset(
        name="noise",
        classes=("a", "b", "c"),
        base=np.random.default_rng(0).integers(0, 256, (6, side, side, 3), dtype=np.uint8),
        labels=np.array([0, 1, 2, 0, 1, 2]),
        images=tuple("abcdef"),
        splits={"train": np.arange(4), "test": np.arange(4, 6)},
        digest="noise",
        split_digest="noise",
    )
