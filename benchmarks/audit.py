"""What an audit costs, as ratios to bare forward passes measured in the same run.

    python -m benchmarks.audit [--data DIR] [--pictures 6] [--repeats 5] [--skip-full] [--skip-workers]

Aims: fast tier at most 2 x a bare forward pass a picture; full tier at most 60 passes (median), and at most 1.15 x the cost of
as many bare passes; two workers at least 1.6 x one. Networks run on one thread, as they do in every worker.
Without --data synthetic radiographs of 512 px are used.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from benchmarks.speed import paired
from cxnet import batch
from cxnet.analysis import Models, Settings, analyse
from cxnet.batch.workers import models
from cxnet.phantom import make_phantom
from cxnet.radiograph import open_radiograph
from cxnet.verdict import audit
from cxnet.weights import card
from cxnet.wrong_reasons import Tier


def pictures(data: Path | None, count: int, folder: Path) -> tuple[batch.Task, ...]:
    """Radiographs of a folder, evenly chosen, or phantoms."""
    if data is None:
        for number in range(count):
            cv2.imwrite(str(folder / f"{number}.png"), make_phantom(number, 512).pixels)
        return batch.plan(folder).tasks
    files = sorted(p for p in data.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    for path in files[:: max(1, len(files) // count)][:count]:
        (folder / path.name).write_bytes(path.read_bytes())
    return batch.plan(folder).tasks


def fast_tier(tasks: tuple[batch.Task, ...], loaded: Models, repeats: int) -> None:
    """A row of the fast tier, file to figures, against a bare pass of the classifier."""
    ratios = []
    for task in tasks:
        stack = loaded.classifier.prepare(open_radiograph(task.path).pixels)
        jobs = {
            "bare": lambda stack=stack: loaded.classifier.logits(stack[None]),
            "row": lambda task=task: batch.audit_case(task, loaded),
            "analysis": lambda task=task: analyse(open_radiograph(task.path), loaded, Settings(model=task.model)),
            "segment": lambda task=task: loaded.segmenter(open_radiograph(task.path).pixels),
            "properties": lambda task=task: batch.properties(open_radiograph(task.path).pixels),
        }
        found = paired(jobs, repeats)
        ratios.append([found[name] / found["bare"] for name in ("row", "analysis", "segment", "properties")])
    row, analysis, segment, looks = np.median(ratios, axis=0)
    print(
        f"fast tier: {analysis:.2f} x a bare forward pass (aim 2), file to figures, median of {len(tasks)} pictures; "
        f"{segment:.2f} of it for reading and the lungs. With the picture's properties for the table {row:.2f}, of which "
        f"{looks:.2f} for reading and these"
    )


def full_tier(tasks: tuple[batch.Task, ...], loaded: Models) -> None:
    """Causal tests and verdict against the same number of bare passes, one at a time and in batches of eight."""
    passes, single, batched = [], [], []
    for task in tasks:
        analysis = analyse(open_radiograph(task.path), loaded, Settings(model=task.model))
        start = time.perf_counter()
        found = audit(analysis, loaded)
        took = time.perf_counter() - start
        eight = np.repeat(analysis.stack[None], 8, axis=0)
        for sizes, times in ((1, single), (8, batched)):
            start = time.perf_counter()
            for at in range(0, found.passes, sizes):
                loaded.classifier.logits(eight[: min(sizes, found.passes - at)])
            times.append(took / (time.perf_counter() - start))
        passes.append(found.passes)
    print(
        f"full tier: {median(passes):.0f} passes (median; {min(passes)} to {max(passes)}; aim 60), "
        f"{median(single):.2f} x as many bare passes (aim 1.15), {median(batched):.2f} x them in batches of eight"
    )


def two_workers(tasks: tuple[batch.Task, ...], tier: Tier) -> None:
    """Cases a second of two workers over one; the first third, in which processes start and load, is left out."""
    many = [task for _ in range(max(1, 72 // len(tasks))) for task in tasks]
    rates: dict[int, list[float]] = {}
    for workers in (1, 2, 1, 2):
        results = batch.in_processes(many, workers)
        for _ in range(len(many) // 3):
            next(results)
        start = time.perf_counter()
        count = sum(1 for _ in results)
        rates.setdefault(workers, []).append(count / (time.perf_counter() - start))
    print(
        f"two workers: {median(rates[2]) / median(rates[1]):.2f} x one on {os.cpu_count()} cores (aim 1.6), {tier} tier; "
        f"load of the machine {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    """Print all ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-full", action="store_true")
    parser.add_argument("--skip-workers", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        tasks = pictures(options.data, options.pictures, Path(folder))
        known = card("covid-cxnet")
        loaded = models(known.name, known.sha256, "")
        fast_tier(tasks, loaded, options.repeats)
        if not options.skip_full:
            full_tier(tasks[: max(1, len(tasks) // 2)], loaded)
        if not options.skip_workers:
            two_workers(tasks, "fast")


if __name__ == "__main__":
    main()
