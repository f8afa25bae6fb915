"""What the server does, and does not do, before a page is run: no requests to others, and bounded uploads.

:data:`MIDDLEWARE` looks at every upload before its body is read. Streamlit itself checks the size of one file only,
keeps the files of a drop until all have arrived, and takes them from any open session.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

import streamlit as st
from starlette.formparsers import MultiPartParser
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit import net_util, runtime

from pages import _memory

#: Files and bytes of a session that have arrived, or are about to, and were not read yet.
WAITING_FILES = 1_000
WAITING_BYTES = 400 * 2**20
#: By then the other files of a drop have been looked at, too.
TOLD_AFTER_S = 1.0
_UPLOAD = re.compile(r"/_stcore/upload_file/([^/]+)/([^/]+)$")


@cache
def start() -> None:
    """Close what Streamlit leaves open; once a process. A variable that makes no sense is told now."""
    _memory.limit_bytes()
    # To tell whether an unknown Origin is its own, and for its greeting, Streamlit asks an outside service for the
    # server's address: two requests of up to a second each, in which nobody else is answered.
    net_util.get_external_ip = lambda: None
    # An upload of more than 1 MB would be written to a temporary file while it arrives; 0 keeps it in memory. How large
    # it may be is checked by Streamlit while it streams (server.maxUploadSize).
    MultiPartParser.spool_max_size = 0


@dataclass(eq=False)
class _Waiting:
    """Sizes of a session's files: those on their way, those that have arrived; and how many were turned away, and why."""

    coming: dict[str, int] = field(default_factory=dict)
    arrived: dict[str, int] = field(default_factory=dict)
    refused: Counter[int] = field(default_factory=Counter)
    tells: bool = False


_lock = threading.Lock()
#: Sessions that may upload, i.e. whose page has an uploader.
_sessions: dict[str, _Waiting] = {}


def let_in(session: str) -> None:
    """Take uploads of a session from now on."""
    with _lock:
        if session in _sessions:
            return
        for other in [one for one in _sessions if not _memory.kept(one)]:
            del _sessions[other]
        _sessions[session] = _Waiting()


def refused(session: str) -> Counter[int]:
    """How many files of a session were turned away since this was last asked, by the status of the answer.

    413: the session has too many that wait. 503: the server has no memory for more.
    """
    with _lock:
        found = _sessions.get(session)
        if found is None:
            return Counter()
        counts, found.refused, found.tells = found.refused, Counter(), False
    return counts


class Uploads:
    """Turns uploads away before they are read: of sessions that were not let in, and beyond what may wait or fits."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _UPLOAD.search(scope["path"]) if scope["type"] == "http" and scope["method"] == "PUT" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        session, file = found.groups()
        status = _reserve(session, file, _length(scope))
        if status is not None:
            await PlainTextResponse("This upload is not taken.", status)(scope, receive, send)
            _tell_later(session)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            with _lock:
                waiting = _sessions.get(session)
                if waiting is not None and file in waiting.coming:
                    waiting.arrived[file] = waiting.coming.pop(file)


#: For :class:`streamlit.App`.
MIDDLEWARE = [Middleware(Uploads)]


def _tell_later(session: str) -> None:
    """See to it that the page says what was turned away: a browser all of whose files were refused asks for no run."""
    with _lock:
        waiting = _sessions.get(session)
        if waiting is None or waiting.tells:
            return
        waiting.tells = True
    asyncio.get_running_loop().call_later(TOLD_AFTER_S, _tell, session)


def _tell(session: str) -> None:
    """Run a session's page again, unless it has been run since and has asked."""
    with _lock:
        waiting = _sessions.get(session)
        if waiting is None or not waiting.refused:
            return
    found = runtime.get_instance()._session_mgr.get_active_session_info(session)
    if found is not None:
        found.session.request_rerun(found.session._client_state)  # as Streamlit does when a source file has changed


def _length(scope: Scope) -> int:
    """How long the body will be; as long as it may be if that is not said."""
    said = dict(scope["headers"]).get(b"content-length", b"")
    return int(said) if said.isdigit() else int(st.get_option("server.maxUploadSize")) * 2**20


def _reserve(session: str, file: str, size: int) -> int | None:
    """Make room for a file; the status of the answer if there is none."""
    with _lock:
        waiting = _sessions.get(session)
        if waiting is None:
            return 403
        _forget_read(session, waiting)
        sizes = [*waiting.coming.values(), *waiting.arrived.values()]
        if file in waiting.coming or len(sizes) >= WAITING_FILES or sum(sizes) + size > WAITING_BYTES:
            waiting.refused[413] += 1
            return 413
        # those on their way are in memory as far as they have come; twice is on the safe side
        if _memory.full(size + sum(sum(one.coming.values()) for one in _sessions.values())):
            waiting.refused[503] += 1
            return 503
        waiting.coming[file] = size
    return None


def _forget_read(session: str, waiting: _Waiting) -> None:
    """Files that the page has read, or the browser has taken back, no longer wait."""
    there = runtime.get_instance().uploaded_file_mgr.get_files(session, list(waiting.arrived))
    kept = {record.file_id for record in there}
    waiting.arrived = {file: size for file, size in waiting.arrived.items() if file in kept}
