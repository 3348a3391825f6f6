from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rcopt.compat import import_torchvision
from rcopt.errors import InputError, WorkError
from rcopt.models.backbones import build
from rcopt.models.macs import Cost, count_macs


@pytest.mark.parametrize("name", ["resnet18", "resnet18-s2", "resnet50-s1", "mobilenet_v2-0.5"])
def test_build_gives_the_classes_asked_for_from_any_resolution(name: str) -> None:
    model = build(name, 7).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_build_depends_on_the_seed_alone_and_leaves_the_global_state() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = build("resnet18-s1", 3, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two = build("resnet18-s1", 3, seed=5).state_dict()
    other = build("resnet18-s1", 3, seed=6).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


def test_residual_blocks_start_as_the_identity() -> None:
    state = build("resnet50", 3).state_dict()
    assert (state["layer1.1.bn3.weight"] == 0).all()


def test_the_head_works_in_float32_under_autocast() -> None:
    model = build("resnet18", 3).eval()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert model(torch.zeros(1, 3, 32, 32)).dtype == torch.float32


def test_build_refuses_one_class() -> None:
    with pytest.raises(ValueError, match="n_classes must be at least 2"):
        build("resnet18", 1)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file_are_taken(tmp_path: Path, suffix: str) -> None:
    source = build("mobilenet_v2-0.25", 3, seed=1).state_dict()
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(source, path)
    else:
        save_file({k: v.contiguous() for k, v in source.items()}, path)
    same = build("mobilenet_v2-0.25", 3, weights=path, seed=2).state_dict()
    assert all(torch.equal(same[name], source[name]) for name in source)


def test_a_head_of_another_size_is_replaced(tmp_path: Path) -> None:
    source = build("mobilenet_v2-0.25", 3, seed=1).state_dict()
    torch.save(source, tmp_path / "w.pth")
    model = build("mobilenet_v2-0.25", 5, weights=str(tmp_path / "w.pth"), seed=2)
    state = model.state_dict()
    assert state["classifier.1.weight"].shape[0] == 5
    assert torch.equal(state["features.0.0.weight"], source["features.0.0.weight"])


def test_weights_that_do_not_exist_fit_or_load_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights: no file .*none\.pth"):
        build("resnet18", 3, weights=tmp_path / "none.pth")
    torch.save(build("mobilenet_v2-0.25", 3).state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError, match="does not fit resnet18"):
        build("resnet18", 3, weights=tmp_path / "other.pth")
    for name in ("bad.pth", "bad.safetensors"):
        (tmp_path / name).write_bytes(b"garbage")
        with pytest.raises(InputError, match="not a readable weights file"):
            build("resnet18", 3, weights=tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match="must hold a state dict"):
        build("resnet18", 3, weights=tmp_path / "odd.pth")
    state = build("mobilenet_v2-0.1", 3).state_dict()
    state["features.0.1.num_batches_tracked"] = torch.tensor(1j)
    torch.save(state, tmp_path / "complex.pth")
    with pytest.raises(InputError, match=r"cannot be copied into mobilenet_v2-0\.1"):
        build("mobilenet_v2-0.1", 3, weights=tmp_path / "complex.pth")


def test_pickled_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(InputError, match="not a readable weights file"):
        build("resnet18", 3, weights=tmp_path / "whole.pth")


def test_pretrained_weights_keep_all_but_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    models = import_torchvision("torchvision.models")
    stock = models.resnet18().state_dict()
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", lambda *_, **__: dict(stock))
    for name, new in (("resnet18", ("fc.",)), ("resnet18-s1", ("fc.", "conv1."))):
        state = build(name, 10, weights="pretrained").state_dict()
        kept = [key for key in state if not key.startswith(new)]
        assert all(torch.equal(state[key], stock[key]) for key in kept)
        assert state["fc.weight"].shape == (10, 512)


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    models = import_torchvision("torchvision.models")

    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", fail)
    with pytest.raises(WorkError, match=r"cannot download torchvision .*no route to host"):
        build("resnet18", 3, weights="pretrained")


def test_there_are_no_pretrained_weights_for_other_widths() -> None:
    with pytest.raises(InputError, match=r"none for mobilenet_v2-0\.5"):
        build("mobilenet_v2-0.5", 3, weights="pretrained")


@pytest.mark.parametrize(
    ("name", "resolution", "gmacs"),
    [
        # Convolutions and head counted by hand, plus normalization, activation and pooling.
        ("resnet18", 32, 0.0372),
        ("resnet18", 224, 1.822),
        ("resnet34", 96, 0.6750),
        ("resnet50", 64, 0.3363),
        ("resnet50", 224, 4.120),
    ],
)
def test_macs_agree_with_the_analytic_count(name: str, resolution: int, gmacs: float) -> None:
    cost = count_macs(build(name, 10), resolution)
    assert cost.macs == pytest.approx(gmacs * 1e9, rel=0.004)


@pytest.mark.parametrize("name", ["resnet18", "resnet18-s2", "resnet18-s1", "mobilenet_v2-0.5"])
def test_macs_agree_with_torchs_own_counter(name: str) -> None:
    model = build(name, 10).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        model(torch.zeros(1, 3, 64, 64))
    by_torch = counter.get_total_flops() / 2
    cost = count_macs(model, 64)
    assert cost.torch == pytest.approx(by_torch, rel=1e-3)
    assert cost.macs == cost.ptflops
    # Norms and activations weigh more in a depthwise network.
    beyond = cost.macs / by_torch
    assert 1 < beyond < (1.12 if name.startswith("mobilenet") else 1.02)


def test_stems_cost_what_their_names_promise() -> None:
    macs = [count_macs(build(f"resnet18{stem}", 10), 64).macs for stem in ("", "-s2", "-s1")]
    assert macs[1] / macs[0] == pytest.approx(4, rel=0.08)
    assert macs[2] / macs[0] == pytest.approx(15, rel=0.05)


def test_counting_leaves_the_model_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    model = build("resnet18", 10).train()
    cost = count_macs(model, 32)
    assert model.training
    assert not any(hasattr(layer, "__flops__") for layer in model.modules())
    assert cost == Cost(cost.macs, 11_181_642)
    assert capsys.readouterr() == ("", "")


def test_a_model_that_cannot_be_counted_is_an_error() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, _: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of order")

    with pytest.raises(WorkError, match=r"None MACs at 8 px.*out of order"):
        count_macs(Broken(), 8)
