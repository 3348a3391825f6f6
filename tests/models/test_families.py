"""What every family of backbones must hold, and what its names mean."""

from pathlib import Path

import pytest
import torch
from torch import nn

from rcopt.data.preprocessing import IMAGENET, Preprocessing
from rcopt.errors import InputError
from rcopt.models.backbones import build, preprocessing_of, skeleton
from rcopt.models.families import FAMILIES, own, parse
from rcopt.models.families.base import Head, head_weights
from rcopt.models.input_sizes import check_input_size, check_training_size
from rcopt.models.weights import load_weights, save_weights

NAMES = [name for family in FAMILIES for name in family.names()[:60]]
#: One of each family that offers names, and some of those that are unlike the others.
EXAMPLES = [
    *("resnet18", "mobilenet_v2-0.25", "efficientnet_b0", "regnet_y_400mf", "swin_t"),
    *("squeezenet1_1", "shufflenet_v2_x0_5", "vit_b_32", "googlenet", "compact-8"),
    *("timm/mobilenetv4_conv_small", "timm/vit_tiny_patch16_224", "timm/test_efficientnet"),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_of_one_family_and_parsed_to_itself(name: str) -> None:
    assert parse(name).name == name
    assert sum(family.parse(name) is not None for family in FAMILIES) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_networks_have_a_head_of_their_own_and_come_back_from_a_file(
    name: str, tmp_path: Path
) -> None:
    head = head_weights(parse(name), 64)
    assert head
    model = build(name, 7, 64)
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert all(shapes[key][0] == 7 for key in head)
    assert shapes == {k: t.shape for k, t in skeleton(name, 7, 64, IMAGENET).state_dict().items()}
    images = torch.rand(2, 3, 64, 64)
    save_weights(tmp_path / "w", model, backbone=name, n_classes=7, resolution=64)
    with torch.inference_mode():
        answers = model.eval()(images)
        assert answers.shape == (2, 7)
        assert torch.equal(load_weights(tmp_path / "w").model(images), answers)


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
        ("efficientnetb0", "did you mean 'efficientnet_b0'"),
        ("zzz", "known: .*resnet18"),
        ("mobilenet_v2-0", "width must lie in"),
        ("mobilenet_v2-99", "width must lie in"),
        ("timm/mobilenetv4_conv_smal", "did you mean 'timm/mobilenetv4_conv_small'"),
        ("timm/resnet18.no_such_tag", "Invalid pretrained tag .no_such_tag"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_one(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        parse(name)


def test_without_timm_its_names_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcopt.models.families.timm.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'rcopt\[timm\]'"):
        parse("timm/resnet18")
    with pytest.raises(InputError, match="unknown backbone 'nonsense'"):
        parse("nonsense")


# --- what each network needs ---


def test_preprocessing_comes_with_the_network() -> None:
    half = (127.5, 127.5, 127.5)
    assert parse("resnet18").preprocessing == IMAGENET
    assert parse("efficientnet_b0").preprocessing == Preprocessing(interpolation="bicubic")
    assert parse("efficientnet_v2_l").preprocessing.mean == half
    assert parse("timm/tf_efficientnet_lite0").preprocessing == Preprocessing(
        half, half, "bicubic"
    )
    assert parse("timm/mobilevit_xxs").preprocessing == Preprocessing(
        (0, 0, 0), (255, 255, 255), "bicubic"
    )


def test_preprocessing_is_kept_with_the_weights(tmp_path: Path) -> None:
    stated = Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "bicubic")
    model = build("mobilenet_v2-0.25", 3, preprocessing=stated)
    save_weights(tmp_path / "w", model, backbone="mobilenet_v2-0.25", n_classes=3, resolution=32)
    assert preprocessing_of(load_weights(tmp_path / "w").model) == stated
    assert preprocessing_of(nn.Identity()) == IMAGENET


@pytest.mark.parametrize(
    ("name", "resolution", "said"),
    [
        (
            "maxvit_t",
            64,
            "cannot take images of 64 pixels .Input size.* takes 224, 448",
        ),
        ("vit_h_14", 96, "indivisible by patch size.* it takes 224, 448"),
        ("alexnet", 32, "it takes 64, 96"),
        ("timm/efficientformer_l1", 96, "cannot take images of 96 pixels"),
    ],
)
def test_an_image_size_that_a_network_cannot_take_is_refused(
    name: str, resolution: int, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        check_input_size(name, 3, resolution)


@pytest.mark.parametrize(("name", "side"), [("vit_b_32", 32), ("compact-8", 8)])
def test_a_recipe_that_trains_on_smaller_images_than_a_network_takes_is_refused(
    name: str, side: int
) -> None:
    check_training_size("mobilenet_v2-0.25", 3, 64, side)
    with pytest.raises(InputError, match=f"of {side} pixels, which its recipe .* progressive"):
        check_training_size(name, 3, 64, side)


@pytest.mark.parametrize("name", ["vit_b_32", "timm/vit_tiny_patch16_224"])
def test_the_position_embedding_of_a_vision_transformer_is_resized(
    name: str, tmp_path: Path
) -> None:
    check_input_size(name, 3, 64)
    torch.save(build(name, 5, 96, seed=1).state_dict(), tmp_path / "w.pth")
    model = build(name, 3, 64, weights=tmp_path / "w.pth")
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


# --- own networks ---

CODE = """
from torch import nn

def tiny(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))

def wrong(num_classes):
    return num_classes

def flat(num_classes):
    return nn.Flatten()

constant = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"nets_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_an_own_network_is_imported_only_where_that_is_allowed(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{package}:tiny"
    with pytest.raises(InputError, match=r"code of somebody's own.*RCOPT_OWN_BACKBONES"):
        parse(name)
    monkeypatch.setenv(own.VARIABLE, f"other:x,{name}")
    model = build(name, 3, 16)
    assert isinstance(model[-1], Head)  # type: ignore[index]
    save_weights(tmp_path / "w", model, backbone=name, n_classes=3, resolution=16)
    assert load_weights(tmp_path / "w").backbone == name
    monkeypatch.delenv(own.VARIABLE)
    with pytest.raises(InputError, match="stored files never run"):
        load_weights(tmp_path / "w")
    own.allow([name])
    assert parse(name).version
    check_input_size(name, 3, 16)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("none", "cannot be imported"),
        ("constant", "not a function"),
        ("wrong", "gave a int, not a network"),
        ("flat", r"answers 2 images with \(2, 768\), expected logits \(2, 3\)"),
    ],
)
def test_an_own_network_that_is_none_is_named(package: str, function: str, said: str) -> None:
    own.allow([f"{package}:{function}"])
    with pytest.raises(InputError, match=said):
        check_input_size(f"{package}:{function}", 3, 16)


def test_an_own_network_of_no_module_says_what_to_do() -> None:
    own.allow(["no_such_package.nets:tiny"])
    with pytest.raises(InputError, match="no module 'no_such_package' here"):
        parse("no_such_package.nets:tiny")
