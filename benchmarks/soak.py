"""Memory and processor time of a server: idle, with its network, a session, and over many analyses.

    python -m benchmarks.soak [--analyses 500] [--sessions 4]

A server and a headless Chromium are started. An analysis is the upload of a synthetic radiograph of 1024 × 1024 px that
the server has not seen, up to its probabilities and Grad-CAM. The soak goes on in sessions of twenty-five analyses; each
is left by closing its tab, every other one by "Forget everything" first. At the end the server's memory is compared with
that before the soak, after the sessions' time to live has passed; the slope is a least-squares line over the memory
seen during the second half of the soak, when all caches are full.

The exit code is 1 if the server has grown by more than 150 MiB, or by more than 20 MiB per 100 analyses over the second
half: a session's radiograph that stays would be 1 MiB an analysis, its analysis several.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import linear_regression
from typing import Any

import psutil

from benchmarks.page import upload
from tests.browser.conftest import Server, chromium, idle, launch, serve

PER_SESSION = 25
#: Streamlit keeps the session of a lost connection for two minutes by default; the server is told to wait less.
TTL_S = 10
SEEDS_FROM = 10_000
MAY_GROW_MIB = 150.0
MAY_SLOPE_MIB = 20.0


class Watch:
    """Memory and processor time of the server and its children."""

    def __init__(self, server: Server) -> None:
        self._root = psutil.Process(server.process)

    def _all(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def mib(self) -> float:
        """Resident memory."""
        return float(sum(process.memory_info().rss for process in self._all())) / 2**20

    def cpu_s(self) -> float:
        """Processor time used so far."""
        return float(sum(sum(process.cpu_times()[:2]) for process in self._all()))

    def settled_mib(self) -> float:
        """Resident memory after the sessions of closed tabs have been dropped."""
        time.sleep(TTL_S + 5)
        return self.mib()


def new_page(browser: Any, server: Server) -> Any:
    """A tab of its own profile, idle on the page Analyse."""
    page = browser.new_page(viewport={"width": 1400, "height": 900}, reduced_motion="reduce", base_url=server.url)
    page.set_default_timeout(120_000)
    page.goto("/")
    page.get_by_test_id("stFileUploader").wait_for()
    idle(page)
    return page


def analyse(page: Any, seed: int) -> None:
    """Upload and wait until everything is shown."""
    upload(page, seed)
    idle(page)


def forget(page: Any) -> None:
    """Press the button and see the empty page."""
    page.get_by_role("button", name="Forget everything").click()
    page.get_by_text("or start with a synthetic sample").wait_for()
    idle(page)


def grown(before: float, seen: list[tuple[int, float]]) -> list[str]:
    """What is wrong with the memory seen after so many analyses, in MiB, if that before them was this."""
    faults = []
    growth = seen[-1][1] - before
    print(f"end minus beginning: {growth:+.0f} MiB")
    if growth > MAY_GROW_MIB:
        faults.append(f"The server has grown by {growth:.0f} MiB; {MAY_GROW_MIB:.0f} are allowed.")
    half = seen[len(seen) // 2 :] if len(seen) > 3 else []
    if len(half) > 1:
        slope = 100 * linear_regression([n for n, _ in half], [mib for _, mib in half])[0]
        print(f"slope of the second half: {slope:+.1f} MiB per 100 analyses")
        if slope > MAY_SLOPE_MIB:
            faults.append(f"It grows by {slope:.0f} MiB per 100 analyses; {MAY_SLOPE_MIB:.0f} are allowed.")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--analyses", type=int, default=500)
    parser.add_argument("--sessions", type=int, default=4)
    options = parser.parse_args()
    executable = chromium()
    if executable is None:
        raise SystemExit("Chromium is not installed.")
    ttl = ("--server.disconnectedSessionTTL", str(TTL_S))
    with (
        tempfile.TemporaryDirectory() as folder,
        launch(executable) as browser,
        serve(Path(folder), *ttl) as server,
    ):
        watch = Watch(server)
        print(f"started, nobody there: {watch.mib():.0f} MiB", flush=True)
        page = new_page(browser, server)
        time.sleep(5)  # the network is loaded in the background
        print(f"one empty session, network loaded: {watch.mib():.0f} MiB", flush=True)
        analyse(page, SEEDS_FROM)
        first = watch.mib()
        print(f"one session with one analysis: {first:.0f} MiB", flush=True)
        pages = [page]
        for number in range(1, options.sessions):
            pages.append(new_page(browser, server))
            analyse(pages[-1], SEEDS_FROM + number)
        if options.sessions > 1:
            more = (watch.mib() - first) / (options.sessions - 1)
            print(f"each further session with one analysis: {more:+.0f} MiB (of {options.sessions})", flush=True)
        for page in pages:
            page.close()
        before, cpu, began = watch.settled_mib(), watch.cpu_s(), time.monotonic()
        print(f"sessions closed: {before:.0f} MiB\nsoak of {options.analyses} analyses", flush=True)
        seen: list[tuple[int, float]] = []
        page = None
        for number in range(options.analyses):
            if number % PER_SESSION == 0:
                page = new_page(browser, server)
            analyse(page, SEEDS_FROM + 1000 + number)
            if number % PER_SESSION == PER_SESSION - 1 or number == options.analyses - 1:
                if (number // PER_SESSION) % 2:
                    forget(page)
                page.close()
                seen.append((number + 1, watch.settled_mib()))
                print(f"  after {number + 1}: {seen[-1][1]:.0f} MiB", flush=True)
        took = time.monotonic() - began - len(seen) * (TTL_S + 5)
        spent = (watch.cpu_s() - cpu) / options.analyses
        print(f"{took / options.analyses:.2f} s of wall and {spent:.2f} s of processor time an analysis, page included")
        faults = grown(before, seen)
    if faults:
        raise SystemExit(" ".join(faults))


if __name__ == "__main__":
    main()
