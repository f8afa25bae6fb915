"""Phantoms: repeatable, anatomically in order, and different only where something was planted."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxnet.errors import SettingsError
from cxnet.phantom import SAMPLES, make_phantom

SEEDS = (0, 1, 2, 3, 4)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_lungs_that_are_darker_than_the_middle(seed: int) -> None:
    phantom = make_phantom(seed, 256)
    _count, _labels, stats, _ = cv2.connectedComponentsWithStats(phantom.lungs.astype(np.uint8))
    large = sorted(stats[1:, cv2.CC_STAT_AREA])[-2:]
    assert sum(large) > 0.97 * phantom.lungs.sum() and 0.5 < large[0] / large[1] <= 1
    assert 0.15 < phantom.lungs.mean() < 0.45
    middle = np.zeros_like(phantom.lungs)
    middle[80:190, 118:138] = True
    assert phantom.pixels[phantom.lungs].mean() + 60 < phantom.pixels[middle].mean()
    assert phantom.pixels.std() > 40 and not phantom.lesions.any() and not phantom.shortcut.any()


def test_the_seed_decides_everything() -> None:
    first, second, other = (make_phantom(seed, 128, "ground-glass", "text").pixels for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, second)
    assert (first != other).mean() > 0.5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("finding", ["ground-glass", "consolidation"])
def test_opacities_are_bright_lie_in_the_lungs_and_change_nothing_else(seed: int, finding: str) -> None:
    plain, ill = make_phantom(seed, 256), make_phantom(seed, 256, finding)
    difference = ill.pixels.astype(int) - plain.pixels
    assert ill.lesions.sum() > 0.004 * ill.lesions.size
    assert difference[ill.lesions].mean() > 8 and np.abs(difference[~ill.lesions]).max() <= 2
    near = cv2.dilate(plain.lungs.astype(np.uint8), np.ones((5, 5))).astype(bool)
    assert near[ill.lesions].mean() > 0.95
    np.testing.assert_array_equal(plain.lungs, ill.lungs)


@pytest.mark.parametrize("seed", SEEDS)
def test_ground_glass_is_bilateral_low_and_peripheral_and_consolidation_one_sided(seed: int) -> None:
    glass, lobar = (make_phantom(seed, 256, finding).lesions for finding in ("ground-glass", "consolidation"))
    rows, columns = np.nonzero(glass)
    left_share = (columns < 128).mean()
    assert 0.15 < left_share < 0.85 and np.median(rows) > 0.45 * 256 and np.median(np.abs(columns - 128)) > 0.18 * 256
    side = (np.nonzero(lobar)[1] < 128).mean()
    assert side < 0.02 or side > 0.98


@pytest.mark.parametrize("kind", ["marker", "text", "border", "stripes"])
def test_spatial_shortcuts_change_their_pixels_only_and_not_the_lungs(kind: str) -> None:
    plain, planted = make_phantom(2, 320), make_phantom(2, 320, shortcut=kind)
    np.testing.assert_array_equal(planted.shortcut, plain.pixels != planted.pixels)
    assert 20 < planted.shortcut.sum() < 0.15 * 320**2
    assert (planted.shortcut & plain.lungs).sum() < 0.02 * plain.lungs.sum()


def test_a_contrast_shift_has_no_place() -> None:
    plain, shifted = make_phantom(2, 128), make_phantom(2, 128, shortcut="contrast")
    assert not shifted.shortcut.any() and (plain.pixels != shifted.pixels).mean() > 0.8


@settings(max_examples=8)
@given(
    st.integers(0, 10**6), st.sampled_from([64, 97, 200]), st.sampled_from(["none", "ground-glass", "consolidation"])
)
def test_any_seed_and_size_gives_a_radiograph(seed: int, size: int, finding: str) -> None:
    phantom = make_phantom(seed, size, finding)
    assert phantom.pixels.shape == (size, size) and phantom.lungs.mean() > 0.12 and phantom.pixels.std() > 30


def test_samples_are_named_once_and_say_that_they_are_synthetic() -> None:
    assert len({sample.name for sample in SAMPLES}) == len(SAMPLES) >= 6
    assert all("ynthetic" in sample.caption for sample in SAMPLES)


def test_bad_values_are_refused() -> None:
    for call in (
        lambda: make_phantom(0, 32),
        lambda: make_phantom(-1),
        lambda: make_phantom(0, 128, "cough"),  # type: ignore[arg-type]
        lambda: make_phantom(0, 128, shortcut="luck"),  # type: ignore[arg-type]
    ):
        with pytest.raises(SettingsError):
            call()
