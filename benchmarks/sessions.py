"""Readers at once in real browsers: does anybody see another's radiograph, and how long does a click take.

    python -m benchmarks.sessions [--readers 10] [--clicks 7]

A server and a headless Chromium are started; every reader has a browser profile and a radiograph of his own. A click
asks the network about the radiograph without its lungs or without its background, in turn; it ends when the page's
script has finished. First nobody runs LIME; then another reader does, and his LIME must be under way still when the
clicks are done. Last, all start LIME at the same time.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.browser.conftest import chromium, idle, launch, serve
from tests.browser.test_sessions import Reader, readers, running

EDITS = ("Blank the lungs", "Blank the background", "Pad over the border")
UNDER_WAY = re.compile(r"^(Starting …|Waiting: \d+ before you|LIME: \d+ of at most)")


def click(reader: Reader, title: str) -> float:
    """Seconds from a click to the answer, with the page's script at rest."""
    start = time.perf_counter()
    reader.page.get_by_role("button", name=title).click()
    reader.page.get_by_text(re.compile(f"{title}: .* of the picture")).wait_for()
    idle(reader.page)
    return time.perf_counter() - start


def clicks(reader: Reader, count: int) -> list[float]:
    """Seconds of clicks. Now and then the reader starts anew, so that nothing is answered from memory."""
    found = []
    for number in range(count):
        if number % len(EDITS) == 0:
            reader.page.get_by_role("button", name="Forget everything").click()
            reader.page.get_by_text("or start with a synthetic sample").wait_for()
            idle(reader.page)
            reader.upload()
            reader.see()
        found.append(click(reader, EDITS[number % len(EDITS)]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readers", type=int, default=10)
    parser.add_argument("--clicks", type=int, default=7)
    options = parser.parse_args()
    executable = chromium()
    if executable is None:
        raise SystemExit("Chromium is not installed.")
    with (
        tempfile.TemporaryDirectory() as folder,
        launch(executable) as browser,
        serve(Path(folder)) as server,
        readers(browser, server, options.readers) as found,
    ):
        start = time.perf_counter()
        for step in (Reader.open, Reader.upload, Reader.see):
            for reader in found:
                step(reader)
        print(f"{options.readers} readers see their radiographs after {time.perf_counter() - start:.1f} s", flush=True)
        first, second = found[:2]
        alone = clicks(second, options.clicks)
        first.page.get_by_text("LIME", exact=True).first.click()
        first.page.get_by_text("Stop when the top five have settled").click()
        idle(first.page)
        first.start_lime()
        running(first).wait_for()
        beside = clicks(second, options.clicks)
        assert running(first).count(), "LIME ended before the clicks did; ask for fewer clicks"
        first.page.get_by_role("button", name="Cancel").click()
        first.page.get_by_text(re.compile("LIME was stopped")).wait_for()
        idle(first.page)
        for name, times in (("alone", alone), ("beside LIME", beside)):
            print(f"click {name}: median {median(times):.2f} s, longest {max(times):.2f} s", flush=True)
        print(f"ratio of medians: {median(beside) / median(alone):.2f}")

        start = time.perf_counter()
        for reader in found:
            idle(reader.page)
            reader.start_lime()
            reader.page.get_by_text(UNDER_WAY).wait_for()  # the button of an earlier LIME is gone now
            print(f"  in the queue after {time.perf_counter() - start:.1f} s", flush=True)
        for reader in found:
            reader.page.get_by_role("button", name="Run LIME again").wait_for(timeout=3_600_000)
            idle(reader.page)
            print(f"  a LIME shown after {time.perf_counter() - start:.1f} s", flush=True)
        print(f"LIME of all {options.readers} after {time.perf_counter() - start:.1f} s")
        others = [(a, b) for a in found for b in found if a is not b and a.told(b)]
        print(f"radiographs seen by another reader: {len(others)}")
        if others:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
