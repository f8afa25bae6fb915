"""Where maps lie, and whether a property of the pictures tells the classes apart.

References
----------
.. [1] Cureton EE. Rank-biserial correlation. Psychometrika 1956;21:287. doi:10.1007/BF02289138
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet.statistics import Metric, bootstrap
from cxnet.statistics.patients import is_missing
from cxnet.statistics.probabilities import Ranking
from cxnet.wrong_reasons.stored import NOT_STATED, groups_of

#: Property of a picture → what it is.
PROPERTIES = {
    "mean_grey": "brightness: mean grey level, 0 to 255",
    "contrast": "contrast: standard deviation of grey levels",
    "width": "width in pixels",
    "height": "height in pixels",
    "aspect": "aspect: width over height",
    "sharpness": "sharpness: variance of the Laplacian over that of the picture",
    "border_darkness": "border: nearly black share of its outermost 5 %",
    "markers": "markers and text: how many were found",
    "marker_area": "markers and text: share of the picture",
}
#: A property whose interval lies wholly beyond this area (or below 1 less it) tells the classes apart. House rule.
SEPARATES_FROM = 0.6


@dataclass(frozen=True)
class PropertyAuc:
    """How well one property of the pictures alone tells one class from the rest.

    Parameters
    ----------
    name : str
        Key of :data:`PROPERTIES`.
    auc : Metric
        Chance that a case of the class `auc.cls` has more of it than another case, ties half; 2 AUC - 1 is the
        rank-biserial correlation [1]_.
    separates : bool or None
        Whether the interval lies wholly beyond :data:`SEPARATES_FROM` on one side; None without an interval.
    """

    name: str
    auc: Metric
    separates: bool | None

    @property
    def rank_biserial(self) -> float | None:
        """From -1 to 1, 0 if the property says nothing of the class."""
        return None if self.auc.value is None else 2 * self.auc.value - 1


def property_aucs(
    table: pd.DataFrame, classes: Sequence[str], *, resamples: int = 500, withhold: str | None = None
) -> tuple[PropertyAuc, ...]:
    """Every property against every true class, one against the rest, with patient-bootstrap intervals.

    Parameters
    ----------
    table : DataFrame
        Of :class:`StoredAudit`; cases without a label or with an error are left out.
    classes : sequence of str
    resamples : int
        Patients are drawn within the true classes.
    withhold : str, optional
        Why intervals must not be given.

    Notes
    -----
    Only a property that separates the classes can be a shortcut; that it does, does not mean that the network uses
    it. Dozens of pairs are looked at, so intervals are there to sort them, not to test one.
    """
    known = table[table["error"].isna() & table["true"].notna()]
    groups, labels = groups_of(known), known["true"].astype(str).tolist()
    found = []
    for name in PROPERTIES:
        values = pd.to_numeric(known[name], errors="coerce").to_numpy(np.float64)
        for cls in classes:
            positive = (known["true"] == cls).to_numpy(np.bool_)
            found.append(_property(name, cls, values, positive, groups, labels, resamples, withhold))
    return tuple(found)


def _property(
    name: str,
    cls: str,
    values: NDArray[np.float64],
    positive: NDArray[np.bool_],
    groups: list[str | None],
    labels: list[str],
    resamples: int,
    withhold: str | None,
) -> PropertyAuc:
    if not positive.any() or positive.all():
        which = "no case is" if not positive.any() else "every case is"
        return PropertyAuc(name, Metric("ROC AUC", cls, None, reason=f"{which} truly {cls}"), None)
    if not np.isfinite(values).all():
        return PropertyAuc(name, Metric("ROC AUC", cls, None, reason="some cases lack this property"), None)
    ranking = Ranking(values, positive)

    def area(times: NDArray[np.int64]) -> float | None:
        value = ranking.auc(times)
        return None if np.isnan(value) else value

    value = ranking.auc(np.ones(len(values), np.int64))
    if withhold is not None:
        return PropertyAuc(name, Metric("ROC AUC", cls, value, reason=withhold), None)
    limits = bootstrap(
        lambda drawn: area(np.bincount(drawn, minlength=len(values))), groups, strata=labels, resamples=resamples
    )
    kind = None if limits.reason else "patient bootstrap 95 %"
    metric = Metric("ROC AUC", cls, value, limits.low, limits.high, kind, limits.reason)
    if limits.low is None or limits.high is None:
        return PropertyAuc(name, metric, None)
    return PropertyAuc(name, metric, limits.low > SEPARATES_FROM or limits.high < 1 - SEPARATES_FROM)


def zone_energies(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean share of the map's energy in the lungs and in every zone outside, by a column of the table.

    Returns
    -------
    DataFrame
        Columns: `part` (the value of the column), `cases`, `zone`, `energy` (mean share, 0 to 1) and `area` (mean
        share of the picture: what an even map would score). Cases whose map has no figures are left out.
    """
    rows = table[table["error"].isna() & table["in_lung"].notna()]
    words = rows[by].astype(object)
    words = words.where(~words.map(is_missing).astype(np.bool_), NOT_STATED).astype(str)
    zones = [name.removeprefix("zone ") for name in rows.columns if name.startswith("zone ")]
    found = []
    for part in sorted(words.unique()):
        own = rows[words == part]
        inside, even = own["in_lung"].astype(float), own["lungs_area"].astype(float)
        found.append((part, len(own), "lungs", float(inside.mean()), float(even.mean())))
        for zone in zones:
            energy, area = own[f"zone {zone}"].astype(float).mean(), own[f"area {zone}"].astype(float).mean()
            found.append((part, len(own), zone, float(energy), float(area)))
    return pd.DataFrame(found, columns=["part", "cases", "zone", "energy", "area"])
