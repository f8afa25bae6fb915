"""A real server and a real browser. Without playwright or Chromium these tests are skipped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60
#: Somebody who sees what is another's, even once in two, is a fault.
ONCE = {"test_privacy.py", "test_sessions.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            # a page that a busy machine redraws late looks like a fault; a fault shows itself twice
            if item.path.name not in ONCE:
                item.add_marker(pytest.mark.flaky(reruns=1))


@dataclass(frozen=True)
class Server:
    """The running dashboard."""

    url: str
    log: Path
    process: int = 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serve(
    folder: Path, *options: str, script: str = "app.py", port: int | None = None, **more: str
) -> Iterator[Server]:
    """``streamlit run`` of a script with its log in a folder, until it answers; stopped at the end.

    `options` are further options of Streamlit, `more` further variables of its environment. The accept gate is off
    unless they switch it on.
    """
    port = port or free_port()
    place = "--server.baseUrlPath"
    base = f"/{options[options.index(place) + 1]}" if place in options else ""
    url, log_file = f"http://127.0.0.1:{port}{base}", folder / "log.txt"
    command = [sys.executable, "-m", "streamlit", "run", script, "--server.headless", "true"]
    command += ["--server.address", "127.0.0.1", "--server.port", str(port), *options]
    more = {"CXNET_GATE": "off", **more}
    with log_file.open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **more})
    found = Server(url, log_file, process.pid)
    try:
        end = time.monotonic() + TIMEOUT_S
        while True:
            try:
                with urllib.request.urlopen(f"{found.url}/_stcore/health", timeout=1) as answer:
                    answer.read()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, found.log.read_text()
                time.sleep(0.2)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The dashboard; at the end its log must hold no traceback."""
    with serve(tmp_path_factory.mktemp("server")) as found:
        yield found
    assert "Traceback" not in found.log.read_text(), found.log.read_text()


def chromium() -> str | None:
    """Where Chromium is."""
    usual = Path("/usr/bin/chromium")
    return str(usual) if usual.exists() else shutil.which("chromium")


@contextmanager
def launch(executable: str) -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        expect.set_options(timeout=TIMEOUT_S * 1000)
        found = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = chromium()
    if executable is None:
        pytest.skip("Chromium is not installed")
    with launch(executable) as found:
        yield found


@contextmanager
def tab(browser: Any, server: Server) -> Iterator[Any]:
    """A page of a fresh browser profile; script errors and requests to other hosts fail the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, base_url=server.url, reduced_motion="reduce")
    context.set_default_timeout(TIMEOUT_S * 1000)
    found = context.new_page()
    bad: list[str] = []
    own = ("data:", "blob:", f"{server.url}/")
    found.on("pageerror", lambda error: bad.append(f"script error: {error}"))
    found.on("request", lambda request: None if request.url.startswith(own) else bad.append(request.url))
    yield found
    context.close()
    assert not bad, bad


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """A tab of the dashboard."""
    with tab(browser, server) as found:
        yield found


def idle(page: Any) -> None:
    """Wait until the page's script has finished and stays so: one run may start the next."""
    page.wait_for_function(
        """() => {
          const app = document.querySelector('[data-testid=stApp]');
          const quiet = app && app.dataset.testScriptState === 'notRunning'
            && app.dataset.testConnectionState === 'CONNECTED'
            && !document.querySelector('[data-testid=stSkeleton], [data-testid=stSpinner], [data-stale=true]');
          const now = performance.now();
          if (!quiet) { window.__quietSince = 0; return false; }
          window.__quietSince = window.__quietSince || now;
          return now - window.__quietSince > 300;
        }"""
    )


def choose(page: Any, name: str, option: Any) -> None:
    """Choose from a list by its name. A run of the page that ends meanwhile closes an open list: then it is opened again."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeout

    found = page.get_by_role("option", name=option)
    for patience_ms in (3_000, 10_000, TIMEOUT_S * 1000):
        idle(page)
        page.get_by_role("combobox", name=name).press("ArrowDown")  # a quick click closes the list again
        try:
            found.click(timeout=patience_ms)
            return
        except PlaywrightTimeout:
            page.keyboard.press("Escape")
    raise AssertionError(f"The list {name!r} does not stay open, or has no such choice.")
