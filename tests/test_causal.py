"""Causal tests on toy networks whose answer is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxnet.audit import (
    FILLS,
    PROBES,
    SHAPES,
    AuditScore,
    CausalTests,
    answers,
    causal,
    causal_tests,
    hide,
    lung_region,
    pad_border,
    remove,
)
from cxnet.audit import edits as editing
from cxnet.audit.appearance import change_contrast, change_gamma, change_resolution, change_sharpness, compress
from cxnet.enhance import Enhancement
from cxnet.errors import SettingsError
from tests.toys import SIZE, Network, identity, linear, lungs, marker, radiograph, reads, texture


def uniform(x: np.ndarray) -> np.ndarray:
    return np.tile(np.array([[1.0, 0.5, 0.0]]), (len(x), 1))


def reads_contrast(x: np.ndarray) -> np.ndarray:
    """Says yes if the grey levels' standard deviation is over 22."""
    return np.stack([x[..., 0].reshape(len(x), -1).std(axis=1) - 22.0, np.zeros(len(x))], axis=1)


def run(network: Network, **changes: object) -> CausalTests:
    values = {"pixels": radiograph(), "lungs": lungs(), "markers": marker(), "target": 0, "stack": identity}
    return causal_tests(predict=network, **{**values, **changes})


def by_name(tests: CausalTests) -> dict[str, AuditScore]:
    return {score.name: score for score in tests.scores}


# networks with a known answer


def test_a_network_that_reads_a_corner_pixel_needs_the_marker_and_no_lung() -> None:
    found = run(reads(3, 4))
    assert found.base.logit == pytest.approx(0.1 * 250 - 15)
    for shape in SHAPES:
        assert all(answer == found.base for answer in found.region("background-only", shape).recompute.values())
        assert found.lung_dependence(shape) == dict.fromkeys(FILLS, 0.0)
    hidden = found.region("lungs-only").recompute["mean"]
    assert hidden.logit == pytest.approx(0.1 * round(radiograph().mean()) - 15)
    without = remove(radiograph(), marker())[3, 4]
    assert found.marker.drop == pytest.approx(0.1 * (250 - float(without))) and found.marker.flips
    assert set(found.marker.controls) == {0.0} and len(found.marker.controls) == 30
    assert found.marker.p_value == found.border.p_value == pytest.approx(1 / 31)


def test_a_network_that_reads_a_lung_pixel_needs_the_lungs_and_no_marker() -> None:
    found = run(reads(48, 32))
    for shape in SHAPES:
        assert all(answer == found.base for answer in found.region("lungs-only", shape).recompute.values())
        assert found.lung_dependence(shape) == dict.fromkeys(FILLS, 1.0)
    for fill, answer in found.region("background-only").recompute.items():
        level = float(hide(radiograph(), lung_region(lungs(), "hull"), fill)[48, 32])
        assert answer.logit == pytest.approx(0.1 * level - 15)
    assert found.region("background-only").recompute["mean"].predicted == 1
    for edit in (found.marker, found.border):
        assert edit.drop == 0 and not edit.flips and edit.p_value == 1 and len(edit.controls) == 8


def test_a_linear_network_over_all_pixels_is_had_in_closed_form() -> None:
    weights = np.random.default_rng(3).normal(0, 1e-3, (SIZE, SIZE))
    found = run(linear(weights))
    hull = lung_region(lungs(), "hull")
    change = weights * (radiograph().astype(float) - round(radiograph().mean()))
    lost = found.base.logit - found.region("background-only").recompute["mean"].logit
    kept = found.base.logit - found.region("lungs-only").recompute["mean"].logit
    assert lost == pytest.approx(change[hull].sum()) and kept == pytest.approx(change[~hull].sum())
    first, second = max(0, lost), max(0, kept)
    assert first + second > 0.01 and found.lung_dependence()["mean"] == pytest.approx(first / (first + second))


def test_a_network_that_reads_contrast_is_caught_by_a_sweep_and_by_no_region() -> None:
    found = run(reads_contrast, pixels=texture())
    assert found.base.predicted == 0
    assert found.region("background-only").recompute["mean"].predicted == 1
    assert found.marker.p_value > 0.05 and not found.marker.flips and not found.border.flips
    sweeps = {sweep.name: sweep for sweep in found.sweeps}
    assert sweeps["contrast"].flips and sweeps["contrast"].largest_change > 5
    std = change_contrast(texture(), 0.6).std() - texture().std()
    assert sweeps["contrast"].changes[0] == pytest.approx(std)


def test_a_uniform_network_depends_on_nothing() -> None:
    found = run(uniform)
    assert all(test.probability == found.base.probability and test.spread == 0 for test in found.regions)
    index = by_name(found)["lung dependence index, hull"]
    assert index.value is None and "left the logit" in index.reason
    assert found.marker.p_value == found.border.p_value == 1 and found.modes_disagree == ()
    assert all(sweep.largest_change == 0 and sweep.flips is False for sweep in found.sweeps)


# what must not change a figure


def figures(found: CausalTests) -> list[float | None]:
    return [score.value for score in found.scores]


@settings(max_examples=8)
@given(
    st.integers(0, 2**32 - 1), st.floats(-50, 50), st.permutations(range(3)), st.sampled_from(["full", "exhaustive"])
)
def test_constants_and_the_order_of_classes_do_not_matter(seed: int, shift: float, order: list[int], tier: str) -> None:
    weights = np.random.default_rng(seed).normal(0, 2e-3, (SIZE * SIZE, 3))

    def plain(x: np.ndarray) -> np.ndarray:
        return x[..., 0].reshape(len(x), -1) @ weights

    def shifted(x: np.ndarray) -> np.ndarray:
        return plain(x) + shift * (1 + x[:, :5, :5, 0].mean(axis=(1, 2)) / 255)[:, None]

    expected = run(plain, tier=tier)
    assert figures(run(shifted, tier=tier)) == pytest.approx(figures(expected), abs=1e-6)
    permuted = run(lambda x: plain(x)[:, order], tier=tier, target=order.index(0))
    assert figures(permuted) == pytest.approx(figures(expected), abs=1e-9)
    assert permuted.marker.flips == expected.marker.flips and permuted.border.flips == expected.border.flips
    assert order[permuted.base.predicted] == expected.base.predicted


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_frozen_equals_recompute_when_nothing_is_enhanced(seed: int) -> None:
    weights = np.random.default_rng(seed).normal(0, 2e-3, (SIZE, SIZE))
    found = run(linear(weights), tier="exhaustive", pixels=radiograph(seed % 100))
    assert all(test.frozen == test.recompute for test in found.regions)
    assert found.marker.frozen == found.marker.recompute and found.border.frozen == found.border.recompute
    assert found.modes_disagree == ()


def test_an_effect_of_the_enhancement_is_flagged() -> None:
    def stack(grey: np.ndarray) -> np.ndarray:  # shifts everything by the brightest pixel
        return identity((grey.astype(int) + 255 - grey.max()).clip(0, 255).astype(np.uint8))

    pixels = np.minimum(radiograph(), 150)
    pixels[1:4, 1:7] = 250
    network = reads(48, 32, 1.0, offset=-float(pixels[48, 32]) - 50)
    found = run(network, pixels=pixels, stack=stack)
    assert found.marker.modes_disagree and "marker removal" in found.modes_disagree
    assert found.marker.frozen == found.base and found.marker.recompute.logit > found.base.logit + 50


def test_the_same_arguments_give_the_same_result_and_the_batch_does_not_matter() -> None:
    network = linear(np.random.default_rng(1).normal(0, 1e-3, (SIZE, SIZE)))
    first, again, other = run(network, seed=4), run(network, seed=4), run(network, seed=5)
    assert first == again and figures(first) != figures(other)
    assert figures(run(network, seed=4, batch=100)) == pytest.approx(figures(first))


# how many pictures it takes


class Counter:
    def __init__(self, network: Network) -> None:
        self.network, self.sizes = network, []

    def __call__(self, x: np.ndarray) -> np.ndarray:
        assert x.dtype == np.uint8 and x.shape[1:] == (SIZE, SIZE, 3)
        self.sizes.append(len(x))
        return self.network(x)


@pytest.mark.parametrize(
    ("network", "mask", "tier", "passes"),
    [
        (reads(48, 32), marker(), "full", 33 + 8 + 8),
        (reads(3, 4), marker(), "full", 33 + 30 + 30),
        (reads(48, 32), None, "full", 31 + 8),
        (uniform, marker(), "exhaustive", 33 + 10 + 60),
    ],
    ids=["no border or marker effect", "both", "no marker", "exhaustive"],
)
def test_the_number_of_passes(network: Network, mask: np.ndarray | None, tier: str, passes: int) -> None:
    counter = Counter(network)
    found = run(counter, markers=mask, tier=tier, batch=64)
    assert found.passes == sum(counter.sizes) == passes and found.calls == len(counter.sizes) <= 2


def test_full_controls_follow_only_if_they_can_still_matter() -> None:
    lengths = set()
    for seed in range(8):
        network = linear(np.random.default_rng(seed).normal(0, 1e-3, (SIZE, SIZE)))
        full, all_of_them = run(network, seed=seed), run(network, seed=seed, tier="exhaustive")
        for short, long in ((full.marker, all_of_them.marker), (full.border, all_of_them.border)):
            assert short.controls == pytest.approx(long.controls[: len(short.controls)])
            exceed = sum(control >= short.drop for control in long.controls[:8])
            assert len(short.controls) == (8 if exceed >= 2 else 30)
            lengths.add((len(short.controls), exceed == 1))
            assert short.p_value == pytest.approx(
                (1 + sum(c >= short.drop for c in short.controls)) / (1 + len(short.controls))
            )
    assert lengths >= {(8, False), (30, True)}  # both ends were seen


@pytest.mark.parametrize("matters", [0.0, 0.05, 1e9])
def test_a_test_that_cannot_matter_any_more_ends_early(matters: float) -> None:
    lengths = set()
    for seed in range(8):
        network = linear(np.random.default_rng(seed).normal(0, 1e-3, (SIZE, SIZE)))
        full = run(network, seed=seed)
        short = run(network, seed=seed, matters={"marker removal": matters, "border edit": matters})
        assert short.passes <= full.passes
        for early, late in ((short.marker, full.marker), (short.border, full.border)):
            assert early.controls == pytest.approx(late.controls[: len(early.controls)])
            reachable = early.drop - max(late.controls[:8]) >= matters
            assert len(early.controls) == (len(late.controls) if reachable else 8)
            # what matters is found in any case, and what is said of the rest cannot pass for it
            assert (early.drop - max(early.controls) >= matters) == (late.drop - max(late.controls) >= matters)
            assert len(early.controls) == 30 or early.p_value >= 1 / 9
            lengths.add(len(early.controls))
    assert lengths == ({8} if matters == 1e9 else {8, 30})


def test_the_p_value_that_stops_early_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that answers at random: edit and controls are exchangeable, so P(p <= alpha) <= alpha."""
    monkeypatch.setattr(causal, "PROBES", {})  # pictures that have no part in the p values
    monkeypatch.setattr(causal, "_ask_regions", lambda *arguments: "not asked")
    for name in ("control_removals", "control_paddings"):
        monkeypatch.setattr(causal, name, lambda *arguments: (np.copy,) * causal.CONTROLS)
    rng = np.random.default_rng(0)

    def chance(x: np.ndarray) -> np.ndarray:
        return np.stack([rng.normal(size=len(x)), np.zeros(len(x))], axis=1)

    mask = np.zeros((32, 32), bool)
    mask[1:3, 1:4] = True
    values = {"pixels": texture(size=32), "lungs": lungs(32), "markers": mask, "batch": 100}
    tests = [test for _ in range(800) for found in [run(chance, **values)] for test in (found.marker, found.border)]
    p = np.array([test.p_value for test in tests])
    for alpha in (1 / 31, 0.05, 2 / 31, 0.1, 0.2, 0.3, 1 / 3, 0.5, 0.8):
        error = math.sqrt(alpha * (1 - alpha) / len(p))
        assert (p <= alpha).mean() <= alpha + 3 * error
    for kept in (1, 2):  # with all 30 controls the p value is exact
        assert (p <= kept / 31).mean() == pytest.approx(kept / 31, abs=3 * math.sqrt(kept / 31 / len(p)))
    lengths = np.array([len(test.controls) for test in tests])
    assert lengths.mean() == pytest.approx(8 + 22 * 2 / 9, abs=0.7)  # 59 pictures expected, as the docstring says


# what is undefined


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"lungs": np.zeros((SIZE, SIZE), bool)}, "no lung"),
        ({"lungs": np.ones((SIZE, SIZE), bool)}, "more than 60"),
        ({"pixels": np.full((SIZE, SIZE), 90, np.uint8)}, "same everywhere"),
    ],
)
def test_undefined_regions_are_none_with_a_reason(changes: dict[str, np.ndarray], word: str) -> None:
    found = run(reads(3, 4), **changes)
    for name, score in by_name(found).items():
        if "-only" in name or "index" in name or name == "marker removal: p value":
            assert score.value is None and word in score.reason, name
    assert all(test.probability is test.spread is test.modes_disagree is None for test in found.regions)
    if "pixels" in changes:
        assert all(score.value is None for score in found.scores) and found.passes == 1
    else:
        assert found.marker.drop > 0 and found.marker.controls_reason and found.border.p_value is not None


def test_lungs_that_leave_nothing_beside_their_box_lose_only_the_box() -> None:
    wide = np.zeros((SIZE, SIZE), bool)
    wide[1:-1, 1:24] = wide[1:-1, 73:-1] = True
    found = run(reads(5, 50), lungs=wide)
    assert (
        found.region("background-only", "box").probability is None and "box" in found.region("lungs-only", "box").reason
    )
    assert found.region("background-only", "hull").probability is not None


@pytest.mark.parametrize(
    ("mask", "word"),
    [(None, "given"), (np.zeros((SIZE, SIZE), bool), "found"), (np.ones((SIZE, SIZE), bool), "more than half")],
)
def test_markers_that_cannot_be_removed(mask: np.ndarray | None, word: str) -> None:
    found = run(reads(3, 4), markers=mask)
    assert found.marker.drop is found.marker.p_value is found.marker.flips is None
    assert word in found.marker.reason and found.border.p_value is not None


def test_a_marker_without_room_for_controls_keeps_its_effect() -> None:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[2:50, 2:90] = True
    found = run(reads(3, 4), markers=mask)
    assert found.marker.drop is not None and found.marker.p_value is None and "no room" in found.marker.controls_reason


@pytest.mark.parametrize(
    "changes",
    [
        {"pixels": radiograph().astype(float)},
        {"pixels": np.zeros((20, 20), np.uint8)},
        {"lungs": lungs().astype(np.uint8)},
        {"markers": np.zeros((5, 5), bool)},
        {"tier": "fast"},
        {"batch": 0},
        {"target": 2},
        {"stack": lambda grey: grey},
        {"network": lambda x: np.zeros((len(x) + 1, 2))},
        {"network": lambda x: np.zeros((len(x), 1))},
        {"network": lambda x: np.full((len(x), 2), np.nan)},
    ],
)
def test_what_does_not_fit_is_one_sentence(changes: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"^[A-Z][^\n]+\.$"):
        run(changes.pop("network", reads(3, 4)), **changes)


# the edits themselves


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(40, 130), st.integers(40, 130), st.sampled_from(FILLS))
def test_hiding_changes_only_what_is_hidden(seed: int, height: int, width: int, fill: str) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width), dtype=np.uint8)
    hidden = cv2.GaussianBlur(rng.random((height, width)), (0, 0), 4) > 0.5
    result = hide(pixels, hidden, fill, seed)
    assert (result[~hidden] == pixels[~hidden]).all() and result.dtype == np.uint8
    if fill == "mean":
        assert set(result[hidden].tolist()) <= {round(pixels.mean())}


def test_noise_has_mean_and_spread_of_the_ring() -> None:
    pixels = np.full((200, 200), 10, np.uint8)
    pixels[50:150, 50:150] = np.random.default_rng(0).normal(120, 12, (100, 100)).astype(np.uint8)
    hidden = np.zeros((200, 200), bool)
    hidden[65:135, 65:135] = True
    noise = hide(pixels, hidden, "noise")[hidden]
    assert noise.mean() == pytest.approx(119.5, abs=1) and noise.std() == pytest.approx(12, abs=1)


def test_blur_has_a_sigma_of_a_sixteenth_of_each_side() -> None:
    pixels = np.zeros((256, 512), np.uint8)
    pixels[:, 256:] = 200
    blurred = hide(pixels, np.ones(pixels.shape, bool), "blur")[128].astype(float)
    at = 256 + 32  # one sigma to the right of the step
    assert blurred[at] == pytest.approx(200 * 0.5 * (1 + math.erf(1 / math.sqrt(2))), abs=3)


def test_lung_regions_grow_and_never_join_lungs_by_hull() -> None:
    mask = lungs()
    mask[40:56, 20:24] = False  # a notch, as where a segmenter misses consolidation
    hull, box = lung_region(mask, "hull"), lung_region(mask, "box")
    assert (lungs() & ~hull).sum() == 0 and (hull & ~box).sum() == 0
    assert not hull[48, 48] and box[48, 48]
    rows, columns = np.flatnonzero(hull.any(axis=1)), np.flatnonzero(hull.any(axis=0))
    assert box.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_control_patches_keep_shape_area_and_share_of_lung(seed: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((SIZE, SIZE), bool)
    for row, column in rng.integers(0, 85, (groups + 1, 2)):
        mask[row : row + 5, column : column + 9] = rng.random((5, 9)) > 0.3
    if not mask.any():
        return
    patches = editing._patches(mask)
    assert sum(int(patch.mask.sum()) for patch in patches) == mask.sum()
    placed = editing._control_patches(patches, lungs(), rng)
    if placed is None:
        return
    moved = np.zeros_like(mask)
    for old, new in zip(patches, placed, strict=True):
        assert old.mask is new.mask
        share = [lungs()[patch.place][patch.mask].mean() for patch in (old, new)]
        assert abs(share[0] - share[1]) <= 0.1 + 1e-9
        moved[new.place] |= new.mask
    assert moved.sum() == mask.sum() and not (moved & mask).any()


@settings(max_examples=25)
@given(st.integers(32, 200), st.integers(32, 200), st.sampled_from([0.02, 0.05, 0.1]), st.integers(0, 1000))
def test_control_strips_edit_as_much_as_the_border(height: int, width: int, border: float, seed: int) -> None:
    # every pixel of a coordinate picture says where it came from
    rows = np.repeat(np.arange(height, dtype=np.uint8)[:, None], width, axis=1)
    columns = np.repeat(np.arange(width, dtype=np.uint8)[None], height, axis=0)

    def edited(edit: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return (edit(rows) != rows) | (edit(columns) != columns)

    frame = edited(lambda picture: pad_border(picture, border))
    assert frame.mean() == pytest.approx(editing.border_fraction((height, width), border))
    down, across = max(1, round(height * border)), max(1, round(width * border))
    assert not frame[down:-down, across:-across].any()
    for edit in editing.control_paddings((height, width), border, 5, np.random.default_rng(seed)):
        found = edited(edit)
        assert found.sum() == frame.sum() and not found[:down, :across].any() and not found[-down:, -across:].any()


def test_padding_repeats_the_nearest_pixel_inside() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 60), dtype=np.uint8)
    expected = cv2.copyMakeBorder(pixels[5:-5, 3:-3], 5, 5, 3, 3, cv2.BORDER_REPLICATE)
    assert (pad_border(pixels, 0.05) == expected).all()


def test_sweeps_have_a_neutral_level_and_move_one_way() -> None:
    pixels = radiograph()
    assert (change_gamma(pixels, 1) == pixels).all() and (change_contrast(pixels, 1) == pixels).all()
    assert (change_resolution(pixels, 500) == pixels).all()
    assert change_gamma(pixels, 2)[0, 0] == round(255 * (pixels[0, 0] / 255) ** 2)

    def fine(picture: np.ndarray) -> float:
        return float(np.abs(cv2.Laplacian(picture.astype(np.float32), cv2.CV_32F)).mean())

    assert fine(change_sharpness(pixels, 0.02)) < fine(change_sharpness(pixels, 0.01)) < fine(pixels)
    assert fine(change_resolution(pixels, 24)) < fine(change_resolution(pixels, 48)) < fine(pixels)
    loss = [np.abs(compress(pixels, quality).astype(int) - pixels).mean() for quality in (95, 50, 20, 5)]
    assert all(a < b for a, b in pairwise(loss))
    assert sum(len(probe.levels) for probe in PROBES.values()) == 12
    for probe in PROBES.values():
        assert probe.neutral not in probe.levels


def test_the_logit_is_that_of_the_softmax_probability() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (50, 4))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for found, p, row in zip(answers(logits, 2), softmax[:, 2], logits, strict=True):
        assert found.probability == pytest.approx(p) and found.logit == pytest.approx(math.log(p / (1 - p)))
        assert found.predicted == row.argmax()
    extreme = answers(np.array([[800.0, -800.0]]), 1)[0]
    assert extreme.logit == -1600 and extreme.probability == 0


def test_it_works_on_another_frame_with_real_enhancement() -> None:
    enhancement = Enhancement()
    pixels = cv2.resize(radiograph(), (150, 130))
    wide, mark = (cv2.resize(m.astype(np.uint8), (150, 130), interpolation=0) > 0 for m in (lungs(), marker()))

    def stack(grey: np.ndarray) -> np.ndarray:
        return enhancement.stack(enhancement.grey(grey, SIZE))

    found = run(reads(48, 32), pixels=pixels, lungs=wide, markers=mark, stack=stack)
    assert found.region("background-only").probability < found.base.probability
    assert found.lung_dependence()["mean"] > 0.5
    assert all(math.isfinite(s.value) for s in found.scores if s.value is not None)
