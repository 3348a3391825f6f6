from benchmarks.certificates import CONFIDENCE, kept
from benchmarks.coverage import pool


def test_promises_are_broken_no_oftener_than_said() -> None:
    """40 draws; three standard errors of a share of 10 % among 40 are 14 points."""
    found = kept(pool(), 100, 50, 0.05, 40)
    assert set(found) == {"accuracy", "lost"}
    for promise, one in found.items():
        assert one.broken <= 1 - CONFIDENCE + 0.14, promise
        assert one.broken <= one.certified
        assert one.saving >= 1, "the reference itself where nothing is certified"
    assert found["accuracy"].certified > 0.1
