"""Verdicts on networks whose reasons are known by construction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxnet.audit import answers, causal_tests, localisation_scores
from cxnet.errors import WeightsError
from cxnet.explain import Explanation
from cxnet.lungs import LungMask
from cxnet.runs import find_run
from cxnet.verdict import (
    NAMES,
    SURROUNDINGS,
    TESTS,
    Evidence,
    Verdict,
    evidence,
    judge,
    surroundings,
    thresholds,
    usual_evidence,
)
from cxnet.weights import card
from tests.toys import SIZE, Network, identity, lungs, marker, radiograph, reads


def spot(row: int, column: int) -> np.ndarray:
    """A map that is hot around one place."""
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[row, column] = 1
    return cv2.GaussianBlur(heat, (0, 0), 3)


def judged(network: Network, heatmap: np.ndarray, mask: LungMask | None = None, seed: int = 0) -> Verdict:
    mask = mask or LungMask(lungs(), "human")
    pixels = radiograph(seed)
    causal = causal_tests(pixels, lungs(), network, identity, 0, markers=marker())
    changed = surroundings(pixels, lungs(), network, identity, 0)
    explanations = {"grad-cam": Explanation("grad-cam", "yes", heatmap)}
    scores = {"grad-cam": localisation_scores(heatmap, lungs(), cell_px=8)}
    return judge(explanations, scores, causal, changed, mask)


def test_a_network_that_reads_a_corner_pixel_is_wrong_by_both_keys() -> None:
    found = judged(reads(2, 4, offset=-20), spot(2, 4))
    assert (found.name, found.map_key, found.causal_key) == ("wrong reason", True, True)
    # whatever becomes of the lungs the logit stays 5; without the background it is far below chance
    assert found.evidence.background == pytest.approx(5.0)
    assert found.evidence.marker is not None and found.evidence.marker > 5
    assert "the maps show it" in found.facts and found.strength >= 1


@settings(max_examples=25)
@given(st.integers(0, SIZE * SIZE - 1), st.floats(0.02, 1), st.integers(0, 20))
def test_a_network_that_reads_a_lung_pixel_never_is(place: int, gain: float, seed: int) -> None:
    inside = np.argwhere(lungs())
    row, column = inside[place % len(inside)]
    level = float(radiograph(seed)[row, column])
    found = judged(reads(int(row), int(column), gain, 3 - gain * level), spot(int(row), int(column)), seed=seed)
    assert found.name in ("none found", "suspicious map") and found.causal_key is False
    assert found.evidence.appearance == 0  # lungs stay as they are while all else changes


def test_a_contrast_cheat_is_caught_with_a_clean_map() -> None:
    def reads_contrast(x: np.ndarray) -> np.ndarray:
        return np.stack([x[..., 0].reshape(len(x), -1).std(axis=1) - 23.5, np.zeros(len(x))], axis=1)

    found = judged(reads_contrast, spot(48, 32))
    assert (found.name, found.map_key, found.causal_key) == ("wrong reason", False, True)
    limits = thresholds()
    assert found.evidence.appearance is not None and found.evidence.appearance >= limits.appearance * found.usual
    assert found.evidence.marker is not None and found.evidence.marker < limits.marker * found.usual
    assert "the maps do not show it" in found.facts


def test_a_network_that_calls_everything_without_a_lesion_normal_is_not_accused() -> None:
    def no_lesion(x: np.ndarray) -> np.ndarray:  # normal unless a lung pixel is bright
        return np.stack([np.full(len(x), 4.0), np.where(x[:, 60, 66, 0] > 230, 9.0, 0.0)], axis=1)

    found = judged(no_lesion, spot(60, 66))
    assert found.name == "none found" and found.evidence.background == 0


def test_a_map_alone_only_makes_suspicious() -> None:
    found = judged(reads(48, 32, offset=-20), spot(2, 4))
    assert (found.name, found.map_key, found.causal_key) == ("suspicious map", True, False)


def test_a_failed_lung_gate_gives_undetermined() -> None:
    one_lung = lungs()
    one_lung[:, SIZE // 2 :] = False
    found = judged(reads(2, 4, offset=-20), spot(2, 4), LungMask(one_lung, "human"))
    assert found.name == "undetermined" and "lung outline may be wrong" in found.facts[0]


def test_nothing_that_could_be_tried_gives_undetermined() -> None:
    flat = np.full((SIZE, SIZE), 100, np.uint8)
    causal = causal_tests(flat, lungs(), reads(2, 4, offset=-20), identity, 0)
    assert evidence(causal, ()) == Evidence(None, None, None, None)
    found = judge({}, {}, causal, (), LungMask(lungs(), "human"))
    assert (found.name, found.map_key, found.causal_key, found.strength) == ("undetermined", None, None, 0.0)


def test_surroundings_leave_the_lungs_alone() -> None:
    seen: list[np.ndarray] = []

    def watch(x: np.ndarray) -> np.ndarray:
        seen.extend(x[..., 0])
        return np.zeros((len(x), 2))

    found = surroundings(radiograph(), lungs(), watch, identity, 0)
    assert found == answers(np.zeros((len(SURROUNDINGS), 2)), 0)
    for picture in seen:
        assert (picture[lungs()] == radiograph()[lungs()]).all() and (picture != radiograph()).mean() > 0.3
    assert surroundings(radiograph(), np.zeros((SIZE, SIZE), bool), watch, identity, 0) == ()


@given(st.lists(st.one_of(st.none(), st.floats(-20, 20)), min_size=4, max_size=4), st.floats(0.5, 20))
def test_strength_is_one_exactly_where_a_test_turns(values: list[float | None], usual: float) -> None:
    limits = thresholds()
    found = Evidence(*values)
    turned = [v >= getattr(limits, name) * usual for name, v in found.values.items() if v is not None]
    strength = found.strength(limits, usual)
    assert (strength is None) == (not turned)
    assert strength is None or (strength >= 1) == any(turned)


@pytest.mark.parametrize("gain", [0.005, 1.0, 50.0])
def test_the_scale_of_a_network_s_logits_does_not_matter(gain: float) -> None:
    pixels, mask = radiograph(), LungMask(lungs(), "human")
    verdicts = []
    for factor in (1.0, gain):
        network = reads(2, 4, 0.1 * factor, -20 * factor)
        causal = causal_tests(pixels, lungs(), network, identity, 0, markers=marker())
        changed = surroundings(pixels, lungs(), network, identity, 0)
        usual = max(0.5, 5 * factor)
        verdicts.append(judge({}, {}, causal, changed, mask, usual))
    shares = [v.evidence.background / v.usual for v in verdicts if v.evidence.background is not None]
    if gain >= 0.1:  # below the least usual evidence a network says nothing, and is not accused of it
        assert shares[0] == pytest.approx(shares[1]) and verdicts[0].name == verdicts[1].name == "wrong reason"
    else:
        assert verdicts[1].name == "none found"


def test_usual_evidence_is_the_stored_run_s_median() -> None:
    found = usual_evidence(card("covid-cxnet"))
    table = find_run("covid-cxnet").table
    own = [float(row[f"probability {row['predicted']}"]) for _, row in table.iterrows()]
    assert found == pytest.approx(np.median([np.log(p / (1 - p)) + np.log(2) for p in own]))
    assert usual_evidence(replace(card("covid-cxnet"), run=None)) is None


def test_no_verdict_claims_a_right_reason() -> None:
    texts = [*NAMES, *TESTS.values(), *judged(reads(48, 32, offset=-20), spot(48, 32)).facts]
    assert not any("right reason" in text or "proven" in text for text in texts)


def test_thresholds_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "no-such.toml"
    with pytest.raises(WeightsError, match=r"no-such\.toml cannot be understood"):
        thresholds(path)
