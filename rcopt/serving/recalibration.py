"""New thresholds and a new certificate for a packaged cascade, from fresh labelled pictures."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rcopt.core.answering import Answering, fitted
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import OperatingPoint, Stage
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.predictions import Predictions, Split
from rcopt.core.statistics.certify import Certificate, Promise, certify
from rcopt.core.statistics.drift import count_confidences
from rcopt.core.statistics.selection import by_max_drop
from rcopt.core.study_front import lost_front, study_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.images import decode
from rcopt.data.sources.folder import listed
from rcopt.errors import InputError
from rcopt.files import digest
from rcopt.models.prediction import predict_batch, prediction_batch
from rcopt.serving.bundle import CascadePackage, LoadedCascade

#: Fewer pictures than this say too little to choose a threshold by.
FEWEST = 20


@dataclass(frozen=True)
class Recalibration:
    """A cascade of the same networks with thresholds for other images.

    Attributes:
        package: To be packed with the weights that the old one has.
        reference: The stage that is most accurate on the new images.
        reference_accuracy: On the half that thresholds were chosen by.
        calibration_accuracy: Of the new cascade on the other half, which chose nothing.
        n_images: Pictures in each half.
        certificate: What the other half guarantees; None if not asked for.
    """

    package: CascadePackage
    reference: Stage
    reference_accuracy: float
    calibration_accuracy: float
    n_images: tuple[int, int]
    certificate: Certificate | None


def recalibrate(
    loaded: LoadedCascade,
    root: Path,
    *,
    max_drop: float,
    confidence: float | None = None,
    promise: Promise = "accuracy",
    seed: int = 0,
) -> Recalibration:
    """Choose thresholds anew, without training.

    Half of each class's pictures take the place of validation: every combination of the
    cascade's stages is swept there, exactly, and what the answer rule fits is fitted there. The
    other half takes the place of calibration.

    Args:
        loaded: The cascade.
        root: ``ROOT/CLASS/IMAGE``, or with parts, which are put together; classes are those of
            the cascade, some of which may be missing.
        max_drop: Accuracy given up against its most accurate stage, as a share.
        confidence: Of a certificate for that; None for none.
        promise: What is certified.
        seed: Of the halves.

    Raises:
        InputError: If pictures cannot be read, a class is unknown, there are too few, or nothing
            can be certified; the certificate says what would suffice.
    """
    names, labels = _labelled(root, loaded.classes)
    base = _decoded(root, names, loaded)
    halves = _halves(labels, seed)
    stages = [
        _answers(loaded, index, base, labels, names, halves)
        for index in range(len(loaded.cascade.stages))
    ]
    rule = loaded.executor.rule
    alone = {t.stage: t.predictions["validation"].accuracy for t in stages}
    reference = max(alone, key=lambda stage: (alone[stage], -stage.flops))
    certificate = None
    try:
        if confidence is None:
            points = study_front(stages, rule=rule).points
            point = by_max_drop(points, max_drop, alone[reference])
        else:
            candidates = lost_front(stages, reference, rule=rule)
            if not candidates:
                raise InputError(
                    f"nothing to certify: no cascade costs less than {reference.name}, which is "
                    "the most accurate stage on these pictures"
                )
            certificate = certify(
                candidates, stages, reference, max_drop, confidence, rule, promise
            )
            if certificate.point is None:
                raise InputError(str(certificate))
            point = certificate.point
    except ValueError as error:
        raise InputError(f"{root}: {error}") from error
    return Recalibration(
        package=_package(loaded, point, stages, rule, names),
        reference=reference,
        reference_accuracy=alone[reference],
        calibration_accuracy=_accuracy(point, stages, rule),
        n_images=(len(halves["validation"]), len(halves["calibration"])),
        certificate=certificate,
    )


def weights_of(loaded: LoadedCascade) -> Mapping[Stage, Path]:
    """Return the weights files of a packaged cascade's stages."""
    entries = loaded.description["stages"]
    return {
        stage: loaded.folder / str(entry["weights"])
        for stage, entry in zip(loaded.cascade.stages, entries, strict=True)
    }


def _labelled(root: Path, classes: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    found = listed(root)
    unknown = [name for name in found.classes if name not in classes]
    if unknown:
        raise InputError(
            f"{root}: class {unknown[0]!r} is none of the cascade's, which are "
            f"{', '.join(map(repr, classes[:10]))}{', ...' if len(classes) > 10 else ''}"
        )
    if len(found.files) < FEWEST:
        raise InputError(
            f"{root}: {len(found.files)} pictures are too few to choose thresholds by; at least "
            f"{FEWEST} are needed, and some hundreds for a certificate"
        )
    meant = np.array([classes.index(name) for name in found.classes])
    return found.files, meant[np.array(found.labels)]


def _decoded(root: Path, names: Sequence[str], loaded: LoadedCascade) -> NDArray[np.uint8]:
    def one(name: str) -> NDArray[np.uint8]:
        return decode(root / name, loaded.base_side, name, loaded.levels)

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(one, names)))


def _halves(labels: NDArray[np.int64], seed: int) -> dict[Split, NDArray[np.int64]]:
    """Divide each class in two at random; of an odd number validation gets one more."""
    rng = np.random.default_rng(seed)
    first: list[int] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        first += members[: (len(members) + 1) // 2].tolist()
    validation = np.array(sorted(first), dtype=np.int64)
    return {
        "validation": validation,
        "calibration": np.setdiff1d(np.arange(len(labels)), validation),
    }


def _answers(
    loaded: LoadedCascade,
    index: int,
    base: NDArray[np.uint8],
    labels: NDArray[np.int64],
    names: Sequence[str],
    halves: Mapping[Split, NDArray[np.int64]],
) -> TrainedStage:
    executor = loaded.executor
    stage = loaded.cascade.stages[index]
    size = prediction_batch(stage.resolution, executor.device)
    probabilities = np.concatenate(
        [
            predict_batch(
                executor.networks[index],
                torch.from_numpy(base[start : start + size]).to(executor.device),
                stage.resolution,
                executor.precisions[index],
            )
            .cpu()
            .numpy()
            for start in range(0, len(base), size)
        ]
    )
    predictions = {
        split: Predictions(
            split, probabilities[half], labels[half], tuple(names[i] for i in half.tolist())
        )
        for split, half in halves.items()
    }
    return TrainedStage(stage, predictions, stage.name, round(stage.flops / 2), 0)


def _package(
    loaded: LoadedCascade,
    point: OperatingPoint,
    stages: Sequence[TrainedStage],
    rule: AnswerRule,
    names: Sequence[str],
) -> CascadePackage:
    used = {t.stage: t for t in stages if t.stage in point.cascade.stages}
    chosen = [used[stage] for stage in point.cascade.stages]
    first = point.cascade.stages[0]
    held_out = Answering(chosen, "calibration", rule, {first})([first])
    description = loaded.description
    return CascadePackage(
        point=replace(point, run_id=description["run_id"]),
        rule=rule,
        fitted=fitted([t.predictions["validation"] for t in chosen], rule),
        classes=loaded.classes,
        base_side=loaded.base_side,
        data_digest=str(description["data"]["digest"]),
        split_digest=digest(list(names)),
        precision=description["precision"],
        levels=loaded.levels,
        seen_before=count_confidences(held_out.confidence[0]),
    )


def _accuracy(point: OperatingPoint, stages: Sequence[TrainedStage], rule: AnswerRule) -> float:
    (own,) = cascade_outcomes([point.cascade], stages, "calibration", rule)
    return own.evaluation.accuracy
