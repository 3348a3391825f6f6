import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from rcopt.models.averaging import make_average
from rcopt.models.checkpoints import load_checkpoint, save_checkpoint, write_tensors
from rcopt.models.recipe import Recipe


def stepped(seed: int) -> tuple[nn.Module, torch.optim.SGD]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)
        )
        inputs = torch.randn(5, 3, 4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(inputs).square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_checkpoint_gives_back_weights_buffers_momentum_and_epoch(tmp_path: Path) -> None:
    model, optimizer = stepped(1)
    save_checkpoint(tmp_path / "c", model, optimizer, epoch=3, belongs_to="x")
    other, other_optimizer = stepped(2)
    assert load_checkpoint(tmp_path / "c", other, other_optimizer, belongs_to="x") == 3
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        kept = other_optimizer.state[two]["momentum_buffer"]
        assert torch.equal(kept, optimizer.state[one]["momentum_buffer"])
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def test_the_average_is_part_of_a_state(tmp_path: Path) -> None:
    recipe = Recipe(ema=0.9)
    model, optimizer = stepped(1)
    average = make_average(model, recipe)
    assert average is not None
    average.state["0.weight"].fill_(0.5)
    save_checkpoint(tmp_path / "c", model, optimizer, epoch=1, belongs_to="x", average=average)
    other, other_optimizer = stepped(2)
    restored = make_average(other, recipe)
    loaded = (tmp_path / "c", other, other_optimizer)
    assert load_checkpoint(*loaded, belongs_to="x", average=restored) == 1
    assert restored is not None
    restored.put()
    assert bool((other[0].weight == 0.5).all())  # type: ignore[index]
    # A training without an average is another one.
    assert load_checkpoint(*loaded, belongs_to="x") == 0


def test_without_a_checkpoint_training_starts_at_the_beginning(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none", *stepped(1), belongs_to="x") == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"garbage" * 100,
        lambda content: content.replace(b'"epoch":"3"', b'"epoch":"x"'),
        lambda content: content.replace(b"model.0.weight", b"model.9.weight"),
        # Nothing but the digest shows these.
        lambda content: content.replace(b'"epoch":"3"', b'"epoch":"2"'),
        lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
        lambda content: re.sub(rb'"sha256":"[0-9a-f]{64}"', b'"no_digest":"x"', content),
    ],
)
def test_a_damaged_checkpoint_is_told_and_set_aside(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, *stepped(1), epoch=3, belongs_to="x")
    sound = path.read_bytes()
    assert damage(sound) != sound
    path.write_bytes(damage(sound))
    model, optimizer = stepped(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert load_checkpoint(path, model, optimizer, belongs_to="x") == 0
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert [file.name for file in tmp_path.iterdir()] == ["c.damaged"]
    (record,) = caplog.records
    assert f"{path}: not a sound checkpoint of this training" in record.getMessage()
    assert "set aside as c.damaged" in record.getMessage()


def test_the_checkpoint_of_another_training_is_set_aside(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", *stepped(1), epoch=3, belongs_to="x")
    assert load_checkpoint(tmp_path / "c", *stepped(2), belongs_to="y") == 0
    assert (tmp_path / "c.damaged").exists()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_tensors(tmp_path / "c", {"a": torch.ones(2)}, {})
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(AttributeError):
        write_tensors(tmp_path / "c", {"a": None}, {})  # type: ignore[dict-item]
    assert (tmp_path / "c").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
