"""What the exam found: areas under the ROC curve with intervals, thresholds, and the files that hold them.

"Cheating" is a network that was trained with a shortcut, whatever it answers; a right answer of it should be accused,
one of a clean network should not. Thresholds are chosen on one half of the networks and cases, everything else is
measured on the other half.

References
----------
.. [1] Owen AB. The pigeonhole bootstrap. Ann Appl Stat 2007;1:386. doi:10.1214/07-AOAS122
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxnet.errors import DatasetError
from cxnet.statistics import wilson
from cxnet.thresholds import ACCUSES_NOBODY, ASKED, TESTS, THRESHOLDS, Thresholds, thresholds
from cxnet.wrong_reasons import names_finding

FOLDER = Path(__file__).parent
#: Detector → what it is. A higher value speaks more for a wrong reason.
DETECTORS: Mapping[str, str] = {
    "two keys": "the verdict: largest causal evidence over its threshold",
    "accusing": "the same without the test that accuses nobody",
    **{name: f"causal test: {sentence}" for name, sentence in TESTS.items()},
    "without lungs": "evidence left when the lungs are hidden: no key, but such an answer is not cleared",
    "map z": "Grad-CAM: in-lung energy below that of shifted copies of the map",
    "map lift": "Grad-CAM: in-lung energy below that of an even map",
}
CHOOSE, REPORT = "choose", "report"
#: Which exam, and what its files begin with.
PHANTOMS, REAL = "", "real-"
#: Share of clean networks' right answers that may be accused where thresholds are chosen; half of the aim of 5 %, so
#: that the other half of the networks and cases, which are few, keeps to it as well.
ACCUSED = 0.025
#: No test turns on less, as a share of the network's usual evidence: an answer that hangs on something loses a fifth of it.
LEAST_EVIDENCE = 0.2
#: An answer that drawn opacities take half of the usual evidence from has noticed them: what they may leave, at least.
LEAST_LEFT = 0.5
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Exam:
    """The stored results.

    Parameters
    ----------
    info : mapping
        Plain values: version, date, networks, areas, accused.
    cases : DataFrame
        One row for every right answer that was judged.
    """

    info: Mapping[str, Any]
    cases: pd.DataFrame

    @property
    def version(self) -> int:
        """Version of the thresholds that belong to these results."""
        return int(self.info["version"])


@cache
def stored(folder: Path = FOLDER, exam: str = PHANTOMS) -> Exam:
    """The results that came with the product, of the exam on phantoms or on real radiographs (:data:`REAL`).

    Raises
    ------
    DatasetError
        If they are missing or damaged.
    """
    try:
        info = json.loads((folder / f"{exam}results.json").read_text("utf-8"))
        return Exam(info, pd.read_parquet(folder / f"{exam}cases.parquet"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"The exam's results cannot be read ({error}); restore them from the repository.") from error


def detector_values(table: pd.DataFrame, detector: str, limits: Thresholds) -> NDArray[np.float64]:
    """How strongly a detector speaks for a wrong reason, by row; what is undefined speaks least: -inf."""
    if detector in ("map z", "map lift"):
        values = -table[detector.removeprefix("map ")].to_numpy(np.float64)
    elif detector == "two keys":
        values = strengths(table, limits)
    elif detector == "accusing":
        values = strengths(_accusing(table), limits)
    elif detector == "without lungs":
        values = (table["without_lungs"] / table["usual"]).to_numpy(np.float64)
    else:
        values = (table[f"evidence_{detector}"] / table["usual"]).to_numpy(np.float64)
    return np.where(np.isfinite(values), values, -np.inf)


def strengths(table: pd.DataFrame, limits: Thresholds) -> NDArray[np.float64]:
    """:attr:`cxnet.verdict.Verdict.strength` of every row under other thresholds."""
    finding = _finding(table)
    over = []
    for name, values in asked_values(table).items():
        # a test without a line was not asked: -inf whatever it is divided by
        lines = np.where(finding, limits.finding.get(name, 1.0), limits.no_finding.get(name, 1.0))
        over.append(values / lines)
    return np.asarray(np.max(over, axis=0), np.float64)


def _finding(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows whose answer names a finding."""
    return table["answer"].map(names_finding).to_numpy(np.bool_)


def _accusing(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the tests that accuse nobody silenced."""
    return table.assign(**{f"evidence_{name}": np.nan for name in ACCUSES_NOBODY})


def asked_values(table: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Evidence of each causal test by row, as a share of the usual; what was not asked of an answer is -inf."""
    finding = _finding(table)
    found = {}
    for name in TESTS:
        values = (table[f"evidence_{name}"] / table["usual"]).to_numpy(np.float64)
        asked = np.where(finding, name in ASKED[True], name in ASKED[False])
        found[name] = np.where(asked & np.isfinite(values), values, -np.inf)
    return found


def auc(
    cheating: NDArray[np.bool_], values: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> float | None:
    """Chance that a cheating network's answer has the higher value, ties half; None without both."""
    weights = np.ones(len(values)) if weights is None else weights
    _, level = np.unique(values, return_inverse=True)
    bad, good = (
        np.bincount(level, weights * chosen, minlength=level.max(initial=0) + 1) for chosen in (cheating, ~cheating)
    )
    pairs = bad.sum() * good.sum()
    return float(bad @ (np.cumsum(good) - good / 2) / pairs) if pairs > 0 else None


def area_with_interval(
    table: pd.DataFrame, values: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, float | int | None]:
    """Area under the ROC curve of cheating against clean networks, with a 95 % interval.

    The bootstrap draws networks within their kind and, independently, cases [1]_: the networks share their cases.
    """
    cheating = (table["kind"] != "clean").to_numpy(np.bool_)
    networks, of_network = np.unique(table["network"].to_numpy(str), return_inverse=True)
    cases, of_case = np.unique(table["case"].to_numpy(), return_inverse=True)
    kinds = np.array([name.rpartition("-")[0] for name in networks])
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = np.zeros(len(networks))
        for kind in np.unique(kinds):
            members = np.flatnonzero(kinds == kind)
            np.add.at(drawn, rng.choice(members, len(members)), 1)
        times = np.bincount(rng.integers(0, len(cases), len(cases)), minlength=len(cases))
        area = auc(cheating, values, drawn[of_network] * times[of_case])
        if area is not None:
            found.append(area)
    low, high = np.quantile(found, [0.025, 0.975]) if found else (None, None)
    return {
        "auc": auc(cheating, values),
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
        "cheating": int(cheating.sum()),
        "clean": int((~cheating).sum()),
    }


def choose(table: pd.DataFrame, before: Thresholds, version: int, source: str) -> Thresholds:
    """Thresholds that accuse :data:`ACCUSED` of the clean networks' right answers in `table`, if that many.

    That many of the answers that name a finding and of those that name none, which are put to other tests and have lines of
    their own. All causal tests of a kind of answer get the same share of false accusations: each line is drawn at the same
    quantile of its evidence, the lowest at which the tests together accuse no more than they may. The same for z and lift
    of the map.
    """
    clean = table[table["kind"] == "clean"]
    lines = {}
    for finding, names in ASKED.items():
        rows = clean[_finding(clean) == finding]
        values = asked_values(rows)
        lines[finding] = (
            _lines({name: values[name] for name in names}, {"opacity": LEAST_LEFT})
            if len(rows)
            else dict(before.shares(finding))
        )
    maps = {name: detector_values(clean, name, before) for name in ("map z", "map lift")}
    low = _lines(maps, dict.fromkeys(maps, -np.inf))
    return Thresholds(
        version=version,
        source=source,
        # a map as good as an even one, or as its shifted copies, is never held against a network
        least_z=round(min(0.0, -low["map z"]), 2),
        least_lift=round(min(1.0, -low["map lift"]), 2),
        finding=lines[True],
        no_finding=lines[False],
        least_local_r2=before.least_local_r2,
        least_moved=before.least_moved,
        most_without_lungs=before.most_without_lungs,
    )


def _lines(values: Mapping[str, NDArray[np.float64]], least: Mapping[str, float]) -> dict[str, float]:
    """A line for each detector at one common quantile, so that at most :data:`ACCUSED` of all rows reach a line.

    None lower than its `least`, :data:`LEAST_EVIDENCE` where that says nothing.
    """
    count = len(next(iter(values.values())))
    ordered = {name: np.sort(v)[::-1] for name, v in values.items()}
    for above in range(round(ACCUSED * count), -1, -1):
        # two decimals, rounded up, are what the file holds
        lines = {
            name: max(least.get(name, LEAST_EVIDENCE), float(np.ceil(100 * np.nextafter(v[above], np.inf)) / 100))
            if np.isfinite(v[above])
            else least.get(name, LEAST_EVIDENCE)
            for name, v in ordered.items()
        }
        accused = np.any([v >= lines[name] for name, v in values.items()], axis=0)
        if accused.mean() <= ACCUSED:
            return lines
    return lines


def areas(table: pd.DataFrame, limits: Thresholds, resamples: int = RESAMPLES) -> list[dict[str, Any]]:
    """Area of every detector, for each kind of cheating and all together, for either answer."""
    found = []
    kinds = [kind for kind in dict.fromkeys(table["kind"]) if kind != "clean"]
    for answer in ("disease", "normal"):
        rows = table[table["answer"] == answer]
        for kind in ("all", *kinds):
            chosen = rows[rows["kind"].isin([kind, "clean"])] if kind != "all" else rows
            for detector in DETECTORS:
                finding = names_finding(answer)
                if detector == "accusing" and not set(ACCUSES_NOBODY) & set(ASKED[finding]):
                    continue  # the verdict itself
                if detector == "without lungs" and not finding:
                    continue  # not asked of it
                values = detector_values(chosen, detector, limits)
                if not np.isfinite(values).any():
                    continue  # nobody was put to this test
                found.append(
                    {"answer": answer, "kind": kind, "detector": detector}
                    | area_with_interval(chosen, values, resamples)
                )
    return found


def read(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows whose tests could be read; all, where the lungs are known and need not be found."""
    if "determined" not in table:
        return np.ones(len(table), np.bool_)
    return table["determined"].to_numpy(np.bool_)


def verdicts(table: pd.DataFrame, limits: Thresholds) -> pd.Series:
    """Verdict of every row under thresholds; undetermined where the audit gave none, as the lungs that it found fail their gate."""
    causal = strengths(table, limits) >= 1
    outside = ((table["z"] < limits.least_z) | (table["lift"] < limits.least_lift)).to_numpy(np.bool_)
    accused = strengths(_accusing(table), limits) >= 1
    stays = detector_values(table, "without lungs", limits) >= limits.most_without_lungs
    stays &= _finding(table)
    still = (table["moved"] < limits.least_moved * table["usual"]).to_numpy(np.bool_)
    names = np.select(
        [~read(table), accused, outside, causal | stays | still],
        ["undetermined", "wrong reason", "suspicious map", "undetermined"],
        "none found",
    )
    return pd.Series(names, index=table.index)


def _share(table: pd.DataFrame, limits: Thresholds, name: str) -> dict[str, Any]:
    count = int((verdicts(table, limits) == name).sum())
    low, high = wilson(count, len(table)) if len(table) else (None, None)
    return {"count": count, "of": len(table), "low": low, "high": high}


def conclude(
    table: pd.DataFrame, networks: list[dict[str, Any]], resamples: int = RESAMPLES
) -> tuple[Exam, Thresholds]:
    """Choose thresholds on one half of the judged answers, measure everything on the other, and put it together."""
    before = thresholds()
    source = "python -m cxnet exam: networks trained on phantoms, clean and with planted shortcuts"
    limits = choose(table[table["half"] == CHOOSE], before, before.version + 1, source)
    table = table.assign(verdict=verdicts(table, limits))
    report = table[table["half"] == REPORT]
    info = {
        "version": limits.version,
        "source": source,
        "thresholds": asdict(limits),
        "networks": networks,
        "areas": areas(report, limits, resamples),
        "shares": shares(table, limits, ("wrong reason", "suspicious map", "undetermined", "none found")),
    }
    return Exam(info, table.reset_index(drop=True)), limits


def shares(table: pd.DataFrame, limits: Thresholds, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """How many of the right answers of each kind have each verdict, with a 95 % interval that takes them as independent."""
    return [
        {"half": part, "kind": kind, "answer": answer, "verdict": name} | _share(rows, limits, name)
        for part, of_half in table.groupby("half")
        for (kind, answer), rows in of_half.groupby(["kind", "answer"], sort=False)
        for name in names
    ]


def measure(table: pd.DataFrame, about: Mapping[str, Any], resamples: int = RESAMPLES) -> Exam:
    """Measure everything on all judged answers with the thresholds as they are: nothing is chosen.

    Answers whose tests could not be read, because the lungs could not be found, are counted and enter no area.
    """
    limits = thresholds()
    table = table.assign(verdict=verdicts(table, limits)).reset_index(drop=True)
    clean = table[table["kind"] == "clean"]
    info = {
        "version": limits.version,
        "thresholds": asdict(limits),
        **about,
        "accused": accused(clean, resamples),
        "areas": areas(table[read(table)], limits, resamples),
        "shares": shares(table, limits, ("wrong reason", "suspicious map", "undetermined", "none found")),
    }
    return Exam(info, table)


def accused(clean: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Share of clean networks' right answers called wrong reason, with a 95 % interval.

    The bootstrap draws networks and, independently, cases [1]_. Where nobody, or everybody, is accused every resample says the same:
    there the interval is Wilson's, which takes the answers as independent.
    """
    blamed = (clean["verdict"] == "wrong reason").to_numpy(np.bool_)
    count, total = int(blamed.sum()), len(clean)
    if not total:
        return {"count": 0, "of": 0, "low": None, "high": None}
    networks, cases = (np.unique(clean[name].to_numpy(str), return_inverse=True)[1] for name in ("network", "case"))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        times = [np.bincount(rng.integers(0, n, n), minlength=n) for n in (networks.max() + 1, cases.max() + 1)]
        weights = times[0][networks] * times[1][cases]
        if weights.sum():
            found.append(float(weights @ blamed / weights.sum()))
    low, high = wilson(count, total) if count in (0, total) else (float(q) for q in np.quantile(found, [0.025, 0.975]))
    return {"count": count, "of": total, "low": low, "high": high}


def write_results(exam: Exam, folder: Path, which: str) -> None:
    """Write the results of an exam, :data:`PHANTOMS` or :data:`REAL`, into a folder."""
    exam.cases.to_parquet(folder / f"{which}cases.parquet", compression="zstd", index=False)
    (folder / f"{which}results.json").write_text(json.dumps(exam.info, indent=1) + "\n", "utf-8")
    stored.cache_clear()


def write(exam: Exam, folder: Path = FOLDER, toml: Path = THRESHOLDS) -> None:
    """Write results and thresholds where the product looks for them."""
    values = exam.info["thresholds"]
    write_results(exam, folder, PHANTOMS)
    toml.write_text(
        "# Where the verdict draws its lines. `python -m cxnet exam --write` measures them on networks whose reasons are known\n"
        "# and writes this file; a report names the version that it used.\n"
        f"version = {values['version']}\n"
        f"source = {json.dumps(values['source'])}\n\n"
        "[map]\n"
        "# z of the in-lung energy against shifted copies of the map, and its lift over an even map\n"
        f"least_z = {values['least_z']:.2f}\n"
        f"least_lift = {values['least_lift']:.2f}\n\n"
        "# Causal tests: evidence as a share of what the network's right answers usually have, see cxnet.verdict; of answers that\n"
        "# name a finding, and of those that name none. A line of 0.20 is the least that there is, a rule of the house: there no\n"
        "# clean network's answer came as far\n"
        + "".join(
            f"[{kind}]\n" + "".join(f"{name} = {share:.2f}\n" for name, share in values[kind].items()) + "\n"
            for kind in ("finding", "no_finding")
        )
        + "[gates]\n"
        "# rules of the house: LIME's map is read from this R2 on; an answer that no edit moves by this share of the usual evidence,\n"
        "# or that keeps that share when the lungs are hidden, is not cleared\n"
        + "".join(f"{name} = {values[name]}\n" for name in ("least_local_r2", "least_moved", "most_without_lungs")),
        "utf-8",
    )
    thresholds.cache_clear()


def show(exam: Exam) -> str:
    """The main results as text."""
    sat = [network for network in exam.info["networks"] if network.get("counted", True)]
    on = exam.info.get("data", "phantoms")
    lines = [
        f"Exam on {on} with thresholds version {exam.version}: {len(exam.cases)} right answers of {len(sat)} networks"
    ]
    for answer in ("disease", "normal"):
        lines.append(f"\nROC AUC, cheating against clean networks, answers '{answer}' [95 % interval]")
        for entry in exam.info["areas"]:
            if entry["answer"] == answer and entry["auc"] is not None:
                lines.append(
                    f"{entry['detector']:>12} {entry['kind']:>12}  {entry['auc']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"
                )
    lines.append(
        "\nCalled wrong reason, of the right answers"
        + ("" if "accused" in exam.info else " of the half that thresholds were not chosen on")
    )
    for entry in exam.info["shares"]:
        if entry["half"] == REPORT and entry["verdict"] == "wrong reason":
            lines.append(f"{entry['kind']:>12} {entry['answer']:>8}  {entry['count']} of {entry['of']}")
    return "\n".join(lines)
