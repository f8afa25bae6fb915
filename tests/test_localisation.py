"""Figures of maps whose right score is known by hand, and what must not change them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from cxnet.audit import (
    ZONES,
    AuditScore,
    cam_lime_agreement,
    centred_blob,
    energy,
    localisation_scores,
    pointing,
    rank_accuracy,
    shifted_energies,
    upsample,
    zones,
)
from cxnet.errors import SettingsError


def lungs(size: int = 160) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    for x in (0.3, 0.7):
        cv2.ellipse(mask, (int(size * x), int(size * 0.48)), (size // 7, size // 3), 0, 0, 360, 1, -1)
    return mask.astype(bool)


def by_name(scores: tuple[AuditScore, ...]) -> dict[str, float | None]:
    return {score.name: score.value for score in scores}


def scores(heatmap: np.ndarray, mask: np.ndarray) -> dict[str, float | None]:
    return by_name(localisation_scores(heatmap, mask, cell_px=16))


@pytest.mark.parametrize("level", [1e-6, 1.0, 300.0])
def test_a_uniform_map_has_lift_one(level: float) -> None:
    found = scores(np.full((160, 160), level), lungs())
    assert found["lift"] == pytest.approx(1, abs=1e-12)
    assert found["pointing game"] is None and found["z against shifted copies"] is None


def test_the_mask_as_a_map_is_all_in_the_lungs() -> None:
    found = scores(lungs().astype(float), lungs())
    assert found["in-lung energy"] == 1 and found["rank accuracy, lung area"] == 1 and found["pointing game"] == 1
    assert found["z against shifted copies"] > 2 and all(found[f"energy: {zone}"] == 0 for zone in ZONES)


def test_a_corner_map_is_all_outside() -> None:
    heatmap = np.zeros((160, 160))
    heatmap[10:25, 140:155] = 3
    found = scores(heatmap, lungs())
    assert found["in-lung energy"] == found["pointing game"] == 0
    assert found["rank accuracy, hottest 5 %"] < 0.4  # K is larger than the square, so the rest is drawn at random
    assert found["energy: corners"] + found["energy: border band"] == pytest.approx(1)
    assert found["z against shifted copies"] < 0


maps = st.integers(0, 2**32 - 1).map(
    lambda seed: upsample(
        np.maximum(np.random.default_rng(seed).normal(0.2, 1, (5, 5)), 0).astype(np.float32), (40, 40)
    )
)


@settings(max_examples=40)
@given(maps.filter(lambda m: m.max() > 0), st.floats(1e-3, 1e3))
def test_scaling_and_flipping_change_nothing(heatmap: np.ndarray, factor: float) -> None:
    mask = lungs(40)
    plain, scaled = scores(heatmap, mask), scores(heatmap.astype(float) * factor, mask)
    flipped = scores(heatmap[:, ::-1], mask[:, ::-1])
    for name, value in plain.items():
        if value is not None:
            assert scaled[name] == pytest.approx(value, abs=1e-6)
            if name.startswith(("energy", "in-lung energy", "lift")):
                assert flipped[name] == pytest.approx(value, abs=1e-6)
    zone_sum = sum(plain[f"energy: {zone}"] for zone in ZONES)
    assert zone_sum + plain["in-lung energy"] == pytest.approx(1, abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(8, 60), st.integers(8, 60))
def test_zones_and_lungs_partition_the_picture(seed: int, height: int, width: int) -> None:
    mask = cv2.GaussianBlur(np.random.default_rng(seed).random((height, width)), (0, 0), 3) > 0.52
    assert (sum(zone.astype(int) for zone in zones(mask).values()) + mask == 1).all()


def test_zones_lie_where_their_names_say() -> None:
    found = zones(lungs(200))
    for (row, column), name in {
        (3, 100): "border band",
        (20, 20): "corners",
        (20, 100): "above the apices",
        (175, 100): "below the diaphragm",
        (95, 100): "mediastinum",
        (95, 20): "beside the lungs",
    }.items():
        assert found[name][row, column], name


def test_shifted_copies_equal_shifting_by_hand() -> None:
    rng = np.random.default_rng(0)
    heatmap, mask = rng.random((12, 15)), rng.random((12, 15)) > 0.6
    by_hand = {
        round(float(np.roll(flipped, (r, c), (0, 1))[mask].sum() / heatmap.sum()), 9)
        for flipped in (heatmap, heatmap[::-1], heatmap[:, ::-1], heatmap[::-1, ::-1])
        for r in range(12)
        for c in range(15)
    }
    ours = shifted_energies(heatmap, mask, 2000)
    assert {round(float(value), 9) for value in ours} <= by_hand
    assert ours.mean() == pytest.approx(mask.mean(), abs=0.01)


@pytest.mark.parametrize(
    ("heatmap", "mask", "words"),
    [
        (np.ones((20, 20)), np.zeros((20, 20), bool), "no lung"),
        (np.ones((20, 20)), np.ones((20, 20), bool), "whole picture"),
        (np.zeros((20, 20)), np.eye(20, dtype=bool), "no evidence"),
        (-np.ones((20, 20)), np.eye(20, dtype=bool), "no evidence"),
    ],
)
def test_undefined_is_none_with_a_reason(heatmap: np.ndarray, mask: np.ndarray, words: str) -> None:
    for score in localisation_scores(heatmap, mask, cell_px=4):
        assert score.value is None and words in score.reason


def test_bad_input_is_refused() -> None:
    mask = np.eye(8, dtype=bool)
    for call in (
        lambda: energy(np.ones((4, 4)), mask),
        lambda: energy(np.full((8, 8), np.nan), mask),
        lambda: AuditScore("x", None),
        lambda: AuditScore("x", 1.0, reason="both"),
        lambda: AuditScore("x", float("nan")),
        lambda: cam_lime_agreement(np.ones((8, 8)), np.ones(3), np.full((8, 8), 3), mask),
    ):
        with pytest.raises(SettingsError):
            call()


def test_pointing_forgives_the_tolerance_and_no_more() -> None:
    mask = np.zeros((50, 50), bool)
    mask[20:30, 20:30] = True
    heatmap = np.zeros((50, 50))
    heatmap[25, 36] = 1  # 7 px from the mask
    assert pointing(heatmap, mask, 7) is True and pointing(heatmap, mask, 6.9) is False
    heatmap[25, 25] = 1  # a tie, one of them inside
    assert pointing(heatmap, mask, 0) is True


def test_rank_accuracy_of_noise_is_the_area() -> None:
    values = [rank_accuracy(np.ones((40, 40)) * 2, lungs(40), 0.05, seed) for seed in range(200)]
    assert np.mean(values) == pytest.approx(lungs(40).mean(), abs=0.02)


def test_agreement_of_equal_and_opposite_maps() -> None:
    segments = np.repeat(np.repeat(np.arange(36).reshape(6, 6), 10, 0), 10, 1)
    weights = np.random.default_rng(0).random(36)
    mask = lungs(60)
    same = by_name(cam_lime_agreement(weights[segments], weights, segments, mask))
    assert list(same.values()) == pytest.approx([1, 1, 0])
    other = np.random.default_rng(1).random(36)
    found = cam_lime_agreement(other[segments], weights, segments, mask)
    assert found[0].value == pytest.approx(spearmanr(other, weights).statistic)
    rng = np.random.default_rng(2)
    draws = [[set(rng.choice(36, 5, replace=False).tolist()) for _ in range(2)] for _ in range(20000)]
    assert found[1].null["chance"] == pytest.approx(np.mean([len(a & b) / len(a | b) for a, b in draws]), abs=0.005)
    assert all(s.value is None and s.reason for s in cam_lime_agreement(other[segments], -weights, segments, mask))


def test_agreement_of_unrelated_smooth_maps_is_within_what_shifted_copies_have() -> None:
    """Neighbours are alike in both maps, so that far more than 5 % of unrelated pairs would pass Spearman's own test."""
    segments = np.repeat(np.repeat(np.arange(64).reshape(8, 8), 5, 0), 5, 1)
    mask, beyond, formula = lungs(40), [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        # periodic noise, so that shifting it around the edge leaves it as smooth as it was
        first, second = (gaussian_filter(rng.normal(size=(40, 40)), 5, mode="wrap") for _ in range(2))
        first, second = first - first.min(), second - second.min()
        weights = np.array([second[segments == n].mean() for n in range(64)])
        score = cam_lime_agreement(first, weights, segments, mask, seed=seed)[0]
        assert score.value is not None
        beyond.append(score.value > score.null["95 % of shifted copies lie below"])
        formula.append(score.value > spearmanr_limit(64))
    assert 0.01 <= np.mean(beyond) <= 0.11  # 5 %, give or take three standard errors
    assert np.mean(formula) > 0.15


def test_a_common_centre_makes_unrelated_maps_agree_beyond_chance_and_a_blob_tells() -> None:
    segments = np.repeat(np.repeat(np.arange(64).reshape(8, 8), 5, 0), 5, 1)
    mask, beyond, blob = lungs(40), [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        noise = [gaussian_filter(rng.normal(size=(40, 40)), 5, mode="wrap") for _ in range(2)]
        first, second = (one / one.std() + 6 * centred_blob((40, 40)) + 5 for one in noise)
        weights = np.array([second[segments == n].mean() for n in range(64)])
        score = cam_lime_agreement(first, weights, segments, mask, seed=seed)[0]
        limit = score.null["95 % of shifted copies lie below"]
        assert score.value is not None
        beyond.append(score.value > limit)
        blob.append(score.null["centred blob"] > limit)
    assert np.mean(beyond) > 0.2 and np.mean(blob) > 0.2


def spearmanr_limit(count: int) -> float:
    """95th percentile of Spearman's correlation of independent values, by its normal approximation."""
    return 1.6449 / np.sqrt(count - 1)


def test_agreement_with_a_centred_blob_and_the_same_draws_again() -> None:
    segments = np.repeat(np.repeat(np.arange(36).reshape(6, 6), 10, 0), 10, 1)
    blob = centred_blob((60, 60))
    weights = np.array([blob[segments == n].mean() for n in range(36)])
    score = cam_lime_agreement(np.random.default_rng(0).random((60, 60)), weights, segments, lungs(60))[0]
    # of mirrored superpixels which is larger is chance, so 0.98
    assert score.null["centred blob"] > 0.95 and abs(score.value or 0) < 0.6
    again = cam_lime_agreement(blob, weights, segments, lungs(60), seed=5)[0]
    assert again.null == cam_lime_agreement(blob, weights, segments, lungs(60), seed=5)[0].null


def test_real_masks_reproduce_the_calibration(data_folder: Path) -> None:
    """A blank map scores about 0.35 and a blank centred blob about 0.57 on human lung masks: not evidence at all."""
    uniform, blob = [], []
    for path in sorted((data_folder / "cxr" / "lung_masks").glob("*.png"))[:120]:
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) == 255
        uniform.append(energy(np.ones(mask.shape), mask))
        blob.append(energy(centred_blob(mask.shape), mask))
    assert 0.25 < np.median(uniform) < 0.45 and 0.45 < np.median(blob) < 0.68
