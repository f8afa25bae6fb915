"""A patient's name and pixels after a whole journey: nowhere but in the tab; and what "Forget everything" gives back."""

from __future__ import annotations

import io
import json
import os
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import numpy as np
import pytest

from cxnet.phantom import make_phantom
from cxnet.radiograph import read_radiograph
from tests.browser.conftest import ROOT, Server, idle, serve, tab
from tests.test_private import patient_dicom, run_of

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

#: Not written in any file of cxnet, so that a file that has it was written by the server.
PATIENT = f"ZZTESTPHI{uuid4().hex[:6].upper()}"
#: What others write beside the server while it runs.
NOT_SERVER = {".git", ".venv", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__"}
SLOW_MS = 120_000
LARGE_PX = 4000
#: Share of the memory taken that an allocator may keep for itself.
STAYS = 0.25


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server's home, temporary files and log lie."""
    found = tmp_path_factory.mktemp("private")
    for name in ("home", "tmp"):
        (found / name).mkdir()
    return found


@pytest.fixture(scope="module")
def private_server(folder: Path) -> Iterator[Server]:
    with serve(folder, HOME=str(folder / "home"), TMPDIR=str(folder / "tmp"), PYTHONDONTWRITEBYTECODE="1") as found:
        yield found


def upload(page: Any, name: str, kind: str, data: bytes) -> None:
    chosen = {"name": name, "mimeType": kind, "buffer": data}
    page.get_by_test_id("stFileUploader").locator("input[type=file]").set_input_files([chosen])
    expect(page.locator(".viewer[data-view]")).to_be_visible(timeout=SLOW_MS)
    idle(page)


def download(page: Any, title: str) -> tuple[str, bytes]:
    with page.expect_download(timeout=SLOW_MS) as waiting:
        page.get_by_role("button", name=title).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def html_but_uploader(page: Any) -> str:
    """The page as it stands, but for the list in which the uploader tells the reader the names of his own files."""
    found: str = page.evaluate(
        """() => {
          const copy = document.documentElement.cloneNode(true);
          copy.querySelectorAll('[data-testid=stFileUploader]').forEach(element => element.remove());
          return copy.outerHTML;
        }"""
    )
    return found


def kept_by_browser(page: Any) -> str:
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, history.state])")
    return f"{kept} {json.dumps(page.context.cookies())}"


def written_since(start: float, *roots: Path) -> Iterator[Path]:
    for root in roots:
        for place, folders, names in os.walk(root):
            folders[:] = [name for name in folders if name not in NOT_SERVER]
            for path in (Path(place, name) for name in names):
                if path.is_file() and path.stat().st_mtime >= start - 1:
                    yield path


def test_nothing_of_a_patient_leaves_the_tab(browser: Any, private_server: Server, folder: Path) -> None:
    start = time.time()
    data = patient_dicom(PATIENT, 400)
    radiograph = read_radiograph(data)
    height, width = radiograph.pixels.shape
    place = len(data) - height * width  # the middle of what ends the file, two bytes a pixel
    runs = [run_of(radiograph), data[place : place + 64]]  # as they are looked at, and as they lie in the file
    assert len(set(runs[1])) > 8
    urls: list[str] = []
    frames: list[bytes | str] = []
    with tab(browser, private_server) as page:
        page.on("request", lambda request: urls.append(request.url))
        page.on("framenavigated", lambda frame: urls.append(frame.url))
        page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(frame)))
        page.goto("/")
        upload(page, f"{PATIENT}.dcm", "application/dicom", data)
        expect(page.get_by_text("Model output for")).to_be_visible()
        page.get_by_text("Technical tags").click()
        expect(page.get_by_text("MONOCHROME2")).to_be_visible()
        pages = [html_but_uploader(page), page.locator(".viewer").inner_html(), kept_by_browser(page)]

        page.get_by_role("button", name="Run LIME").click()
        expect(page.get_by_text(re.compile(r"LIME: [1-9]\d* of at most"))).to_be_visible(timeout=SLOW_MS)
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text(re.compile(r"LIME was stopped after \d+ samples"))).to_be_visible(timeout=SLOW_MS)
        page.get_by_role("button", name="Blank the lungs").click()
        expect(page.get_by_text(re.compile("Blank the lungs: .* of the picture changed"))).to_be_visible()
        idle(page)
        pages.append(html_but_uploader(page))

        report, bundle = download(page, "Report (HTML)"), download(page, "Bundle (zip)")
        downloads = [report[1], bundle[1]]
        with zipfile.ZipFile(io.BytesIO(bundle[1])) as archive:
            downloads += [archive.read(name) for name in archive.namelist()]
        names = [report[0], bundle[0], *zipfile.ZipFile(io.BytesIO(bundle[1])).namelist()]

        for title in ("About", "Runs", "Batch"):
            page.get_by_role("link", name=title, exact=True).click()
            idle(page)
            pages += [html_but_uploader(page), page.title()]
        page.get_by_role("button", name="Judge 1 radiograph").click()
        expect(page.get_by_text(re.compile("The maps of . of 1 radiograph lie in"))).to_be_visible()
        idle(page)
        table = download(page, "Table (CSV)")
        pages.append(html_but_uploader(page))
        downloads.append(table[1])
        names.append(table[0])
        for _ in range(3):
            page.go_back()
        expect(page.locator(".viewer[data-view]")).to_be_visible()
        idle(page)
        pages += [html_but_uploader(page), kept_by_browser(page)]
        urls.append(page.url)

        page.get_by_role("button", name="Forget everything").click()
        expect(page.get_by_text("or start with a synthetic sample")).to_be_visible()
        idle(page)
        pages += [page.content(), kept_by_browser(page)]

    assert len(frames) > 10
    assert all(len(text) > 20 for text in downloads)
    for told in (*pages, *urls, *names):
        assert PATIENT not in told
    for content in (*downloads, *(frame.encode() if isinstance(frame, str) else frame for frame in frames)):
        assert PATIENT.encode() not in content
    for path in {private_server.log, *written_since(start, folder, ROOT)}:
        content = path.read_bytes()
        assert PATIENT.encode() not in content, path
        assert PATIENT not in str(path)
        assert not any(run in content for run in runs), path
    assert "Traceback" not in private_server.log.read_text()


def memory_mb(process: int) -> float:
    """Resident memory of a process."""
    (line,) = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def large(seed: int) -> bytes:
    """A 16-bit radiograph of 16 megapixels."""
    small = make_phantom(seed, 500).pixels.astype(np.float32) * 257
    pixels = cv2.resize(small, (LARGE_PX, LARGE_PX), interpolation=cv2.INTER_CUBIC).clip(0, 65535).astype(np.uint16)
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_forgetting_gives_memory_back(browser: Any, private_server: Server) -> None:
    def forget(page: Any) -> None:
        page.get_by_role("button", name="Forget everything").click()
        expect(page.get_by_text("or start with a synthetic sample")).to_be_visible(timeout=SLOW_MS)
        idle(page)

    with tab(browser, private_server) as page:
        page.goto("/")
        upload(page, "first.png", "image/png", large(1))  # whatever is loaded once is loaded now
        forget(page)
        page.wait_for_timeout(5000)  # memory is given back in the background
        before = memory_mb(private_server.process)
        for number in (1, 2):
            upload(page, f"{number}.png", "image/png", large(number + 1))
            picker = page.get_by_role("combobox", name="Radiograph")
            expect(picker).to_have_value(re.compile(f"^Upload {number}:"), timeout=SLOW_MS)
            idle(page)
        full = memory_mb(private_server.process)
        forget(page)
        after, end = full, time.monotonic() + 20
        while after - before >= STAYS * (full - before) and time.monotonic() < end:
            time.sleep(0.5)
            after = memory_mb(private_server.process)
    assert full - before > 2 * LARGE_PX**2 / 2**20  # at least the pixels themselves
    assert after - before < STAYS * (full - before), (before, full, after)
