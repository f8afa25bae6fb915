"""Lung masks: clean-up, quality gate, crops and their way back; the shipped U-Net on real and synthetic pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxnet.dataset import grouped_folds, read_manifest
from cxnet.errors import SettingsError
from cxnet.lungs import Crop, LungMask, LungSegmenter, clean_up, crop_to_lungs, keep_lungs
from cxnet.phantom import make_phantom
from cxnet.radiograph import open_radiograph


def two_lungs(height: int = 200, width: int = 240) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    for x in (0.3, 0.7):
        cv2.ellipse(mask, (int(width * x), height // 2), (width // 8, height // 3), 0, 0, 360, 1, -1)
    return mask.astype(bool)


@pytest.fixture(scope="module")
def segmenter() -> LungSegmenter:
    return LungSegmenter()


def test_two_good_lungs_pass_the_gate() -> None:
    mask = LungMask(two_lungs())
    assert mask.ok and mask.right_left_ratio == pytest.approx(1, abs=0.05) and mask.solidity > 0.95
    assert mask.area_fraction == pytest.approx(two_lungs().mean())
    with pytest.raises(ValueError, match="read-only"):
        mask.mask[0, 0] = True


def test_each_fault_is_named() -> None:
    good = two_lungs()
    one = good.copy()
    one[:, 120:] = False
    small = np.zeros((400, 480), bool)
    small[:200, :240] = good
    uneven = good.copy()
    uneven[:100, 120:] = uneven[120:, 120:] = False
    comb = np.zeros_like(good)
    comb[:, ::3] = comb[90:110] = True
    ragged = good & comb
    for mask, words in (
        (np.zeros_like(good), "no lung was found"),
        (one, "1 separate region instead"),
        (small, "cover 7 %"),
        (uneven, "times as large"),
        (ragged, "ragged"),
    ):
        assert any(words in reason for reason in LungMask(mask).reasons), (words, LungMask(mask).reasons)


def test_clean_up_keeps_two_lungs_without_holes_or_crumbs() -> None:
    probability = two_lungs().astype(float)
    clean = clean_up(probability)
    dirty = probability.copy()
    dirty[95:100, 70:74] = 0
    dirty[2:8, 2:8] = 1
    dirty[:, 119] = 0
    np.testing.assert_array_equal(clean_up(dirty), clean)
    assert (clean != probability.astype(bool)).mean() < 0.005
    assert not clean_up(np.zeros((50, 60))).any()


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_clean_up_never_leaves_more_than_two_regions(seed: int, level: float) -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((64, 80)), (0, 0), 3)
    result = clean_up((noise - noise.min()) / np.ptp(noise), level)
    assert result.shape == noise.shape and cv2.connectedComponents(result.astype(np.uint8), connectivity=4)[0] <= 3


def test_a_crop_knows_its_way_back() -> None:
    """A blob in the original, seen through crop and resize, lands where it was, within a pixel."""
    mask = two_lungs(300, 500)
    crop = crop_to_lungs(mask, 0.05)
    original = np.zeros(mask.shape, np.float32)
    cv2.circle(original, (180, 130), 12, 1.0, -1)
    seen = cv2.resize(
        original[crop.top : crop.bottom, crop.left : crop.right], (320, 320), interpolation=cv2.INTER_AREA
    )
    y, x = (np.average(axis, weights=seen) for axis in np.mgrid[:320, :320])
    back = crop.affine(320) @ (x, y, 1)
    np.testing.assert_allclose(back, (180, 130), atol=0.5)
    returned = crop.to_original(seen, mask.shape)
    moved = [np.average(axis, weights=returned) for axis in np.mgrid[:300, :500]]
    np.testing.assert_allclose(moved, (130, 180), atol=0.5)
    assert not returned[: crop.top].any() and not returned[:, crop.right :].any()


@given(st.integers(0, 40), st.integers(1, 50), st.integers(0, 40), st.integers(1, 50), st.integers(1, 400))
def test_crop_corners_map_to_corners(top: int, height: int, left: int, width: int, size: int) -> None:
    crop = Crop(top, top + height, left, left + width)
    for corner, expected in (
        ((-0.5, -0.5, 1), (left, top)),
        ((size - 0.5, size - 0.5, 1), (left + width, top + height)),
    ):
        np.testing.assert_allclose(crop.affine(size) @ corner, np.array(expected) - 0.5, atol=1e-9)


def test_margin_is_cut_at_the_edge_and_an_empty_mask_is_refused() -> None:
    assert crop_to_lungs(np.ones((10, 20), bool), 0.5) == Crop(0, 10, 0, 20)
    for call in (
        lambda: crop_to_lungs(np.zeros((4, 4), bool)),
        lambda: crop_to_lungs(np.ones((4, 4), bool), -1),
        lambda: Crop(3, 3, 0, 1),
        lambda: LungMask(np.zeros((3, 3))),  # type: ignore[arg-type]
        lambda: keep_lungs(np.zeros((3, 3), np.uint8), np.zeros((4, 4), bool)),
    ):
        with pytest.raises(SettingsError):
            call()


def test_keep_lungs_blackens_the_rest() -> None:
    mask = two_lungs()
    picture = np.full(mask.shape, 200, np.uint8)
    kept = keep_lungs(picture, mask, 0.02)
    assert (kept[mask] == 200).all() and (kept[0] == 0).all()
    assert mask.sum() < (kept > 0).sum() < 1.3 * mask.sum()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_network_finds_the_phantom_s_lungs(segmenter: LungSegmenter, seed: int) -> None:
    """Phantoms are not what it was trained on and leave out the part behind the heart, hence the modest bound."""
    phantom = make_phantom(seed, 512)
    found = segmenter(phantom.pixels)
    dice = 2 * (found.mask & phantom.lungs).sum() / (found.mask.sum() + phantom.lungs.sum())
    assert found.mask.shape == phantom.pixels.shape and dice > 0.75


def test_the_mask_follows_the_picture_s_frame(segmenter: LungSegmenter) -> None:
    pixels = cv2.resize(make_phantom(1, 512).pixels, (700, 400))
    assert segmenter(pixels).mask.shape == (400, 700)
    blank = segmenter(np.zeros((64, 64), np.uint8))
    assert blank.ok or blank.reasons


def test_dice_on_held_out_radiographs(segmenter: LungSegmenter, data_folder: Path) -> None:
    table = read_manifest(data_folder / "cxr" / "manifest.csv")
    table = table[table["lung_mask"] != ""].reset_index(drop=True)
    held_out = table[grouped_folds(list(table["source"]), list(table["group"])) == 0]
    scores = []
    for _, row in held_out.iterrows():
        truth = cv2.imread(str(data_folder / "cxr" / row["lung_mask"]), cv2.IMREAD_GRAYSCALE)
        seen = truth != 127
        mask = segmenter(open_radiograph(data_folder / "cxr" / row["file"]).pixels).mask & seen
        scores.append(2 * (mask & (truth == 255)).sum() / (mask.sum() + (truth == 255).sum()))
    assert len(scores) > 50 and np.mean(scores) >= 0.94
