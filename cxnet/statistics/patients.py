"""Patients as the unit of a proportion: several images of one patient are one draw, not several.

References
----------
.. [1] Field CA, Welsh AH. Bootstrapping clustered data. J R Stat Soc B 2007 (randomized cluster bootstrap).
       doi:10.1111/j.1467-9868.2007.00593.x
.. [2] Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall 1993, chapter 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet.statistics.proportions import Metric, StatisticsError, check_level, wilson

Index = NDArray[np.int64]

#: Fewer resamples give no limits of 95 %.
LEAST_RESAMPLES = 100

_EMPTY = frozenset({"", "nan", "None", "<NA>", "NaT"})
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "<na>", "nat"})


def is_empty(value: object) -> bool:
    """Whether a value is empty, or is what an empty cell of a table turns into."""
    return str(value).strip() in _EMPTY


def is_missing(value: object) -> bool:
    """Whether a patient, a source or a view is not known: empty, or "NA", "N/A", "NaN", "null", "none" in any case.

    R and spreadsheets write these into empty cells. A case or a class may bear such a name: see :func:`is_empty`.
    """
    return str(value).strip().casefold() in _MISSING


def patient_codes(groups: Sequence[str | None]) -> tuple[Index, str | None]:
    """Number the patients.

    Parameters
    ----------
    groups : sequence of str (cases,)
        Patient of each case.

    Returns
    -------
    codes : int64 array (cases,)
        From 0; the same for cases of one patient.
    reason : str or None
        Why intervals must be withheld; None if every patient is known.
    """
    # each different value is looked at once: there may be 100,000 cases
    place, values = pd.factorize(np.array(list(groups), dtype=object), use_na_sentinel=False)
    names = np.array([str(value) for value in values], dtype=object)
    codes: Index = pd.factorize(names)[0].astype(np.int64)[place]
    missing = int(np.array([is_missing(name) for name in names], np.bool_)[place].sum())
    return codes, f"the patient of {missing} case(s) is not known" if missing else None


def patient_proportion(
    name: str,
    cls: str | None,
    hit: NDArray[np.bool_],
    patients: Index,
    undefined: str,
    *,
    level: float = 0.95,
    withhold: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Metric:
    """A share of cases with an interval that knows whose cases they are.

    Parameters
    ----------
    name, cls : str, str or None
        Of the figure.
    hit : bool array (cases,)
        Which of the cases of the denominator are in the numerator.
    patients : int64 array (cases,)
        Number of the patient of each case, from 0, as :func:`patient_codes` gives.
    undefined : str
        The reason if there is no case.
    level : float
    withhold : str, optional
        Why no interval may be given.
    resamples : int
    seed : int
        The same seed gives the same interval.

    Returns
    -------
    Metric
        Its `interval` says which one it is: "Wilson 95 %" where each of these patients has one case; else "patient
        bootstrap 95 %", the percentile interval [2]_ from drawing whole patients with replacement [1]_. A bootstrap of
        a share of 0 or 1 has no width: there it is "Wilson 95 %, over patients", as if each had one case.

    Raises
    ------
    StatisticsError
        If lengths differ, the level does not lie in (0, 1) or there are fewer than 100 resamples.

    Notes
    -----
    Only patients with a case of the denominator are drawn, so a resample always has a denominator. Patients with as
    many cases and as many hits are alike: how often each such kind is drawn is multinomial, which is the bootstrap
    itself and costs no loop over cases.
    """
    check_level(level)
    if resamples < LEAST_RESAMPLES:
        raise StatisticsError(f"At least {LEAST_RESAMPLES} resamples are needed for an interval; received {resamples}.")
    if len(hit) != len(patients):
        raise StatisticsError("Each case needs one patient; the lengths differ.")
    count, hits = len(hit), int(np.count_nonzero(hit))
    if not count:
        return Metric(name, cls, None, reason=undefined, numerator=0, denominator=0)
    value = hits / count
    if withhold is not None:
        return Metric(name, cls, value, reason=withhold, numerator=hits, denominator=count)
    sizes = np.bincount(patients)
    own = np.bincount(patients[hit], minlength=len(sizes))[sizes > 0]
    sizes = sizes[sizes > 0]
    number, percent = len(sizes), f"{100 * level:g} %"
    if number == count:
        (low, high), kind = wilson(hits, count, level), f"Wilson {percent}"
    elif hits in (0, count):
        (low, high), kind = wilson(number if hits else 0, number, level), f"Wilson {percent}, over patients"
    elif number < 2:
        reason = "there are fewer than two patients"
        return Metric(name, cls, value, reason=reason, numerator=hits, denominator=count)
    else:
        base = int(sizes.max()) + 1
        alike, times = np.unique(sizes * base + own, return_counts=True)
        drawn = np.random.default_rng(seed).multinomial(number, times / number, resamples)
        shares = (drawn @ (alike % base)) / (drawn @ (alike // base))
        low, high = (float(limit) for limit in np.quantile(shares, [0.5 - level / 2, 0.5 + level / 2]))
        kind = f"patient bootstrap {percent}"
    return Metric(name, cls, value, low, high, kind, numerator=hits, denominator=count)
