"""Painting: zero stays zero, both signs share a scale, and outlines lie on the mask's edge."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cxnet.errors import SettingsError
from cxnet.overlay import COLOUR_MAPS, blend, colourise, contours, draw_outline, lookup_table, to_levels


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


def test_bad_input_is_refused() -> None:
    for call in (
        lambda: lookup_table("rainbow"),
        lambda: to_levels(np.array([[np.nan]])),
        lambda: to_levels(np.ones((1, 1)), -1.0),
        lambda: blend(np.zeros((2, 2), np.uint8), np.ones((3, 3))),
        lambda: blend(np.zeros((2, 2), np.uint8), np.ones((2, 2)), 1.5),
        lambda: draw_outline(np.zeros((2, 2, 3), np.uint8), np.zeros((3, 3), bool)),
    ):
        with pytest.raises(SettingsError):
            call()
