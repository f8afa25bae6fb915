"""How far Grad-CAM and LIME agree over a run that was audited with LIME."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet.statistics import Metric, bootstrap
from cxnet.wrong_reasons.stored import groups_of, withheld


@dataclass(frozen=True)
class Agreement:
    """How far Grad-CAM and LIME agree on one part of a run.

    Parameters
    ----------
    part : str
    cases : int
        Those that have a correlation.
    undefined : int
        Those that have none, as where LIME found no superpixel that speaks for the class.
    correlation, r2 : Metric
        Medians of `cam_lime` and `lime_r2`, with intervals that draw whole patients.
    beyond_chance : Metric
        Share of the cases that agree more than 95 % of shifted copies do. Of maps that prefer no place 5 % would; of two that
        prefer the same place, such as the middle of the picture, more, whatever else they say. So:
    blob_beyond_chance : Metric
        Share of the cases in which a centred blob, which knows nothing of the network, would count as beyond chance.
    """

    part: str
    cases: int
    undefined: int
    correlation: Metric
    r2: Metric
    beyond_chance: Metric
    blob_beyond_chance: Metric


def agreements(table: pd.DataFrame, classes: Sequence[str], resamples: int = 1000) -> tuple[Agreement, ...]:
    """Agreement of Grad-CAM and LIME over all cases, right and wrong answers, and answers of each class.

    Parameters
    ----------
    table : DataFrame
        Of a :class:`StoredAudit` with LIME.
    classes : sequence of str
        In the order wanted.
    resamples : int

    Returns
    -------
    tuple of Agreement
        Parts without a case are left out; empty for an audit without LIME.
    """
    if "cam_lime" not in table.columns:
        return ()
    rows = table[table["error"].isna()]
    known = rows[rows["true"].notna()]
    right = known["true"] == known["predicted"]
    parts = [("all", rows), ("right answers", known[right]), ("wrong answers", known[~right])]
    parts += [(f"called {cls}", rows[rows["predicted"] == cls]) for cls in classes]
    why = withheld(rows)
    return tuple(_agreement(name, own, why, resamples) for name, own in parts if len(own))


def _agreement(part: str, rows: pd.DataFrame, withhold: str | None, resamples: int) -> Agreement:
    defined = rows[rows["cam_lime"].notna()]
    groups = groups_of(defined)

    def summed(name: str, values: pd.Series, summary: Callable[[NDArray[np.float64]], Any]) -> Metric:
        if defined.empty:
            return Metric(name, None, None, reason="no two maps can be compared")
        if values.isna().any():
            return Metric(name, None, None, reason="some cases lack it, as in an audit of an earlier version")
        numbers = values.to_numpy(np.float64)
        value = float(summary(numbers))
        if withhold is not None:
            return Metric(name, None, value, reason=withhold)
        limits = bootstrap(lambda drawn: float(summary(numbers[drawn])), groups, resamples=resamples)
        kind = None if limits.reason else "patient bootstrap 95 %"
        return Metric(name, None, value, limits.low, limits.high, kind, limits.reason)

    # audits of earlier versions lack these columns
    columns = ("cam_lime", "cam_lime_chance", "cam_lime_blob")
    both, chance, blob = (defined.get(name, pd.Series(np.nan, defined.index)).astype(np.float64) for name in columns)
    beyond, blob_beyond = ((one > chance).astype(np.float64).where(chance.notna()) for one in (both, blob))
    return Agreement(
        part,
        len(defined),
        len(rows) - len(defined),
        summed("rank correlation of Grad-CAM and LIME", both, np.median),
        summed("R² of LIME", defined["lime_r2"].astype(np.float64), np.median),
        summed("agreement beyond 95 % of shifted copies", beyond, np.mean),
        summed("the same of a centred blob", blob_beyond, np.mean),
    )
