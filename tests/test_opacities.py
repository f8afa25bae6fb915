"""Opacities that are drawn into the lungs of a radiograph."""

from __future__ import annotations

import numpy as np
import pytest

from cxnet.audit import opacities
from cxnet.audit.opacities import DRAWN, add_opacity, opacity, two_lungs
from cxnet.errors import SettingsError
from cxnet.exam.real import TESTED_OPACITIES, TRAINED_OPACITIES
from cxnet.phantom import make_phantom


def test_an_opacity_lies_in_the_lungs_alone_and_makes_them_brighter() -> None:
    plain = make_phantom(3, 256)
    for number in (0, 1):
        ill = add_opacity(plain.pixels, plain.lungs, number)
        assert (ill[~plain.lungs] == plain.pixels[~plain.lungs]).all()
        change = ill.astype(int) - plain.pixels
        assert change.min() >= -1 and change.max() > 15
        assert 0.02 < (change[plain.lungs] > 5).mean() < 0.7
        assert (add_opacity(plain.pixels, plain.lungs, number, 0.0) == plain.pixels).all()


def test_an_opacity_stays_on_its_side() -> None:
    added, lungs = opacity(1)  # one lobe
    half = added.shape[1] // 2
    sides = [int((part > 10).sum()) for part in (added[:, :half], added[:, half:])]
    assert min(sides) == 0 < max(sides)
    wide = np.zeros((200, 300), np.bool_)
    wide[30:180, 20:130] = wide[30:180, 170:280] = True
    grey = np.where(wide, 60, 200).astype(np.uint8)
    change = add_opacity(grey, wide, 1).astype(int) - grey
    found = [int((part > 5).sum()) for part in (change[:, :150], change[:, 150:])]
    assert (found[0] > 0) == (sides[0] > 0) and (found[1] > 0) == (sides[1] > 0)
    assert lungs.shape == added.shape


def test_the_stored_opacities_are_those_of_the_phantoms() -> None:
    for number in (DRAWN[0], DRAWN[-1]):
        for stored, drawn in zip(opacity(number), opacities.draw(number), strict=True):
            assert stored.dtype == drawn.dtype and (stored == drawn).all()


def test_verdicts_use_opacities_that_the_exam_does_not() -> None:
    assert min(DRAWN) >= TRAINED_OPACITIES + TESTED_OPACITIES
    assert sum(number % 2 for number in DRAWN) == len(DRAWN) / 2  # as many consolidations as ground glass


def test_other_than_two_lungs_are_refused() -> None:
    plain = make_phantom(3, 128)
    one = plain.lungs.copy()
    one[:, 64:] = False
    assert two_lungs(plain.lungs) and not two_lungs(one) and not two_lungs(np.zeros((9, 9), np.bool_))
    with pytest.raises(SettingsError, match="two lungs"):
        add_opacity(plain.pixels, one, 0)


def test_lungs_that_are_white_stay_white() -> None:
    plain = make_phantom(3, 128)
    assert (add_opacity(np.full((128, 128), 255, np.uint8), plain.lungs, 0, 3.0) == 255).all()
