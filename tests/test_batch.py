"""Audits of many cases: the same numbers whatever the workers, nothing done twice, a bad file costs one row."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from cxnet import batch, runs, verdict, wrong_reasons
from cxnet.__main__ import main
from cxnet.analysis import Analysis, Models, Settings, analyse, load_models
from cxnet.audit import ZONES
from cxnet.batch import case
from cxnet.errors import DatasetError, SettingsError, WeightsError
from cxnet.explain.lime import LimeExplanation, LimeSettings
from cxnet.phantom import make_phantom
from cxnet.radiograph import open_radiograph
from cxnet.weights import card

GOOD = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five phantoms, one of them twice, and a file that is no picture."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "below").mkdir()
    for number in range(GOOD):
        path = root / ("below" if number > 2 else "") / f"{number}.png"
        cv2.imwrite(str(path), make_phantom(number, 256).pixels)
    (root / "copy.png").write_bytes((root / "0.png").read_bytes())
    (root / "bad.png").write_text("no picture")
    (root / "notes.txt").write_text("no radiograph")
    return root


@pytest.fixture(scope="module")
def one_worker(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one")
    path, failed = batch.run_audit(batch.plan(folder), out, workers=1)
    assert failed == 1 and sorted(p.name for p in out.iterdir()) == ["audit-fast.json", "audit-fast.parquet"]
    return path


def same(a: Path, b: Path) -> bool:
    """Whether table and description have the same bytes."""
    return (
        a.read_bytes() == b.read_bytes() and a.with_suffix(".json").read_bytes() == b.with_suffix(".json").read_bytes()
    )


def test_rows_are_the_analysis(folder: Path, one_worker: Path) -> None:
    stored = wrong_reasons.open_audit(one_worker.parent, "fast")
    table = stored.table
    assert table["case"].is_monotonic_increasing and len(table) == GOOD + 1
    assert stored.info["left_out"] == ["Left out as copies of other files: 1."]
    (bad,) = table[table["error"].notna()].to_dict("records")
    assert bad["file"] == "bad.png" and "no PNG" in bad["error"] and np.isnan(bad["lift"])
    row = table[table["file"] == "below/3.png"].iloc[0]
    analysis = analyse(open_radiograph(folder / "below" / "3.png"), load_models(), Settings())
    scores = {score.name: score.value for score in analysis.scores["grad-cam"]}
    assert row["predicted"] == analysis.prediction.predicted
    probabilities = [row[f"probability {name}"] for name in stored.classes]
    assert probabilities == pytest.approx(analysis.prediction.probabilities, abs=1e-5)
    assert row["lift"] == pytest.approx(scores["lift"], abs=1e-4)
    assert row["z"] == pytest.approx(scores["z against shifted copies"], abs=1e-3)
    assert row["in_lung"] + sum(row[f"zone {zone}"] for zone in ZONES) == pytest.approx(1, abs=1e-5)
    assert row["lungs_area"] + sum(row[f"area {zone}"] for zone in ZONES) == pytest.approx(1)
    assert row["model_sha256"] == card("covid-cxnet").sha256


def test_two_workers_give_the_same_bytes(folder: Path, one_worker: Path, tmp_path: Path) -> None:
    path, _ = batch.run_audit(batch.plan(folder), tmp_path, workers=2)
    assert same(path, one_worker)


def test_killed_and_resumed_gives_the_same_bytes(folder: Path, one_worker: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cxnet", "audit", str(folder), "--workers", "1", "--out", str(tmp_path)]
    journal = tmp_path / ".audit-fast.jsonl"
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 120
        while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 2):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.005)
    finally:
        process.kill()
        process.communicate()
    assert not (tmp_path / "audit-fast.parquet").exists()
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + lines[1][:50])  # torn as by a full disk
    kept = json.loads(lines[0])["row"]["error"] is None
    said: list[str] = []
    path, failed = batch.run_audit(batch.plan(folder), tmp_path, workers=1, say=said.append)
    assert same(path, one_worker) and failed == 1 and not journal.exists()
    assert kept == any(sentence.startswith("1 of 6 cases were done before") for sentence in said)
    assert said[-1].startswith("6 of 6 cases") and "1 failed" in said[-1]


def test_rows_of_other_settings_are_not_taken_over(folder: Path, one_worker: Path, tmp_path: Path) -> None:
    row = {"case": "x", "error": None}
    journal = tmp_path / ".audit-fast.jsonl"
    journal.write_text(json.dumps({"key": "of other settings", "row": row}) + "\n", "utf-8")
    path, _ = batch.run_audit(batch.plan(folder), tmp_path, workers=1)
    assert same(path, one_worker)


def test_a_killed_worker_loses_nothing(folder: Path) -> None:
    tasks = batch.plan(folder).tasks
    results = batch.in_processes(tasks, 1)
    found = dict([next(results)])
    (child,) = [p for p in multiprocessing.active_children() if p.name.startswith("SpawnProcess")]
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    found |= dict(results)
    assert set(found) == set(tasks)
    errors = [json.loads(line)["error"] for line in found.values()]
    assert sum(error is not None for error in errors) == 1  # the file that is no picture


def test_dask_cluster_whose_worker_is_killed(folder: Path, one_worker: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    )
    killed = []

    def kill_one(sentence: str) -> None:
        if not killed:
            killed.append(cluster.workers[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    with cluster, pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "SAY_EVERY_S", 0.0)
        path, failed = batch.run_audit(batch.plan(folder), tmp_path, scheduler=cluster.scheduler_address, say=kill_one)
    assert killed and failed == 1 and same(path, one_worker)


def test_without_distributed_one_sentence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingsError, match="pip install distributed"):
        batch.run_audit(batch.plan(folder), tmp_path, scheduler="tcp://127.0.0.1:1")


# ------------------------------------------------------------------------------------------------- planning of runs


def stored_run(root: Path, folder: Path, **info: object) -> runs.Run:
    """A run over the phantoms, with a file that has changed since and one that is nowhere."""
    files = ["0.png", "1.png", "bad.png", "nowhere.png"]
    cases = [runs.sha256(folder / name) for name in files[:2]] + ["0" * 64, "1" * 64]
    table = pd.DataFrame({"case": cases, "file": files, "group": list("abcd"), "source": ["x"] * 4, "view": ["PA"] * 4})
    table["true"] = table["predicted"] = "Normal"
    described = {"classes": list(card("covid-cxnet").classes)} | info
    return runs.write_run(root / "stored", described, {0: table})


def test_a_run_is_asked_through_its_own_network(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = card("covid-cxnet")
    run = stored_run(tmp_path, folder, weights={"name": known.name, "sha256": known.sha256})
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    monkeypatch.setenv("CXNET_RUNS", str(tmp_path))
    code = main(["audit", run.name, "--images", str(folder), "--workers", "1", "--out", str(run.folder)])
    told = capsys.readouterr()
    assert code == 1 and "2 of 3 cases audited" in told.out
    assert "\nbad.png: This is no PNG" in told.err
    assert all((run.folder / name).read_bytes() == content for name, content in before.items())
    stored = wrong_reasons.open_audit(run.folder, "fast")
    assert stored.info["left_out"] == ["The radiographs of 1 of 4 cases are not at hand."]
    assert stored.table["true"].tolist() == ["Normal"] * 3 and set(stored.table["fold"]) == {0}
    (error,) = stored.table["error"].dropna()
    assert "no PNG" in error
    good = stored.audited
    assert stored.info["changed_answers"] == int((good["predicted"] != "Normal").sum())
    assert runs.check(runs.open_run(run.folder)) == []


def test_what_cannot_be_audited_says_why(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(WeightsError, match="stores answers but no network"):
        batch.plan(stored_run(tmp_path / "a", folder).folder, [folder])
    other = stored_run(tmp_path / "b", folder, weights={"name": "covid-cxnet", "sha256": "0" * 64})
    with pytest.raises(WeightsError, match="made by other weights"):
        batch.plan(other.folder, [folder])
    run = stored_run(tmp_path / "c", folder, weights={"name": "covid-cxnet"})
    with pytest.raises(SettingsError, match="leave --model out"):
        batch.plan(run.folder, [folder], model="covid-cxnet")
    with pytest.raises(DatasetError, match="None of the run's 4 radiographs"):
        batch.plan(run.folder, [tmp_path])
    for nowhere in (tmp_path / "nowhere", Path("nowhere")):
        with pytest.raises(DatasetError, match=r"neither a run nor a folder .*runs list"):
            batch.plan(nowhere)
    table = pd.DataFrame({"case": ["1"], "true": ["Normal"], "predicted": ["Normal"]})
    told = {"classes": list(card("covid-cxnet").classes), "weights": {"name": "covid-cxnet"}}
    fileless = runs.write_run(tmp_path / "fileless", told, {0: table})
    with pytest.raises(DatasetError, match=r"which files its cases are.*; audit the folder of its radiographs"):
        batch.plan(fileless.folder)
    with pytest.raises(WeightsError, match="do not classify"):
        batch.plan(folder, model="unet")


def test_a_name_is_a_run_s_unless_something_here_is_called_so(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_run(tmp_path, folder, weights={"name": "covid-cxnet"})
    monkeypatch.setenv("CXNET_RUNS", str(tmp_path))
    monkeypatch.chdir(folder)
    assert batch.plan(Path("stored"), [folder]).run == "stored"
    assert batch.plan("stored", [str(folder)]).run == "stored"  # type: ignore[arg-type, list-item]
    here = tmp_path / "elsewhere" / "stored"
    here.mkdir(parents=True)
    (here / "0.png").write_bytes((folder / "0.png").read_bytes())
    monkeypatch.chdir(here.parent)
    assert batch.plan(Path("stored")).run is None


def test_the_first_twenty_files_that_failed_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(23):
        (tmp_path / f"{number:02d}.png").write_text(f"no picture {number}")

    def in_this_process(tasks: list[batch.Task], workers: int) -> Iterator[tuple[batch.Task, str]]:
        for task in tasks:
            error = None if task.file == "00.png" else "It is broken."
            yield task, json.dumps({"case": task.case, "file": task.file, "error": error, "predicted": None})

    monkeypatch.setattr(batch, "in_processes", in_this_process)
    assert main(["audit", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    named = [line for line in lines if line.endswith(".png: It is broken.")]
    assert len(named) == len(set(named)) == 20 and not any(line.startswith("00.png") for line in named)
    assert lines[-1].startswith("2 more failed; the column error of ")


def test_a_changed_file_is_one_error(folder: Path) -> None:
    (task, *_) = [task for task in batch.plan(folder).tasks if task.file == "1.png"]
    changed = batch.Task("0" * 64, task.path, task.file, task.model, task.model_sha256, "fast")
    assert "has changed" in batch.audit_case(changed, load_models())["error"]


# ------------------------------------------------------------------------------------------------------------- LIME

SMALL = "base-cnn-v2/fold-0"


@dataclass(frozen=True)
class Explained:
    """A phantom, its row, its analysis, and networks of which LIME asks one that is linear in the pixels."""

    task: batch.Task
    models: Models
    row: dict[str, Any]
    analysis: Analysis


@pytest.fixture(scope="module")
def explained(folder: Path) -> Iterator[Explained]:
    (task,) = batch.plan(folder / "1.png", model=SMALL, lime_seeds=1).tasks
    models = load_models(SMALL)
    slope = np.linspace(-1, 1, models.classifier.card.input_size_px)

    def linear(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.repeat((pictures[..., 0] * slope).mean(axis=(1, 2))[:, None], 3, axis=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.classifier, "logits", linear)
        analysis = analyse(open_radiograph(task.path), models, Settings(model=SMALL, methods=("grad-cam", "lime")))
        yield Explained(task, models, batch.audit_case(task, models), analysis)


def test_without_lime_nothing_of_it_is_stored(one_worker: Path) -> None:
    stored = wrong_reasons.open_audit(one_worker.parent, "fast")
    assert not [name for name in (*stored.table.columns, *stored.info) if "lime" in name]
    assert stored.info["analysis"]["methods"] == ["grad-cam"]


def test_lime_figures_are_the_analysis(explained: Explained) -> None:
    row, lime = explained.row, explained.analysis.explanations["lime"]
    assert row["error"] is None and row["lime_r2"] == lime.r2_held_out > 0.9  # the surrogate of a linear network
    assert (row["lime_samples"], row["lime_stable"]) == (lime.samples, lime.stable)
    scores = {score.name: score.value for score in explained.analysis.scores["lime"]}
    for column, name in (("in_lung", "in-lung energy"), ("lift", "lift"), ("z", "z against shifted copies")):
        assert row[f"lime_{column}"] == scores[name] != row[column]  # not Grad-CAM's
    agreement = explained.analysis.agreement[0]
    assert row["cam_lime"] == agreement.value and -1 <= row["cam_lime"] <= 1
    assert row["cam_lime_chance"] == agreement.null["95 % of shifted copies lie below"] <= 1
    assert row["cam_lime_blob"] == agreement.null["centred blob"] != row["cam_lime"]
    assert row["lime_reason"] is row["cam_lime_reason"] is None and not {"lime_vsi", "lime_csi"} & set(row)


def test_an_unexpected_error_costs_one_row(
    explained: Explained, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(batch.case, "analyse", fails)
    row = batch.audit_case(explained.task, explained.models)
    assert row["error"].startswith("It failed unexpectedly (ZeroDivisionError); ")
    assert row["case"] == explained.task.case and row["file"] == explained.task.file
    assert "Traceback" in caplog.text and explained.task.file in caplog.text


def test_a_file_that_cannot_be_read_is_left_out_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, unlocked = batch.plan(folder, model=SMALL), batch.planning.sha256
    copies = Counter(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    name = next(task.file for task in whole.tasks if copies[(folder / task.file).read_bytes()] == 1)

    def locked(path: Path) -> str:
        if path == folder / name:
            raise PermissionError(13, "Permission denied")
        return unlocked(path)

    monkeypatch.setattr(batch.planning, "sha256", locked)
    found = batch.plan(folder, model=SMALL)
    assert len(found.tasks) == len(whole.tasks) - 1
    assert f"Left out, as it cannot be read (Permission denied): {name}." in found.notes
    with pytest.raises(DatasetError, match="Permission denied"):
        batch.plan(folder / name, model=SMALL)


def test_undefined_lime_figures_say_why(explained: Explained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explained.models.classifier, "logits", lambda pictures: np.zeros((len(pictures), 3)))
    row = batch.audit_case(replace(explained.task, lime_seeds=2), explained.models)
    assert row["error"] is None and row["lift"] is not None
    names = ("lime_in_lung", "lime_lift", "lime_z", "lime_vsi", "lime_csi", "cam_lime")
    assert [row[name] for name in names] == [None] * 6
    assert "no evidence" in row["lime_reason"] and "LIME found no superpixel" in row["cam_lime_reason"]
    json.dumps(row, allow_nan=False)


def test_stability_known_by_hand(explained: Explained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the five leading superpixels the second seed has four, the third three, and those two share two."""
    lime = explained.analysis.explanations["lime"]
    assert lime.weights is not None and lime.standard_errors is not None and lime.segments is not None
    order = np.argsort(-np.abs(lime.weights), kind="stable")
    tops = {1: [*order[1:5], order[5]], 2: [*order[:3], order[6], order[7]]}
    asked: list[int] = []

    def explain(stack: Any, segments: Any, predict: Any, targets: list[int], settings: LimeSettings) -> Any:
        assert segments is lime.segments and stack is explained.analysis.stack
        asked.append(settings.seed)
        weights = np.zeros(len(lime.weights))
        weights[tops[settings.seed]] = -1.0
        exact = np.zeros(len(lime.weights))
        yield {targets[0]: LimeExplanation(0, weights, exact, 0.0, 1.0, None, 16, True, True, lime.segments)}

    monkeypatch.setattr(case, "explain_lime", explain)
    assert case._stability(explained.analysis, explained.models, 2)[0] == pytest.approx(4 / 5)
    assert case._stability(explained.analysis, explained.models, 3)[0] == pytest.approx((4 / 5 + 3 / 5 + 2 / 5) / 3)
    assert asked == [1, 1, 2]
    # CSI: the second seed's weights are -1 or 0 and known exactly, the first's are LIME's own with their errors
    drawn = np.zeros(len(lime.weights))
    drawn[tops[1]] = -1.0
    overlapping = float((np.abs(lime.weights - drawn) <= 1.96 * lime.standard_errors).mean())
    assert case._stability(explained.analysis, explained.models, 2)[1] == pytest.approx(overlapping)
    monkeypatch.setattr(case, "analyse", lambda *_: explained.analysis)
    row = batch.audit_case(replace(explained.task, lime_seeds=2), explained.models)
    assert (row["lime_vsi"], row["lime_csi"]) == (pytest.approx(4 / 5), pytest.approx(overlapping))


def test_more_seeds_draw_other_samples(explained: Explained, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = explained.models.classifier.logits
    drawn: list[str] = []

    def logits(pictures: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        drawn.append(hashlib.sha256(pictures.tobytes()).hexdigest())
        return linear(pictures)

    monkeypatch.setattr(explained.models.classifier, "logits", logits)
    few = replace(explained.analysis.settings, lime=LimeSettings(samples=16, batch_size=16))
    case._stability(replace(explained.analysis, settings=few), explained.models, 4)
    assert len(set(drawn)) == len(drawn) == 3


def test_a_table_with_lime_is_typed_whatever_fails(
    explained: Explained, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_this_process(tasks: list[batch.Task], workers: int) -> Iterator[tuple[batch.Task, str]]:
        for task in tasks:
            row = explained.row if task.file == "1.png" else batch.audit_case(task, explained.models)
            yield task, json.dumps(row, allow_nan=False)

    monkeypatch.setattr(batch, "in_processes", in_this_process)
    bad, good = tmp_path / "bad", tmp_path / "good"
    for source in (bad, good):
        source.mkdir()
        (source / "bad.png").write_text("no picture")
    (good / "1.png").write_bytes((folder / "1.png").read_bytes())
    tables = []
    for source in (bad, good):
        path, failed = batch.run_audit(batch.plan(source, model=SMALL, lime_seeds=1), source / "out")
        stored = wrong_reasons.open_audit(path.parent, "fast")
        assert failed == 1 and stored.info["lime_seeds"] == 1
        assert stored.info["analysis"]["methods"] == ["grad-cam", "lime"]
        assert stored.table.loc[stored.table["error"].notna(), "cam_lime"].isna().all()
        tables.append(parquet.read_schema(path))
    types = {name: str(tables[1].field(name).type) for name in tables[1].names if "lime" in name}
    assert types == {
        "lime_r2": "double", "lime_samples": "int64", "lime_stable": "bool", "lime_in_lung": "double",
        "lime_lift": "double", "lime_z": "double", "lime_reason": "string", "cam_lime": "double",
        "cam_lime_chance": "double", "cam_lime_blob": "double", "cam_lime_reason": "string",
    }  # fmt: skip
    assert {name: str(tables[0].field(name).type) for name in tables[0].names if "lime" in name} == types


def test_rows_are_taken_over_only_with_the_same_lime(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def stopped_after_two(tasks: list[batch.Task], workers: int):  # type: ignore[no-untyped-def]
        asked.append(len(tasks))
        for number, task in enumerate(tasks):
            if number == 2:
                raise KeyboardInterrupt
            yield task, json.dumps({"case": task.case, "file": task.file, "error": None})

    monkeypatch.setattr(batch, "in_processes", stopped_after_two)
    for seeds in (0, 1, 0, 2, 1):
        with pytest.raises(KeyboardInterrupt):
            batch.run_audit(batch.plan(folder, lime_seeds=seeds), tmp_path)
    assert asked == [6, 6, 4, 6, 4]


def test_the_command_asks_for_lime(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[int]] = []

    def run_audit(planned: batch.Plan, out: Path, **_: object) -> tuple[Path, int]:
        asked.append({task.lime_seeds for task in planned.tasks})
        return out, 0

    monkeypatch.setattr(batch, "run_audit", run_audit)
    for options in ([], ["--lime"], ["--lime", "--lime-seeds", "3"]):
        assert main(["audit", str(folder), "--out", str(tmp_path), *options]) == 0
    assert asked == [{0}, {1}, {3}]
    for options in (["--lime-seeds", "3"], ["--lime", "--lime-seeds", "0"], ["--lime", "--lime-seeds", "21"]):
        assert main(["audit", str(folder), "--out", str(tmp_path), *options]) != 0
    assert len(asked) == 3


# --------------------------------------------------------------------------------------------------------- one case


def test_properties_of_known_pictures() -> None:
    flat = batch.properties(np.full((100, 200), 120, np.uint8))
    assert (flat["mean_grey"], flat["contrast"], flat["sharpness"]) == (120, 0, 0)
    assert (flat["width"], flat["height"], flat["aspect"], flat["border_darkness"]) == (200, 100, 2, 0)
    framed = np.full((100, 100), 120, np.uint8)
    framed[:5] = framed[-5:] = 0
    ring = 100 * 100 - 90 * 90
    assert batch.properties(framed)["border_darkness"] == pytest.approx(1000 / ring)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300)).astype(np.uint8)
    soft = cv2.GaussianBlur(noise, (0, 0), 3)
    assert batch.properties(noise)["sharpness"] > 10 * batch.properties(np.asarray(soft, np.uint8))["sharpness"]
    marked = make_phantom(1, 512, shortcut="marker")
    found, clean = batch.properties(marked.pixels), batch.properties(make_phantom(1, 512).pixels)
    assert found["markers"] > clean["markers"] and found["marker_area"] > clean["marker_area"]


@pytest.mark.slow
def test_full_tier_is_the_verdict_of_the_library(folder: Path) -> None:
    (task, *_) = [task for task in batch.plan(folder, tier="full").tasks if task.file == "1.png"]
    models = load_models()
    row = batch.audit_case(task, models)
    found = verdict.audit(analyse(open_radiograph(task.path), models, Settings()), models)
    assert row["verdict"] == found.verdict.name and row["verdict"] in verdict.NAMES
    assert {wrong_reasons.WRONG, wrong_reasons.UNDETERMINED} <= set(verdict.NAMES)
    assert json.loads(row["facts"]) == list(found.verdict.facts)
    for name, value in found.verdict.evidence.values.items():
        assert row[f"evidence {name}"] == pytest.approx(value, abs=1e-4)
