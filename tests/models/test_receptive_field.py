"""Receptive fields against networks computed by hand."""

import pytest
import torch
from torch import Tensor, nn

from rcopt.models.backbones import build
from rcopt.models.receptive_field import ReceptiveField, SeenLayer, trace


def fields(model: nn.Module, side: int = 64) -> list[int]:
    return [layer.field for layer in trace(model.eval(), side).layers]


def test_kernels_strides_pooling_and_dilation_add_up() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),  # its input sees 1, its output 3
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),  # 3 + 2 = 5, 2 pixels apart
        nn.BatchNorm2d(4),
        nn.MaxPool2d(2),  # 5 + 2 = 7, 4 apart
        nn.Conv2d(4, 8, 3, padding=2, dilation=2),  # 7 + 2 * 2 * 4 = 23
        nn.AvgPool2d(2),  # 23 + 4 = 27, 8 apart
        nn.Conv2d(8, 8, 1),  # 27
        nn.Conv2d(8, 8, (1, 3), padding=(0, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    assert fields(model) == [1, 3, 7, 27, 27]


@pytest.mark.parametrize(("name", "last"), [("resnet18", 435), ("resnet18-s1", 109)])
def test_resnets_have_the_fields_computed_by_hand(name: str, last: int) -> None:
    # Stock: 7, pooled 11 with 4 apart; two blocks of two 3x3 convolutions: 43; then 99, 211, 435.
    # The stem -s1 starts at 3 with 1 apart: 11, 11 + 2 + 3 * 4 = 25, 53, 109.
    found = trace(build(name, 3).eval(), 64).layers
    assert found[0] == SeenLayer("conv1", 1, found[0].macs)
    # The last convolution adds 2 * 32 (or 2 * 8) to what its input sees.
    jump = 32 if name == "resnet18" else 8
    assert max(layer.field for layer in found) + 2 * jump == last


class Gated(nn.Module):
    """A convolution whose output is weighted by what the whole map says."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images)
        weights = self.gate(features.mean((2, 3), keepdim=True)).sigmoid()
        answer: Tensor = self.last(features * weights).mean((2, 3))
        return answer


def test_gates_see_all_by_design_and_are_left_out() -> None:
    found = trace(Gated().eval(), 16).layers
    assert [(layer.name, layer.field) for layer in found] == [("first", 1), ("last", 3)]
    assert found[0].macs == 14 * 14 * 4 * 27


def test_attention_is_not_followed() -> None:
    assert len(fields(build("vit_b_32", 3, 64))) == 1


def test_shares_are_of_layers_whose_input_sees_the_whole_image() -> None:
    field = ReceptiveField((SeenLayer("a", 1, 60), SeenLayer("b", 16, 20), SeenLayer("c", 32, 20)))
    assert [layer.name for layer in field.beyond(16)] == ["b", "c"]
    assert field.share_beyond(16) == 0.4
    assert field.share_beyond(17) == 0.2
    assert field.share_beyond(33) == 0.0
    assert [field.suited_from(share) for share in (0.0, 0.2, 0.4, 1.0)] == [33, 17, 2, 1]
    assert ReceptiveField(()).share_beyond(8) == 0.0
    assert ReceptiveField(()).suited_from(0.1) == 1


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = build("mobilenet_v2-0.1", 3).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, 32)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
