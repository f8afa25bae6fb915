"""Linear toy networks, for which the best map, the worst map and both areas are known by hand."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from benchmarks import randomisation
from benchmarks.repeatability import sample
from cxnet.audit import (
    AuditScore,
    Curves,
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
from cxnet.audit.faithfulness import insertion_deletions
from cxnet.audit.siblings import sibling_check
from cxnet.errors import DatasetError, SettingsError
from cxnet.runs import find_run, list_runs
from cxnet.weights import card, network_of

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


def test_several_maps_are_held_against_the_same_random_orders() -> None:
    stack, predict, exact = toy()
    shown = []

    def counting(pictures: np.ndarray) -> np.ndarray:
        shown.append(len(pictures))
        return predict(pictures)

    maps = {"exact": exact, "flat": np.ones((SIZE, SIZE)), "reverse": -exact}
    options = {"fill": "mean", "block_px": BLOCK, "steps": 4, "random_orders": 7}
    found = dict(insertion_deletions(stack, maps, counting, 1, **options))
    assert list(found) == list(maps) and sum(shown) == 2 + 3 * (7 + 2 * 2)  # the flat map costs nothing
    for name, heatmap in maps.items():
        alone = insertion_deletion(stack, heatmap, predict, 1, **options)
        assert found[name].scores == alone.scores
    np.testing.assert_array_equal(found["exact"].random, found["reverse"].random)
    assert [found[name].beats_random for name in maps] == [(True, True), None, (False, False)]


def test_a_map_must_beat_the_best_random_order_not_their_mean() -> None:
    def curves(gap: float, best: float) -> Curves:
        null = {"random order": 0.0, "best random order": best}
        scores = [AuditScore(name, gap, "ratio", null=null if "gap" in name else {}) for name in NAMES]
        return Curves(np.linspace(0, 1, 3), None, None, None, 1.0, tuple(scores))

    assert [curves(0.1, best).beats_random for best in (0.05, 0.1, 0.2)] == [(True,) * 2, (False,) * 2, (False,) * 2]


def test_a_map_without_content_rarely_beats_all_random_orders() -> None:
    stack, predict, _ = toy()
    maps = {str(k): np.random.default_rng(k).random((SIZE, SIZE)) for k in range(300)}
    options = {"fill": "mean", "block_px": BLOCK, "steps": 4, "random_orders": 3}
    found = [c.beats_random for c in (insertion_deletion(stack, m, predict, 1, seed=int(k), **options) for k, m in maps.items())]  # fmt: skip
    for share in np.mean(found, axis=0):  # 1 in 4 by chance; three standard errors are 0.075
        assert share == pytest.approx(1 / 4, abs=0.075)


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
    known = {card.name: card for run in list_runs()[0] for card in (network_of(run, fold) for fold in run.folds)}
    assert len(known) >= 7  # the runs that are shipped
    lacking = []
    for name, one in known.items():
        found = sanity_check(one)
        whole = found is not None and found.cases >= 10 and found.null is not None and -0.1 < found.null < 1
        if found is None or not whole or len(found.likeness) < 3:  # seeds that left no map tell nothing
            lacking.append(name)
    assert not lacking, f"without the test under three seeds that leave maps: {', '.join(lacking)}"


def test_a_seed_that_leaves_no_map_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds 0 and 2 randomise a network to death: two more are tried, and all are told."""
    rng = np.random.default_rng(0)
    cases = list(rng.random((6, 8, 8)))

    class Network:
        def __init__(self, known: object) -> None:
            pass

        def predictions(self, stacks: object, arrays: dict[str, int]) -> list[Any]:
            return [SimpleNamespace(logits=np.zeros(2))] * 6

        def maps(self, stacks: object, arrays: dict[str, int], targets: list[int]) -> list[np.ndarray]:
            seed = arrays.get("seed")
            return cases if seed is None else [0 * c if seed in (0, 2) else rng.random((8, 8)) for c in cases]

    monkeypatch.setattr(randomisation, "Forgetful", Network)
    monkeypatch.setattr(randomisation, "read_arrays", lambda path: {})
    monkeypatch.setattr(randomisation, "cascade", lambda arrays, levels, seed: [("all", {"seed": seed})])
    found = randomisation.check(card("covid-cxnet"), np.zeros((6, 4, 4, 3), np.uint8), seeds=3)
    assert [test.levels[-1].cases for test in found.tests] == [0, 6, 0, 6, 6]
    assert len(found.likeness) == 3
    monkeypatch.setattr(randomisation, "cascade", lambda arrays, levels, seed: [("all", {"seed": 0})])
    dead = randomisation.check(card("covid-cxnet"), np.zeros((6, 4, 4, 3), np.uint8), seeds=2)
    assert len(dead.tests) == 2 * randomisation.MOST_TRIES and dead.passes is None  # it does not go on for ever


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


def rank(x: np.ndarray, y: np.ndarray) -> float:
    return float(spearmanr(np.abs(x).ravel(), np.abs(y).ravel())[0])


def test_networks_that_agree_and_networks_that_do_not() -> None:
    rng = np.random.default_rng(0)
    cases = rng.random((10, 6, 6))
    alike = repeatability([[c * 3 for c in cases], list(cases), [c**2 for c in cases]], resamples=200)
    assert (alike.value, alike.told_apart, *alike.interval) == pytest.approx((1.0,) * 4)
    assert abs(alike.null) < 0.15 and alike.above[0] > 0.8 and (alike.networks, alike.cases) == (3, 10)
    apart = repeatability(list(rng.random((3, 10, 6, 6))), resamples=200)
    assert abs(apart.value) < 0.15 and apart.told_apart == pytest.approx(0.5, abs=0.15)
    assert apart.interval[0] < 0 < apart.interval[1] and apart.above[0] < 0 < apart.above[1]


def test_one_map_for_all_cases_is_repeatable_but_tells_nothing_apart() -> None:
    maps = np.random.default_rng(0).random((6, 6))
    found = repeatability([[maps] * 4, [maps] * 4], resamples=200)
    assert found.value == pytest.approx(1) == found.null and found.told_apart == pytest.approx(0.5)


def test_repeatability_by_hand_with_constant_maps_left_out() -> None:
    rng = np.random.default_rng(1)
    a, b, c, d = rng.normal(0, 1, (4, 5, 5))
    found = repeatability([[a, b, np.zeros((5, 5))], [c, d, a]], resamples=100)
    same, other = [rank(a, c), rank(b, d)], [rank(a, d), rank(a, a), rank(b, c), rank(b, a)]
    assert found.value == pytest.approx(np.mean(same)) and found.cases == 2
    assert found.null == pytest.approx(np.mean(other))
    assert found.told_apart == np.mean([s > o for s in same for o in other])


def test_the_null_is_of_other_patients_and_the_same_class() -> None:
    one, two = np.random.default_rng(2).normal(0, 1, (2, 4, 5, 5))
    found = repeatability([one, two], ["x", "x", "y", "x"], ["p", "q", "r", "p"], resamples=100)
    # Cases 0, 1 and 3 are explained for x; 0 and 3 are one patient.
    pairs = [(0, 1), (1, 0), (1, 3), (3, 1)]
    assert found.null == pytest.approx(np.mean([rank(one[i], two[j]) for i, j in pairs]))
    assert found.value == pytest.approx(np.mean([rank(x, y) for x, y in zip(one, two, strict=True)]))
    alone = repeatability([one, two], list("wxyz"), resamples=100)
    assert alone.null is alone.above is alone.told_apart is None and alone.value is not None


def test_pairs_with_and_without_the_network_that_never_saw_the_case() -> None:
    nets = np.random.default_rng(3).normal(0, 1, (3, 2, 5, 5))
    found = repeatability(list(nets), held_out_by=[0, 2], resamples=100)
    unseen = [rank(nets[h, i], nets[o, i]) for i, h in ((0, 0), (1, 2)) for o in range(3) if o != h]
    seen = [rank(nets[1, 0], nets[2, 0]), rank(nets[0, 1], nets[1, 1])]
    assert found.unseen == pytest.approx(np.mean(unseen)) and found.seen == pytest.approx(np.mean(seen))
    assert found.value == pytest.approx(np.mean([*unseen, *seen]))


def test_patients_are_resampled_not_cases() -> None:
    rng = np.random.default_rng(4)
    common = rng.normal(0, 1, (12, 6, 6))
    nets = [list(common + rng.normal(0, s, (12, 1, 1)) * rng.normal(0, 1, (12, 6, 6))) for s in (1, 1)]
    alone = repeatability(nets)
    double = repeatability(
        [[m for m in row for _ in range(2)] for row in nets], groups=[str(k // 2) for k in range(24)]
    )
    assert double.value == pytest.approx(alone.value)
    assert np.ptp(double.interval) == pytest.approx(np.ptp(alone.interval), rel=0.15)


def test_repeatability_needs_two_networks() -> None:
    maps = list(np.random.default_rng(0).random((3, 5, 5)))
    for rows in ([], [maps], [maps, [np.zeros((5, 5))] * 3]):
        found = repeatability(rows)
        assert found.value is None and "two networks" in found.reason
    found = repeatability([maps[:1], maps[1:2]])
    assert found.value is not None and found.null is found.told_apart is found.interval is None
    with pytest.raises(SettingsError, match="same cases"):
        repeatability([maps, maps[:2]])
    with pytest.raises(SettingsError, match="for each case"):
        repeatability([maps, maps], classes=["x"])


def test_stored_repeatability_counts_only_for_the_very_weights(tmp_path: Path) -> None:
    networks, path = [card(f"base-cnn-v2/fold-{k}") for k in range(2)], tmp_path / "repeatability.json"
    assert sibling_check(networks, path=path) is None
    found = repeatability(list(np.random.default_rng(0).random((2, 5, 5, 5))), held_out_by=[0] * 5)
    told = {"run": "base-cnn-v2", "method": "grad-cam", "sha256": [n.sha256 for n in networks]}
    path.write_text(json.dumps([{**told, "found": found.to_json()}], allow_nan=False))
    assert sibling_check(networks, path=path) == found
    assert sibling_check(networks[::-1], path=path) is None is sibling_check(networks, "lime", path)
    for text in ("[", "[{}]", json.dumps([{**told, "found": {}}]), json.dumps([{**told, "found": {**found.to_json(), "value": None}}])):  # fmt: skip
        path.write_text(text)
        with pytest.raises(DatasetError, match=r"repeatability\.json cannot be read"):
            sibling_check(networks, path=path)


def test_cases_of_the_benchmark_are_patients_of_all_classes() -> None:
    run = find_run("base-cnn-v2")
    cases = sample(run, 9)
    assert cases["group"].is_unique and dict(cases["true"].value_counts()) == dict.fromkeys(run.classes, 3)
    assert list(sample(run, 9)["case"]) == list(cases["case"]) != list(sample(run, 9, seed=1)["case"])
