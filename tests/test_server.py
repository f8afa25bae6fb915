"""What the server does before a page is run: whom it asks, and what uploads it takes."""

from __future__ import annotations

import asyncio
import base64
import http.client
import re
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFileRec

from pages import _server
from tests.browser.conftest import ROOT, Server, serve

TOKEN = "a" * 32
CONTAINER = (ROOT / "Containerfile").read_text("utf-8")


@contextmanager
def outside() -> Iterator[tuple[str, list[socket.socket]]]:
    """A proxy that never answers, and the connections to it: every request of the server to somebody else."""
    asked: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def listen() -> None:
            while True:
                try:
                    asked.append(listening.accept()[0])
                except OSError:
                    return

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        listening.shutdown(socket.SHUT_RDWR)
    for one in asked:
        one.close()


def shake_hands(server: Server, origin: str) -> tuple[str, float]:
    """First line of the answer to a browser's WebSocket request, and the seconds that it took."""
    own = urlsplit(server.url)
    lines = (
        "GET /_stcore/stream HTTP/1.1", f"Host: {own.netloc}", f"Origin: {origin}", "Upgrade: websocket",
        "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}",
    )  # fmt: skip
    start = time.monotonic()
    with socket.create_connection((str(own.hostname), int(own.port or 0)), timeout=20) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = connection.recv(200).decode("latin-1")
    return answer.split("\r\n")[0], time.monotonic() - start


def put(server: Server, session: str, size: int, file: str = "file") -> int:
    """Status of an upload."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x", "X-Xsrftoken": TOKEN}
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    try:
        connection.request(
            "PUT", f"/_stcore/upload_file/{session}/{file}", head + bytes(size) + b"\r\n--x--\r\n",
            {**headers, "Cookie": f"_streamlit_xsrf={TOKEN}"},
        )  # fmt: skip
        return connection.getresponse().status
    finally:
        connection.close()


@contextmanager
def visitor(server: Server, **headers: str) -> Iterator[str]:
    """Somebody whose page has been run to its end; the session's name."""
    connect = pytest.importorskip("websockets.sync.client", reason="websockets is not installed").connect
    url = server.url.replace("http", "ws") + "/_stcore/stream"
    with connect(
        url, subprotocols=["streamlit", "none"], origin=server.url, additional_headers=headers, max_size=None
    ) as connection:
        asked, told = BackMsg(), ForwardMsg()
        asked.rerun_script.query_string = ""
        connection.send(asked.SerializeToString())
        session = ""
        while told.WhichOneof("type") != "script_finished" or told.script_finished != ForwardMsg.FINISHED_SUCCESSFULLY:
            told.ParseFromString(connection.recv(timeout=60))
            if told.WhichOneof("type") == "new_session":
                session = told.new_session.initialize.session_id
        yield session


def test_nobody_else_is_asked_and_who_has_not_accepted_uploads_nothing(tmp_path: Path) -> None:
    """From the start, with the variables and the address of the container, and after the first session."""
    container = dict(re.findall(r"^ +(STREAMLIT_LOGGER_[A-Z_]+)=(\S+)", CONTAINER, re.M))
    options = ("--server.address", "0.0.0.0")
    with (
        outside() as (proxy, asked),
        serve(
            tmp_path, *options, **container, http_proxy=proxy, https_proxy=proxy, no_proxy="", CXNET_GATE="on"
        ) as server,
    ):
        for origin in ("http://evil.example", "null"):
            answer, seconds = shake_hands(server, origin)
            assert answer.startswith("HTTP/1.1 403") and seconds < 1
        with visitor(server) as session:
            answer, seconds = shake_hands(server, "http://evil.example")
            assert answer.startswith("HTTP/1.1 403") and seconds < 1
            assert put(server, session, 100) == 403
        with visitor(server, Cookie="cxnet_accepted=1") as session:  # who has accepted uploads as before
            assert put(server, session, 100) == 204
            assert put(server, session, 51 << 20, "other") == 413  # Streamlit's own limit of a file
            assert put(server, session, 100, "other") == 204
            assert put(server, "nobody", 100) == 403
        assert shake_hands(server, server.url)[0].startswith("HTTP/1.1 101")
        assert asked == []


# --------------------------------------------------------------------------------------------------------- the limits


def finished(work: Coroutine[Any, Any, Any]) -> Any:
    """Its result, from a thread of its own: a browser test before this one leaves its loop running in the main thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class Uploads:
    """The server's uploads without a server: each is there at once, or waits for `go` if there is one."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.files, self.go = MemoryUploadedFileManager("/upload"), asyncio.Event()
        patch.setattr(_server, "_sessions", {})
        found = SimpleNamespace(uploaded_file_mgr=self.files)
        patch.setattr(_server, "runtime", SimpleNamespace(get_instance=lambda: found))
        patch.setattr(_server._memory, "kept", lambda session: session != "gone")
        self.wait = False

    async def _streamlit(self, scope: Any, receive: Any, send: Any) -> None:
        *_, session, file = scope["path"].split("/")
        if self.wait:
            await self.go.wait()
        self.files.add_file(session, UploadedFileRec(file, "", "", b""))
        await send({"type": "http.response.start", "status": 204, "headers": []})

    async def put(self, session: str, file: str, size: int | None, method: str = "PUT") -> int:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [] if size is None else [(b"content-length", str(size).encode())]
        path = f"/base/_stcore/upload_file/{session}/{file}"
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        await _server.Uploads(self._streamlit)(scope, None, send)  # type: ignore[arg-type]
        return int(sent[0]["status"])

    def puts(self, session: str, **sizes: int | None) -> list[int]:
        return [finished(self.put(session, file, size)) for file, size in sizes.items()]


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> Uploads:
    monkeypatch.setattr(_server, "WAITING_FILES", 3)
    monkeypatch.setattr(_server, "WAITING_BYTES", 100 << 20)
    found = Uploads(monkeypatch)
    for session in ("a", "b"):
        _server.let_in(session)
    return found


def test_files_are_counted_by_session_until_they_are_read(uploads: Uploads) -> None:
    assert uploads.puts("a", one=1, two=2, three=3, four=4, five=5) == [204, 204, 204, 413, 413]
    assert uploads.puts("b", one=1) == [204]
    assert [_server.refused(session)[413] for session in ("a", "a", "b")] == [2, 0, 0]
    uploads.files.remove_file("a", "two")  # the page has read it
    assert uploads.puts("a", four=4, five=5) == [204, 413]


def test_bytes_are_counted_to_the_last(uploads: Uploads) -> None:
    assert uploads.puts("a", one=60 << 20, two=(40 << 20) + 1, three=40 << 20) == [204, 413, 204]


def test_a_body_of_unknown_length_counts_as_the_longest(uploads: Uploads) -> None:
    assert uploads.puts("a", one=None, two=None, three=1) == [204, 204, 413]


def test_files_on_their_way_count(uploads: Uploads) -> None:
    async def all_at_once() -> list[int]:
        uploads.wait = True
        going = [asyncio.create_task(uploads.put("a", f"f{number}", 1)) for number in range(5)]
        await asyncio.sleep(0.01)
        uploads.go.set()
        return await asyncio.gather(*going)

    assert finished(all_at_once()) == [204, 204, 204, 413, 413]


def test_a_server_whose_memory_is_full_takes_nothing(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,000 MB that it may use it fills 800; what is on its way to others counts."""
    monkeypatch.setattr(_server._memory, "limit_bytes", lambda: 1000 << 20)
    monkeypatch.setattr(_server._memory, "resident_bytes", lambda: 740 << 20)
    assert uploads.puts("a", one=61 << 20, two=60 << 20) == [503, 204]
    assert _server.refused("a") == {503: 1} and not _server.refused("b")

    async def beside_another() -> list[int]:
        uploads.wait = True
        other = asyncio.create_task(uploads.put("b", "one", 40 << 20))
        await asyncio.sleep(0.01)
        later = asyncio.create_task(uploads.put("a", "three", 30 << 20))
        await asyncio.sleep(0.01)
        uploads.go.set()
        return [await other, await later]

    assert finished(beside_another()) == [204, 503]


def test_the_page_is_run_to_say_what_was_turned_away(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a drop, and not if it was run anyway."""
    runs: list[str] = []
    session = SimpleNamespace(_client_state="state", request_rerun=runs.append)
    manager = SimpleNamespace(get_active_session_info=lambda name: SimpleNamespace(session=session))
    found = SimpleNamespace(uploaded_file_mgr=uploads.files, _session_mgr=manager)
    monkeypatch.setattr(_server, "runtime", SimpleNamespace(get_instance=lambda: found))
    monkeypatch.setattr(_server, "TOLD_AFTER_S", 0.05)

    async def drop(asks: bool) -> None:
        for number in range(6):
            await uploads.put("a", f"f{number}", 1)
        if asks:
            assert _server.refused("a")
        await asyncio.sleep(0.2)

    finished(drop(False))
    assert runs == ["state"]
    assert _server.refused("a") == {413: 3}
    finished(drop(True))
    assert runs == ["state"]
    finished(drop(False))
    assert runs == ["state"] * 2


def test_who_was_not_let_in_and_who_is_gone_upload_nothing(uploads: Uploads) -> None:
    assert uploads.puts("stranger", one=1) == [403]
    assert not _server.refused("stranger")
    _server.let_in("gone")
    _server.let_in("c")
    assert set(_server._sessions) == {"a", "b", "c"}


def test_other_requests_pass(uploads: Uploads) -> None:
    assert finished(uploads.put("stranger", "one", 1, "DELETE")) == 204
