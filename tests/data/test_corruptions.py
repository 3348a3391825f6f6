import numpy as np
import pytest
from numpy.typing import NDArray

from rcopt.data.corruptions import CORRUPTIONS, degrade
from tests.support.packaging_helpers import base_images


@pytest.fixture(scope="module")
def base() -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = base_images(70).numpy()
    return pixels


def distance(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_strength_is_further_from_the_image_than_the_one_before(
    name: str, base: NDArray[np.uint8]
) -> None:
    away = [distance(degrade(base, name, strength, 0), base) for strength in range(1, 6)]
    assert away == sorted(away)
    assert away[1] > 0  # the mildest blur is less than a grey level on small images


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_seed_gives_the_same_pixels_again_and_leaves_the_image_alone(
    name: str, base: NDArray[np.uint8]
) -> None:
    before = base.copy()
    first, again = (degrade(base, name, 3, 5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(base, before)
    assert (first.shape, first.dtype) == (base.shape, base.dtype)


@pytest.mark.parametrize("name", ["noise", "rotation"])
def test_another_seed_draws_otherwise(name: str, base: NDArray[np.uint8]) -> None:
    assert distance(degrade(base, name, 3, 0), degrade(base, name, 3, 1)) > 0


def test_overexposure_and_contrast_do_what_they_say() -> None:
    grey = np.full((1, 8, 8, 3), 100, dtype=np.uint8)
    grey[0, :4] = 50
    np.testing.assert_array_equal(np.unique(degrade(grey, "brightness", 2, 0)), [75, 150])
    spread = [float(degrade(grey, "contrast", k, 0).std()) for k in range(1, 6)]
    assert spread == sorted(spread, reverse=True)


@pytest.mark.parametrize(("name", "strength"), [("fog", 1), ("blur", 0), ("blur", 6)])
def test_what_is_not_known_is_refused(name: str, strength: int, base: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="must"):
        degrade(base, name, strength, 0)
