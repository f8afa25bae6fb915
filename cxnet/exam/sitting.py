"""One network sits the exam: every right answer is explained, put to the causal tests and judged, one row each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cxnet.audit import causal_tests, find_markers, localisation_scores, upsample
from cxnet.classifier import Prediction
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
from cxnet.verdict import Thresholds, Verdict, judge, surroundings


def right_answers(network: FixtureNetwork, cases: Sequence[Case], flipped: bool = False) -> np.ndarray[Any, Any]:
    """Whether the network is right on each case as :func:`cxnet.exam.fixtures.shown` shows it: bool (cases,)."""
    logits = network(np.stack([stack(shown(case, network.kind, flipped)) for case in cases]))
    return np.asarray(logits.argmax(axis=1) == np.array([case.true for case in cases]), np.bool_)


def judge_case(network: FixtureNetwork, case: Case, usual: float, seed: int = 0) -> tuple[dict[str, Any], Verdict]:
    """Judge a network's answer to one case as :mod:`cxnet.analysis` and :mod:`cxnet.verdict` judge a radiograph.

    `usual` is the network's usual evidence.

    Returns
    -------
    (dict, Verdict)
        Figures of the map and of the causal tests by name, and the verdict.
    """
    pixels = shown(case, network.kind)
    lungs = LungMask(case.lungs, source="phantom", convention="aerated lung fields")
    picture = stack(pixels)
    features, logits = network.features(picture[None])[0], network(picture[None])[0]
    prediction = Prediction(CLASSES, logits, features)
    target = int(logits.argmax())
    model_lungs = lungs.resized(INPUT_PX)
    heatmap = upsample(grad_cam(prediction, network.head)[target], model_lungs.shape)
    scores = localisation_scores(heatmap, model_lungs, cell_px=INPUT_PX / len(features), seed=seed)
    causal = causal_tests(
        pixels, case.lungs, network, stack, target, markers=find_markers(pixels).mask, seed=seed, batch=32
    )
    changed = surroundings(pixels, case.lungs, network, stack, target)
    verdict = judge(
        {"grad-cam": Explanation("grad-cam", CLASSES[target], heatmap)}, {"grad-cam": scores}, causal, changed, lungs,
        usual,
    )  # fmt: skip
    by_name = {score.name: score.value for score in scores}
    figures: dict[str, Any] = {
        "usual": usual,
        "logit": causal.base.logit,
        "z": by_name["z against shifted copies"],
        "lift": by_name["lift"],
        **{f"evidence_{name}": value for name, value in verdict.evidence.values.items()},
    }
    return figures, verdict


def sit(network: FixtureNetwork, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Judge all right answers of a network to some cases: one row each."""
    cv2.setNumThreads(1)  # one process a network: more threads would only wait for one another
    rows = []
    right = right_answers(network, cases)
    usual = usual_evidence(network, [case for case, is_right in zip(cases, right, strict=True) if is_right])
    for case, is_right in zip(cases, right, strict=True):
        if is_right:
            row = {"network": network.name, "kind": network.kind, "seed": network.seed, "half": half(network.seed)}
            row |= {"case": case.number, "answer": CLASSES[case.true]} | judge_case(network, case, usual)[0]
            rows.append(row)
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
