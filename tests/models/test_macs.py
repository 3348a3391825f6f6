"""Costs of networks that one of the counters does not understand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rcopt.models.backbones import build
from rcopt.models.macs import count_macs


class Attending(nn.Module):
    """Attention over 16 patches of 16 channels, written with torch's own function."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        tokens = functional.scaled_dot_product_attention(tokens, tokens, tokens)
        answer: Tensor = self.head(tokens.mean(1))
        return answer


class Transforming(nn.Module):
    """A Fourier transform, which nobody counts."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.head(torch.fft.rfft2(images).abs().mean((2, 3)))
        return answer


def test_attention_that_ptflops_overlooks_is_counted_and_named() -> None:
    cost = count_macs(Attending(), 32)
    patches, products, head = 16 * 16 * 3 * 64, 2 * 16 * 16 * 16, 16 * 3
    assert cost.torch == patches + products + head
    assert cost.ptflops < 0.98 * cost.torch
    assert cost.macs == cost.torch
    assert any("ptflops overlooks" in text and "bmm" in text for text in cost.overlooked)


def test_an_operation_that_neither_counts_is_named() -> None:
    cost = count_macs(Transforming(), 16)
    assert any("maybe by neither: _fft_r2c" in text for text in cost.overlooked)


def test_normalizations_and_activations_are_told_and_nothing_is_overlooked() -> None:
    cost = count_macs(build("mobilenet_v2", 10), 64)
    assert 1.06 < cost.ptflops / cost.torch < 1.09
    assert cost.macs == cost.ptflops
    assert not cost.overlooked
    assert "mostly normalizations and activations" in cost.differences[0]
    assert not count_macs(build("resnet18", 10), 64).differences


@pytest.mark.parametrize("name", ["vit_b_32", "timm/vit_tiny_patch16_224"])
def test_vision_transformers_cost_what_was_computed_by_hand(name: str) -> None:
    side = 64
    patch, width, blocks = (32, 768, 12) if name == "vit_b_32" else (16, 192, 12)
    tokens = (side // patch) ** 2 + 1
    block = tokens * 12 * width**2 + 2 * tokens**2 * width
    whole = (tokens - 1) * 3 * patch**2 * width + blocks * block
    assert count_macs(build(name, 10, side), side).macs == pytest.approx(whole, rel=0.01)
