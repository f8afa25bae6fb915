"""One network sits the exam: every right answer is explained, put to the causal tests and judged, one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cxnet.audit import causal_tests, find_markers, localisation_scores, upsample
from cxnet.classifier import Prediction
from cxnet.enhance import Grey
from cxnet.exam.fixtures import (
    CLASSES,
    DISEASE,
    INPUT_PX,
    NORMAL,
    TESTED,
    TRAINED,
    Case,
    FixtureNetwork,
    fixture_networks,
    phantom_case,
    robust,
    shown,
    stack,
)
from cxnet.exam.results import CHOOSE, REPORT, RESAMPLES, Exam, conclude
from cxnet.explain import Explanation
from cxnet.explain.grad_cam import grad_cam
from cxnet.lungs import LungMask
from cxnet.thresholds import Thresholds, thresholds
from cxnet.verdict import Verdict, judge, surroundings, with_opacities
from cxnet.wrong_reasons import names_finding

#: A network that is right on less of what it was trained for has learnt nothing that could be audited.
LEAST_ACCURACY = 0.9
#: Finds the lungs of a uint8 picture.
LungsOf = Callable[[Grey], LungMask]


def right_answers(network: FixtureNetwork, cases: Sequence[Case], flipped: bool = False) -> np.ndarray[Any, Any]:
    """Whether the network is right on each case as :func:`cxnet.exam.fixtures.shown` shows it: bool (cases,)."""
    logits = network(np.stack([stack(shown(case, network.kind, flipped)) for case in cases]))
    return np.asarray(logits.argmax(axis=1) == np.array([case.true for case in cases]), np.bool_)


def phantom_lungs(case: Case) -> LungMask:
    """The lungs that a phantom was drawn with."""
    return LungMask(case.lungs, source="phantom", convention="aerated lung fields")


def judge_case(
    network: FixtureNetwork, case: Case, usual: float, seed: int = 0, lungs_of: LungsOf | None = None
) -> tuple[dict[str, Any], Verdict]:
    """Judge a network's answer to one case as :mod:`cxnet.analysis` and :mod:`cxnet.verdict` judge a radiograph.

    `usual` is the network's usual evidence. `lungs_of` finds the lungs in the picture as the network meets it; left
    out, they are those of :func:`phantom_lungs`.

    Returns
    -------
    (dict, Verdict)
        Figures of the map and of the causal tests by name, and the verdict.
    """
    pixels = shown(case, network.kind)
    lungs = phantom_lungs(case) if lungs_of is None else lungs_of(pixels)
    picture = stack(pixels)
    features, logits = network.features(picture[None])[0], network(picture[None])[0]
    prediction = Prediction(CLASSES, logits, features)
    target = int(logits.argmax())
    model_lungs = lungs.resized(INPUT_PX)
    heatmap = upsample(grad_cam(prediction, network.head)[target], model_lungs.shape)
    scores = localisation_scores(heatmap, model_lungs, cell_px=INPUT_PX / len(features), seed=seed)
    causal = causal_tests(
        pixels, lungs.mask, network, stack, target, markers=find_markers(pixels).drawn, seed=seed, batch=32
    )
    changed = surroundings(pixels, lungs.mask, network, stack, target)
    finding = names_finding(CLASSES[target])
    drawn = () if finding else with_opacities(pixels, lungs.mask, network, stack, target)
    verdict = judge(
        {"grad-cam": Explanation("grad-cam", CLASSES[target], heatmap)}, {"grad-cam": scores}, causal, changed, lungs,
        usual, finding=finding, drawn=drawn,
    )  # fmt: skip
    by_name = {score.name: score.value for score in scores}
    figures: dict[str, Any] = {
        "usual": usual,
        "logit": causal.base.logit,
        "z": by_name["z against shifted copies"],
        "lift": by_name["lift"],
        **{f"evidence_{name}": value for name, value in verdict.evidence.values.items()},
        "without_lungs": verdict.evidence.without_lungs,
        "moved": verdict.evidence.moved,
    }
    if lungs_of is not None:
        tried = verdict.evidence.strength(thresholds(), usual, finding) is not None
        figures["determined"] = lungs.ok and tried
    return figures, verdict


def sit(network: FixtureNetwork, cases: Sequence[Case], lungs_of: LungsOf | None = None) -> list[dict[str, Any]]:
    """Judge all right answers of a network to some cases: one row each.

    With `lungs_of` of :func:`judge_case` the row says whether the tests could be read: the lungs that the product
    finds may fail their gate. An answer that only the opacities keep from a verdict was read.
    """
    cv2.setNumThreads(1)  # one process a network: more threads would only wait for one another
    rows = []
    right = right_answers(network, cases)
    if not right.any():
        return []
    usual = usual_evidence(network, [case for case, is_right in zip(cases, right, strict=True) if is_right])
    for case, is_right in zip(cases, right, strict=True):
        if is_right:
            row: dict[str, Any] = {"network": network.name, "kind": network.kind, "seed": network.seed}
            row["half"] = half(network.seed) if lungs_of is None else REPORT
            row |= {"case": case.sha256 or case.number, "answer": CLASSES[case.true]}
            figures, _ = judge_case(network, case, usual, lungs_of=lungs_of)
            rows.append(row | figures)
    return rows


def usual_evidence(network: FixtureNetwork, cases: Sequence[Case]) -> float:
    """Median logit over chance of its answers: see :func:`cxnet.verdict.usual_evidence`."""
    logits = network(np.stack([stack(shown(case, network.kind)) for case in cases]))
    return float(np.median(np.abs(logits[:, 0] - logits[:, 1])))


def half(seed: int) -> str:
    """Thresholds are chosen on networks of even seeds, all figures are measured on the others."""
    return REPORT if seed % 2 else CHOOSE


def cases_of(network: FixtureNetwork, cases: Sequence[Case], count: int = 24) -> list[Case]:
    """Cases that a network is asked: of its own half of them, the first `count` diseased and half as many normal."""
    own = [case for case in cases if half(case.number // 4) == half(network.seed)]
    return [c for c in own if c.true == DISEASE][:count] + [c for c in own if c.true == NORMAL][: count // 2]


def run(
    workers: int = 2, resamples: int = RESAMPLES, say: Callable[[str], None] = lambda _: None
) -> tuple[Exam, Thresholds]:
    """Sit the whole exam with the shipped networks: some minutes on two cores.

    Returns
    -------
    (Exam, Thresholds)
        Nothing is written; see :func:`cxnet.exam.results.write`.
    """
    networks = fixture_networks()
    with ProcessPoolExecutor(workers) as pool:
        cases = list(pool.map(phantom_case, range(TRAINED, TRAINED + TESTED), chunksize=4))
        say(f"{len(cases)} phantoms drawn that no network was trained on")
        parts = []
        for rows in pool.map(sit, networks, [cases_of(network, cases) for network in networks]):
            parts += rows
            say(f"{rows[0]['network'] if rows else 'a network'}: {len(rows)} right answers judged")
    skills = [skill(network, cases) for network in networks]
    return conclude(pd.DataFrame(parts), skills, resamples)


def skill(network: FixtureNetwork, cases: Sequence[Case]) -> dict[str, Any]:
    """How often a network is right: as trained, with the shortcut on the normal alone, and with no shortcut."""
    as_trained, flipped = (float(right_answers(network, cases, f).mean()) for f in (False, True))
    return {
        "name": network.name,
        "kind": network.kind,
        "seed": network.seed,
        "half": half(network.seed),
        "erasing": robust(network.seed),
        "cases": len(cases),
        "accuracy": as_trained,
        "accuracy_flipped": flipped,
    }


def behaves(entry: Mapping[str, Any]) -> bool:
    """Whether a network of :func:`skill` does what its kind must: only then its answers count.

    All are right on at least 90 % of the pictures that they are trained for. A clean one is so with the shortcut on
    the normal pictures as well, a cheat then is wrong more often than right.
    """
    if entry["accuracy"] < LEAST_ACCURACY:
        return False
    flipped = float(entry["accuracy_flipped"])
    return flipped >= LEAST_ACCURACY if entry["kind"] == "clean" else flipped < 0.5
