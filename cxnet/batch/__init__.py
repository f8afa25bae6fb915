"""Audit a whole run, or a folder of radiographs: many cases, several processes, nothing done twice.

Two tiers: "fast" predicts, finds the lungs, maps (Grad-CAM) and measures; "full" also makes the causal tests and
judges (:func:`cxnet.verdict.audit`). Either can have LIME too. What is written stands in :mod:`cxnet.wrong_reasons`.
A radiograph that is in memory already has its row from :func:`audit_radiograph`.

Every finished case is a line of ``.audit-<tier>.jsonl`` in the output folder at once. A later call with the same
settings and networks takes these over, and removes the file when the table is written. A file that cannot be used,
or that makes a worker die, costs its own row.

The same numbers whatever the workers: every worker, the only one too, runs its networks on one thread, rows are
sorted by case, and they all pass through the text of the journal.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from cxnet import __version__
from cxnet.analysis import NOTICE
from cxnet.batch.case import (
    LIME_COLUMNS,
    STABILITY,
    Row,
    audit_case,
    audit_radiograph,
    failed_row,
    properties,
    settings_of,
)
from cxnet.batch.planning import Plan, Task, plan
from cxnet.batch.workers import in_processes, on_scheduler
from cxnet.errors import SettingsError
from cxnet.thresholds import thresholds
from cxnet.weights import card
from cxnet.writing import write_files
from cxnet.wrong_reasons import PROPERTIES, SCHEMA, Tier

__all__ = [
    "Plan", "Row", "Task", "audit_case", "audit_radiograph", "failed_row", "files", "in_processes", "on_scheduler", "plan",
    "properties", "run_audit", "settings_told", "table",
]  # fmt: skip

#: Raised whenever a row's columns change, or what they mean: rows of an interrupted older audit are not taken over then.
ROWS = 2
SAY_EVERY_S = 10.0

Say = Callable[[str], None]


def settings_told(
    models: Mapping[str, str], classes: Sequence[str], tier: Tier, *, run: str | None = None, lime_seeds: int = 0
) -> dict[str, Any]:
    """Everything that rows depend on besides the files.

    Parameters
    ----------
    models : mapping of str to str
        Name of each network that is asked → checksum of its weights.
    classes : sequence of str
    tier : {"fast", "full"}
    run : str, optional
        Name of the run, of which it is an audit.
    lime_seeds : int
        As :class:`Task` has it.

    Returns
    -------
    dict
        Plain values for the ``.json`` beside a table.
    """
    analysis = asdict(settings_of(next(iter(models)), lime_seeds))
    analysis.pop("model")
    found = {
        "schema": SCHEMA,
        "tier": tier,
        "run": run,
        "classes": list(classes),
        "models": dict(models),
        "segmenter_sha256": card("unet").sha256,
        "analysis": analysis,
        "thresholds": asdict(thresholds()) if tier == "full" else None,
        "versions": {
            "cxnet": __version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "openvino": version("openvino"),
        },
    }
    return found | {"lime_seeds": lime_seeds} if lime_seeds else found


def _hash(settings: Mapping[str, Any]) -> str:
    """Of what one row depends on: the run's other networks do not count."""
    kept = {key: value for key, value in settings.items() if key not in ("models", "run", "classes")}
    return hashlib.sha256(json.dumps(kept | {"rows": ROWS}, sort_keys=True).encode()).hexdigest()[:16]


def _key(task: Task, settings: str) -> str:
    """Of one row: what it depends on, without where the file lies."""
    parts = [settings, task.case, task.file, task.model, task.model_sha256, task.tier, task.known]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _read_journal(path: Path) -> dict[str, Row]:
    """Rows by key. A line that was torn when the writer was killed is passed over; failed cases are tried again."""
    found: dict[str, Row] = {}
    if not path.is_file():
        return found
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
            row = entry["row"]
            if row["error"] is None:
                found[entry["key"]] = row
        except (ValueError, KeyError, TypeError):
            continue
    return found


def run_audit(
    planned: Plan,
    out: Path,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    say: Say = lambda sentence: None,
) -> tuple[Path, int]:
    """Audit everything planned and write ``audit-<tier>.parquet`` and ``.json``.

    Parameters
    ----------
    planned : Plan
    out : Path
        Folder to write to; that of the run, as a rule. Other files in it stay as they are.
    workers : int
        Processes of this machine.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers then do it.
    say : callable
        Gets a sentence now and then.

    Returns
    -------
    (path, failed) : tuple
        Of the table; and how many cases have an error.

    Raises
    ------
    SettingsError
        If the number of workers cannot work.
    """
    if not 1 <= workers <= 256:
        raise SettingsError(f"Workers must be from 1 to 256; received {workers}.")
    tier = planned.tasks[0].tier
    networks = {task.model: task.model_sha256 for task in planned.tasks}
    settings = settings_told(networks, planned.classes, tier, run=planned.run, lime_seeds=planned.tasks[0].lime_seeds)
    of_settings = _hash(settings)
    out.mkdir(parents=True, exist_ok=True)
    journal = out / f".audit-{tier}.jsonl"
    kept = _read_journal(journal)
    keys = {task: _key(task, of_settings) for task in planned.tasks}
    rows = {task: kept[key] for task, key in keys.items() if key in kept}
    todo = [task for task in planned.tasks if task not in rows]
    for note in planned.notes:
        say(note)
    if rows:
        say(f"{len(rows)} of {len(keys)} cases were done before; going on with the other {len(todo)}.")
    progress = _Progress(len(keys), len(rows), say)
    with journal.open("ab") as file:
        if file.tell() and not journal.read_bytes().endswith(b"\n"):
            file.write(b"\n")
        results = on_scheduler(todo, scheduler) if scheduler else in_processes(todo, workers)
        with closing(results):
            for task, line in results:
                file.write(f'{{"key": "{keys[task]}", "row": {line}}}\n'.encode())
                file.flush()
                rows[task] = json.loads(line)
                progress.one(rows[task]["error"])
    write_files(out, files(list(rows.values()), settings, notes=planned.notes, stored=planned.stored))
    journal.unlink()
    path = out / f"audit-{tier}.parquet"
    return path, sum(row["error"] is not None for row in rows.values())


class _Progress:
    """Says how far it is and how long it may take, every ten seconds."""

    def __init__(self, total: int, before: int, say: Say) -> None:
        self.total, self.before, self.say = total, before, say
        self.done = self.failed = 0
        self.start = self.said = time.monotonic()

    def one(self, error: str | None) -> None:
        self.done += 1
        self.failed += error is not None
        now = time.monotonic()
        ready = self.before + self.done
        if now - self.said < SAY_EVERY_S and ready < self.total:
            return
        self.said = now
        each = (now - self.start) / self.done
        left = each * (self.total - ready)
        ahead = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min" if left < 5400 else f"{left / 3600:.1f} h"
        self.say(
            f"{ready} of {self.total} cases, {each:.2f} s each, about {ahead} left"
            + (f"; {self.failed} failed" if self.failed else "")
        )


def table(rows: Sequence[Row], lime_seeds: int = 0) -> pa.Table:
    """Rows as a table with the columns and types of :mod:`cxnet.wrong_reasons`, whatever happens to be null.

    Parameters
    ----------
    rows : sequence of dict
        As :func:`audit_case` gives them, in any order.
    lime_seeds : int
        As :class:`Task` has it.

    Returns
    -------
    pyarrow.Table
        Sorted by case and fold.
    """
    ordered = sorted(rows, key=lambda row: (row["case"], -1 if row.get("fold") is None else row["fold"]))
    names = list(dict.fromkeys(name for row in sorted(ordered, key=len, reverse=True) for name in row))
    needed = ["predicted", "in_lung", "lift", "z", "lungs_area", *PROPERTIES]
    if lime_seeds:
        needed += [*LIME_COLUMNS, *(STABILITY if lime_seeds > 1 else ())]
    lacking = [name for name in needed if name not in names]
    return pa.table({name: _typed([row.get(name) for row in ordered], name) for name in [*names, *lacking]})


def files(
    rows: Sequence[Row],
    settings: Mapping[str, Any],
    *,
    notes: Sequence[str] = (),
    stored: Mapping[str, str] | None = None,
) -> dict[str, bytes]:
    """The table ``audit-<tier>.parquet`` and its description, the ``.json``, by file name.

    Parameters
    ----------
    rows : sequence of dict
        As :func:`audit_case` gives them, in any order.
    settings : mapping
        As :func:`settings_told` gives them.
    notes : sequence of str
        What was left out and why, a sentence each.
    stored : mapping of case to str, optional
        The class that a run's table calls for each case.
    """
    stored, name = stored or {}, f"audit-{settings['tier']}"
    described = dict(settings) | {
        "notice": NOTICE,
        "cases": len(rows),
        "errors": sum(row["error"] is not None for row in rows),
        "left_out": list(notes),
        "changed_answers": sum(
            row["error"] is None and row["predicted"] != stored.get(row["case"], row["predicted"]) for row in rows
        ),
        "verdicts": dict(sorted(Counter(row["verdict"] for row in rows if row.get("verdict")).items())),
    }
    buffer = pa.BufferOutputStream()
    parquet.write_table(table(rows, settings.get("lime_seeds", 0)), buffer, compression="zstd")
    content = buffer.getvalue().to_pybytes()
    described["sha256"] = hashlib.sha256(content).hexdigest()
    text = json.dumps(described, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return {f"{name}.parquet": content, f"{name}.json": text.encode()}


_WORDS = frozenset(
    {"case", "file", "group", "source", "view", "true", "predicted", "model", "model_sha256", "error"}
    | {"map_reason", "lungs_reasons", "verdict", "facts", "lime_reason", "cam_lime_reason"}
)
_COUNTS = frozenset({"fold", "thresholds_version", "passes", "lime_samples"})
_FLAGS = frozenset({"lungs_ok", "map_key", "causal_key", "lime_stable"})


def _typed(values: list[Any], name: str) -> pa.Array:
    """A column whose type does not depend on what happens to be null."""
    if name in _WORDS:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    kind = pa.int64() if name in _COUNTS else pa.bool_() if name in _FLAGS else pa.float64()
    return pa.array(values, kind)
