"""What the tests of packaging and serving share: a small cascade and its weights."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rcopt.core.answering import Fitted
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade, OperatingPoint, Stage
from rcopt.core.evaluating import evaluate
from rcopt.data.images import decode, stage_input
from rcopt.models.backbones import build
from rcopt.models.weights import save_weights
from rcopt.serving.bundle import CascadePackage

CLASSES = ("apple", "pear", "plum")
SIDE = 48
STAGES = (Stage(32, "mobilenet_v2-0.1", 1e6), Stage(48, "mobilenet_v2-0.2", 5e6))


def save_stage_weights(folder: Path) -> dict[Stage, Path]:
    """Write random weights whose answers are not all alike."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for seed, stage in enumerate(STAGES):
        model = build(stage.backbone, len(CLASSES), seed=seed)
        inputs = stage_input(base_images(32, seed), stage.resolution)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            for layer in model.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.momentum = 1.0
            model.train()(inputs)  # norms that know the scale
            state = model.state_dict()
            state["classifier.1.bias"].zero_()
            logits = model.eval()(inputs)
            scale = 2 / logits.std(dim=0)
            state["classifier.1.weight"].mul_(scale[:, None])
            state["classifier.1.bias"].sub_(logits.mean(dim=0) * scale)
        weights[stage] = folder / f"weights-{seed}.safetensors"
        save_weights(
            weights[stage],
            model,
            backbone=stage.backbone,
            n_classes=len(CLASSES),
            resolution=stage.resolution,
        )
    return weights


def make_package(
    threshold: float = 0.7, rule: AnswerRule | None = None, run_id: str | None = None
) -> CascadePackage:
    """Describe the cascade of `STAGES`, with made-up numbers."""
    rule = AnswerRule() if rule is None else rule
    evaluation = evaluate(
        [[0.9, 0.4]], [[True, False], [True, True]], [s.flops for s in STAGES], [threshold]
    )
    return CascadePackage(
        point=OperatingPoint(Cascade(STAGES, (threshold,)), evaluation, run_id=run_id),
        rule=rule,
        fitted=Fitted(
            temperatures=(1.3, 0.8) if rule.temperature else None,
            weights=((1.2,), (0.3, 0.9)) if rule.weighted else None,
        ),
        classes=CLASSES,
        base_side=SIDE,
        data_digest="d" * 64,
        split_digest="e" * 64,
        precision="float32",
    )


def base_images(n: int, seed: int = 0) -> torch.Tensor:
    """Return base images of random colours, as decoded pictures are."""
    pictures = [decode(picture(1000 * seed + i), SIDE, "picture") for i in range(n)]
    return torch.from_numpy(np.stack(pictures))


def picture(seed: int, width: int = 60, height: int = 50, kind: str = "PNG") -> bytes:
    """Return a picture file of random colours."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()
