"""Do the verdict's lines hold for networks that are shown the crop around the lungs?

    python -m benchmarks.crops [--workers 2]

The exam's networks see whole pictures, where the border lies far from the lungs; in a crop it lies beside them. Here
sixteen networks are trained on crops of the exam's phantoms, clean or with its shortcuts drawn into the crop, and asked
about crops of other phantoms: how many right answers are accused, and how strongly each causal test speaks of them. The
thresholds are those in use; nothing is chosen. About twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd

from cxnet.exam import verdicts
from cxnet.exam.fixtures import DISEASE, NORMAL, TESTED, TRAINED, Case, Kind, phantom_case, train
from cxnet.exam.results import area_with_interval, strengths
from cxnet.exam.sitting import behaves, sit, skill
from cxnet.lungs import crop_to_lungs
from cxnet.thresholds import ASKED, thresholds

#: Kind → seeds and epochs.
NETWORKS: dict[Kind, tuple[range, int]] = {
    "clean": (range(8), 12),
    **dict.fromkeys(("stripes", "tag", "obstruction", "contrast"), (range(1, 3), 8)),
}
#: Diseased and normal pictures that a network is asked about.
ASKED_ABOUT = {DISEASE: 40, NORMAL: 20}


def cropped(number: int) -> Case:
    """A phantom of the exam, cut to its lungs as COVID-CXNet's second network sees it."""
    case = phantom_case(number)
    crop = crop_to_lungs(case.lungs)
    place = slice(crop.top, crop.bottom), slice(crop.left, crop.right)
    return Case(case.number, case.pixels[place].copy(), case.lungs[place].copy(), case.true)


def judged(task: tuple[Kind, int, int]) -> pd.DataFrame:
    """Train one network and judge its right answers: one row each; none of a network that does not do what its kind must."""
    kind, seed, epochs = task
    network = train(kind, seed, [cropped(number) for number in range(TRAINED)], epochs)
    cases = [cropped(number) for number in range(TRAINED, TRAINED + TESTED)]
    asked = [case for true, count in ASKED_ABOUT.items() for case in [c for c in cases if c.true == true][:count]]
    return pd.DataFrame(sit(network, asked) if behaves(skill(network, cases)) else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    tasks = [(kind, seed, epochs) for kind, (seeds, epochs) in NETWORKS.items() for seed in seeds]
    parts = []
    # not forked: a fork of a process that runs TensorFlow may hang
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        for (kind, seed, _), rows in zip(tasks, pool.map(judged, tasks), strict=True):
            print(f"{kind}-{seed}: {len(rows)} right answers judged", flush=True)
            parts.append(rows)
    table, limits = pd.concat(parts, ignore_index=True), thresholds()
    print(f"\n{table['network'].nunique()} of {len(tasks)} networks count; thresholds version {limits.version}")
    print(pd.crosstab([table["kind"], table["answer"]], verdicts(table, limits).rename("verdict")).to_string())
    ill = table[table["answer"] == "disease"]
    area = area_with_interval(ill, strengths(ill, limits))
    print(f"\nROC AUC, answers 'disease': {area['auc']:.3f} [{area['low']:.3f}, {area['high']:.3f}]")
    print("\nEvidence of the tests that accuse, as a share of the usual: median, 95 % and 99 % quantile, largest")
    for (shortcut, answer), rows in table.groupby(["kind", "answer"], sort=False):
        finding = answer == "disease"
        for test in ASKED[finding]:
            values = (rows[f"evidence_{test}"] / rows["usual"]).dropna()
            if len(values):
                told = " ".join(f"{np.quantile(values, q):6.2f}" for q in (0.5, 0.95, 0.99, 1))
                print(f"{shortcut:>12} {answer:>8} {test:>11} {told}   line {limits.shares(finding)[test]:.2f}")


if __name__ == "__main__":
    main()
