from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rcopt.core.answers import AnswerRule, Answers, stage_answers
from rcopt.core.cascade import NEVER, Cascade, Stage
from rcopt.core.confidences import confidence
from rcopt.core.evaluating import evaluate, exits
from rcopt.core.predictions import Predictions
from rcopt.models.backbones import build
from rcopt.models.prediction import predict_batch
from rcopt.models.recipe import Precision
from rcopt.serving.executor import CascadeExecutor, CascadeOutput

CLASSES = 4
N = 96
RESOLUTIONS = (8, 12, 16)
FLOPS = (1.0, 10.0, 100.0)
TEMPERATURES = (0.6, 1.0, 2.5)
#: A confidence nearer to its threshold than this may fall on the other side.
ROUNDING = 1e-5

RULES = [
    AnswerRule(),
    AnswerRule(confidence="margin"),
    AnswerRule(confidence="entropy"),
    AnswerRule(temperature=True),
    AnswerRule(average=True),
    AnswerRule(confidence="margin", temperature=True, average=True),
    AnswerRule(weighted=True),
    AnswerRule(confidence="margin", weighted=True),
]
WEIGHTS = ((1.3,), (0.4, 0.8), (0.0, 0.5, 1.7))


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        )
        with torch.no_grad():
            next(model[5].parameters()).mul_(8)
    return model.eval()


def base_images(n: int = N, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (n, 1, 1, 3))
    noise = rng.integers(-60, 61, (n, 16, 16, 3))
    images = (colours + noise).clip(0, 255).astype(np.uint8)
    images[n // 2 : n // 2 + n // 8] = images[: n // 8]  # ties
    return torch.from_numpy(images)


def stored(models: Sequence[nn.Module], images: Tensor, precision: Precision) -> list[Predictions]:
    names = tuple(str(i) for i in range(len(images)))
    labels = np.arange(len(images)) % CLASSES
    return [
        Predictions("test", predict_batch(m, images, r, precision).numpy(), labels, names)
        for m, r in zip(models, RESOLUTIONS, strict=True)
    ]


def cascade(thresholds: Sequence[float]) -> Cascade:
    stages = zip(RESOLUTIONS, FLOPS, strict=True)
    return Cascade(tuple(Stage(r, "tiny", f) for r, f in stages), tuple(thresholds))


def in_batches(executor: CascadeExecutor, images: Tensor, size: int) -> CascadeOutput:
    parts = [executor(images[i : i + size]) for i in range(0, len(images), size)]
    return CascadeOutput(*(torch.cat(column) for column in zip(*parts, strict=True)))


def halfway(sure: np.ndarray, share: float) -> float:
    """Return a threshold between two observed confidences, away from both."""
    ordered = np.unique(sure)
    at = int(share * len(ordered))
    return float(ordered[at - 1 : at + 1].mean())


def near_a_threshold(answers: Answers, thresholds: Sequence[float]) -> np.ndarray:
    distance = np.abs(answers.confidence[:-1] - np.array(thresholds)[:, None])
    return np.asarray((distance <= ROUNDING).any(axis=0))


MODELS = [network(seed) for seed in (1, 2, 3)]
IMAGES = base_images()
STORED: dict[Precision, list[Predictions]] = {
    p: stored(MODELS, IMAGES, p) for p in ("float32", "bfloat16")
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("size", [1, 7, N])
def test_executor_answers_as_evaluation_of_stored_predictions(
    precision: Precision, rule: AnswerRule, size: int
) -> None:
    temperatures = TEMPERATURES if rule.temperature else None
    weights = WEIGHTS if rule.weighted else None
    answers = stage_answers(STORED[precision], rule, temperatures, weights)
    thresholds = [halfway(answers.confidence[0], 0.6), halfway(answers.confidence[1], 0.4)]
    executor = CascadeExecutor(
        cascade(thresholds), MODELS, rule, temperatures, weights, precision=precision
    )
    output = in_batches(executor, IMAGES, size)

    stage = exits(answers.confidence, thresholds)
    same = ~near_a_threshold(answers, thresholds)
    assert same.sum() >= N - 2
    assert set(stage) == {0, 1, 2}
    assert np.array_equal(output.stages.numpy()[same], stage[same])
    expected = answers.predicted[stage, np.arange(N)]
    assert np.array_equal(output.classes.numpy()[same], expected[same])
    np.testing.assert_allclose(
        output.confidence.numpy()[same], answers.confidence[stage, np.arange(N)][same], atol=1e-6
    )
    assert output.flops.numpy()[same].tolist() == np.cumsum(FLOPS)[stage][same].tolist()


@settings(max_examples=30, deadline=None)
@given(
    places=st.tuples(st.integers(0, N), st.integers(0, N)),
    exact=st.booleans(),
    size=st.integers(2, N + 1),
    rule=st.sampled_from(RULES),
)
def test_executor_and_evaluation_agree_at_any_threshold(
    places: tuple[int, int], exact: bool, size: int, rule: AnswerRule
) -> None:
    temperatures = TEMPERATURES if rule.temperature else None
    weights = WEIGHTS if rule.weighted else None
    answers = stage_answers(STORED["float32"], rule, temperatures, weights)
    thresholds = [
        NEVER if place == N else float(np.sort(sure)[place]) - (0 if exact else 2 * ROUNDING)
        for sure, place in zip(answers.confidence, places, strict=False)
    ]
    executor = CascadeExecutor(
        cascade(thresholds), MODELS, rule, temperatures, weights, precision="float32"
    )
    output = in_batches(executor, IMAGES, size)
    same = ~near_a_threshold(answers, thresholds)
    assert np.array_equal(output.stages.numpy()[same], exits(answers.confidence, thresholds)[same])


def test_one_batch_gives_the_very_bits_of_stored_predictions() -> None:
    # With thresholds that no image passes every stage sees the whole batch.
    executor = CascadeExecutor(cascade([NEVER, NEVER]), MODELS, precision="float32")
    output = executor(IMAGES)
    assert np.array_equal(output.probabilities.numpy(), STORED["float32"][2].probabilities)
    assert np.array_equal(
        output.confidence.numpy(), confidence(STORED["float32"][2].probabilities)
    )


def test_spent_flops_average_to_the_evaluation() -> None:
    answers = stage_answers(STORED["float32"], AnswerRule())
    thresholds = [halfway(row, 0.5) for row in answers.confidence[:-1]]
    executor = CascadeExecutor(cascade(thresholds), MODELS, precision="float32")
    output = executor(IMAGES)
    assert not near_a_threshold(answers, thresholds).any()
    evaluation = evaluate(answers.confidence, answers.correct, FLOPS, thresholds)
    assert output.flops.mean().item() == pytest.approx(evaluation.mean_flops, rel=1e-12)


class Counting(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[tuple[int, ...]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(tuple(inputs.shape))
        result: Tensor = self.model(inputs)
        return result


def test_later_stages_see_only_the_images_that_go_on() -> None:
    sure = confidence(STORED["float32"][0].probabilities)
    threshold = float(np.quantile(sure, 0.7))
    executor = CascadeExecutor(
        cascade([threshold, 0.0]), [Counting(m) for m in MODELS], precision="float32"
    )
    executor(IMAGES)
    first, second, third = executor.networks
    assert isinstance(first, Counting)
    assert isinstance(second, Counting)
    assert isinstance(third, Counting)
    assert first.seen == [(N, 3, 8, 8)]
    assert second.seen == [(int((sure < threshold).sum()), 3, 12, 12)]
    assert third.seen == []


def test_an_empty_batch_gives_empty_answers() -> None:
    for precision in ("float32", "bfloat16"):
        output = CascadeExecutor(cascade([0.5, 0.5]), MODELS, precision=precision)(IMAGES[:0])
        assert [len(column) for column in output] == [0] * 6
        assert output.probabilities.shape == (0, CLASSES)


def test_real_backbones_take_empty_and_single_batches() -> None:
    stages = (Stage(32, "resnet18", 1.0), Stage(48, "mobilenet_v2-0.25", 2.0))
    models = [build(s.backbone, CLASSES) for s in stages]
    executor = CascadeExecutor(Cascade(stages, (NEVER,)), models)
    images = torch.zeros((1, 64, 64, 3), dtype=torch.uint8)
    assert executor(images[:0]).classes.shape == (0,)
    assert executor(images).stages.tolist() == [1]


def test_a_single_stage_answers_everything() -> None:
    single = Cascade((Stage(8, "tiny", 3.0),), ())
    output = CascadeExecutor(single, MODELS[:1], precision="float32")(IMAGES)
    assert output.stages.unique().tolist() == [0]
    assert output.flops.unique().tolist() == [3.0]


def test_float_images_are_rounded_to_grey_levels() -> None:
    executor = CascadeExecutor(cascade([0.7, 0.7]), MODELS, precision="float32")
    from_levels = executor(IMAGES)
    from_floats = executor(IMAGES.float() + 0.2)
    for one, other in zip(from_levels, from_floats, strict=True):
        assert torch.equal(one, other)


def test_models_are_copied_and_stay_as_they_are() -> None:
    model = network(5)
    model.train()
    single = Cascade((Stage(8, "tiny", 1.0),), ())
    executor = CascadeExecutor(single, [model], precision="bfloat16").train()
    before = IMAGES.clone()
    first = executor(IMAGES).probabilities
    assert torch.equal(executor(IMAGES).probabilities, first)
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(IMAGES, before)


def test_bad_arguments_are_named() -> None:
    good = cascade([0.5, 0.5])
    with pytest.raises(ValueError, match=r"models must have length 3 \(stages\), got 2"):
        CascadeExecutor(good, MODELS[:2])
    with pytest.raises(ValueError, match=r"temperatures must have length 3 .*got None"):
        CascadeExecutor(good, MODELS, AnswerRule(temperature=True))
    with pytest.raises(ValueError, match="temperatures must be positive"):
        CascadeExecutor(good, MODELS, AnswerRule(temperature=True), [1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="thresholds must hold no NaN"):
        CascadeExecutor(cascade([0.5, float("nan")]), MODELS)
    executor = CascadeExecutor(good, MODELS)
    with pytest.raises(
        ValueError, match=r"images must have shape \(B, S, S, 3\), got \(16, 16, 3"
    ):
        executor(IMAGES[0])
    with pytest.raises(
        ValueError, match=r"images must be uint8 or floating point, got torch.int64"
    ):
        executor(IMAGES.long())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_executor_waits_for_the_device_once_per_gathering() -> None:
    images = IMAGES.cuda()
    executor = CascadeExecutor(cascade([NEVER, NEVER]), MODELS, device="cuda")
    executor(images)
    waits = []
    original = Tensor.nonzero

    def counted(self: Tensor) -> Tensor:
        waits.append(1)
        torch.cuda.set_sync_debug_mode("default")
        found = original(self)
        torch.cuda.set_sync_debug_mode("error")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "nonzero", counted)
        torch.cuda.set_sync_debug_mode("error")
        try:
            executor(images)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 2
