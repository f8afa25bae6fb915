"""Stored k-fold runs: every out-of-fold prediction with its map, its lung outline and its first audit figures.

A run is a folder, immutable once written::

    runs/<name>/run.json         what was trained on what and how; checksums of the other files
    runs/<name>/fold-k.parquet   one row a case of fold k's test set

Columns of ``fold-k.parquet`` (those marked * may be missing or null in imported runs):

=================== ==================================================================================
case                sha256 of the file, or the importer's own id
file *              file name below the data set's folder
group *             patient or look-alike group; never on two sides of a split
source, view *      where the radiograph comes from, PA or AP
true, predicted     class names
probability <class> * of all classes, with sum 1: softmax of the logits, not calibrated; as given if imported
logit <class> *
map *               Grad-CAM for the predicted class: float16, row by row, `map_shape` in run.json
lungs *             lung mask, 64 x 64 bits, row by row, most significant bit first
region *            top, bottom, left, right of the network's field of view, as shares of the picture
in_lung *           share of the map's positive evidence inside the lungs, 0..1
lift *              that share over the lungs' share of the picture
z *                 against copies of the map shifted at random
=================== ==================================================================================

Nothing here imports a deep-learning framework.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet.errors import DatasetError
from cxnet.statistics.patients import is_missing
from cxnet.writing import refusal

SCHEMA = 1
FOLDER = Path(__file__).resolve().parent.parent / "runs"
LUNG_GRID = 64
SUM_WITHIN = 0.02  # of 1, as others round their probabilities
#: Rows that are read together when one map is asked for.
_ROW_GROUP = 1000
_BLOBS = ("map", "lungs")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


@dataclass(frozen=True, eq=False)
class Run:
    """A stored run, opened by :func:`open_run`; tables are read when they are asked for.

    `info` is the content of run.json.
    """

    folder: Path
    info: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.info["classes"])

    @property
    def folds(self) -> tuple[int, ...]:
        """Numbers of the folds that are there."""
        return tuple(int(fold["number"]) for fold in self.info["folds"])

    @property
    def map_shape(self) -> tuple[int, int] | None:
        """Rows and columns of the stored maps; None in a run without maps."""
        shape = self.info.get("map_shape")
        return (int(shape[0]), int(shape[1])) if shape else None

    def path(self, fold: int) -> Path:
        """The table of one fold."""
        if fold not in self.folds:
            raise DatasetError(
                f"The run {self.name} has no fold {fold}; it has {', '.join(map(str, self.folds)) or 'none'}."
            )
        return self.folder / f"fold-{fold}.parquet"

    @cached_property
    def table(self) -> pd.DataFrame:
        """All out-of-fold cases without their maps, with a column ``fold``."""
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException

        parts = []
        for fold in self.folds:
            path = self.path(fold)
            try:
                columns = [name for name in parquet.read_schema(path).names if name not in _BLOBS]
                part = parquet.read_table(path, columns=columns).to_pandas()
            except (OSError, ValueError, TypeError, LookupError, AttributeError, ArrowException) as error:
                raise DatasetError(
                    f"The run {self.name} is damaged: {path.name} cannot be read; write or fetch the run again."
                ) from error
            missing = {"case", "true", "predicted"} - set(part.columns)
            if missing:
                raise DatasetError(
                    f"The run {self.name} is damaged: {path.name} lacks {', '.join(sorted(missing))}; write or fetch the run again."
                )
            part.insert(0, "fold", fold)
            part["row"] = np.arange(len(part))
            parts.append(part)
        if not parts:
            raise DatasetError(f"The run {self.name} is damaged: it has no fold; write or fetch the run again.")
        table: pd.DataFrame = pd.concat(parts, ignore_index=True)
        for column in ("true", "predicted"):
            unknown = set(table[column]) - set(self.classes)
            if unknown:
                raise DatasetError(
                    f"The run {self.name} is damaged: {column} has the class {sorted(map(str, unknown))[0]!r}, which "
                    "run.json does not list; write or fetch the run again."
                )
        return table

    def results(self, fold: int | None = None) -> pd.DataFrame:
        """Cases of one fold, or of all folds together (out of fold)."""
        if fold is None:
            return self.table
        self.path(fold)
        return self.table[self.table["fold"] == fold].reset_index(drop=True)

    def probabilities(self, table: pd.DataFrame) -> NDArray[np.float64] | None:
        """float64 (cases, classes) of rows of :meth:`results`; None if the run has only decisions."""
        columns = [f"probability {name}" for name in self.classes]
        if not set(columns) <= set(table.columns) or table[columns].isna().any(axis=None):
            return None
        return table[columns].to_numpy(np.float64)

    def pictures(self, rows: pd.DataFrame) -> list[tuple[NDArray[np.float32] | None, NDArray[np.bool_] | None]]:
        """Map (`map_shape`) and lung mask (64, 64) of rows of :meth:`results`, each None where not stored."""
        from pyarrow import ArrowException

        folds, numbers = rows["fold"].to_numpy(np.int64), rows["row"].to_numpy(np.int64)
        found: list[Any] = [(None, None)] * len(rows)
        for fold in np.unique(folds):
            path, wanted = self.path(int(fold)), np.flatnonzero(folds == fold)
            try:
                for at, blobs in zip(wanted, self._blobs(path, numbers[wanted]), strict=True):
                    found[at] = (self._map(blobs[0]), unpack_lungs(blobs[1]))
            except (OSError, ValueError, TypeError, LookupError, AttributeError, ArrowException) as error:
                raise DatasetError(
                    f"The run {self.name} is damaged: the maps in {path.name} cannot be read; write or fetch the run again."
                ) from error
        return found

    @staticmethod
    def _blobs(path: Path, numbers: NDArray[np.int64]) -> list[list[bytes | None]]:
        """Of rows of one fold, packed map and lungs."""
        import pyarrow.parquet as parquet

        found: list[list[bytes | None]] = [[None] * len(_BLOBS) for _ in numbers]
        with parquet.ParquetFile(path, memory_map=True) as file:
            columns = [name for name in _BLOBS if name in file.schema_arrow.names]
            starts = np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))])
            groups = np.searchsorted(starts, numbers, side="right") - 1
            for group in np.unique(groups) if columns else []:
                stored = file.read_row_group(int(group), columns=columns)
                for at in np.flatnonzero(groups == group):
                    row = int(numbers[at] - starts[group])
                    found[at] = [stored[name][row].as_py() if name in columns else None for name in _BLOBS]
        return found

    def _map(self, blob: bytes | None) -> NDArray[np.float32] | None:
        if blob is None or self.map_shape is None:
            return None
        values = np.frombuffer(blob, np.float16) if len(blob) % 2 == 0 else np.zeros(0, np.float16)
        if values.size != self.map_shape[0] * self.map_shape[1]:
            raise DatasetError(
                f"The run {self.name} is damaged: a map has {len(blob)} bytes instead of "
                f"{2 * self.map_shape[0] * self.map_shape[1]}; write or fetch the run again."
            )
        return values.astype(np.float32).reshape(self.map_shape)


def pack_map(heatmap: NDArray[Any]) -> bytes:
    """A map as float16, row by row."""
    return np.ascontiguousarray(np.clip(heatmap, -6e4, 6e4), np.float16).tobytes()


def pack_lungs(mask: NDArray[np.bool_]) -> bytes:
    """A mask of 64 x 64 as bits."""
    if mask.shape != (LUNG_GRID, LUNG_GRID):
        raise DatasetError(f"A stored lung mask has {LUNG_GRID} x {LUNG_GRID} pixels; received {mask.shape}.")
    return np.packbits(mask).tobytes()


def unpack_lungs(blob: bytes | None) -> NDArray[np.bool_] | None:
    """The mask (64, 64) of :func:`pack_lungs`."""
    if blob is None:
        return None
    if len(blob) * 8 != LUNG_GRID**2:
        raise DatasetError(
            f"A stored lung mask has {len(blob)} bytes instead of {LUNG_GRID**2 // 8}; fetch the run again."
        )
    return np.unpackbits(np.frombuffer(blob, np.uint8)).astype(np.bool_).reshape(LUNG_GRID, LUNG_GRID)


# --------------------------------------------------------------------------------------------------------- reading


def open_run(folder: Path) -> Run:
    """Open a stored run; its tables are read later.

    Raises
    ------
    DatasetError
        If run.json is missing, damaged or of a newer schema, or a fold's file is missing.
    """
    folder = Path(folder)
    try:
        info = json.loads((folder / "run.json").read_text("utf-8"))
        if not isinstance(info, dict):
            raise ValueError("not a table")
        schema, run = info["schema"], Run(folder, info)
        if schema != SCHEMA:
            raise DatasetError(
                f"The run {folder.name} has schema {schema!r} and this version reads {SCHEMA}; use the version that wrote it."
            )
        lacking = [run.path(fold).name for fold in run.folds if not run.path(fold).is_file()]
        _ = run.map_shape
        if not run.classes or not all(isinstance(name, str) for name in run.classes):
            raise ValueError("no classes")
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"There is no run in {folder}: run.json is missing; give a folder that holds one.") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DatasetError(
            f"The run {folder.name} is damaged: run.json cannot be understood ({type(error).__name__}); write or fetch the run again."
        ) from error
    if lacking:
        raise DatasetError(f"The run {folder.name} is damaged: {lacking[0]} is missing; write or fetch the run again.")
    return run


def folders() -> list[Path]:
    """Folders that are searched for runs: the product's own, then those that the variable ``CXNET_RUNS`` lists.

    The variable is separated like a PATH.
    """
    return [
        FOLDER,
        *(Path(entry).expanduser() for entry in os.environ.get("CXNET_RUNS", "").split(os.pathsep) if entry),
    ]


def find_run(name: str) -> Run:
    """Open the run of this name in the first of :func:`folders` that has it.

    Raises
    ------
    DatasetError
        If no folder has it, or it cannot be opened.
    """
    for root in folders():
        if _NAME.fullmatch(name) and (root / name / "run.json").is_file():
            return open_run(root / name)
    raise DatasetError(f"There is no run called {name!r}; `python -m cxnet runs list` says which there are.")


def list_runs(root: Path = FOLDER) -> tuple[list[Run], list[str]]:
    """All runs below a folder by name, and one sentence for each that cannot be opened."""
    root, runs, problems = Path(root), [], []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if not folder.is_dir() or folder.name.startswith(".") or not (folder / "run.json").exists():
            continue
        try:
            runs.append(open_run(folder))
        except DatasetError as error:
            problems.append(str(error))
    return runs, problems


def check(run: Run) -> list[str]:
    """Everything that is wrong with a run, a sentence each: checksums, classes, maps, folds that overlap."""
    problems = []
    for fold in run.info["folds"]:
        path = run.path(int(fold["number"]))
        if sha256(path) != fold.get("sha256"):
            problems.append(f"{path.name} does not match its checksum in run.json; write or fetch the run again.")
        for name, checksum in fold.get("files", {}).items():
            other = run.folder / Path(name).name
            if other.is_file() and sha256(other) != checksum:
                problems.append(f"{name} does not match its checksum in run.json; write or fetch the run again.")
    try:
        table = run.table
    except DatasetError as error:
        return [*problems, str(error)]
    if table["case"].duplicated().any():
        problems.append(f"{int(table['case'].duplicated().sum())} cases are in more than one row.")
    if "group" in table.columns:
        known = table[~table["group"].map(is_missing).astype(np.bool_)]  # nobody knows whether the others cross
        crossing = known.groupby("group")["fold"].nunique()
        if (crossing > 1).any():
            problems.append(
                f"{int((crossing > 1).sum())} groups are in more than one fold, so folds are not independent."
            )
    probabilities = run.probabilities(table)
    if probabilities is not None and not np.allclose(probabilities.sum(axis=1), 1, atol=SUM_WITHIN):
        problems.append("The probabilities of some cases do not sum to 1.")
    return problems


def sha256(path: Path) -> str:
    """Checksum of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --------------------------------------------------------------------------------------------------------- writing


def check_name(name: str) -> None:
    """Refuse a name that a run cannot have.

    Raises
    ------
    DatasetError
        If it has other than lower-case letters, digits, dots, dashes and underscores.
    """
    if not _NAME.fullmatch(name):
        raise DatasetError(
            f"A run cannot be called {name!r}; use lower-case letters, digits, dots, dashes and underscores."
        )


def write_run(
    folder: Path,
    info: Mapping[str, Any],
    folds: Mapping[int, pd.DataFrame],
    fold_info: Mapping[int, Mapping[str, Any]] | None = None,
    files: Mapping[str, Path] | None = None,
    replace: bool = False,
) -> Run:
    """Write a run into a temporary folder beside its destination, and rename that.

    Parameters
    ----------
    folder : Path
        Its name is the run's name: lower-case letters, digits, dot, dash, underscore.
    info : mapping
        Needs "classes"; "map_shape" if there are maps. Schema and time are added.
    folds : mapping from int to DataFrame
        Tables as in this module's docstring.
    fold_info : mapping, optional
        What else run.json shall say of a fold (training curve, weights' checksum).
    files : mapping from name to Path, optional
        Copied into the run as they are (a fold's weights).
    replace : bool
        Whether a run that is there already is replaced.

    Raises
    ------
    DatasetError
        If the name cannot be used, the run is there already, or a table lacks a column.
    SettingsError
        If the file system refuses it; nothing is left behind then.
    """
    folder = Path(folder)
    check_name(folder.name)
    if folder.exists() and not replace:
        raise DatasetError(f"There is a run at {folder} already, and runs are never changed; choose another name.")
    for number, table in folds.items():
        missing = {"case", "true", "predicted"} - set(table.columns)
        if missing or table.empty:
            what = f"lacks the column(s) {', '.join(sorted(missing))}" if missing else "has no case"
            raise DatasetError(f"Fold {number} {what}; a run needs case, true and predicted for each case.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as error:
        raise refusal(error, folder) from error
    try:
        described = []
        for number, table in sorted(folds.items()):
            path = partial / f"fold-{number}.parquet"
            table.reset_index(drop=True).to_parquet(
                path, engine="pyarrow", compression="zstd", row_group_size=_ROW_GROUP, index=False
            )
            extra = dict((fold_info or {}).get(number, {}))
            described.append({"number": int(number), "cases": len(table), "sha256": sha256(path), **extra})
        for name, source in (files or {}).items():
            shutil.copyfile(source, partial / name)
        whole = {
            "schema": SCHEMA,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **info,
            "folds": described,
        }
        text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False)
        (partial / "run.json").write_text(text + "\n", "utf-8")
        partial.chmod(0o755)
        old = None
        if folder.exists():
            old = folder.with_name(f".{folder.name}-old")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(partial, folder)
        if old is not None:
            shutil.rmtree(old)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise refusal(error, folder) from error
        raise
    return open_run(folder)


#: Columns that an import keeps where they are given.
_OPTIONAL = ("file", "group", "source", "view")


def import_predictions(
    source: Path,
    folder: Path,
    classes: Sequence[str] | None = None,
    note: str = "",
    say: Callable[[str], None] = lambda sentence: None,
) -> Run:
    """Make a run of someone else's predictions, of one class a case.

    Parameters
    ----------
    source : Path
        CSV with the columns case, true, and either predicted or one ``probability <class>`` (or
        ``probability_<class>``) a class; optionally fold (0 when left out), file, group, source, view. In the last
        three NA, N/A, NaN, null and none, in any case, say that it is not known, as an empty field does.
    folder : Path
        Where the run is written.
    classes : sequence of str, optional
        Order of the classes; alphabetical when left out.
    note : str
        Kept in run.json.
    say : callable
        Gets a sentence on what is odd but taken: columns that are not used, and decisions that are not the most
        probable class, which run.json's note tells too.

    Raises
    ------
    DatasetError
        If the file cannot be read, a column is missing, a case is there twice or lacks its id or label, a value is
        no number, probabilities do not sum to 1, labels and probabilities have other classes, `folder` is there
        already, or its name cannot be a run's.
    SettingsError
        If the file system refuses to write the run.
    """
    source, folder = Path(source), Path(folder)
    table = _read_csv(source)
    given = [name.removeprefix("probability ") for name in table.columns if name.startswith("probability ")]
    used = {"case", "true", "predicted", "fold", *_OPTIONAL, *(f"probability {name}" for name in given)}
    unused = [name for name in table.columns if name not in used]
    _check_cases(source.name, table)
    names = _classes(source.name, table, classes, given)
    notes = [note] if note else []
    if given:
        columns = [f"probability {name}" for name in names]
        table[columns] = values = _probabilities(source.name, table[columns])
        if "predicted" not in table.columns:
            table["predicted"] = np.array(names)[values.argmax(axis=1)]
        said = values[np.arange(len(table)), [names.index(name) for name in table["predicted"]]]
        if odd := int((said < values.max(axis=1)).sum()):
            told = f"In {odd} of {len(table)} rows, predicted is not the class with the largest probability"
            notes.append(f"{told}.")
            say(f"{told}; both are kept, so leave the column predicted out of {source.name} if it is wrong.")
    fold = pd.to_numeric(table["fold"], errors="coerce") if "fold" in table.columns else pd.Series(0, table.index)
    if not fold.between(0, 9999).all() or (fold != fold.round()).any():
        raise DatasetError(f"{source.name} has a fold that is no whole number from 0; correct the column fold.")
    for column in ("group", "source", "view"):
        if column in table.columns:
            table.loc[table[column].map(is_missing), column] = ""
    kept = ["case", *(c for c in _OPTIONAL if c in table.columns), "true", "predicted"]
    kept += [f"probability {name}" for name in names] if given else []
    folds = {int(number): table.loc[fold == number, kept] for number in sorted(fold.unique())}
    info = {
        "title": folder.name,
        "classes": list(names),
        "imported_from": source.name,
        "imported_sha256": sha256(source),
        "note": " ".join(notes),
    }
    if unused:
        say(f"Columns of {source.name} that are not used: {', '.join(unused)}.")
    return write_run(folder, info, folds)


def _read_csv(source: Path) -> pd.DataFrame:
    """The table as text, its columns called as in a run: some rows, with all columns that are needed."""
    try:
        with source.open(encoding="utf-8") as file:
            header = file.readline()
        for separator, name in ((";", "semicolons"), ("\t", "tabs")):
            if header.count(separator) > header.count(","):
                raise DatasetError(f"{source.name} looks separated by {name} ({separator!r}); save it with commas.")
        table = pd.read_csv(source, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise DatasetError(f"There is no file {source}; give the CSV of the predictions.") from None
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DatasetError(
            f"{source} cannot be read as a CSV ({type(error).__name__}); export it as UTF-8 CSV."
        ) from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first fields for row names then
        raise DatasetError(f"{source.name} has rows with more fields than its first line names; correct them.")
    table = table.rename(columns=lambda name: re.sub(r"^probability_", "probability ", name.strip()))
    found = list(table.columns)
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise DatasetError(f"{source.name} has the column {twice[0]!r} twice; keep one of them.")
    needed = {"case", "true"} | (set() if any(name.startswith("probability ") for name in found) else {"predicted"})
    if missing := sorted(needed - set(found)):
        raise DatasetError(
            f"{source.name} lacks the column(s) {', '.join(missing)}; needed are case, true, and predicted or "
            f"probability_<class>, but its columns are {', '.join(found[:20])}{', …' * (len(found) > 20)}."
        )
    if table.empty:
        raise DatasetError(f"{source.name} has no row; give one a case.")
    return table


def _check_cases(source: str, table: pd.DataFrame) -> None:
    """Refuse rows without an id or a label, and a case that is there twice."""
    for column, what in (("case", "case id"), ("true", "true class"), ("predicted", "predicted class")):
        if column in table.columns and (lacking := int(table[column].eq("").sum())):
            raise DatasetError(f"{source} has {lacking} rows without a {what}; give each one, or leave these rows out.")
    for row in np.flatnonzero(table["case"].duplicated())[:1]:
        case = table["case"][row]
        raise DatasetError(f"Row {row + 2} of {source} is of the case {case!r} again; keep one row a case.")


def _classes(source: str, table: pd.DataFrame, wanted: Sequence[str] | None, given: list[str]) -> tuple[str, ...]:
    """The classes in their order; `given` are those with a column of probabilities."""
    labels = {column: set(table[column]) for column in ("true", "predicted") if column in table.columns}
    names = tuple(wanted or sorted(set(given) or set().union(*labels.values())))
    if given and set(given) != set(names):
        raise DatasetError(
            f"{source} has probabilities for {', '.join(sorted(given))} but its classes shall be {', '.join(names)}; "
            "give one column a class."
        )
    if len(set(names)) < len(names):
        raise DatasetError(f"The classes {', '.join(names)} are not all different; name each once.")
    all_of_them = ", ".join(names)
    what = f"matches no column of probabilities ({all_of_them}); call classes alike in both, one column a class"
    if not given:
        what = f"is not among the classes {all_of_them}; call it as one of these, or name it too"
    for column, found in labels.items():
        if unknown := sorted(found - set(names)):
            raise DatasetError(f"{source} has the label {unknown[0]!r} in {column}, which {what}.")
    if len(names) < 2:
        raise DatasetError(f"{source} knows only the class {names[0]!r}; a confusion matrix needs two.")
    return names


def _probabilities(source: str, table: pd.DataFrame) -> NDArray[np.float64]:
    """The columns of probabilities as numbers, each row with the sum 1: float64 (cases, classes)."""
    numbers: NDArray[np.float64] = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    sums = numbers.sum(axis=1)
    for row in np.flatnonzero(~(np.isclose(sums, 1, atol=SUM_WITHIN) & (numbers >= 0).all(axis=1)))[:1]:
        raise DatasetError(
            f"Row {row + 2} of {source} has probabilities with the sum {sums[row]:.4g} instead of 1; only predictions of "
            "one class a case can be imported, so leave independent findings out."
            if (numbers[row] >= 0).all()
            else f"Row {row + 2} of {source} has probabilities that are no numbers from 0 to 1; correct it."
        )
    return numbers


def describe(runs: Iterable[Run]) -> pd.DataFrame:
    """One row a run: name, title, folds, cases, classes, accuracy out of fold."""
    rows = []
    for run in runs:
        table = run.table
        rows.append(
            {
                "run": run.name,
                "title": run.info.get("title", run.name),
                "architecture": run.info.get("architecture", ""),
                "folds": len(run.folds),
                "cases": len(table),
                "classes": ", ".join(run.classes),
                "accuracy": float((table["true"] == table["predicted"]).mean()),
            }
        )
    return pd.DataFrame(rows)
