"""LIME against the stock package, against networks that are linear by construction, and against bad input."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label

from cxnet.errors import SettingsError
from cxnet.explain.lime import (
    LimeExplanation,
    LimeSettings,
    block_rows,
    csi,
    draw_rows,
    explain_lime,
    superpixels,
    vsi,
)

SEGMENTS = np.repeat(np.repeat(np.arange(24, dtype=np.int32).reshape(4, 6), 8, 0), 8, 1)
STACK = np.random.default_rng(0).integers(40, 255, (*SEGMENTS.shape, 3), np.uint8)
TRUE = np.random.default_rng(1).normal(size=24)
KEPT = STACK[::8, ::8, 0].astype(int)


def kept(pictures: np.ndarray) -> np.ndarray:
    """Which superpixels a picture still shows (for the fill "black"): bool (n, 24)."""
    return (pictures[:, ::8, ::8, 0] == KEPT).reshape(len(pictures), -1)


def linear(pictures: np.ndarray) -> np.ndarray:
    value = kept(pictures) @ TRUE
    return np.stack([value, -value], axis=1)


def crooked(pictures: np.ndarray) -> np.ndarray:
    """Main effects and strong interactions of two and three superpixels."""
    on = kept(pictures).astype(float)
    value = on @ TRUE + 1.5 * on[:, 0] * on[:, 1] - 2 * on[:, 2] * on[:, 7] + np.tanh(on @ TRUE[::-1])
    return np.stack([value, -value], axis=1)


def last(predict, targets=(0,), **options) -> dict[int, LimeExplanation]:
    *_, result = explain_lime(STACK, SEGMENTS, predict, targets, LimeSettings(fill="black", **options))
    return result


@pytest.mark.parametrize("fill", ["black", "mean"])
def test_weights_equal_the_stock_explainer(fill: str) -> None:
    from lime.lime_image import LimeImageExplainer

    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(SEGMENTS.size * 3, 3)) / 5000

    def network(pictures: np.ndarray) -> np.ndarray:
        return np.tanh(np.asarray(pictures, float).reshape(len(pictures), -1) @ mixing)

    stock = LimeImageExplainer(random_state=11).explain_instance(
        STACK,
        network,
        labels=(0, 1, 2),
        top_labels=None,
        hide_color=0 if fill == "black" else None,
        num_samples=1000,
        segmentation_fn=lambda _: SEGMENTS,
        random_seed=0,
    )
    options = LimeSettings(samples=1000, design="random", seed=11, fill=fill, stop_when_stable=False)
    *_, ours = explain_lime(STACK, SEGMENTS, network, (0, 1, 2), options)
    for target in (0, 1, 2):
        theirs = np.zeros(24)
        for superpixel, weight in stock.local_exp[target]:
            theirs[superpixel] = weight
        assert np.abs(theirs).max() > 1e-3
        np.testing.assert_allclose(ours[target].weights, theirs, atol=1e-3 * np.abs(theirs).max())


@pytest.mark.parametrize("design", ["balanced", "random"])
def test_a_linear_network_is_recovered(design: str) -> None:
    found = last(linear, (0, 1), design=design, samples=600, stop_when_stable=False)
    assert found[0].r2 > 0.99 and found[0].r2_held_out > 0.99
    np.testing.assert_allclose(found[0].weights, TRUE, atol=0.12)  # ridge shrinks a little
    np.testing.assert_allclose(found[0].weights, -found[1].weights, atol=1e-9)
    assert found[0].top(3) == tuple(np.argsort(-np.abs(TRUE))[:3])


def test_the_balanced_design_is_balanced_and_orthogonal() -> None:
    for count in (2, 5, 24, 63, 80):
        size = block_rows(count)
        rows = draw_rows(count, LimeSettings(samples=max(16, size + 1)))
        assert (rows[0] == 1).all()
        block = 2 * rows[1 : size + 1] - 1
        if len(block) == size:
            assert (block.sum(axis=0) == 0).all()
            np.testing.assert_array_equal(block.T @ block, size * np.eye(count))
            np.testing.assert_array_equal(block[::2], -block[1::2])


def test_the_balanced_design_varies_less_over_seeds() -> None:
    balanced = [last(crooked, seed=s, samples=113, stop_when_stable=False)[0] for s in range(8)]
    random = [last(crooked, seed=s, samples=113, stop_when_stable=False, design="random")[0] for s in range(8)]
    spread = [np.std([e.weights for e in runs], axis=0).mean() for runs in (balanced, random)]
    assert spread[0] < 0.7 * spread[1]
    assert vsi(balanced) >= vsi(random)


def test_it_stops_early_with_the_same_answer() -> None:
    short, long = last(crooked, samples=1000)[0], last(crooked, samples=1000, stop_when_stable=False)[0]
    assert short.stable and short.finished and block_rows(24) < short.samples < 400 and long.samples == 1000
    assert len(set(short.top()) & set(long.top())) >= 4


def test_partial_results_grow_more_certain() -> None:
    options = LimeSettings(samples=512, fill="black", stop_when_stable=False)
    partial = [found[0] for found in explain_lime(STACK, SEGMENTS, crooked, (0,), options)]
    counts = [e.samples for e in partial]
    assert counts == sorted(set(counts)) and len(partial) >= 30
    assert [e.finished for e in partial] == [False] * (len(partial) - 1) + [True]
    errors = [e.standard_errors.mean() for e in partial if e.samples > 60]
    assert errors[-1] < 0.6 * errors[0]


def test_cancelling_keeps_what_is_known() -> None:
    cancel = threading.Event()
    seen = []
    for found in explain_lime(STACK, SEGMENTS, crooked, (0,), LimeSettings(fill="black"), cancel):
        seen.append(found[0])
        cancel.set()
    assert len(seen) == 2 and seen[-1].samples < 40 and not seen[-1].finished
    assert list(explain_lime(STACK, SEGMENTS, crooked, (0,), LimeSettings(), cancel)) == []


def test_the_seed_decides() -> None:
    first, same, other = (last(crooked, seed=s, samples=64)[0].weights for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_stability_indices_of_equal_runs_are_one() -> None:
    run = last(crooked, samples=200)[0]
    assert vsi([run, run, run]) == 1 and csi([run, run]) == 1
    assert vsi([run]) is None and csi([]) is None


def stated(weights: list[float], errors: list[float]) -> LimeExplanation:
    """A run with these weights and standard errors."""
    segments = np.arange(len(weights), dtype=np.int32)[None]
    return LimeExplanation(0, np.array(weights), np.array(errors), 0.0, 1.0, None, 99, True, True, segments)


def test_stability_indices_by_hand() -> None:
    # Intervals of the first run: 0 ± 1.96, 5 ± 0.98, -3 ± 0.
    first = stated([0, 5, -3], [1, 0.5, 0])
    assert csi([first, stated([3.9, 6.9, -3], [1, 0.5, 0])]) == 1  # 3.9 < 3.92 and 1.9 < 1.96 overlap, a point meets
    assert csi([first, stated([3.95, 6.9, -3.1], [1, 0.5, 0])]) == pytest.approx(1 / 3)  # only the second overlaps
    assert csi([first, stated([4, 7, -2.9], [1, 0.5, 0])]) == 0
    assert csi([first, stated([4, -7, -2.9], [4, 9, 9])]) == 1  # wide intervals hide what differs
    # Three runs, three pairs: all three weights overlap in the first pair, one in each of the others.
    far = stated([9, 5, 9], [0.1, 0.1, 0.1])
    assert csi([first, first, far]) == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    # Of the two largest by size, |5| and |-3| against |7| and |-4|: one in common.
    other = stated([-4, 7, 1], [1, 1, 1])
    assert vsi([first, other], k=2) == 1 / 2 and vsi([first, other], k=1) == 1 and vsi([first, other, first], k=2) == pytest.approx(2 / 3)  # fmt: skip


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.booleans(), st.integers(0, 3))
def test_superpixels_are_whole_numbered_and_pure(seed: int, count: int, masked: bool, shift: int) -> None:
    rng = np.random.default_rng(seed)
    grey = (cv2.GaussianBlur(rng.random((48, 64)), (0, 0), 4) * 255).astype(np.uint8)
    lungs = cv2.GaussianBlur(rng.random((48, 64)), (0, 0), 6) > 0.51 if masked else None
    found = superpixels(grey, lungs, count, shift)
    assert found.dtype == np.int32 and sorted(np.unique(found)) == list(range(found.max() + 1))
    assert label(found + 1, connectivity=1).max() == found.max() + 1  # each is connected
    if lungs is not None:
        inside = np.bincount(found.ravel(), lungs.ravel())
        assert set(np.round(inside / np.bincount(found.ravel()), 9)) <= {0.0, 1.0}
    np.testing.assert_array_equal(found, superpixels(grey, lungs, count, shift))


def test_a_constant_picture_has_superpixels_too() -> None:
    assert superpixels(np.zeros((64, 64), np.uint8), None, 16).max() >= 8


def test_bad_input_is_refused() -> None:
    gap = np.where(SEGMENTS == 3, 4, SEGMENTS)
    for call in (
        lambda: next(explain_lime(STACK, np.zeros_like(SEGMENTS), linear, (0,))),
        lambda: next(explain_lime(STACK, gap, linear, (0,))),
        lambda: next(explain_lime(STACK, SEGMENTS, linear, ())),
        lambda: next(explain_lime(STACK, SEGMENTS, linear, (2,))),
        lambda: next(explain_lime(STACK, SEGMENTS, lambda p: np.full((len(p), 1), np.nan), (0,))),
        lambda: next(explain_lime(STACK, SEGMENTS, lambda p: np.zeros(3), (0,))),
        lambda: superpixels(np.zeros((8, 8)), None),  # type: ignore[arg-type]
        lambda: superpixels(np.zeros((8, 8), np.uint8), None, 0),
        lambda: LimeSettings(samples=3),
        lambda: LimeSettings(fill="pink"),  # type: ignore[arg-type]
        lambda: LimeSettings(seed=-1),
        lambda: LimeSettings(kernel_width=0),
    ):
        with pytest.raises(SettingsError):
            call()
