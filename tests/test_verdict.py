"""Verdicts on networks whose reasons are known by construction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxnet.audit import AuditScore, answers, causal_tests, localisation_scores
from cxnet.audit.causal import NO_ROOM
from cxnet.errors import WeightsError
from cxnet.explain import Explanation
from cxnet.lungs import LungMask
from cxnet.runs import find_run
from cxnet.thresholds import ASKED, TESTS, thresholds
from cxnet.verdict import (
    NAMES,
    NO_CONTROLS,
    SURROUNDINGS,
    Evidence,
    Verdict,
    evidence,
    judge,
    surroundings,
    usual_evidence,
    with_opacities,
)
from cxnet.weights import card
from cxnet.wrong_reasons import names_finding
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
    assert found.name != "wrong reason" and found.causal_key is False
    moved = found.evidence.moved
    assert moved is not None
    if found.name != "suspicious map":
        still = moved < thresholds().least_moved * found.usual
        # the hole's grey may speak for the class as well as the pixel did, which nobody can tell from a second sign
        left = found.evidence.without_lungs
        stays = left is not None and left >= thresholds().most_without_lungs * found.usual
        assert found.name == ("undetermined" if still or stays else "none found")
    assert found.evidence.appearance == 0  # lungs stay as they are while all else changes


def test_a_marker_without_room_for_controls_accuses_nobody_and_clears_nobody() -> None:
    pixels, frame = radiograph(), np.zeros((SIZE, SIZE), bool)
    frame[[6, 7, -8, -7], 6:-6] = frame[6:-6, [6, 7, -8, -7]] = True  # inside the border that is tried
    pixels[frame] = 250
    network = reads(6, 40, offset=-20)
    causal = causal_tests(pixels, lungs(), network, identity, 0, markers=frame)
    assert causal.marker.controls == () and causal.marker.drop is not None and causal.marker.drop > 2
    found = judge({}, {}, causal, (), LungMask(lungs(), "human"), 5.0, finding=False)
    assert found.evidence.marker is None and (found.name, found.causal_key) == ("undetermined", False)
    assert any(fact == f"{NO_CONTROLS}: {NO_ROOM}" for fact in found.facts)
    innocent = causal_tests(pixels, lungs(), reads(48, 32), identity, 0, markers=frame)
    cleared = judge({}, {}, innocent, (), LungMask(lungs(), "human"), 5.0, finding=False)
    assert not any(NO_CONTROLS in fact for fact in cleared.facts)


def test_a_map_is_said_to_lie_outside_only_where_chance_would_seldom_put_it() -> None:
    for z, words in ((-1.7, "lies outside the lungs"), (-0.2, "lies in the lungs no more than by chance")):
        scores = (AuditScore("z against shifted copies", z), AuditScore("lift", 0.9))
        causal = causal_tests(radiograph(), lungs(), reads(48, 32), identity, 0)
        maps = {"grad-cam": Explanation("grad-cam", "yes", spot(2, 4))}
        found = judge(maps, {"grad-cam": scores}, causal, (), LungMask(lungs(), "human"))
        assert found.map_key is True and any(
            f"Grad-CAM {words} (lift 0.90, z {z:+.1f})" == fact for fact in found.facts
        )


def test_a_contrast_cheat_is_caught_with_a_clean_map() -> None:
    def reads_contrast(x: np.ndarray) -> np.ndarray:
        return np.stack([x[..., 0].reshape(len(x), -1).std(axis=1) - 23.5, np.zeros(len(x))], axis=1)

    found = judged(reads_contrast, spot(48, 32))
    assert (found.name, found.map_key, found.causal_key) == ("wrong reason", False, True)
    lines = thresholds().lines(found.usual, finding=True)
    assert found.evidence.appearance is not None and found.evidence.appearance >= lines["appearance"]
    assert found.evidence.marker is not None and found.evidence.marker < lines["marker"]
    assert "the maps do not show it" in found.facts


def test_a_network_that_calls_everything_without_a_lesion_normal_is_not_accused() -> None:
    def no_lesion(x: np.ndarray) -> np.ndarray:  # normal unless a lung pixel is bright
        return np.stack([np.full(len(x), 4.0), np.where(x[:, 60, 66, 0] > 230, 9.0, 0.0)], axis=1)

    found = judged(no_lesion, spot(60, 66))
    assert found.causal_key is False and found.evidence.background == 0
    assert found.name == "undetermined" and found.evidence.moved == 0  # there is no lesion that an edit could hide


def test_a_network_that_ignores_its_picture_is_not_cleared() -> None:
    found = judged(lambda x: np.tile([5.0, 0.0], (len(x), 1)), spot(48, 32))
    assert (found.name, found.causal_key) == ("undetermined", False)
    assert found.evidence.without_lungs == pytest.approx(5.0)
    assert found.evidence.moved == 0 and "no edit moved the answer" in found.facts[0]
    assert any("given with the lungs hidden (+5.0 logits" in fact for fact in found.facts)


def test_a_sign_in_the_lungs_and_a_marker_that_suffices_as_well_is_not_cleared() -> None:
    corner, lung = reads(2, 4, 0.2, -20), reads(48, 32, 0.2, -10)

    def either(x: np.ndarray) -> np.ndarray:
        return np.stack([np.maximum(corner(x)[:, 0], lung(x)[:, 0]), np.zeros(len(x))], axis=1)

    pixels = radiograph()
    pixels[48, 32] = 255  # a sign
    causal = causal_tests(pixels, lungs(), either, identity, 0, markers=marker())
    changed = surroundings(pixels, lungs(), either, identity, 0)
    found = judge({}, {}, causal, changed, LungMask(lungs(), "human"))
    assert causal.base.predicted == 0 and found.causal_key is False and found.name == "undetermined"
    assert any("given with the lungs hidden" in fact for fact in found.facts)


def test_an_answer_that_the_network_does_not_give_is_not_judged() -> None:
    opposite = reads(2, 4, offset=-20)
    found = judged(lambda x: opposite(x)[:, ::-1], spot(2, 4))
    assert (found.name, found.causal_key) == ("undetermined", None)
    assert "gives another answer" in found.facts[0]


@pytest.mark.parametrize("reads_outline", [True, False])
def test_a_network_that_is_shown_only_the_lungs_is_asked_for_their_outline(reads_outline: bool) -> None:
    pixels, mask = radiograph(), lungs()
    pixels[48, 32] = 255

    def network(x: np.ndarray) -> np.ndarray:
        seen = x[..., 0].reshape(len(x), -1).astype(float)
        score = 40 * ((seen == 0).mean(axis=1) - 0.5) if reads_outline else 0.2 * (x[:, 48, 32, 0] - 230.0)
        return np.stack([score, np.zeros(len(x))], axis=1)

    def stack(grey: np.ndarray) -> np.ndarray:
        return identity(np.where(mask, np.maximum(grey, 1), 0).astype(np.uint8))

    causal = causal_tests(pixels, mask, network, stack, 0)
    assert causal.base.predicted == 0
    found = judge({}, {}, causal, (), LungMask(mask, "human"), region="lung-mask")
    assert found.evidence.background is None and found.evidence.appearance is None
    assert found.name == ("undetermined" if reads_outline else "none found")
    assert any("nothing but the lungs" in fact for fact in found.facts)
    assert any("from the lungs' outline alone" in fact for fact in found.facts) == reads_outline
    assert found.to_json()["tests_asked"] == ["marker", "border"]


def test_unknown_usual_evidence_is_told() -> None:
    assert any(
        "how strongly this network usually answers is not known" in f for f in judged(reads(2, 4), spot(2, 4)).facts
    )


def normal(network: Network, heatmap: np.ndarray | None) -> Verdict:
    """The verdict on an answer that names no finding."""
    pixels, mask = radiograph(), lungs()
    causal = causal_tests(pixels, mask, network, identity, 0)
    changed = surroundings(pixels, mask, network, identity, 0)
    drawn = with_opacities(pixels, mask, network, identity, 0)
    explanations = {} if heatmap is None else {"grad-cam": Explanation("grad-cam", "Normal", heatmap)}
    scores = {} if heatmap is None else {"grad-cam": localisation_scores(heatmap, mask, cell_px=8)}
    outlines = LungMask(mask, "human")
    return judge(explanations, scores, causal, changed, outlines, finding=False, drawn=drawn)


def clear_lungs(x: np.ndarray) -> np.ndarray:
    """Normal as long as the lungs are no brighter than they were."""
    usual = radiograph()[lungs()].mean()
    return np.stack([4.0 - (x[..., 0][:, lungs()].mean(axis=1) - usual), np.zeros(len(x))], axis=1)


@pytest.mark.parametrize("place", [(48, 32), (2, 4)])
def test_an_answer_without_a_finding_that_drawn_opacities_move_is_not_accused(place: tuple[int, int]) -> None:
    found = normal(clear_lungs, spot(*place))
    assert found.evidence.opacity is not None and found.evidence.opacity < 0 and not found.causal_key
    assert found.name == ("none found" if place == (48, 32) else "suspicious map")


@pytest.mark.parametrize(
    ("place", "name"), [((2, 4), "suspicious map"), ((48, 32), "undetermined"), (None, "undetermined")]
)
def test_an_answer_without_a_finding_that_never_moves_is_not_cleared(place: tuple[int, int] | None, name: str) -> None:
    found = normal(lambda x: np.tile([3.0, 0.0], (len(x), 1)), None if place is None else spot(*place))
    assert (found.name, found.causal_key) == (name, None) and found.strength >= 1
    assert found.evidence.opacity == pytest.approx(found.usual)  # drawn opacities leave all of it
    assert any("opacities are drawn" in fact for fact in found.facts)


def test_what_surrounds_the_lungs_is_not_held_against_an_answer_without_a_finding() -> None:
    """Blank everything but the lungs, or look at its contrast: neither is asked of it."""

    def needs_texture_elsewhere(x: np.ndarray) -> np.ndarray:
        seen = clear_lungs(x)
        seen[:, 0] -= np.where(x[..., 0][:, 80:, :].reshape(len(x), -1).std(axis=1) > 15, 0.0, 4.0)
        return seen

    found = normal(needs_texture_elsewhere, spot(48, 32))
    assert found.evidence.background is not None
    assert (
        found.evidence.background >= thresholds().lines(found.usual, True)["background"] and found.name == "none found"
    )


def test_without_two_lungs_no_opacity_is_drawn() -> None:
    one = lungs()
    one[:, SIZE // 2 :] = False
    assert with_opacities(radiograph(), one, clear_lungs, identity, 0) == ()


@pytest.mark.parametrize(
    ("cls", "finding"), [("Normal", False), (" no finding", False), ("COVID-19", True), ("Abnormal", True)]
)
def test_which_classes_name_a_finding(cls: str, finding: bool) -> None:
    assert names_finding(cls) is finding


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
    assert evidence(causal, ()) == Evidence(None, None, None, None, None, None, None)
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


@given(st.lists(st.one_of(st.none(), st.floats(-20, 20)), min_size=5, max_size=5), st.floats(0.5, 20), st.booleans())
def test_strength_is_one_exactly_where_a_test_that_is_asked_turns(
    values: list[float | None], usual: float, finding: bool
) -> None:
    limits = thresholds()
    found = Evidence(*values)
    asked = {name: found.values[name] for name in ASKED[finding]}
    turned = [v >= limits.shares(finding)[name] * usual for name, v in asked.items() if v is not None]
    strength = found.strength(limits, usual, finding)
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


def test_usual_evidence_is_the_median_of_right_answers() -> None:
    found = usual_evidence(card("covid-cxnet"))
    table = find_run("covid-cxnet").table
    table = table[table["true"] == table["predicted"]]
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
