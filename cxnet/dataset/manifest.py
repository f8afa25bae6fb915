"""Tables of labelled radiographs, and folds that keep a patient on one side."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedGroupKFold

from cxnet.dataset.duplicates import joined
from cxnet.dataset.layouts import list_folders
from cxnet.errors import DatasetError
from cxnet.writing import write_files

REQUIRED = ("file", "label", "group")
_TEXT = ("file", "label", "group", "patient", "source", "view", "findings", "lung_mask")


def read_manifest(path: Path, labels: tuple[str, ...] | None = None) -> pd.DataFrame:
    """Read a manifest, keep the rows of the given labels and check that their files exist.

    Parameters
    ----------
    path : Path
        A CSV; or a folder with a ``manifest.csv``; or a folder with a folder of radiographs per class.
    labels : tuple of str, optional
        Rows of other labels are left out.

    Returns
    -------
    DataFrame
        With at least ``file``, ``label`` and ``group``, all str. Files are relative to the CSV's folder or absolute.

    Raises
    ------
    DatasetError
        If the file is missing or no table, lacks a column or a value, or names pictures that are not there.

    Notes
    -----
    A folder per class says nothing of patients and copies: every picture is a group of its own there, and files are
    absolute. To have copies found first, import the folder (:func:`cxnet.dataset.import_dataset`).
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "manifest.csv").is_file():
            return _of_labels(list_folders(path)[0], labels, path)
        path = path / "manifest.csv"
    if not path.is_file():
        raise DatasetError(
            f"There is no manifest at {path}; give the path of a CSV with {', '.join(REQUIRED)}, or a folder with a "
            "folder of radiographs per class."
        )
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str), keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        raise DatasetError(
            f"The manifest {path.name} is no table of comma-separated values in UTF-8; save it as one."
        ) from None
    missing = set(REQUIRED) - set(table.columns)
    if missing:
        raise DatasetError(f"The manifest {path.name} lacks the column(s) {', '.join(sorted(missing))}; add them.")
    for column in REQUIRED:
        empty = np.flatnonzero(table[column].str.strip() == "")
        if len(empty):
            raise DatasetError(
                f"The manifest {path.name} has {len(empty)} row(s) without a {column}, the first is line "
                f"{empty[0] + 2}; fill them in or delete them."
            )
    table = _of_labels(table, labels, path)
    absent = [file for file in table["file"] if not (path.parent / file).is_file()]
    if absent:
        raise DatasetError(
            f"{len(absent)} pictures of {path.name} are missing, the first is {absent[0]}; paths count from the "
            "manifest's folder."
        )
    return table


def _of_labels(table: pd.DataFrame, labels: tuple[str, ...] | None, path: Path) -> pd.DataFrame:
    if labels is None:
        return table
    kept = table[table["label"].isin(labels)].reset_index(drop=True)
    if kept.empty:
        raise DatasetError(
            f"{path.name} has no case of {', '.join(labels)}; its labels are {', '.join(sorted(set(table['label'])))}."
        )
    return kept


def write_manifest(table: pd.DataFrame, path: Path) -> None:
    """Write a manifest; files below its folder are named from there, files elsewhere by their absolute path.

    Raises
    ------
    DatasetError
        If a required column is missing.
    SettingsError
        If the file cannot be written; what stood there stays.
    """
    path = Path(path)
    missing = set(REQUIRED) - set(table.columns)
    if missing:
        raise DatasetError(f"A manifest needs the column(s) {', '.join(sorted(missing))}, and the table lacks them.")
    table = table.copy()
    for column in ("file", "lung_mask"):
        if column in table:
            table[column] = [_seen_from(file, path.parent) for file in table[column]]
    write_files(path.parent, {path.name: table.to_csv(index=False, lineterminator="\n").encode()})


def _seen_from(file: str, folder: Path) -> str:
    """Relative to the folder where the file lies below it; relative and empty ones stay."""
    if not file or not Path(file).is_absolute():
        return file
    inside = Path(file).resolve()
    folder = folder.resolve()
    return inside.relative_to(folder).as_posix() if inside.is_relative_to(folder) else file


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


def join_groups(table: pd.DataFrame, pairs: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """The table with the groups of each pair of rows (numbers from 0) made one.

    Returns
    -------
    DataFrame
        A copy; a joined group has the name of its first row's group.
    """
    names = table["group"].to_numpy()
    first: dict[object, int] = {}
    same = [(first.setdefault(name, row), row) for row, name in enumerate(names)]
    component = joined(len(table), [*same, *pairs])
    _, place = np.unique(component, return_index=True)
    return table.assign(group=names[place][component])


def check_groups(table: pd.DataFrame, fold: ArrayLike | Sequence[object]) -> None:
    """Refuse a split that has a group on two sides.

    Parameters
    ----------
    table : DataFrame
        With the column ``group``.
    fold : array-like (cases,)
        Fold of each row, by position; any values that can be compared, such as numbers or "train" and "test".

    Raises
    ------
    DatasetError
        If a group crosses folds, or there is not one fold per row.
    """
    sides = list(np.asarray(fold).ravel())
    if len(sides) != len(table):
        raise DatasetError(f"There are {len(table)} cases and {len(sides)} folds; give one fold per case.")
    seen: dict[str, set[object]] = {}
    for group, side in zip(table["group"].astype(str), sides, strict=True):
        seen.setdefault(group, set()).add(side)
    crossing = [group for group, where in seen.items() if len(where) > 1]
    if crossing:
        folds = ", ".join(sorted(map(str, seen[crossing[0]])))
        raise DatasetError(
            f"{len(crossing)} group(s) stand in several folds, the first is {crossing[0]} in folds {folds}; split by "
            "group, or the held-out score counts cases that were trained on."
        )


def dataset_checksum(table: pd.DataFrame, folder: Path) -> str:
    """sha256 of what a data set consists of: names, labels, groups and the bytes of every picture.

    Parameters
    ----------
    table : DataFrame
        As of :func:`read_manifest`.
    folder : Path
        The manifest's folder.

    Returns
    -------
    str
        64 hexadecimal digits. The same on every platform and for every order of the rows. Files below the folder
        enter with their path from there, others with their name only, so moving them changes nothing.

    Raises
    ------
    DatasetError
        If a picture cannot be read.
    """
    folder = Path(folder)
    rows = []
    for file, label, group in zip(table["file"], table["label"], table["group"], strict=True):
        try:
            with open(folder / file, "rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError:
            raise DatasetError(f"The picture {file} cannot be read; check the manifest's folder.") from None
        name = _seen_from(str(file), folder)
        name = Path(name).name if Path(name).is_absolute() else Path(name).as_posix()
        rows.append(json.dumps([name, str(label), str(group), digest]))
    return hashlib.sha256("\n".join(sorted(rows)).encode("ascii")).hexdigest()
