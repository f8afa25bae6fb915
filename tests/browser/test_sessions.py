"""Several readers at once: nobody sees another's picture, title, job or result, or waits for another's LIME."""

from __future__ import annotations

import base64
import http.client
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import pytest

from cxnet.phantom import make_phantom
from cxnet.radiograph import read_radiograph
from tests.browser.conftest import ROOT, TIMEOUT_S, Server, idle, serve, tab

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

SLOW_MS = 180_000
ADDRESS = re.compile("/media/[0-9a-f]+[^ \"']*")


class Reader:
    """One person: a fresh browser profile, a radiograph of his own, and all that the server has told him."""

    def __init__(self, context: Any, server: Server, number: int) -> None:
        self.side = 400 + 10 * number
        self.data = cv2.imencode(".png", make_phantom(100 + number, self.side).pixels)[1].tobytes()
        self.sha256 = read_radiograph(self.data).sha256
        self.received: list[bytes] = []
        self.media: list[str] = []
        self.bad: list[str] = []
        self.page = page = context.new_page()
        own = ("data:", "blob:", f"{server.url}/")
        page.on("pageerror", lambda error: self.bad.append(f"script error: {error}"))
        page.on("request", lambda request: None if request.url.startswith(own) else self.bad.append(request.url))
        page.on("request", lambda request: self.media.extend(ADDRESS.findall(request.url)))
        page.on("websocket", lambda one: one.on("framereceived", self._receive))

    def _receive(self, frame: bytes | str) -> None:
        self.received.append(frame.encode() if isinstance(frame, str) else frame)

    @property
    def traces(self) -> dict[str, bytes]:
        """What tells this reader's radiograph: its checksum, its title, and its pixels as a browser gets them."""
        picture = base64.b64encode(self.data)
        middle = len(picture) // 8 * 4
        title = f"{self.side} × {self.side} PNG"
        return {"checksum": self.sha256.encode(), "title": title.encode(), "pixels": picture[middle : middle + 200]}

    def told(self, other: Reader) -> set[str]:
        """Which traces of a reader's radiograph this one has received."""
        everything = b"\n".join(self.received)
        return {name for name, trace in other.traces.items() if trace in everything}

    def open(self) -> None:
        self.page.goto("/")
        self.page.get_by_test_id("stFileUploader").wait_for()

    def upload(self) -> None:
        chosen = {"name": "radiograph.png", "mimeType": "image/png", "buffer": self.data}
        self.page.get_by_test_id("stFileUploader").locator("input[type=file]").set_input_files([chosen])

    def see(self) -> None:
        expect(self.page.locator(".viewer[data-view]")).to_be_visible(timeout=SLOW_MS)
        idle(self.page)

    def start_lime(self) -> None:
        self.page.get_by_role("button", name="Run LIME").click()


@contextmanager
def readers(browser: Any, server: Server, count: int) -> Iterator[list[Reader]]:
    """Readers who come at the same time."""
    with ExitStack() as stack:
        found = []
        for number in range(count):
            context = browser.new_context(
                viewport={"width": 1400, "height": 900}, base_url=server.url, reduced_motion="reduce"
            )
            context.set_default_timeout(SLOW_MS)
            stack.callback(context.close)
            found.append(Reader(context, server, number))
        yield found
        for reader in found:
            assert not reader.bad, reader.bad


def see_own_only(found: list[Reader]) -> None:
    for reader in found:
        assert reader.told(reader) == {"checksum", "title", "pixels"}
        for other in found:
            assert other is reader or reader.told(other) == set()


def running(reader: Reader) -> Any:
    return reader.page.get_by_text(re.compile(r"LIME: [1-9]\d* of at most"))


def ask(server: Server, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Status and body of an answer to somebody without the page's cookies."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, headers=headers, body=b"" if method == "PUT" else None)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_three_readers(browser: Any, server: Server) -> None:
    """Also: a click beside another's LIME, the queue, and a tab that is closed while its LIME runs."""
    with readers(browser, server, 3) as found:
        first, second, third = found
        for reader in found:
            reader.open()
        for reader in found:
            reader.upload()
        for reader in found:
            reader.see()
            picker = reader.page.get_by_role("combobox", name="Radiograph")
            expect(picker).to_have_value(f"Upload 1: {reader.side} × {reader.side} PNG")
        first.page.get_by_text("LIME", exact=True).first.click()
        first.page.get_by_text("Stop when the top five have settled").click()
        idle(first.page)
        first.start_lime()
        expect(running(first)).to_be_visible(timeout=SLOW_MS)

        second.page.get_by_role("button", name="Blank the lungs").click()  # asks the network
        expect(second.page.get_by_text(re.compile("Blank the lungs: .* of the picture"))).to_be_visible()
        expect(second.page.get_by_text(re.compile("LIME: |before you"))).to_have_count(0)
        expect(running(first)).to_be_visible()  # it was answered while that was under way

        second.start_lime()
        expect(second.page.get_by_text("Waiting: 1 before you")).to_be_visible()
        third.start_lime()
        expect(third.page.get_by_text("Waiting: 2 before you")).to_be_visible()
        expect(running(first)).to_be_visible()
        second.page.get_by_role("button", name="Cancel").click()
        expect(second.page.get_by_role("button", name="Run LIME again")).to_be_visible()
        expect(third.page.get_by_text("Waiting: 1 before you")).to_be_visible()

        see_own_only(found)
        assert second.media
        strange = second.media[0]
        other = re.sub("[0-9a-f]", lambda digit: "0" if digit[0] != "0" else "1", strange.split("/media/")[1], count=8)
        assert ask(server, "GET", strange)[0] == 200  # whoever has the address has the picture
        assert ask(server, "GET", f"/media/{other}")[0] == 404
        assert ask(server, "GET", "/media/")[0] == 404

        first.page.close()
        expect(running(third)).to_be_visible(timeout=SLOW_MS)
        third.page.get_by_role("button", name="Cancel").click()
        expect(third.page.get_by_text(re.compile(r"LIME was stopped after \d+ samples"))).to_be_visible()
        see_own_only(found)


def test_cancel_of_a_running_lime_is_quick(
    browser: Any, server: Server, record_property: Callable[[str, object], None]
) -> None:
    """Two seconds, and two drawings of the pictures: a partial one that may be under way, and the one that stays."""
    with readers(browser, server, 1) as (reader,):
        reader.open()
        reader.upload()
        reader.see()
        reader.page.get_by_text("LIME", exact=True).first.click()
        reader.page.get_by_text("Stop when the top five have settled").click()
        idle(reader.page)
        start = time.monotonic()
        reader.page.get_by_text("Shared colour scale").click()
        idle(reader.page)
        drawing_s = time.monotonic() - start
        reader.start_lime()
        expect(running(reader)).to_be_visible(timeout=SLOW_MS)
        start = time.monotonic()
        reader.page.get_by_role("button", name="Cancel").click()
        expect(reader.page.get_by_text(re.compile(r"LIME was stopped after \d+ samples"))).to_be_visible()
        cancel_s = time.monotonic() - start
    record_property("cancel_s", round(cancel_s, 2))
    record_property("drawing_s", round(drawing_s, 2))
    assert cancel_s < 2 + 2 * drawing_s, (cancel_s, drawing_s)


@pytest.mark.slow
def test_ten_readers(browser: Any, server: Server) -> None:
    with readers(browser, server, 10) as found:
        for step in (Reader.open, Reader.upload, Reader.see, Reader.start_lime):
            for reader in found:
                step(reader)
        for reader in found:
            again = reader.page.get_by_role("button", name="Run LIME again")
            expect(again).to_be_visible(timeout=10 * SLOW_MS)
            idle(reader.page)
        see_own_only(found)


def test_a_stranger_gets_nothing_from_the_upload_endpoint(server: Server) -> None:
    path = "/_stcore/upload_file/00000000-0000-0000-0000-000000000000/00000000-0000-0000-0000-000000000001"
    empty_page = ask(server, "GET", "/")
    assert b"<!doctype html>" in empty_page[1].lower()
    for reading in (path, "/_stcore/upload_file/"):
        answer = ask(server, "GET", reading)
        assert answer == empty_page or answer[0] in (301, 404, 405)  # there is no way to read an upload
    assert ask(server, "PUT", path)[0] == 403
    assert ask(server, "DELETE", path)[0] == 403
    token = {"X-Xsrftoken": "a" * 32, "Cookie": f"_streamlit_xsrf={'a' * 32}"}  # a token of his own making
    assert ask(server, "PUT", path, **token)[0] in (400, 403)


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        (None, None, 101),
        (None, "own", 101),
        (None, "http://evil.example", 403),
        (None, "null", 403),
        ("evil.example", None, 403),
        ("evil.example", "http://evil.example", 403),
        ("127.0.0.1.evil.example", "http://127.0.0.1.evil.example", 403),
    ],
)
def test_a_foreign_page_cannot_connect(server: Server, host: str | None, origin: str | None, status: int) -> None:
    own = urlsplit(server.url)
    lines = [
        "GET /_stcore/stream HTTP/1.1",
        f"Host: {host or own.netloc}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}",
    ]
    if origin is not None:
        lines.append(f"Origin: {server.url if origin == 'own' else origin}")
    with socket.create_connection((str(own.hostname), int(own.port or 0)), timeout=TIMEOUT_S) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = connection.recv(200).decode("latin-1")
    assert answer.startswith(f"HTTP/1.1 {status} "), answer


#: The page's uploader on a server that takes three files of a drop.
FEW = """
import sys
sys.path.insert(0, {root!r})
import streamlit as st
from pages import _server

_server.start()
_server.WAITING_FILES = 3
if __name__ == "__main__":
    from streamlit.runtime.scriptrunner import get_script_run_ctx
    from pages import _session

    _server.let_in(get_script_run_ctx().session_id)
    st.file_uploader("Drop", accept_multiple_files=True, key=_session.uploader_key(), on_change=_session.take_uploads)
    st.write(f"{{len(_session.uploads())}} radiographs")
    for sentence in [*st.session_state.get("upload_errors", []), *_session.refusals()]:
        st.error(sentence)
else:
    app = st.App(__file__, middleware=_server.MIDDLEWARE)
"""


def test_what_a_drop_has_too_much_is_one_sentence_and_the_rest_is_taken(browser: Any, tmp_path: Path) -> None:
    script = tmp_path / "few.py"
    script.write_text(FEW.format(root=str(ROOT)), "utf-8")
    *pictures, more = [cv2.imencode(".png", make_phantom(200 + n, 320).pixels)[1].tobytes() for n in range(6)]
    files = [{"name": f"{n}.png", "mimeType": "image/png", "buffer": data} for n, data in enumerate(pictures)]
    with serve(tmp_path, script=str(script)) as server, tab(browser, server) as page:
        page.goto("/")
        chooser = page.get_by_test_id("stFileUploader").locator("input[type=file]")
        chooser.set_input_files(files)
        expect(page.get_by_text("3 radiographs")).to_be_visible()
        told = page.get_by_test_id("stAlertContainer")
        expect(told).to_have_text(
            re.compile(r"^2 files were not taken, as a drop may have 3 files and 400 MB in all; drop them later\.$")
        )
        chooser.set_input_files([{**files[0], "buffer": more}])
        expect(page.get_by_text("4 radiographs")).to_be_visible()
        expect(told).to_have_count(0)
