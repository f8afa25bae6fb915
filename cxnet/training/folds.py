"""Which cases belong together, and which case stands in which fold."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet import runs
from cxnet.dataset import join_groups, near_duplicates
from cxnet.errors import DatasetError


def check_groups_of_classes(table: pd.DataFrame, folds: int) -> None:
    """Groups are not divided, so a class needs one for each fold."""
    for label, groups in table.groupby("label")["group"].nunique().items():
        if groups < folds:
            raise DatasetError(
                f"The class {label!r} has {groups} group(s) that are independent, and {folds} folds need as many; use "
                "fewer folds or add cases."
            )


def join_copies(table: pd.DataFrame, folder: Path, cache: Path, say: Callable[[str], None]) -> tuple[pd.DataFrame, int]:
    """Near-duplicates share a group, also where the manifest does not know of them; found once a list of files."""
    files = [folder / file for file in table["file"]]
    key = hashlib.sha256("\n".join(runs.sha256(file) for file in files).encode("ascii")).hexdigest()
    kept = cache / f"copies-{key[:24]}.json"
    if kept.exists():
        pairs = [(int(a), int(b)) for a, b in json.loads(kept.read_text("utf-8"))]
    else:
        say("looking for near-duplicates")
        pairs = [(pair.first, pair.second) for pair in near_duplicates(files, workers=os.cpu_count() or 1).pairs]
        kept.parent.mkdir(parents=True, exist_ok=True)
        written = kept.with_suffix(f".{os.getpid()}")
        written.write_text(json.dumps(pairs), "utf-8")
        os.replace(written, kept)
    joined = join_groups(table, pairs)
    groups = table["group"].astype(str).to_list()
    crossing = sum(groups[a] != groups[b] for a, b in pairs)
    if crossing:
        say(f"{crossing} pairs of near-duplicates stand in different groups of the manifest; their groups were joined")
    return joined, crossing


def split_checksum(table: pd.DataFrame, fold: NDArray[np.int64]) -> str:
    """Which case stands where and in which fold: in another order the folds, or the batches, would be others."""
    sources = table["source"] if "source" in table.columns else [""] * len(table)
    rows = [[str(file), str(source), int(k)] for file, source, k in zip(table["file"], sources, fold, strict=True)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
