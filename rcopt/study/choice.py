"""What is asked of a configuration, and what was chosen."""

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from rcopt.core.cascade import OperatingPoint
from rcopt.core.cost import Amount
from rcopt.core.statistics.by_class import ClassEffect
from rcopt.core.statistics.cascade_gain import MeanGain
from rcopt.core.statistics.certify import Certificate, Promise
from rcopt.core.statistics.comparison import Comparison
from rcopt.core.statistics.intervals import Interval
from rcopt.errors import InputError
from rcopt.study.frames import points_frame
from rcopt.study.results import StageSummary

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Criterion:
    """What is asked of a configuration; exactly one of the first six.

    Attributes:
        max_flops: Most mean FLOPs per image.
        max_cost: Most of another mean cost per image, such as ``Amount("latency", 4.0)``, which
            is 4 ms; only on a front by that cost.
        min_accuracy: Least validation accuracy.
        max_drop: Most accuracy given up against the best single stage, as a share. It is what
            to expect on new images: less is asked for on validation, as far as choosing makes
            a cascade look better there than it is.
        knee: The knee point of the front.
        trial: The configuration of this trial.
        certify: With ``max_drop``: the confidence of a guarantee on the calibration split.
        promise: What is guaranteed; see `rcopt.core.statistics.certify.Certificate`.
    """

    max_flops: float | None = None
    max_cost: Amount | None = None
    min_accuracy: float | None = None
    max_drop: float | None = None
    knee: bool = False
    trial: int | None = None
    certify: float | None = None
    promise: Promise = "accuracy"

    def __post_init__(self) -> None:
        """Refuse none or several criteria."""
        asked = {
            "max_flops": self.max_flops,
            "max_cost": self.max_cost,
            "min_accuracy": self.min_accuracy,
            "max_drop": self.max_drop,
            "knee": self.knee or None,
            "trial": self.trial,
        }
        if sum(value is not None for value in asked.values()) != 1:
            raise InputError(f"select: expected exactly one of {', '.join(asked)}")
        if self.certify is not None and self.max_drop is None:
            raise InputError("select: certify needs max_drop, which it then guarantees")
        if self.promise not in ("accuracy", "lost"):
            raise InputError(f"select: promise must be accuracy or lost, got {self.promise!r}")


@dataclass(frozen=True)
class Choice:
    """A chosen configuration.

    Attributes:
        study: The study's name.
        point: With validation and test numbers.
        validation: Exact binomial interval of its accuracy on validation, as though it had not
            been chosen there: it lies too high.
        expected: 95 % interval of the accuracy to expect of it on new images, cross-validated;
            None where there are too few images to tell.
        test: What this very cascade does on test beside the reference, with 95 % intervals.
        reference: The best single stage on validation.
        asked_drop: With ``max_drop``: what was asked for on validation, so that no more than
            ``max_drop`` is to be expected on new images.
        certificate: What is guaranteed; None unless asked for.
        gain: What cascading brings over all accuracies; None where it is not known.
        by_class: What the cascade does to each class on test, the worst first.
        classes: Names of the classes, which ``by_class`` labels index.
    """

    study: str
    point: OperatingPoint
    validation: Interval
    expected: Interval | None
    test: Comparison
    reference: StageSummary
    asked_drop: float | None = None
    certificate: Certificate | None = None
    gain: MeanGain | None = None
    by_class: tuple[ClassEffect, ...] = ()
    classes: tuple[str, ...] = ()

    def verdict(self) -> str:
        """Return what the choice saves and costs on test, with its intervals, as a sentence."""
        saving, change = self.test.saving, self.test.change
        name = self.reference.stage.name
        if self.point.cascade.stages == (self.reference.stage,):
            if self.asked_drop is None:
                return f"Do not cascade: {name} alone is as good for less."
            return f"Do not cascade: nothing cheaper than {name} is expected to give up so little."
        factor = saving.estimate if saving.estimate >= 1 else 1 / saving.estimate
        low, high = sorted(
            (saving.low, saving.high)
            if saving.estimate >= 1
            else (1 / saving.low, 1 / saving.high)
        )
        word = "fewer" if saving.estimate >= 1 else "more"
        return (
            f"On test: {factor:.2f} times {word} FLOPs than {name} ({low:.2f} to {high:.2f}), "
            f"{_points(change.estimate)} points of accuracy ({_points(change.low)} to "
            f"{_points(change.high)}); 95 % intervals of this cascade, "
            f"{self.test.n_images} images."
        )

    def to_frame(self) -> "pd.DataFrame":
        """Return the chosen point as a frame of one row; see `rcopt.study.frames`."""
        return points_frame([self.point])

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, float_format="{:.4g}".format)
        return f"<p>{escape(self.verdict())}</p>{table}"

    def harm(self) -> str:
        """Return which classes are answered worse than by the reference beyond doubt, if any."""
        harmed = [
            f"{self.classes[one.label]} ({_points(one.change.estimate)} points, "
            f"{one.n_images} images)"
            for one in self.by_class
            if one.harmed
        ]
        if not harmed:
            return ""
        return f"Classes that lose by it beyond doubt: {', '.join(harmed)}."

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as JSON."""
        tree = self.point.to_dict()
        tree["validation"]["accuracy_interval"] = _ends(self.validation)
        tree["test"]["accuracy_interval"] = _ends(self.test.accuracy)
        tree["test"]["accuracy_change"] = self.test.change.estimate
        tree["test"]["accuracy_change_interval"] = _ends(self.test.change)
        tree["test"]["flops_saving"] = self.test.saving.estimate
        tree["test"]["flops_saving_interval"] = _ends(self.test.saving)
        if self.expected is not None:
            tree["expected"] = {
                "accuracy": self.expected.estimate,
                "accuracy_interval": _ends(self.expected),
            }
        tree["verdict"] = self.verdict()
        tree["reference"] = {
            "stage": self.reference.stage.name,
            "flops": self.reference.stage.flops,
            "validation": self.reference.validation,
            "test": self.reference.test,
        }
        tree["classes"] = [
            {
                "class": self.classes[one.label],
                "n_images": one.n_images,
                "accuracy": one.accuracy,
                "lost": one.lost,
                "gained": one.gained,
                "accuracy_change": one.change.estimate,
                "accuracy_change_interval": _ends(one.change),
                "exit_rates": list(one.exit_rates),
            }
            for one in self.by_class
        ]
        if self.gain is not None:
            tree["cascade_gain"] = self.gain.to_dict()
        if self.asked_drop is not None:
            tree["asked_drop_on_validation"] = self.asked_drop
        if self.certificate is not None:
            tree["certificate"] = {
                "promise": self.certificate.promise,
                "drop": self.certificate.drop,
                "confidence": self.certificate.confidence,
                "n_images": self.certificate.n_images,
                "certified": self.certificate.point is not None,
                "smallest_drop": self.certificate.smallest_drop,
                "images_without_loss": self.certificate.images_without_loss,
                "images_at_this_rate": self.certificate.images_at_this_rate,
                "text": str(self.certificate),
            }
        return tree


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"
