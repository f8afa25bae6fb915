"""Stored audits: reading them, and what their tables have in common."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from cxnet.errors import DatasetError
from cxnet.statistics import check_folds
from cxnet.statistics.patients import is_missing

Tier = Literal["full", "fast"]
TIERS: tuple[Tier, ...] = ("full", "fast")
SCHEMA = 1
#: Names of classes that say that there is nothing, in small letters.
NO_FINDING = frozenset({"normal", "no finding", "no findings", "negative", "healthy"})
#: Column of a table → figure of :func:`cxnet.audit.localisation_scores`.
FIGURES = {
    "in_lung": "in-lung energy",
    "in_lung_tolerant": "in-lung energy with tolerance",
    "lift": "lift",
    "z": "z against shifted copies",
    "pointing": "pointing game",
    "rank_lungs": "rank accuracy, lung area",
    "rank_hottest": "rank accuracy, hottest 5 %",
}
NOT_STATED = "(not stated)"


@dataclass(frozen=True, eq=False)
class StoredAudit:
    """An audit that was written by :mod:`cxnet.batch`.

    Parameters
    ----------
    path : Path
        Of the table.
    tier : {"full", "fast"}
    info : mapping
        Settings and versions.
    table : DataFrame
        As :mod:`cxnet.wrong_reasons` describes it; treated as read-only.
    """

    path: Path
    tier: Tier
    info: Mapping[str, Any]
    table: pd.DataFrame

    @property
    def audited(self) -> pd.DataFrame:
        """The rows that have figures."""
        return self.table[self.table["error"].isna()]

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the network's outputs."""
        return tuple(self.info["classes"])


def names_finding(cls: str) -> bool:
    """Whether a class is a finding, and not one of :data:`NO_FINDING`."""
    return cls.strip().lower() not in NO_FINDING


def audits_of(folder: Path) -> tuple[Tier, ...]:
    """Which audits are stored in a folder, the full one first."""
    return tuple(tier for tier in TIERS if (folder / f"audit-{tier}.parquet").is_file())


def open_audit(folder: Path, tier: Tier) -> StoredAudit:
    """Read a stored audit.

    Raises
    ------
    DatasetError
        If it is missing, damaged or of another schema.
    """
    path = folder / f"audit-{tier}.parquet"
    try:
        info = json.loads(path.with_suffix(".json").read_text("utf-8"))
        if info["schema"] != SCHEMA:
            raise DatasetError(
                f"{path.name} of {folder.name} has schema {info['schema']!r} and this version reads {SCHEMA}; audit "
                "the run again."
            )
        content = path.read_bytes()
        if info.get("sha256") not in (None, hashlib.sha256(content).hexdigest()):
            raise DatasetError(
                f"The audit {path.name} of {folder.name} is not the one that its .json describes; copy both, or audit the "
                "run again."
            )
        table = pd.read_parquet(io.BytesIO(content), engine="pyarrow")
        lacking = {"case", "true", "predicted", "lift", "error"} - set(table.columns)
        if lacking or not info["classes"]:
            raise KeyError(*sorted(lacking))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"The audit {path.name} of {folder.name} cannot be read ({type(error).__name__}); audit the run again."
        ) from error
    return StoredAudit(path, tier, info, table)


def groups_of(table: pd.DataFrame) -> list[str | None]:
    """Patient of every row, None where it is not known."""
    if "group" not in table.columns:
        return [None] * len(table)
    return [None if is_missing(value) else str(value) for value in table["group"].tolist()]


def withheld(table: pd.DataFrame) -> str | None:
    """Why figures over these cases can have no interval; None if they can."""
    if table.empty:
        return "there are no cases"
    columns = {name: table[name] if name in table.columns else None for name in ("case", "fold", "group", "true")}
    rows = pd.DataFrame(columns, index=table.index)
    rows["fold"] = rows["fold"].astype(object).where(rows["fold"].notna(), "0")  # files of no run are one test set
    return check_folds(rows).intervals_reason


def right_answers(table: pd.DataFrame) -> pd.DataFrame:
    """The audited cases whose true class is known and predicted."""
    return table[table["error"].isna() & table["true"].notna() & (table["true"] == table["predicted"])]
