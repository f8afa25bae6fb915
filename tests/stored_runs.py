"""Synthetic runs and audits as they are stored, and the pages that show them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from streamlit.testing.v1 import AppTest

from cxnet import runs, wrong_reasons
from cxnet.audit import ZONES

ROOT = Path(__file__).parents[1]
CLASSES = ("COVID-19", "normal", "pneumonia")
LIME_FOUND_NOTHING = "LIME found no superpixel that speaks for the class"
TESTS = ("background", "marker", "border", "appearance", "opacity")


def fold_table(fold: int, seed: int, cases: int = 60) -> pd.DataFrame:
    """Cases that depend on the fold, probabilities that depend on the seed too."""
    cohort, network = np.random.default_rng(fold), np.random.default_rng([seed, fold])
    true = np.arange(cases) % 3
    logits = network.normal(0, 1, (cases, 3))
    logits[np.arange(cases), true] += 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y, x = np.mgrid[:10, :10] / 9
    lungs = np.zeros((64, 64), np.bool_)
    lungs[12:52, 8:28] = lungs[12:52, 36:56] = True
    table = pd.DataFrame(
        {
            "case": [hashlib.sha256(f"{fold}/{number}".encode()).hexdigest() for number in range(cases)],
            "file": [f"{fold}/{number}.png" for number in range(cases)],
            "group": [f"{fold}-{number // 2}" for number in range(cases)],
            "source": np.where(true == 0, "set of one class", np.where(true == 1, "hospital a", "hospital b")),
            "view": np.where(cohort.random(cases) < 0.5, "PA", "AP"),
            "true": np.array(CLASSES)[true],
            "predicted": np.array(CLASSES)[probabilities.argmax(axis=1)],
        }
    )
    table.loc[::7, "source"] = "hospital c"
    for number, name in enumerate(CLASSES):
        table[f"probability {name}"], table[f"logit {name}"] = probabilities[:, number], logits[:, number]
    peaks = cohort.random((cases, 2))
    table["map"] = [runs.pack_map(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 0.05)) for a, b in peaks]
    table["lungs"] = [runs.pack_lungs(lungs)] * cases
    for side, value in (("top", 0.0), ("bottom", 1.0), ("left", 0.0), ("right", 1.0)):
        table[f"region {side}"] = value
    table["in_lung"], table["lift"], table["z"] = peaks[:, 0], 2 * peaks[:, 0], network.normal(0, 1.5, cases)
    return table


def make_run(root: Path, name: str, seed: int = 0, folds: int = 5, crossing: bool = False) -> runs.Run:
    tables = {fold: fold_table(fold, seed) for fold in range(folds)}
    for table in tables.values():
        if crossing:
            table.loc[0, "group"] = "the same patient"
    curve = [{"epoch": n, "loss": 1 / n, "accuracy": 0.5, "test_loss": 1.1 / n, "test_accuracy": 0.4} for n in (1, 2)]
    info = {"title": f"network {name}", "architecture": "base-cnn-v2", "classes": list(CLASSES), "map_shape": [10, 10]}
    return runs.write_run(root / name, info, tables, {fold: {"curve": curve} for fold in tables})


def make_audit(
    run: runs.Run, tier: str = "full", seed: int = 0, cheats: float = 0.3, lime: bool = False
) -> pd.DataFrame:
    """Write an audit whose COVID-19 pictures are brighter, and whose wrong reasons are a share of all cases.

    With `lime` it has LIME's figures too, but for every tenth case, whose LIME found nothing.
    """
    rng = np.random.default_rng(seed)
    known = run.table
    count = len(known)
    names = ["case", "file", "fold", "group", "source", "view", "true", "predicted"]
    table = known[[*names, *(f"probability {cls}" for cls in run.classes)]].copy()
    shares = rng.dirichlet(np.ones(len(ZONES) + 1), count)
    table["in_lung"], table["lungs_area"] = shares[:, 0], 0.3
    table["lift"], table["z"] = shares[:, 0] / 0.3, rng.normal(0, 1, count)
    for number, zone in enumerate(ZONES, 1):
        table[f"zone {zone}"], table[f"area {zone}"] = shares[:, number], 0.7 / len(ZONES)
    for name in wrong_reasons.PROPERTIES:
        table[name] = rng.normal(100, 10, count)
    table["mean_grey"] += 30 * (table["true"] == run.classes[0])
    table["error"] = pd.Series([None] * count, dtype=object)
    table.loc[1, "error"], table.loc[1, ["in_lung", "lift", "z"]] = "The file is torn; fetch it again.", np.nan
    if tier == "full":
        bad = rng.random(count) < cheats
        table["background_probability"] = np.where(bad, 0.9, 0.3) + rng.uniform(-0.1, 0.1, count)
        for name in TESTS:
            table[f"evidence {name}"] = np.where(bad & (name == "background"), 2 + rng.random(count), 0.1)
        table["strength"] = table["evidence background"]
        table["verdict"] = np.where(
            bad, "wrong reason", np.where(rng.random(count) < 0.1, "undetermined", "none found")
        )
        table["facts"] = np.where(bad, json.dumps(["everything but the lungs is enough for the answer"]), "[]")
    if lime:
        nothing = (np.arange(count) % 10 == 0) | table["error"].notna()
        of_lime = np.random.default_rng([seed, 1])  # so that the rest is the same without LIME
        table["lime_r2"], table["lime_samples"] = of_lime.uniform(0.6, 1, count), 200
        for name in ("in_lung", "lift", "z"):
            table[f"lime_{name}"] = table[name].sample(frac=1, random_state=seed).to_numpy()
        table["cam_lime"] = of_lime.uniform(-1, 1, count)
        table["cam_lime_chance"], table["cam_lime_blob"] = 0.3, -0.1
        undefined = ["lime_in_lung", "lime_lift", "lime_z", "cam_lime", "cam_lime_chance", "cam_lime_blob"]
        table.loc[nothing, undefined] = np.nan
        for name in ("lime_reason", "cam_lime_reason"):
            table[name] = np.where(nothing & table["error"].isna(), LIME_FOUND_NOTHING, None)
        table.loc[table["error"].notna(), ["lime_r2", "lime_samples"]] = np.nan
    info: dict[str, Any] = {
        "schema": 1, "tier": tier, "run": run.name, "classes": list(run.classes), "models": {f"{run.name}/fold-0": "ab"},
        "left_out": ["The radiographs of 7 of 307 cases are not at hand."], "changed_answers": 0,
        "thresholds": {"version": 4} if tier == "full" else None,
    }  # fmt: skip
    if lime:
        info["lime_seeds"] = 1
    path = run.folder / f"audit-{tier}.parquet"
    table.to_parquet(path)
    info["sha256"] = runs.sha256(path)
    path.with_suffix(".json").write_text(json.dumps(info), "utf-8")
    return table


def open_page(page: str, /, **query: str) -> AppTest:
    """A page as its address opens it."""
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    for key, value in query.items():
        at.query_params[key] = value
    at.switch_page(f"pages/{page}.py").run()
    assert not at.exception
    return at


def text_of(at: AppTest) -> str:
    """All that a page says."""
    return "\n".join(str(m.value) for m in (*at.markdown, *at.caption, *at.info, *at.warning))
