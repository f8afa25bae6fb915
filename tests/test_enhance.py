"""Enhancement: BEASF against a slow reading of its definition, and what every step must keep."""

from __future__ import annotations

import math
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from cxnet.enhance import (
    CHANNELS,
    Enhancement,
    beasf,
    beasf_table,
    clahe,
    equalize,
    match_histogram,
    reference_histogram,
    remove_text,
    smooth,
    three_channels,
)
from cxnet.errors import SettingsError
from cxnet.markers import find_markers

pictures = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


def slow_beasf(picture: np.ndarray, gamma: float) -> np.ndarray:
    """The transform pixel by pixel, from its definition: no table, no numpy arithmetic."""
    values = [int(v) for v in picture.ravel()]
    if len(set(values)) < 2:
        return picture.copy()
    mean = sum(values) // len(values)

    def mapped(level: int) -> int:
        below = level <= mean
        side = sorted(v for v in values if (v <= mean) == below)
        first, last = (0, mean) if below else (mean + 1, 255)
        low, high = (0, mean) if below else (mean, 255)
        if last == first or high == low:
            return level
        # the first level with more than half of the side's pixels at or below it
        median = next(v for v in side if 2 * sum(w <= v for w in side) > len(side))

        def sigmoid(k: int) -> float:
            return 1 / (1 + math.exp(-5 * gamma * (k - median) / (high - low)))

        share = (sigmoid(level) - sigmoid(first)) / (sigmoid(last) - sigmoid(first))
        return math.floor(low + (high - low) * share + 0.5)

    table = {v: mapped(v) for v in set(values)}
    return np.array([table[v] for v in values], np.uint8).reshape(picture.shape)


@settings(max_examples=150)
@given(pictures, st.sampled_from([0.5, 1.5, 3.0]))
def test_beasf_equals_the_slow_reading(picture: np.ndarray, gamma: float) -> None:
    np.testing.assert_array_equal(beasf(picture, gamma), slow_beasf(picture, gamma))


@given(arrays(np.int64, 256, elements=st.integers(0, 1000)).filter(lambda h: np.count_nonzero(h) > 1))
def test_beasf_never_swaps_two_levels(histogram: np.ndarray) -> None:
    table = beasf_table(histogram).astype(int)
    mean = int((histogram * np.arange(256)).sum() // histogram.sum())
    assert (np.diff(table) >= 0).all()
    assert (table[0], table[mean], table[255]) == (0, mean, 255)


@pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
def test_a_constant_picture_stays_constant(level: int) -> None:
    picture = np.full((9, 11), level, np.uint8)
    for function in (beasf, clahe, equalize, smooth, match_histogram, remove_text):
        np.testing.assert_array_equal(function(picture), picture)


@given(pictures)
def test_all_steps_keep_shape_and_leave_their_argument_alone(picture: np.ndarray) -> None:
    before = picture.copy()
    for function in (beasf, clahe, equalize, smooth, match_histogram, remove_text):
        result = function(picture)
        assert result.shape == picture.shape and result.dtype == np.uint8
    np.testing.assert_array_equal(picture, before)


def test_the_stack_is_original_clahe_beasf() -> None:
    picture = np.random.default_rng(0).integers(0, 200, (320, 320), np.uint8)
    stack = three_channels(picture)
    assert CHANNELS == ("original", "clahe", "beasf") and stack.shape == (320, 320, 3)
    for channel, expected in enumerate((picture, clahe(picture), beasf(picture))):
        np.testing.assert_array_equal(stack[:, :, channel], expected)


def test_every_switch_changes_the_input() -> None:
    y, x = np.mgrid[:400, :300]
    picture = (60 + 60 * np.sin(x / 40) + 50 * np.cos(y / 55)).astype(np.uint8)
    cv2.putText(picture, "R", (10, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 255, 3)
    plain = three_channels(picture, 128)
    for switched in (
        Enhancement(text_removal=True),
        Enhancement(histogram_matching=True),
        Enhancement(equalization=True),
        Enhancement(smoothing_sigma_px=1.5),
        Enhancement(clahe_clip_limit_opencv=6),
        Enhancement(beasf_gamma=3),
    ):
        assert (three_channels(picture, 128, switched) != plain).mean() > 0.001, switched


def test_matching_reaches_the_reference() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (500, 500), np.uint8)
    matched = np.bincount(match_histogram(picture).ravel(), minlength=256) / picture.size
    assert abs(np.cumsum(matched) - np.cumsum(reference_histogram())).max() < 0.02
    assert reference_histogram().shape == (256,) and reference_histogram().sum() == pytest.approx(1)


def test_text_is_found_and_removed_and_the_rest_is_untouched() -> None:
    y, x = np.mgrid[:512, :512]
    clean = (90 + 40 * np.sin(x / 90) + 30 * np.cos(y / 70)).astype(np.uint8)
    marked = clean.copy()
    cv2.putText(marked, "CXR 12", (330, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 255, 3)
    planted = marked != clean
    found = find_markers(marked).mask
    assert (found & planted).sum() / planted.sum() > 0.95
    assert found.mean() < 3 * planted.mean()
    removed = remove_text(marked).astype(int)
    assert abs(removed - clean)[planted].mean() < 12  # the letters differ from their ground by 150
    np.testing.assert_array_equal(removed[~found], clean[~found])
    assert not find_markers(clean).mask.any()


def test_bad_values_are_refused() -> None:
    picture = np.zeros((8, 8), np.uint8)
    for call in (
        lambda: clahe(picture, 0),
        lambda: smooth(picture, 0),
        lambda: beasf(picture, -1),
        lambda: beasf(picture.astype(float)),
        lambda: clahe(np.zeros((4, 4, 3), np.uint8)),
        lambda: match_histogram(np.eye(8, dtype=np.uint8), np.zeros(256)),
        lambda: remove_text(picture, np.zeros((4, 4), bool)),
        lambda: Enhancement(smoothing_sigma_px=-1),
        lambda: Enhancement(beasf_gamma=0),
    ):
        with pytest.raises(SettingsError):
            call()


def test_beasf_is_faster_than_opencv_clahe() -> None:
    """Interleaved best-of-many on one picture, so that a busy machine slows both alike."""
    picture = np.random.default_rng(2).integers(0, 256, (1024, 1024), np.uint8)
    opencv = cv2.createCLAHE(2.0, (8, 8))
    best = [math.inf, math.inf]
    for _ in range(30):
        for number, function in enumerate((beasf, opencv.apply)):
            start = time.perf_counter()
            function(picture)
            best[number] = min(best[number], time.perf_counter() - start)
    assert best[0] < best[1]
