import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rcopt.data import images
from rcopt.data.dataset import Dataset
from rcopt.errors import InputError, WorkError
from rcopt.models import batches
from rcopt.models import precision as precisions
from rcopt.models.backbones import build
from rcopt.models.batches import Batches
from rcopt.models.optimizers import make_optimizer, set_rates
from rcopt.models.precision import resolve_precision
from rcopt.models.prediction import predict, predict_batch, prediction_batch
from rcopt.models.recipe import Precision, Recipe, Schedule
from rcopt.models.schedules import learning_rate, side, smallest_side
from rcopt.models.training import TrainingDiverged, train
from rcopt.models.weights import load_weights, save_weights
from tests.support.mapped_memory import needs_linux, resident_bytes

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05, crop_area=0.6, precision="float32")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Spare these small networks the waiting of threads on each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def coloured_squares(n: int = 72, side: int = 16) -> Dataset:
    """Make noisy images whose class is the channel that is brightest."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    base = rng.integers(0, 120, (n, side, side, 3), dtype=np.uint8)
    base[np.arange(n), :, :, labels] += 100
    base.setflags(write=False)
    third = n // 3
    indices = np.arange(n)
    return Dataset(
        name="squares",
        classes=("red", "green", "blue"),
        base=base,
        labels=labels.astype(np.int64),
        images=tuple(f"{i}.png" for i in range(n)),
        splits={
            "train": indices[: 2 * third],
            "validation": indices[2 * third : -4],
            "calibration": indices[:0],
            "test": indices[-4:],
        },
        digest="d",
        split_digest="s",
    )


def small_model(seed: int = 0) -> nn.Module:
    """Build a network with everything that could spoil a resumption: norms and dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32, 3),
        )


def same(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_training_learns_and_reports_each_epoch() -> None:
    squares, model = coloured_squares(), small_model()
    records = list(train(model, squares, 8, replace(RECIPE, epochs=12), seed=0))
    assert [record.epoch for record in records] == list(range(1, 13))
    assert {record.epochs for record in records} == {12}
    assert records[-1].loss < records[0].loss
    assert records[-1].accuracy > 0.8
    assert all(record.seconds > 0 and record.images_per_second > 0 for record in records)
    assert records[0].lr > records[-1].lr
    assert predict(model, squares, "validation", 8).accuracy > 0.9


def test_the_seed_alone_decides_the_result() -> None:
    squares = coloured_squares()
    results = []
    for global_seed, seed in ((1, 0), (2, 0), (1, 3)):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)  # noqa: NPY002
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
        model = small_model()
        for _ in train(model, squares, 8, RECIPE, seed=seed):
            pass
        results.append(model)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()  # type: ignore[index]  # noqa: NPY002
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_a_real_backbone_trains_to_identical_weights_twice() -> None:
    squares = coloured_squares(side=32)
    models = [build("mobilenet_v2-0.25", 3, seed=1) for _ in range(2)]
    for model in models:
        list(train(model, squares, 32, replace(RECIPE, epochs=1), seed=0))
    assert same(*models)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop_after", [1, 2])
def test_an_interrupted_training_equals_an_undisturbed_one(
    tmp_path: Path, stop_after: int, precision: Precision
) -> None:
    squares, recipe = coloured_squares(), replace(RECIPE, epochs=4, precision=precision)
    whole = small_model()
    list(train(whole, squares, 8, recipe, seed=0))
    checkpoint = tmp_path / "state"
    first = train(small_model(), squares, 8, recipe, seed=0, checkpoint=checkpoint)
    for _ in range(stop_after):
        next(first)
    first.close()  # type: ignore[attr-defined]
    resumed = small_model(seed=9)
    records = list(train(resumed, squares, 8, recipe, seed=0, checkpoint=checkpoint))
    assert [record.epoch for record in records] == list(range(stop_after + 1, 5))
    assert same(whole, resumed)


EVERYTHING = (
    Recipe(optimizer="adamw", lr=0.01, head_lr=3, ema=0.9, mixup=0.4, cutmix=1, mix_share=0.7),
    Recipe(optimizer="muon", momentum=0.6, ema=0.9, crop="plain", crop_side=0.5),
    Recipe(alternating_flips=True, frozen_norms=True, crop="plain", progressive=0.5),
)


@pytest.mark.parametrize("changes", EVERYTHING)
@pytest.mark.parametrize("stop_after", [1, 4])
def test_an_interrupted_training_equals_an_undisturbed_one_by_any_recipe(
    tmp_path: Path, changes: Recipe, stop_after: int
) -> None:
    squares = coloured_squares()
    recipe = replace(changes, epochs=4, batch_size=16, precision="float32")
    whole = small_model()
    list(train(whole, squares, 16, recipe, seed=0))
    assert not same(whole, small_model())
    checkpoint = tmp_path / "state"
    first = train(small_model(), squares, 16, recipe, seed=0, checkpoint=checkpoint)
    for _ in range(stop_after):
        next(first)
    first.close()  # type: ignore[attr-defined]
    resumed = small_model(seed=9)
    records = list(train(resumed, squares, 16, recipe, seed=0, checkpoint=checkpoint))
    assert len(records) == 4 - stop_after
    assert same(whole, resumed)


def test_the_smallest_images_of_a_training_are_known_before_it() -> None:
    assert smallest_side(Recipe(), 64) == 64
    assert smallest_side(Recipe(progressive=0.5, epochs=80), 64) == 32
    assert smallest_side(Recipe(crop="plain", crop_side=0.5), 64) == 32
    both = Recipe(crop="plain", crop_side=0.5, progressive=0.5, epochs=80)
    assert smallest_side(both, 64) == 16


def test_states_are_written_as_seldom_as_wanted_and_when_the_caller_stops(tmp_path: Path) -> None:
    squares, checkpoint, recipe = coloured_squares(), tmp_path / "state", replace(RECIPE, ema=0.9)
    whole = small_model()
    list(train(whole, squares, 8, recipe, seed=0))
    running = train(
        small_model(), squares, 8, recipe, seed=0, checkpoint=checkpoint, save_every=1e9
    )
    next(running)
    next(running)
    assert not checkpoint.exists()
    running.close()  # type: ignore[attr-defined]
    assert checkpoint.exists()
    resumed = small_model(seed=9)
    continued = train(resumed, squares, 8, recipe, seed=0, checkpoint=checkpoint, save_every=1e9)
    assert [record.epoch for record in continued] == [3]
    assert same(whole, resumed)
    # The last state is written: nothing is left to train.
    assert not list(train(small_model(), squares, 8, recipe, seed=0, checkpoint=checkpoint))


def test_a_state_without_the_average_is_not_continued_with_one(tmp_path: Path) -> None:
    squares, checkpoint = coloured_squares(), tmp_path / "state"
    next(train(small_model(), squares, 8, RECIPE, seed=0, checkpoint=checkpoint))
    averaged = replace(RECIPE, ema=0.9)
    records = list(train(small_model(), squares, 8, averaged, seed=0, checkpoint=checkpoint))
    assert len(records) == averaged.epochs


@pytest.mark.parametrize("changes", EVERYTHING)
def test_networks_learn_by_any_recipe(changes: Recipe) -> None:
    squares, model = coloured_squares(), small_model()
    recipe = replace(changes, epochs=20, batch_size=16, precision="float32")
    list(train(model, squares, 16, recipe, seed=0))
    assert predict(model, squares, "validation", 16).accuracy > 0.9


def test_the_average_is_what_comes_out_of_a_training() -> None:
    squares, recipe = coloured_squares(), replace(RECIPE, ema=0.9)
    plain, averaged = small_model(), small_model()
    list(train(plain, squares, 8, RECIPE, seed=0))
    list(train(averaged, squares, 8, recipe, seed=0))
    # A decay of next to nothing is the last step's weights.
    last = small_model()
    list(train(last, squares, 8, replace(RECIPE, ema=1e-9), seed=0))
    assert not same(plain, averaged)
    for one, two in zip(plain.parameters(), last.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_frozen_norms_stay_as_they_are_and_the_rest_learns() -> None:
    squares, model, before = coloured_squares(), small_model(), small_model().state_dict()
    list(train(model, squares, 8, replace(RECIPE, frozen_norms=True), seed=0))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) is name.startswith("1."), name


def test_alternating_flips_show_both_sides_of_every_image_in_two_epochs() -> None:
    n, side = 24, 8
    base = np.zeros((n, side, side, 3), dtype=np.uint8)
    base[:, :, : side // 2, 0] = 200  # bright on the left
    base[:, :, :, 1] = np.arange(n)[:, None, None]  # which image it is
    dataset = replace(
        coloured_squares(n),
        base=base,
        labels=np.arange(n) % 3,
        splits={"train": np.arange(n)},
    )
    recipe = Recipe(batch_size=n, crop_area=1, alternating_flips=True)
    sides = []
    for epoch in range(3):
        inputs, _ = next(Batches(dataset, recipe, CPU).epoch(5, epoch, side))
        order = inputs[:, 1, 0, 0].argsort()
        sides.append((inputs[:, 0, 0, 0] > inputs[:, 0, 0, -1])[order])
    assert torch.equal(sides[0], ~sides[1])
    assert torch.equal(sides[0], sides[2])
    assert 0.2 < sides[0].float().mean() < 0.8


def test_plain_crops_have_the_sides_that_the_recipe_says() -> None:
    squares = coloured_squares()
    recipe = Recipe(batch_size=16, crop="plain", crop_side=0.5)
    for resident in (False, True):
        inputs, _ = next(Batches(squares, recipe, CPU, resident=resident).epoch(0, 0, 12))
        assert inputs.shape == (16, 3, 6, 6)


def test_an_interruption_within_an_epoch_repeats_that_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squares, checkpoint = coloured_squares(), tmp_path / "state"
    whole = small_model()
    list(train(whole, squares, 8, RECIPE, seed=0))
    plain = images.normalize
    calls = iter(range(100))

    def interrupted(pixels: torch.Tensor, _: object) -> torch.Tensor:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return plain(pixels)

    monkeypatch.setattr(batches, "normalize", interrupted)
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        list(train(small_model(), squares, 8, RECIPE, seed=0, checkpoint=checkpoint))
    assert torch.equal(torch.get_rng_state(), before)
    resumed = small_model()
    records = list(train(resumed, squares, 8, RECIPE, seed=0, checkpoint=checkpoint))
    assert records[0].epoch == 2
    assert same(whole, resumed)


def test_a_finished_checkpoint_trains_nothing_more(tmp_path: Path) -> None:
    squares, checkpoint = coloured_squares(), tmp_path / "state"
    done = small_model()
    list(train(done, squares, 8, RECIPE, seed=0, checkpoint=checkpoint))
    again = small_model()
    assert not list(train(again, squares, 8, RECIPE, seed=0, checkpoint=checkpoint))
    assert same(done, again)
    assert not again.training


@pytest.mark.parametrize("change", [{"lr": 0.1}, {"epochs": 5}])
def test_the_checkpoint_of_another_recipe_is_not_continued(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    squares, checkpoint = coloured_squares(), tmp_path / "state"
    list(train(small_model(), squares, 8, RECIPE, seed=0, checkpoint=checkpoint))
    other = replace(RECIPE, **change)
    records = list(train(small_model(), squares, 8, other, seed=0, checkpoint=checkpoint))
    assert records[0].epoch == 1
    assert (tmp_path / "state.damaged").exists()


class Tight(nn.Module):
    """Has memory for so many images at a time."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.seen: list[int] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(inputs))
        if len(inputs) > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return inputs


def plain_model(capacity: int) -> tuple[nn.Sequential, Tight]:
    """Build a network in which images do not see each other, so that parts change nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tight = Tight(capacity)
        return nn.Sequential(tight, nn.Flatten(), nn.Linear(3 * 8 * 8, 3)), tight


@pytest.mark.parametrize(("capacity", "parts"), [(16, 1), (8, 2), (7, 4), (3, 8), (2, 8)])
def test_out_of_memory_halves_the_batch_and_sums_gradients(capacity: int, parts: int) -> None:
    dataset = coloured_squares()
    whole, _ = plain_model(16)
    list(train(whole, dataset, 8, RECIPE, seed=0))
    model, tight = plain_model(capacity)
    records = list(train(model, dataset, 8, RECIPE, seed=0))
    assert [record.parts for record in records] == [parts] * 3
    # Once known, the limit is not run into again.
    assert sum(size > capacity for size in tight.seen) == parts.bit_length() - 1
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)


def test_memory_for_one_image_alone_is_too_little() -> None:
    model, _ = plain_model(1)
    with pytest.raises(WorkError, match="out of memory on cpu with 2 images at a time"):
        list(train(model, coloured_squares(), 8, RECIPE, seed=0))


def test_other_runtime_errors_are_not_taken_for_lack_of_memory() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list(train(model, coloured_squares(), 8, RECIPE, seed=0))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        predict(model, coloured_squares(), "validation", 8)


def test_predicting_halves_the_batch_where_memory_does_not_suffice() -> None:
    dataset = coloured_squares()
    whole, _ = plain_model(100)
    model, tight = plain_model(3)
    expected = predict(whole, dataset, "validation", 8)
    found = predict(model, dataset, "validation", 8, batch_size=16)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-5)
    assert found.images == expected.images
    assert tight.seen[:4] == [16, 8, 4, 2]
    with pytest.raises(torch.OutOfMemoryError):
        predict(plain_model(0)[0], dataset, "validation", 8)


def test_a_diverged_training_says_in_which_epoch(tmp_path: Path) -> None:
    squares = coloured_squares()
    recipe, model = replace(RECIPE, lr=100, epochs=5, warmup=0.0), small_model()
    nn.init.constant_(list(model.parameters())[-2], 1e30)
    with pytest.raises(TrainingDiverged, match=r"loss became (nan|inf) in epoch \d") as caught:
        list(train(model, squares, 8, recipe, seed=0, checkpoint=tmp_path / "state"))
    assert isinstance(caught.value, WorkError)
    assert 1 <= caught.value.epoch <= 5
    assert str(caught.value.epoch) in str(caught.value)


def test_weight_decay_spares_norms_and_biases() -> None:
    groups = make_optimizer(build("resnet18", 3), replace(RECIPE, weight_decay=0.5))
    for group in groups.param_groups:
        dims = {parameter.ndim for parameter in group["params"]}
        assert dims == ({2, 4} if group["weight_decay"] else {1})


@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(
    schedule: Schedule,
) -> None:
    recipe = replace(RECIPE, schedule=schedule, lr=0.4, warmup=0.25)
    rates = [learning_rate(recipe, (step + 0.5) / 400, 0.4) for step in range(400)]
    assert max(rates) == pytest.approx(0.4, rel=0.02)
    assert np.argmax(rates) in (99, 100)
    assert (np.diff(rates[:100]) > 0).all()
    assert (np.diff(rates[100:]) < 0).all()
    assert max(rates[0], rates[-1]) < 0.01
    cold = replace(recipe, warmup=0.0)
    assert learning_rate(cold, 0.001, 0.4) == pytest.approx(0.4, rel=0.01)
    optimizer = make_optimizer(small_model(), recipe)
    set_rates(optimizer, recipe, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.4}


def test_a_progressive_training_grows_to_its_resolution_and_stays_there() -> None:
    recipe = replace(RECIPE, epochs=12, progressive=0.5)
    sides = [side(recipe, epoch, 96) for epoch in range(12)]
    assert sides == [56, 56, 64, 72, 72, 80, 88, 88, 96, 96, 96, 96]
    assert {side(replace(recipe, progressive=1.0), e, 100) for e in range(12)} == {100}
    for epochs in (1, 2, 3, 50):
        for resolution in (8, 30, 100):
            sides = [
                side(replace(recipe, epochs=epochs, progressive=0.01), e, resolution)
                for e in range(epochs)
            ]
            assert sides == sorted(sides)
            assert sides[-1] == resolution
            assert sides[0] >= 8


def test_a_progressive_training_shows_the_model_what_it_should_and_resumes(tmp_path: Path) -> None:
    squares, recipe = coloured_squares(), replace(RECIPE, epochs=4, progressive=0.3)
    seen: list[int] = []
    whole = small_model()
    whole.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[3]))
    for record in train(whole, squares, 24, recipe, seed=0):
        assert set(seen) == {side(recipe, record.epoch - 1, 24)}
        seen.clear()
    checkpoint = tmp_path / "state"
    first = train(small_model(), squares, 24, recipe, seed=0, checkpoint=checkpoint)
    next(first)
    first.close()  # type: ignore[attr-defined]
    resumed = small_model(seed=9)
    list(train(resumed, squares, 24, recipe, seed=0, checkpoint=checkpoint))
    assert same(whole, resumed)


def test_every_epoch_draws_whole_batches_of_different_images() -> None:
    squares = coloured_squares()
    batches = Batches(squares, replace(RECIPE, batch_size=20), CPU)
    assert (batches.steps, batches.size) == (2, 20)
    one, two = (list(batches.epoch(0, epoch, 8)) for epoch in (0, 1))
    assert [len(labels) for _, labels in one] == [20, 20]
    assert not torch.equal(one[0][0], two[0][0])
    assert torch.equal(one[0][0], next(batches.epoch(0, 0, 8))[0])


def test_batches_pair_images_with_their_labels() -> None:
    squares = coloured_squares()
    batches = Batches(squares, RECIPE, CPU)
    for inputs, labels in batches.epoch(0, 0, 8):
        assert torch.equal(inputs.mean(dim=(2, 3)).argmax(dim=1), labels)


def test_the_device_route_gives_the_same_batches() -> None:
    squares = coloured_squares()
    on_cpu = Batches(squares, RECIPE, CPU)
    resident = Batches(squares, RECIPE, CPU, resident=True)
    pairs = zip(on_cpu.epoch(0, 0, 8), resident.epoch(0, 0, 8), strict=True)
    for (inputs, labels), (other_inputs, other_labels) in pairs:
        assert torch.equal(labels, other_labels)
        assert (inputs - other_inputs).abs().max() < 1.01 / 57


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    squares = coloured_squares(n=12)
    records = list(train(small_model(), squares, 8, replace(RECIPE, batch_size=64), seed=0))
    assert len(records) == 3


def test_train_refuses_bad_arguments_at_once() -> None:
    squares = coloured_squares()
    with pytest.raises(ValueError, match="resolution must be positive"):
        train(small_model(), squares, 0, RECIPE, seed=0)
    empty = replace(squares, splits={"train": np.arange(0)})
    with pytest.raises(ValueError, match="train split must have at least 2"):
        train(small_model(), empty, 8, RECIPE, seed=0)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": 0.0},
        {"lr": math.nan},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"label_smoothing": 1.0},
        {"warmup": 1.0},
        {"crop_area": 0.0},
        {"progressive": 0.0},
        {"progressive": 1.5},
        {"schedule": "step"},
    ],
)
def test_a_recipe_that_cannot_be_trained_with_is_refused(change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=f"{name} must be"):
        replace(RECIPE, **change)


def test_predictions_are_of_the_split_in_order() -> None:
    squares, model = coloured_squares(), small_model()
    predicted = predict(model, squares, "test", 8)
    assert predicted.split == "test"
    assert predicted.images == squares.images[-4:]
    assert predicted.labels.tolist() == squares.labels[-4:].tolist()
    assert predicted.probabilities.dtype == np.float32
    assert model.training


def test_predictions_on_the_cpu_take_fewer_images_at_a_time_at_high_resolutions() -> None:
    sizes = {r: prediction_batch(r, CPU) for r in (32, 96, 112, 224, 448, 4096)}
    assert sizes == {32: 256, 96: 256, 112: 256, 224: 64, 448: 16, 4096: 1}
    assert prediction_batch(224, torch.device("cuda")) == 256


def test_predictions_do_not_depend_on_the_batch_size() -> None:
    squares, model = coloured_squares(), small_model()
    whole = predict(model, squares, "train", 8, precision="float32")
    parts = predict(model, squares, "train", 8, precision="float32", batch_size=7)
    np.testing.assert_allclose(parts.probabilities, whole.probabilities, atol=1e-6)


def test_an_empty_split_has_no_predictions() -> None:
    predicted = predict(small_model(), coloured_squares(), "calibration", 8)
    assert predicted.probabilities.shape == (0, 3)


def test_predict_batch_needs_evaluation_mode() -> None:
    base = torch.zeros((1, 8, 8, 3), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        predict_batch(small_model(), base, 8)
    assert predict_batch(small_model().eval(), base, 8).sum() == pytest.approx(1)


def test_auto_precision_follows_hardware_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    resnet, mobilenet = build("resnet18", 2), build("mobilenet_v2-0.25", 2)
    monkeypatch.setattr(precisions, "cpu_has_bfloat16", lambda: True)
    assert resolve_precision("auto", resnet, "cpu") == "bfloat16"
    assert resolve_precision("auto", mobilenet, "cpu") == "bfloat16"
    assert resolve_precision("auto", mobilenet, "cpu", training_side=64) == "float32"
    assert resolve_precision("auto", resnet, "cpu", training_side=64) == "bfloat16"
    assert resolve_precision("auto", mobilenet, "cpu", training_side=160) == "bfloat16"
    assert resolve_precision("bfloat16", mobilenet, "cpu", training_side=64) == "bfloat16"
    monkeypatch.setattr(precisions, "cpu_has_bfloat16", lambda: False)
    assert resolve_precision("auto", resnet, "cpu") == "float32"


def test_auto_precision_follows_the_images_that_an_epoch_trains_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, bool]] = []
    monkeypatch.setattr(precisions, "cpu_has_bfloat16", lambda: True)
    recipe = replace(RECIPE, epochs=3, precision="auto", progressive=0.3)
    model = build("mobilenet_v2-0.25", 3)
    model.register_forward_pre_hook(
        lambda _, inputs: seen.append((inputs[0].shape[-1], torch.is_autocast_enabled("cpu")))
    )
    list(train(model, coloured_squares(side=32), 96, recipe, seed=0))
    assert {side for side, bfloat16 in seen if not bfloat16} == {56, 88}
    assert {side for side, bfloat16 in seen if bfloat16} == {96}


def test_predictions_that_are_not_finite_are_a_failed_training() -> None:
    model = small_model()
    nn.init.constant_(list(model.parameters())[-1], torch.nan)
    with pytest.raises(WorkError, match="diverged: its answers to the test images are not finite"):
        predict(model, coloured_squares(), "test", 8)


@needs_linux
def test_training_and_prediction_leave_no_mapped_pictures_in_memory(tmp_path: Path) -> None:
    squares, file = coloured_squares(side=32), tmp_path / "base.npy"
    np.save(file, squares.base)
    mapped = replace(squares, base=np.load(file, mmap_mode="r"))
    model = small_model()
    for _ in train(model, mapped, 8, replace(RECIPE, epochs=2), seed=0):
        assert resident_bytes(file) == 0
    predict(model, mapped, "train", 8)
    assert resident_bytes(file) == 0


def test_saved_weights_give_the_same_predictions(tmp_path: Path) -> None:
    squares, model = coloured_squares(side=32), build("mobilenet_v2-0.25", 3, seed=4)
    list(train(model, squares, 32, replace(RECIPE, epochs=1), seed=0))
    path = tmp_path / "weights.safetensors"
    save_weights(path, model, backbone="mobilenet_v2-0.25", n_classes=3, resolution=32)
    loaded = load_weights(path)
    assert (loaded.backbone, loaded.n_classes, loaded.resolution) == ("mobilenet_v2-0.25", 3, 32)
    assert not loaded.model.training
    assert same(model, loaded.model)
    one = predict(model, squares, "test", 32)
    two = predict(loaded.model, squares, "test", 32)
    np.testing.assert_array_equal(one.probabilities, two.probabilities)


def damaged_files(folder: Path) -> Iterator[Path]:
    path = folder / "w.safetensors"
    model = build("mobilenet_v2-0.25", 3)
    save_weights(path, model, backbone="mobilenet_v2-0.25", n_classes=3, resolution=32)
    sound = path.read_bytes()
    for content in (b"", b"garbage" * 9, sound[: len(sound) // 2]):
        path.write_bytes(content)
        yield path
    changes: list[dict[str, Any]] = [{"backbone": "resnet18"}, {"backbone": "nonsense"}]
    changes += [{"n_classes": n} for n in (4, 0, -1, 10**12)]
    for wrong in changes:
        about: Any = {"backbone": "mobilenet_v2-0.25", "n_classes": 3, "resolution": 32} | wrong
        save_weights(path, model, **about)
        yield path


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    for path in damaged_files(tmp_path):
        with pytest.raises(
            InputError, match=r"w\.safetensors: (damaged, or not a weights|unknown backbone)"
        ):
            load_weights(path)
    with pytest.raises(InputError, match="no such weights file"):
        load_weights(tmp_path / "none.safetensors")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_cuda_agrees_with_the_cpu() -> None:
    squares = coloured_squares()
    accuracies = []
    for device in ("cpu", "cuda"):
        model = small_model()
        recipe = replace(RECIPE, epochs=12)
        list(train(model, squares, 8, recipe, seed=0, device=device))
        accuracies.append(predict(model, squares, "validation", 8, device=device).accuracy)
    assert min(accuracies) > 0.9
