"""How fast the page of stored runs answers: page ready, a click on a cell, memory without a network.

    python -m benchmarks.runs [--repeats 5]

Two synthetic runs are written: 5 x 2,500 cases of three classes, and 112,120 cases of fifteen (the size of NIH
ChestX-ray14). Times are those of a browser, until the last thing that is asked for has been drawn.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from cxnet.runs import LUNG_GRID, pack_lungs, pack_map, write_run
from tests.browser.conftest import chromium, idle, launch, serve

SIZES = {"five-folds": (2_500, 3), "nih-size": (22_424, 15)}


def write_synthetic_run(folder: Path, cases: int, count: int, folds: int = 5) -> None:
    """A run with random outputs, maps and patients of three pictures each."""
    rng = np.random.default_rng(0)
    classes = [f"class {number}" for number in range(count)]
    rows, columns = np.mgrid[:LUNG_GRID, :LUNG_GRID]
    lungs = pack_lungs(((abs(columns - 20) < 9) | (abs(columns - 44) < 9)) & (abs(rows - 32) < 20))
    tables = {}
    for fold in range(folds):
        true = rng.integers(0, count, cases)
        logits = rng.normal(size=(cases, count))
        logits[np.arange(cases), true] += 1.5
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        table = {
            "case": [rng.bytes(32).hex() for _ in range(cases)],
            "file": [f"{fold}/{number}.png" for number in range(cases)],
            "group": [f"{fold}-{number // 3}" for number in range(cases)],
            "source": rng.choice(["one", "two", "three"], cases),
            "view": rng.choice(["PA", "AP"], cases),
            "true": np.array(classes)[true],
            "predicted": np.array(classes)[probabilities.argmax(axis=1)],
        }
        table |= {f"probability {name}": probabilities[:, k] for k, name in enumerate(classes)}
        table |= {f"logit {name}": logits[:, k] for k, name in enumerate(classes)}
        table |= {
            "map": [pack_map(heatmap) for heatmap in rng.random((cases, 10, 10))],
            "lungs": [lungs] * cases,
            "region": [[0.0, 1.0, 0.0, 1.0]] * cases,
            "in_lung": rng.random(cases),
            "lift": 2 * rng.random(cases),
            "z": rng.normal(size=cases),
        }
        tables[fold] = pd.DataFrame(table)
    write_run(folder, {"classes": classes, "map_shape": [10, 10]}, tables)


def memory_mb(process: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def opened(page: Any, url: str) -> float:
    """Seconds until the matrix is there."""
    start = time.perf_counter()
    page.goto(url)
    page.locator(".matrix[data-ready]").first.wait_for()
    return time.perf_counter() - start


def arrived(page: Any, url: str, run: str) -> float:
    """Seconds from another page of the dashboard, in the same tab, until the matrix is there."""
    page.goto(f"{url}/about")
    page.get_by_role("heading", name="About cxnet").wait_for()
    idle(page)
    start = time.perf_counter()
    page.evaluate(
        """(address) => { history.pushState({}, "", address); window.dispatchEvent(new PopStateEvent("popstate")); }""",
        f"/runs?run={run}",
    )
    page.locator(".matrix[data-ready]").first.wait_for()
    return time.perf_counter() - start


def clicked(page: Any, row: int, column: int) -> float:
    """Seconds from a click on a cell until its cards are drawn."""
    cards = page.locator("ul.cards")
    before = cards.first.get_attribute("data-drawn") if cards.count() else None
    start = time.perf_counter()
    page.locator(f'button.cell[data-row="{row}"][data-column="{column}"]').first.click()
    page.wait_for_function(
        """(before) => {
          for (const host of document.querySelectorAll('*')) {
            const cards = host.shadowRoot?.querySelector('ul.cards[data-drawn]');
            if (cards && cards.dataset.drawn !== before && cards.children.length) return true;
          }
          return false;
        }""",
        arg=before,
        polling=10,
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    executable = chromium()
    if executable is None:
        raise SystemExit("Chromium is not installed.")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        for name, (cases, count) in SIZES.items():
            write_synthetic_run(root / name, cases, count)
        os.environ["CXNET_RUNS"] = str(root)
        with launch(executable) as browser, serve(Path(folder)) as server:
            for name, (cases, count) in SIZES.items():
                openings, arrivals, clicks = [], [], []
                # one profile for all: a browser that has been here before has the dashboard's own code at hand
                profile = browser.new_context(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
                profile.set_default_timeout(60_000)
                for _ in range(options.repeats + 1):
                    page = profile.new_page()
                    openings.append(opened(page, f"{server.url}/runs?run={name}"))
                    idle(page)
                    for row, column in ((0, 1), (1, 0)):
                        clicks.append(clicked(page, row, column))
                        idle(page)
                    arrivals.append(arrived(page, server.url, name))
                    idle(page)
                    page.close()
                profile.close()
                print(f"{name}: {5 * cases} cases of {count} classes")
                print(f"  page ready in a new tab: {openings[0]:.2f} s first, {median(openings[1:]):.2f} s warm")
                print(f"  page ready from another page: {median(arrivals):.2f} s")
                print(f"  click to the cell's cards: {clicks[0]:.2f} s first, {median(clicks[1:]):.2f} s later")
                print(f"  memory of the server, no network loaded: {memory_mb(server.process):.0f} MB")


if __name__ == "__main__":
    main()
