"""Painting: zero stays zero, both signs share a scale, and outlines lie on the mask's edge."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cxnet.errors import SettingsError
from cxnet.overlay import (
    COLOUR_MAPS,
    LINE_TOLERANCE_PX,
    blend,
    boundaries,
    colourise,
    contours,
    draw_outline,
    level_lines,
    lookup_table,
    to_levels,
    windows,
)


def test_perceptual_maps_grow_lighter_and_jet_does_not() -> None:
    def lightness(name: str) -> np.ndarray:
        return cv2.cvtColor(lookup_table(name)[None], cv2.COLOR_RGB2LAB)[0, :, 0].astype(int)

    for name in ("inferno", "cividis"):
        assert (np.diff(lightness(name)) >= -1).all() and np.ptp(lightness(name)) > 150
    assert (np.diff(lightness("jet")) < -1).any() and set(COLOUR_MAPS) == {"inferno", "cividis", "jet"}


def test_levels_keep_zero_and_share_a_reference() -> None:
    weak, strong = np.array([[0.0, 0.5]]), np.array([[0.0, 2.0]])
    assert to_levels(weak).tolist() == [[0, 255]]
    assert to_levels(weak, 2.0).tolist() == [[0, 64]] and to_levels(strong, 2.0).tolist() == [[0, 255]]
    assert to_levels(np.array([[-3.0, 0, 1.5]]), signed=True).tolist() == [[1, 128, 192]]
    assert to_levels(np.array([[-1.0, 1.0]])).tolist() == [[0, 255]]
    assert not to_levels(np.zeros((2, 2))).any()


def test_signed_colours_are_white_at_zero_and_differ_by_sign() -> None:
    colours = colourise(np.array([[-1.0, 0.0, 1.0]]), signed=True)[0].astype(int)
    assert colours[1].min() > 240 and colours[0][2] > colours[0][0] and colours[2][0] > colours[2][2]


def test_blending_is_the_weighted_mean() -> None:
    grey = np.full((2, 2), 100, np.uint8)
    assert (blend(grey, np.ones((2, 2)), 0) == 100).all()
    np.testing.assert_array_equal(blend(grey, np.ones((2, 2)), 1), colourise(np.ones((2, 2))))


def test_outlines_follow_the_mask() -> None:
    mask = np.zeros((200, 200), bool)
    mask[50:150, 60:140] = True
    mask[90:110, 90:110] = False
    assert len(contours(mask)) == 2
    drawn = draw_outline(np.full((200, 200, 3), 128, np.uint8), mask)
    changed = (drawn != 128).any(axis=2)
    assert changed[50, 100] and changed[100, 60] and not changed[70, 75] and not changed[20, 20]
    assert not contours(np.zeros((5, 5), bool))


def test_level_lines_of_a_cone_are_circles() -> None:
    y, x = np.mgrid[:101, :121]
    cone = 7e-9 * np.maximum(0, 1 - np.hypot(x - 60, y - 50) / 40)
    found = level_lines(cone)
    assert list(found) == [0.25, 0.5, 0.75]
    for share, lines in found.items():
        (line,) = lines
        radius = np.hypot(line[:, 0] - 60, line[:, 1] - 50)
        assert abs(radius - 40 * (1 - share)).max() < LINE_TOLERANCE_PX + 0.1
        assert (line[0] == line[-1]).all() and len(line) > 8


def test_a_level_line_ends_at_the_edge_and_nothing_positive_has_none() -> None:
    ramp = np.tile(np.linspace(0, 1, 11), (5, 1))
    (line,) = level_lines(ramp, (0.55,))[0.55]
    np.testing.assert_allclose(line[:, 0], 5.5)
    assert sorted(line[[0, -1], 1].tolist()) == [0, 4]
    assert level_lines(-ramp, (0.5,)) == {0.5: []}


def test_borders_of_segments_by_hand() -> None:
    assert boundaries(np.array([[0, 1], [0, 1]])).tolist() == [[1, 0, 1, 2]]
    assert boundaries(np.array([[0, 0], [4, 4]])).tolist() == [[0, 1, 2, 1]]
    island = np.zeros((4, 5), int)
    island[1:3, 2:4] = 9
    assert sorted(boundaries(island).tolist()) == [[2, 1, 2, 3], [2, 1, 4, 1], [2, 3, 4, 3], [4, 1, 4, 3]]
    assert boundaries(np.ones((3, 3), int)).shape == (0, 4)


@given(arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)))
def test_borders_are_as_long_as_neighbours_that_differ(segments: np.ndarray) -> None:
    pieces = boundaries(segments)
    different = int((segments[1:] != segments[:-1]).sum() + (segments[:, 1:] != segments[:, :-1]).sum())
    assert int(np.abs(pieces[:, 2:] - pieces[:, :2]).sum()) == different
    assert (pieces[:, 2:] >= pieces[:, :2]).all() and len(np.unique(pieces, axis=0)) == len(pieces)


def test_windows() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    lungs = (pixels >= 100) & (pixels <= 150)
    found = windows(pixels, lungs)
    assert list(found) == ["full", "lungs", "bone", "auto"] and found["full"] == (127.5, 255)
    assert found["lungs"] == pytest.approx((125, 49))  # 100.5 to 149.5
    assert found["bone"] == pytest.approx(((127.5 + 253.725) / 2, 253.725 - 127.5))
    assert found["auto"] == pytest.approx((127.5, 249.9))
    assert "lungs" not in windows(pixels, np.zeros_like(lungs))
    assert windows(np.full((2, 2), 9, np.uint8), np.ones((2, 2), bool))["lungs"] == (9, 8)


def test_bad_input_is_refused() -> None:
    for call in (
        lambda: lookup_table("rainbow"),
        lambda: to_levels(np.array([[np.nan]])),
        lambda: to_levels(np.ones((1, 1)), -1.0),
        lambda: blend(np.zeros((2, 2), np.uint8), np.ones((3, 3))),
        lambda: blend(np.zeros((2, 2), np.uint8), np.ones((2, 2)), 1.5),
        lambda: level_lines(np.ones((1, 5))),
        lambda: level_lines(np.full((3, 3), np.inf)),
        lambda: level_lines(np.ones((3, 3)), (1.0,)),
        lambda: boundaries(np.zeros(4, int)),
        lambda: windows(np.zeros((2, 2), np.uint8), np.zeros((3, 3), bool)),
        lambda: draw_outline(np.zeros((2, 2, 3), np.uint8), np.zeros((3, 3), bool)),
    ):
        with pytest.raises(SettingsError):
            call()
