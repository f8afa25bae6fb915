"""Linear toy networks, for which the best map, the worst map and both areas are known by hand."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from cxnet.audit import (
    Level,
    Randomisation,
    SanityCheck,
    block_labels,
    cascade,
    hidden,
    insertion_deletion,
    parameter_randomisation,
    repeatability,
    sanity_check,
)
from cxnet.errors import DatasetError, SettingsError
from cxnet.weights import card

SIZE, BLOCK = 64, 16
NAMES = ("deletion area", "insertion area", "deletion gap to random order", "insertion gap to random order")


def toy(seed: int = 0):
    """A picture, a linear network of two classes, and its exact contribution of every pixel to class 1."""
    rng = np.random.default_rng(seed)
    stack = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    weights = rng.normal(0, 0.01, (SIZE, SIZE, 3))
    exact = (weights * (stack.astype(float) - hidden(stack, "mean"))).sum(axis=2)
    if exact.sum() < 0:
        weights, exact = -weights, -exact

    def predict(pictures: np.ndarray) -> np.ndarray:
        z = (pictures.astype(float) * weights).sum(axis=(1, 2, 3))
        return np.stack([np.zeros_like(z), z], axis=1)

    return stack, predict, exact


def figures(stack, heatmap, predict, **options):
    curves = insertion_deletion(stack, heatmap, predict, 1, fill="mean", block_px=BLOCK, **options)
    return {score.name: score.value for score in curves.scores}, curves


@pytest.mark.parametrize("seed", range(4))
def test_the_exact_map_is_best_and_its_reverse_worst(seed: int) -> None:
    stack, predict, exact = toy(seed)
    best, _ = figures(stack, exact, predict)
    worst, _ = figures(stack, -exact, predict)
    for other in range(8):
        some, _ = figures(stack, np.random.default_rng(other).random((SIZE, SIZE)), predict)
        assert best["deletion area"] < some["deletion area"] < worst["deletion area"]
        assert best["insertion area"] > some["insertion area"] > worst["insertion area"]
    assert best["deletion gap to random order"] > 0 > worst["deletion gap to random order"]
    assert best["insertion gap to random order"] > 0 > worst["insertion gap to random order"]


def test_curves_of_a_linear_network_by_hand() -> None:
    stack, predict, exact = toy()
    labels = block_labels((SIZE, SIZE), BLOCK)
    share = np.sort(np.bincount(labels.ravel(), exact.ravel()))[::-1] / exact.sum()
    _, curves = figures(stack, exact, predict, steps=16)
    assert curves.effect == pytest.approx(exact.sum())
    np.testing.assert_allclose(curves.insertion, [0, *np.cumsum(share)], atol=1e-9)
    np.testing.assert_allclose(curves.deletion, [1, *(1 - np.cumsum(share))], atol=1e-9)
    assert curves.scores[1].value == pytest.approx(np.trapezoid([0, *np.cumsum(share)], dx=1 / 16))
    assert (curves.random[:, [0, -1]] == [1, 0]).all() and not curves.random.flags.writeable


def test_one_block_that_decides_everything() -> None:
    stack = np.zeros((SIZE, SIZE, 3), np.uint8)
    stack[16:32, 32:48] = 200
    mean = float(hidden(stack, "mean")[0, 0, 0])

    def predict(pictures: np.ndarray) -> np.ndarray:
        z = pictures[:, 16:32, 32:48].astype(float).mean(axis=(1, 2, 3))
        return np.stack([z, np.zeros_like(z)], axis=1)

    heatmap = np.zeros((SIZE, SIZE))
    heatmap[20, 40] = 1
    curves = insertion_deletion(stack, heatmap, predict, 0, fill="mean", block_px=BLOCK, random_orders=200, seed=3)
    # Hidden first: the curve falls at once. Shown first: it rises at once. A random order falls halfway on average.
    assert [score.value for score in curves.scores[:2]] == pytest.approx([1 / 32, 31 / 32])
    assert curves.scores[0].null["random order"] == pytest.approx(0.5, abs=0.07)
    assert curves.effect == pytest.approx(200 - mean)


def test_what_all_outputs_of_a_picture_share_means_nothing() -> None:
    stack, predict, exact = toy()

    def shifted(pictures: np.ndarray) -> np.ndarray:
        return predict(pictures) + pictures.astype(float).std(axis=(1, 2, 3))[:, None]

    plain, _ = figures(stack, exact, predict)
    assert figures(stack, exact, shifted)[0] == pytest.approx(plain)


def test_a_constant_map_has_no_figures_but_a_reason() -> None:
    stack, predict, _ = toy()
    for heatmap in (np.zeros((SIZE, SIZE)), np.full((SIZE, SIZE), 3.7)):
        curves = insertion_deletion(stack, heatmap, predict, 1, fill="mean")
        assert [score.name for score in curves.scores] == list(NAMES)
        assert all(score.value is None and "same everywhere" in score.reason for score in curves.scores)
        assert curves.deletion is None is curves.random


def test_without_an_effect_there_is_nothing_to_follow() -> None:
    stack, predict, exact = toy()
    blind = insertion_deletion(stack, exact, lambda p: np.zeros((len(p), 2)), 0)
    against = insertion_deletion(stack, exact, predict, 0, fill="mean")  # class 0 gains when everything is hidden
    for curves in (blind, against):
        assert all(score.value is None and "hardly more" in score.reason for score in curves.scores)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.1, 50), st.floats(-20, 20))
def test_scale_of_map_and_network_do_not_matter(seed: int, factor: float, offset: float) -> None:
    stack, predict, _ = toy(seed % 5)
    heatmap = np.random.default_rng(seed).random((SIZE, SIZE))
    plain, _ = figures(stack, heatmap, predict, seed=seed)
    scaled, _ = figures(stack, heatmap * factor, lambda p: predict(p) * 7 + offset, seed=seed)
    for name, value in plain.items():
        assert scaled[name] == pytest.approx(value, abs=1e-6)


def test_the_same_seed_gives_the_same_figures_and_batches_do_not_matter() -> None:
    stack, predict, exact = toy()
    sizes = []

    def counted(pictures: np.ndarray) -> np.ndarray:
        sizes.append(len(pictures))
        return predict(pictures)

    first, _ = figures(stack, exact, counted, batch_size=5)
    assert max(sizes) == 5 and sum(sizes) == 15 * 7 + 2
    assert first == figures(stack, exact, predict, batch_size=64)[0]
    assert first != figures(stack, exact, predict, seed=1)[0]


def test_hiding_by_blur_keeps_means_and_by_mean_keeps_nothing_else() -> None:
    stack = toy()[0]
    assert (hidden(stack, "mean") == np.rint(stack.mean(axis=(0, 1)))).all()
    blurred = hidden(stack, "blur")
    assert blurred.std() < 0.2 * stack.std() and abs(blurred.mean() - stack.mean()) < 2


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_blocks_are_of_equal_size(height: int, width: int, block: int) -> None:
    labels = block_labels((height, width), block)
    sides = [np.bincount(labels[:, 0] // max(1, labels[0].max() + 1)), np.bincount(labels[0])]
    assert labels.shape == (height, width) and set(np.unique(labels)) == set(range(labels.max() + 1))
    assert all(np.ptp(side) <= 1 for side in sides)


@pytest.mark.parametrize(
    "change",
    [
        {"heatmap": np.zeros((5, 5))},
        {"heatmap": np.full((SIZE, SIZE), np.nan)},
        {"steps": 1},
        {"steps": 99},
        {"block_px": 0},
        {"fill": "black"},
        {"target": 2},
        {"predict": lambda p: np.full((len(p), 2), np.inf)},
    ],
)
def test_bad_arguments_are_sentences(change: dict) -> None:
    stack, predict, exact = toy()
    options = {"heatmap": exact, "predict": predict, "target": 1} | change
    with pytest.raises(SettingsError, match=r"\.$"):
        insertion_deletion(stack, **options)


# ------------------------------------------------------------------------------------------------- randomisation

ARRAYS = {
    "conv/kernel": np.random.default_rng(1).normal(0, 0.2, (3, 3, 2, 4)).astype(np.float32),
    "conv/bias": np.arange(4, dtype=np.float32),
    "bn/moving_variance": np.linspace(0.5, 2, 4, dtype=np.float32),
    "fc/kernel": np.random.default_rng(2).normal(0, 2, (4, 400)).astype(np.float32),
    "output/kernel": np.random.default_rng(3).normal(0, 0.1, (400, 3)).astype(np.float32),
}


def test_the_cascade_goes_down_and_leaves_the_rest() -> None:
    steps = list(cascade(ARRAYS, levels=4))
    assert [name for name, _ in steps] == ["output", "fc", "bn", "conv"]
    conv = {"conv/kernel", "conv/bias"}
    untouched = [{*conv, "bn/moving_variance", "fc/kernel"}, {*conv, "bn/moving_variance"}, conv, set()]
    for (_, arrays), kept in zip(steps, untouched, strict=True):
        assert {name for name in ARRAYS if np.array_equal(arrays[name], ARRAYS[name])} == kept
        assert list(arrays) == list(ARRAYS) and all(a.dtype == np.float32 for a in arrays.values())
    first, last = steps[0][1], steps[-1][1]
    assert np.array_equal(first["output/kernel"], last["output/kernel"])  # randomised once, not at every level
    assert last["fc/kernel"].std() == pytest.approx(2, rel=0.1)
    assert sorted(last["bn/moving_variance"]) == pytest.approx(sorted(ARRAYS["bn/moving_variance"]))
    assert abs(np.corrcoef(last["fc/kernel"].ravel(), ARRAYS["fc/kernel"].ravel())[0, 1]) < 0.1


def test_a_few_levels_cover_many_layers() -> None:
    arrays = {f"layer{k}/kernel": np.ones((2, 2), np.float32) * k for k in range(121)}
    names = [name for name, _ in cascade(arrays, levels=5)]
    assert names == ["layer120", "layer118", "layer110", "layer85", "layer0"]  # 1, 3, 11, 36 and 121 layers


def test_the_cascade_is_repeatable_and_takes_an_order() -> None:
    for (_, one), (_, two) in zip(cascade(ARRAYS, seed=5), cascade(ARRAYS, seed=5), strict=True):
        assert all(np.array_equal(one[name], two[name]) for name in one)
    assert next(cascade(ARRAYS, layers=["output", "fc", "bn", "conv"]))[0] == "conv"
    for bad in ({"layers": ["output"]}, {"levels": 0}):
        with pytest.raises(SettingsError):
            next(cascade(ARRAYS, **bad))
    with pytest.raises(SettingsError):
        next(cascade({}))


def linear_maps(arrays: dict[str, np.ndarray], cases: list[np.ndarray]) -> list[np.ndarray]:
    """Exact maps of a linear network with the weights `arrays`."""
    return [arrays["dense/kernel"] * case for case in cases]


def test_a_map_of_the_weights_passes_and_one_that_ignores_them_fails() -> None:
    rng = np.random.default_rng(9)
    arrays = {"dense/kernel": np.abs(rng.normal(0, 1, (20, 20)).astype(np.float32))}
    cases = [rng.random((20, 20)) for _ in range(12)]
    trained = linear_maps(arrays, cases)
    good = parameter_randomisation(trained, {n: linear_maps(a, cases) for n, a in cascade(arrays)})
    assert good.passes is True and good.levels[-1].ssim < good.null["ssim"] and abs(good.levels[-1].spearman) < 0.4
    edges = [np.abs(np.gradient(case)[0]) for case in cases]  # an edge detector never looks at the weights
    bad = parameter_randomisation(edges, {n: edges for n, _ in cascade(arrays)})
    assert bad.passes is False
    assert bad.levels[-1].ssim == pytest.approx(1) and bad.levels[-1].spearman == pytest.approx(1)
    assert bad.to_json()["levels"][-1] == {"name": "dense", "spearman": pytest.approx(1), "ssim": pytest.approx(1), "cases": 12}  # fmt: skip


def test_likeness_is_that_of_scipy_and_scikit_image() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.normal(0, 1, (2, 3, 10, 12))
    found = parameter_randomisation(list(first), {"all": list(second)})
    pairs = list(zip(np.abs(first), np.abs(second), strict=True))
    assert found.levels[0].spearman == pytest.approx(np.mean([spearmanr(a.ravel(), b.ravel())[0] for a, b in pairs]))
    ssim = [structural_similarity(a / a.max(), b / b.max(), data_range=1.0) for a, b in pairs]
    assert found.levels[0].ssim == pytest.approx(np.mean(ssim))
    null = [structural_similarity(a / a.max(), b / b.max(), data_range=1.0) for a, b in itertools.combinations(np.abs(first), 2)]  # fmt: skip
    assert found.null["ssim"] == pytest.approx(np.mean(null))


def checked(last: list[float | None], null: float = 0.5) -> SanityCheck:
    """A check under one seed for each likeness at the last level; None where there was no map."""
    tests = []
    for value in last:
        passes, reason = (None, "no map") if value is None else (value < null, None)
        levels = (Level("output", 0.9, 0.9, 4), Level("all", value, value, 0 if value is None else 4))
        tests.append(Randomisation(levels, {"ssim": null, "spearman": null}, passes, reason))
    return SanityCheck("n", "0" * 64, "grad-cam", 4, tuple(tests))


@pytest.mark.parametrize(
    ("last", "passes", "told"),
    [
        (
            [0.1, 0.3],
            True,
            "passed: the map changes when the network forgets what it learned (likeness 0.20, maps of different radiographs 0.50).",
        ),
        (
            [0.1, None],
            None,
            "undefined under 1 of 2 seeds: no map; the others: likeness 0.10, maps of different radiographs 0.50.",
        ),
        ([0.1, 0.6], False, "failed"),
        ([None, None], None, "undefined under 2 of 2 seeds: no map."),
    ],
)
def test_a_sanity_check_is_passed_under_every_seed_or_undefined(
    last: list[float | None], passes: bool | None, told: str
) -> None:
    found = checked(last)
    assert found.passes is passes and told in found.in_words()


def test_a_stored_check_counts_only_for_the_very_weights(tmp_path: Path) -> None:
    known, path = card("covid-cxnet"), tmp_path / "randomisation.json"
    assert sanity_check(known, path=path) is None
    made = replace(checked([0.1, None]), model=known.name, sha256=known.sha256)
    path.write_text(json.dumps([made.to_json()]))
    assert sanity_check(known, path=path) == made
    assert sanity_check(known, "lime", path) is None
    path.write_text(json.dumps([replace(made, sha256="0" * 64).to_json()]))
    assert sanity_check(known, path=path) is None
    for text in ("[", "[{}]", json.dumps([{**made.to_json(), "tests": []}])):
        path.write_text(text)
        with pytest.raises(DatasetError, match=r"randomisation\.json cannot be read"):
            sanity_check(known, path=path)


def test_shipped_networks_have_been_checked() -> None:
    """A network whose weights change must be checked again: python -m benchmarks.randomisation."""
    for name in ("covid-cxnet", *(f"base-cnn-v2/fold-{k}" for k in range(5))):
        found = sanity_check(card(name))
        assert found is not None and found.cases >= 10 and len(found.tests) >= 3
        assert found.null is not None and 0 < found.null < 1 and found.likeness


def test_what_cannot_be_compared_has_a_reason() -> None:
    rng = np.random.default_rng(0)
    maps, empty = list(rng.random((3, 8, 8))), [np.zeros((8, 8))] * 3
    assert "gave no map" in parameter_randomisation(maps, {"all": empty}).reason
    one = parameter_randomisation(maps[:1], {"all": maps[1:2]})
    assert one.passes is None and "fewer than two" in one.reason and one.levels[0].cases == 1
    level = parameter_randomisation(maps, {"all": empty}).levels[0]
    assert (level.spearman, level.ssim, level.cases) == (None, None, 0)
    for bad in ({}, {"all": maps[:2]}, {"all": list(rng.random((3, 9, 8)))}, {"all": [np.full((8, 8), np.nan)] * 3}):
        with pytest.raises(SettingsError):
            parameter_randomisation(maps, bad)


# -------------------------------------------------------------------------------------------------- repeatability


def test_networks_that_agree_and_networks_that_do_not() -> None:
    rng = np.random.default_rng(0)
    cases = rng.random((10, 6, 6))
    alike = repeatability([[c * 3 for c in cases], list(cases), [c**2 for c in cases]])
    assert [score.value for score in alike] == pytest.approx([1.0, 1.0])
    assert abs(alike[0].null["maps of other cases"]) < 0.15
    apart = repeatability(list(rng.random((3, 10, 6, 6))))
    assert abs(apart[0].value) < 0.15 and apart[1].value == pytest.approx(0.5, abs=0.15)


def test_one_map_for_all_cases_is_repeatable_but_tells_nothing_apart() -> None:
    maps = np.random.default_rng(0).random((6, 6))
    value, apart = repeatability([[maps] * 4, [maps] * 4])
    assert value.value == pytest.approx(1) == value.null["maps of other cases"] and apart.value == 0.5


def test_repeatability_by_hand_with_constant_maps_left_out() -> None:
    rng = np.random.default_rng(1)
    a, b, c, d = rng.normal(0, 1, (4, 5, 5))
    value, apart = repeatability([[a, b, np.zeros((5, 5))], [c, d, a]])

    def rank(x: np.ndarray, y: np.ndarray) -> float:
        return float(spearmanr(np.abs(x).ravel(), np.abs(y).ravel())[0])

    same, other = [rank(a, c), rank(b, d)], [rank(a, d), rank(a, a), rank(b, c), rank(b, a)]
    assert value.value == pytest.approx(np.mean(same))
    assert value.null["maps of other cases"] == pytest.approx(np.mean(other))
    assert apart.value == np.mean([s > o for s in same for o in other])


def test_repeatability_needs_two_networks() -> None:
    maps = list(np.random.default_rng(0).random((3, 5, 5)))
    for rows in ([], [maps], [maps, [np.zeros((5, 5))] * 3]):
        assert all(score.value is None and "two networks" in score.reason for score in repeatability(rows))
    value, apart = repeatability([maps[:1], maps[1:2]])
    assert value.value is not None and not value.null and "only one case" in apart.reason
    with pytest.raises(SettingsError, match="same cases"):
        repeatability([maps, maps[:2]])
