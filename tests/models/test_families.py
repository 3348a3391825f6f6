"""What every family of backbones must hold, and what its names mean."""

import pytest
import torch

from rcopt.errors import InputError
from rcopt.models.backbones import build, skeleton
from rcopt.models.families import FAMILIES, parse
from rcopt.models.families.base import Family, Head, head_weights

NAMES = [name for family in FAMILIES for name in family.names]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_of_one_family_and_parsed_to_itself(name: str) -> None:
    assert parse(name).name == name
    assert sum(family.parse(name) is not None for family in FAMILIES) == 1


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.names[0])
def test_every_family_builds_networks_with_a_head_of_its_own(family: Family) -> None:
    name = family.names[0]
    head = head_weights(parse(name), 64)
    assert head
    model = build(name, 7, 64)
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert all(shapes[key][0] == 7 for key in head)
    assert shapes == {k: t.shape for k, t in skeleton(name, 7, 64).state_dict().items()}
    assert any(isinstance(layer, Head) for layer in model.modules())
    with torch.inference_mode():
        assert model.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_a_width_has_one_name() -> None:
    assert parse("mobilenet_v2-1.0").name == "mobilenet_v2"
    assert parse("mobilenet_v2-0.50").name == "mobilenet_v2-0.5"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet341", "did you mean 'resnet34'"),
        ("ResNet18", "did you mean 'resnet18'"),
        ("mobilenet", "did you mean 'mobilenet_v2'"),
        ("resnet18-s4", "did you mean 'resnet18-s"),
        ("zzz", "known: .*resnet18"),
        ("mobilenet_v2-0", "width must lie in"),
        ("mobilenet_v2-99", "width must lie in"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_one(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        parse(name)
