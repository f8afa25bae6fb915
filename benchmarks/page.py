"""How long a person waits in the browser: first paint, and from an upload to probabilities and Grad-CAM.

    python -m benchmarks.page [--repeats 5]

A server and a headless Chromium are started. "First" is a server that nobody has asked before; "warm" are the later
ones. An upload is a synthetic radiograph of 1024 × 1024 px as PNG, a new one each time, so that nothing is cached.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import cv2

from cxnet.phantom import make_phantom
from tests.browser.conftest import chromium, idle, launch, serve


def upload(page: Any, seed: int) -> float:
    """Seconds from the file chosen to the probabilities and the map drawn."""
    data = cv2.imencode(".png", make_phantom(seed, 1024).pixels)[1].tobytes()
    drawn = page.locator(".viewer").get_attribute("data-drawn") if page.locator(".viewer").count() else None
    before = page.locator("[data-testid=stFileUploaderFile]").count()
    start = time.perf_counter()
    chosen = [{"name": f"{seed}.png", "mimeType": "image/png", "buffer": data}]
    page.get_by_test_id("stFileUploader").locator("input[type=file]").set_input_files(chosen)
    page.wait_for_function(
        """([drawn, files]) => {
          const host = [...document.querySelectorAll('*')].find(e => e.shadowRoot?.querySelector('.viewer[data-view]'));
          const viewer = host?.shadowRoot.querySelector('.viewer[data-view]') ?? document.querySelector('.viewer[data-view]');
          return viewer && viewer.dataset.drawn !== drawn && document.querySelector('[data-testid=stPlotlyChart] .main-svg');
        }""",
        arg=[drawn, before],
        polling=20,
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    executable = chromium()
    if executable is None:
        raise SystemExit("Chromium is not installed.")
    with tempfile.TemporaryDirectory() as folder, launch(executable) as browser, serve(Path(folder)) as server:
        paints, first, later = [], [], []
        for attempt in range(options.repeats + 1):
            page = browser.new_page(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
            page.set_default_timeout(60_000)
            start = time.perf_counter()
            page.goto(server.url)
            page.get_by_test_id("stFileUploader").wait_for()
            paints.append(time.perf_counter() - start)
            idle(page)
            first.append(upload(page, 100 + 2 * attempt))
            idle(page)
            later.append(upload(page, 101 + 2 * attempt))
            page.close()
    print(f"first paint: {paints[0]:.2f} s first, {median(paints[1:]):.2f} s warm")
    print(
        f"upload to probabilities and Grad-CAM: {first[0]:.2f} s first on a server, {median(first[1:]):.2f} s first in a "
        f"tab, {median(later):.2f} s later"
    )


if __name__ == "__main__":
    main()
