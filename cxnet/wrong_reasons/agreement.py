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
        Share of the cases that agree more than 95 % of shifted copies do; 5 % of unrelated maps would.
    blob : float or None
        Median agreement of LIME with a centred blob, which knows nothing of the network.
    """

    part: str
    cases: int
    undefined: int
    correlation: Metric
    r2: Metric
    beyond_chance: Metric
    blob: float | None


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
    found: dict[str, pd.Series] = {name: defined[name].astype(np.float64) for name in ("cam_lime", "lime_r2")}
    if "cam_lime_chance" in rows.columns:
        found["beyond"] = (defined["cam_lime"] > defined["cam_lime_chance"]).astype(np.float64)
    groups = groups_of(defined)
    told = []
    for name, column, summary in (
        ("rank correlation of Grad-CAM and LIME", "cam_lime", np.median),
        ("R² of LIME", "lime_r2", np.median),
        ("agreement beyond 95 % of shifted copies", "beyond", np.mean),
    ):
        if column not in found or defined.empty:
            reason = "no map of LIME has figures" if defined.empty else "this audit was made before it was measured"
            told.append(Metric(name, None, None, reason=reason))
            continue
        told.append(_summary(name, found[column].to_numpy(), summary, groups, withhold, resamples))
    blob = float(defined["cam_lime_blob"].median()) if "cam_lime_blob" in rows.columns and len(defined) else None
    return Agreement(part, len(defined), len(rows) - len(defined), told[0], told[1], told[2], blob)


def _summary(
    name: str,
    values: NDArray[np.float64],
    summary: Callable[[NDArray[np.float64]], Any],
    groups: list[str | None],
    withhold: str | None,
    resamples: int,
) -> Metric:
    value = float(summary(values))
    if withhold is not None:
        return Metric(name, None, value, reason=withhold)
    limits = bootstrap(lambda drawn: float(summary(values[drawn])), groups, resamples=resamples)
    kind = None if limits.reason else "patient bootstrap 95 %"
    return Metric(name, None, value, limits.low, limits.high, kind, limits.reason)
