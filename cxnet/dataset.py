"""Tables of labelled radiographs, and folds that keep a patient on one side.

A data set is a manifest CSV with the columns ``file`` (path below the manifest's folder), ``label`` and
``group`` (images of one patient, or near copies of one another, share a group).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from cxnet.errors import DatasetError


def read_manifest(path: Path, labels: tuple[str, ...] | None = None) -> pd.DataFrame:
    """Read a manifest, keep the rows of the given labels and check that their files exist.

    Raises
    ------
    DatasetError
        If the file is missing, lacks a column, or names pictures that are not there.
    """
    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"There is no manifest at {path}; give the path of a CSV with file, label and group.")
    table = pd.read_csv(path, dtype={"group": str, "patient": str}, keep_default_na=False)
    missing = {"file", "label", "group"} - set(table.columns)
    if missing:
        raise DatasetError(f"The manifest {path.name} lacks the column(s) {', '.join(sorted(missing))}; add them.")
    if labels is not None:
        table = table[table["label"].isin(labels)].reset_index(drop=True)
    absent = [f for f in table["file"] if not (path.parent / f).is_file()]
    if absent:
        raise DatasetError(f"{len(absent)} pictures of {path.name} are missing, the first is {absent[0]}.")
    return table


def grouped_folds(labels: list[str], groups: list[str], folds: int = 5, seed: int = 0) -> NDArray[np.int64]:
    """Fold of each case, stratified by label, no group on two sides.

    Returns
    -------
    int64 array (cases,)
        From 0 to folds - 1; the same for the same input and seed.

    Raises
    ------
    DatasetError
        If a class is missing from a fold.
    """
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold = np.full(len(labels), -1, dtype=np.int64)
    for number, (_, test) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
        fold[test] = number
    for number in range(folds):
        lacking = set(labels) - {label for label, f in zip(labels, fold, strict=True) if f == number}
        if lacking:
            raise DatasetError(f"Fold {number} has no case of {', '.join(sorted(lacking))}; use fewer folds.")
    return fold
