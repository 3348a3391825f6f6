from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rcopt.data.preprocessing import Interpolation
from rcopt.models.augmentation import Crops, cut, cut_batched, draw_crops, draw_plain_crops


def smooth_images(rng: np.random.Generator, n: int, side: int) -> NDArray[np.uint8]:
    coarse = rng.integers(0, 256, (n, side // 4, side // 4, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    resolution=st.integers(1, 80),
    interpolation=st.sampled_from(get_args(Interpolation)),
)
def test_batched_cutting_equals_cutting_one_by_one(
    seed: int, resolution: int, interpolation: Interpolation
) -> None:
    rng = np.random.default_rng(seed)
    base = smooth_images(rng, 5, 48)
    crops = draw_crops(rng, 5, 48, min_area=0.1, flip=True)
    order = rng.permutation(5)
    one_by_one = cut(base, order, crops, resolution, interpolation)
    batched = cut_batched(
        torch.from_numpy(base[order]),
        torch.from_numpy(crops.boxes),
        torch.from_numpy(crops.flips),
        resolution,
        interpolation,
    )
    assert one_by_one.shape == batched.shape == (5, 3, resolution, resolution)
    # The bicubic one rounds twice.
    limit = 1 if interpolation == "bilinear" else 2
    assert (one_by_one.float() - batched).abs().max() <= limit, f"seed {seed}"


def test_a_whole_image_at_its_own_resolution_is_only_mirrored() -> None:
    base = smooth_images(np.random.default_rng(0), 2, 16)
    crops = Crops(np.array([[0, 0, 16, 16]] * 2), np.array([False, True]))
    got = cut(base, np.array([1, 0]), crops, 16).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(got[0], base[1])
    np.testing.assert_array_equal(got[1], base[0][:, ::-1])


def test_cutting_reads_read_only_arrays_and_leaves_them() -> None:
    base = smooth_images(np.random.default_rng(0), 2, 16)
    before = base.copy()
    base.setflags(write=False)
    crops = draw_crops(np.random.default_rng(1), 2, 16, min_area=0.3, flip=True)
    cut(base, np.arange(2), crops, 8)
    np.testing.assert_array_equal(base, before)


@pytest.mark.parametrize("min_area", [0.05, 0.35, 1.0])
def test_crops_stay_inside_and_have_the_area_and_ratio_asked_for(min_area: float) -> None:
    crops = draw_crops(np.random.default_rng(0), 4000, 100, min_area=min_area, flip=True)
    top, left, height, width = crops.boxes.T
    assert (np.minimum(top, left) >= 0).all()
    assert (np.maximum(top + height, left + width) <= 100).all()
    ratio = width / height
    assert ratio.min() > 0.7
    assert ratio.max() < 1.42
    area = height * width / 10_000
    assert area.min() > min_area * 0.85
    if min_area < 1:
        assert np.abs(np.mean(top) - np.mean(100 - top - height)) < 2
        assert np.mean(area) == pytest.approx((1 + min_area) / 2, abs=0.05)
    else:
        assert (area == 1).all()
    assert np.mean(crops.flips) == pytest.approx(0.5, abs=0.03)


def test_no_flips_where_none_are_wanted() -> None:
    rng = np.random.default_rng(0)
    assert not draw_crops(rng, 100, 32, min_area=0.5, flip=False).flips.any()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0.1, 1),
    shift=st.floats(0, 0.5),
    resolution=st.integers(1, 40),
)
def test_plain_crops_are_cut_alike_by_both_ways_and_from_the_reflected_image(
    seed: int, share: float, shift: float, resolution: int
) -> None:
    rng = np.random.default_rng(seed)
    base, over = smooth_images(rng, 5, 24), round(shift * 24)
    crops = draw_plain_crops(rng, 5, 24, share=share, shift=shift, flip=True)
    one_by_one = cut(base, np.arange(5), crops, resolution)
    batched = cut_batched(
        torch.from_numpy(base),
        torch.from_numpy(crops.boxes),
        torch.from_numpy(crops.flips),
        resolution,
        over=over,
    )
    assert (one_by_one.float() - batched).abs().max() <= 1, f"seed {seed}"
    # numpy's own reflection, cut without any resizing
    around = np.pad(base, ((0, 0), (over, over), (over, over), (0, 0)), "reflect")
    length = int(crops.boxes[0, 2])
    unscaled = cut(base, np.arange(5), crops, length).permute(0, 2, 3, 1).numpy()
    for place, (top, left, height, width) in enumerate(crops.boxes.tolist()):
        assert height == width == length
        rows = slice(top + over, top + over + height)
        expected = around[place, rows, left + over : left + over + width]
        flipped = expected[:, ::-1] if crops.flips[place] else expected
        np.testing.assert_array_equal(unscaled[place], flipped)


def test_plain_crops_lie_anywhere_with_equal_chances() -> None:
    rng = np.random.default_rng(0)
    crops = draw_plain_crops(rng, 20_000, 16, share=0.5, shift=0.125, flip=False)
    top, left, height, width = crops.boxes.T
    assert set(height) == set(width) == {8}
    assert not crops.flips.any()
    for corner in (top, left):
        places, counts = np.unique(corner, return_counts=True)
        assert places.tolist() == list(range(-2, 11))
        # Five standard errors of a count.
        assert np.abs(counts - 20_000 / 13).max() < 5 * (20_000 / 13) ** 0.5
