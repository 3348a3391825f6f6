import copy

import pytest
import torch
from torch import Tensor, nn

from rcopt.models.backbones import build
from rcopt.models.prediction import predict_batch
from rcopt.models.recipe import Precision
from rcopt.serving.prepacked import prepared

CPU = torch.device("cpu")


def images(n: int, side: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=generator)


def varied(backbone: str) -> nn.Module:
    model = build(backbone, 5, seed=1)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(2)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.get_buffer("running_var").uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2-0.25"])
def test_bfloat16_predictions_are_the_same_bits_at_any_batch_size(backbone: str) -> None:
    model = varied(backbone)
    ready = prepared(model, "bfloat16", CPU)
    for n in (0, 1, 2, 7):
        expected = predict_batch(model, images(n), 40, "bfloat16")
        assert torch.equal(predict_batch(ready, images(n), 40, "bfloat16"), expected)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2-0.25"])
def test_float32_predictions_are_the_same_bits_but_for_single_images(backbone: str) -> None:
    model = varied(backbone)
    ready = prepared(model, "float32", CPU)
    single = predict_batch(ready, images(1), 40, "float32")
    assert torch.allclose(single, predict_batch(model, images(1), 40, "float32"), atol=1e-5)
    for n in (0, 2, 7):
        expected = predict_batch(model, images(n), 40, "float32")
        assert torch.equal(predict_batch(ready, images(n), 40, "float32"), expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_any_convolution_is_carried_over(precision: Precision) -> None:
    convolutions = [
        nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=True),
        nn.Conv2d(6, 6, 3, dilation=2, groups=6, bias=False),
        nn.Conv2d(6, 4, 3, padding="same"),
        nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect"),
    ]
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    ready = prepared(model, precision, CPU)
    expected = predict_batch(model, images(4), 32, precision)
    assert torch.equal(predict_batch(ready, images(4), 32, precision), expected)


def test_without_onednn_the_weights_are_only_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = varied("resnet18")
    ready = prepared(model, "bfloat16", CPU)
    kinds = {type(layer) for layer in ready.modules()}
    assert nn.Conv2d in kinds
    expected = predict_batch(model, images(3), 40, "bfloat16")
    assert torch.equal(predict_batch(ready, images(3), 40, "bfloat16"), expected)


def test_the_model_given_stays_as_it_is_and_copies_can_be_copied() -> None:
    model = varied("mobilenet_v2-0.25").train()
    before = copy.deepcopy(model.state_dict())
    ready = prepared(model, "bfloat16", CPU)
    again = prepared(ready, "bfloat16", CPU)
    assert model.training
    assert not ready.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(
        predict_batch(again, images(2), 40, "bfloat16"),
        predict_batch(ready, images(2), 40, "bfloat16"),
    )
