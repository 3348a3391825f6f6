"""The figures of the report that this project comes from, as printed.

Internship report on resolution cascades for image classification, ETS Montréal, 2023. Its
"FLOPs" are parameter counts x (resolution / 224) squared; `benchmarks.ets2023.reproduction`
computes the same figures from any three trained stages.
"""

from dataclasses import dataclass
from typing import Literal

Method = Literal["coarse grid", "fine grid", "exact"]

#: Lower corner of the fine grid of figure 2.5.
REPORT_WINDOW = (0.97, 0.74)

#: Accuracy given up, within the range of the third claim.
DROPS = (0.001, 0.002, 0.005, 0.01)


@dataclass(frozen=True)
class TableRow:
    """A line of table 2.1: one backbone at its own and at full resolution.

    Attributes:
        backbone: Name.
        resolution: Its stage's resolution.
        full_cost: Cost at full resolution; where it was not trained there, scaled by area.
        cost: Cost at its own resolution.
        accuracy: Validation accuracy at its own resolution.
        full_accuracy: Validation accuracy at full resolution, None if not trained there.
        test_accuracy: Test accuracy at its own resolution.
    """

    backbone: str
    resolution: int
    full_cost: float
    cost: float
    accuracy: float
    full_accuracy: float | None
    test_accuracy: float


@dataclass(frozen=True)
class OriginalClaim:
    """A claim of the report as printed: `times` less cost than the reference."""

    reference: str
    accuracy: float | None
    cost: float | None
    times: tuple[float, float]


@dataclass(frozen=True)
class Original:
    """The report's own figures; costs in parameters x (resolution / 224) squared.

    Attributes:
        table: Table 2.1, and the test accuracies that the text gives.
        best_accuracy: Largest accuracy of figures 2.4 and 2.5 (validation) and 2.6 and 2.7
            (test), by grid.
        claims: Against ResNet-34 at 224 px, against the top model, and at 0.1 to 1 point less.
    """

    table: tuple[TableRow, ...]
    best_accuracy: dict[Method, tuple[float, float]]
    claims: tuple[OriginalClaim, ...]


#: Table 2.1, figures 2.4 to 2.7 and the claims drawn from them. Two slips are mended: claim 1
#: prints 25.56 M where its ratio uses 21.80 M, claim 2 says ResNet-152 with ResNet-50's figures.
ORIGINAL = Original(
    table=(
        TableRow("resnet18", 32, 11.69e6, 0.24e6, 0.7266, 0.8820, 0.7165),
        TableRow("resnet34", 96, 21.80e6, 4.00e6, 0.8540, 0.8892, 0.8582),
        TableRow("resnet50", 224, 25.56e6, 25.56e6, 0.8963, 0.8955, 0.8947),
    ),
    best_accuracy={"coarse grid": (0.8940, 0.8905), "fine grid": (0.8991, 0.8973)},
    claims=(
        OriginalClaim("resnet34@224", 0.890, 7.15e6, (3.0, 3.0)),
        OriginalClaim("resnet50@224", 0.8966, 11.04e6, (2.3, 2.3)),
        OriginalClaim("resnet50@224, 0.1 to 1 point less", None, None, (3.2, 4.4)),
    ),
)
