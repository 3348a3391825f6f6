import pytest

from rcopt.report.labels import Label, place_labels


def box(label: Label) -> tuple[float, float, float, float]:
    wide = 7.0 * len(label.text)
    left = label.x - {"start": 0.0, "middle": wide / 2, "end": wide}[label.anchor]
    return left, label.y - 11, left + wide, label.y + 3


def cross(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def test_a_name_alone_stands_to_the_right() -> None:
    assert place_labels([(50.0, 40.0, "r18@32")], 0, 200) == [Label("r18@32", "start", 58.0, 44.0)]
    assert place_labels([], 0, 200) == []


@pytest.mark.parametrize("apart", [(0.0, 0.0), (11.0, 2.0), (4.0, 12.0), (-30.0, 1.0)])
def test_names_of_near_points_cover_neither_each_other_nor_a_point(
    apart: tuple[float, float],
) -> None:
    points = [(200.0, 100.0), (200.0 + apart[0], 100.0 + apart[1])]
    labels = place_labels([(x, y, "r18-s2@32") for x, y in points], 0, 400)
    first, second = map(box, labels)
    assert not cross(first, second)
    for place in (first, second):
        for x, y in points:
            assert not cross(place, (x - 3, y - 3, x + 3, y + 3))


def test_a_name_near_an_edge_stays_inside() -> None:
    near_right, near_left = place_labels([(390.0, 50.0, "r18@224"), (3.0, 50.0, "r18@8")], 0, 400)
    assert near_right.anchor == "end"
    assert near_left.anchor == "start"
