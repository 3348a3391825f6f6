"""Where names stand beside the points of a chart, for the page and the picture files alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Anchor = Literal["start", "middle", "end"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Label:
    """A name and where it stands, in pixels from the top left; letters are 12 pixels high.

    Attributes:
        text: The name.
        anchor: Which part of the text ``x`` is.
        x: Across.
        y: Of the line that the letters stand on.
    """

    text: str
    anchor: Anchor
    x: float
    y: float


def place_labels(
    names: Sequence[tuple[float, float, str]], left: float, right: float
) -> list[Label]:
    """Place each name beside its point where it covers no other name or point, if there is room.

    Args:
        names: Across, down and text of each point.
        left: Left edge, which no name should cross.
        right: Right edge.
    """
    taken = [(x - 6.0, y - 6.0, x + 6.0, y + 6.0) for x, y, _ in names]
    placed = []
    for x, y, text in names:
        spots, boxes = _spots(x, y, text)
        best = min(
            range(len(spots)),
            key=lambda i: (
                sum(_overlap(boxes[i], other) for other in taken),
                boxes[i][0] < left or boxes[i][2] > right,
                i,
            ),
        )
        taken.append(boxes[best])
        placed.append(spots[best])
    return placed


def _spots(x: float, y: float, text: str) -> tuple[list[Label], list[Box]]:
    """Return where a name may stand, the nicest first, and the box it would fill there."""
    wide = 7.0 * len(text)
    across: tuple[tuple[Anchor, float, float], ...] = (
        ("start", x + 8, 0.0),
        ("end", x - 8, wide),
        ("middle", x, wide / 2),
    )
    spots, boxes = [], []
    for base in (y + 4, y - 9, y + 18):
        for anchor, at, before in across:
            if anchor != "middle" or base != y + 4:
                spots.append(Label(text, anchor, at, base))
                boxes.append((at - before, base - 11, at - before + wide, base + 3))
    return spots, boxes


def _overlap(a: Box, b: Box) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0) * max(high, 0)
