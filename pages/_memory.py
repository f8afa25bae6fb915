"""How much memory the server may fill, and that what sessions have given up goes back to the system.

Streamlit runs every page in a thread of its own. GNU's C library gives threads arenas of their own, up to eight a core,
each of which keeps what was freed in it: a server that has seen many analyses would hold a multiple of what it needs.
And Streamlit keeps what the last of closed tabs held until somebody else comes, however long ago it was closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
import weakref
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFileManager

from cxnet.errors import SettingsError

ARENAS = 2
_M_ARENA_MAX = -8  # of malloc.h
#: By then the page without the radiographs has been drawn, and nothing holds them any more.
AFTER_S = 2.0

#: Where Linux says what a container may use: of the second version of control groups, and of the first.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
#: Of what the server may use, for radiographs that come; the rest is for the work on those that are there.
FILL = 0.8

_waiting = threading.Lock()
#: Sessions that have lost their connection and have not held anything since, with what they held.
_away: dict[str, _Held] = {}


@cache
def start() -> None:
    """Ask the C library for few arenas; once a process, before its threads have any."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than GNU's
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


@cache
def limit_bytes() -> int | None:
    """What the server may use: ``CXNET_MEMORY_MB``, or what its container may; None if nobody says.

    Raises
    ------
    SettingsError
        If the variable is no whole number of at least 1024: the server itself, with a network, takes half of that.
    """
    said = os.environ.get("CXNET_MEMORY_MB", "").strip()
    if said:
        if not said.isdigit() or int(said) < 1024:
            raise SettingsError("CXNET_MEMORY_MB must be a whole number of MB, at least 1024; correct or remove it.")
        return int(said) * 2**20
    found = []
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max", or no Linux
            found.append(int(Path(path).read_text("ascii")))
    with contextlib.suppress(OSError, ValueError, AttributeError):  # without a limit the first version names a huge one
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        found = [one for one in found if one < there]
    return min(found, default=None)


def resident_bytes() -> int | None:
    """What the server uses; None where the system does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def full(more: int = 0) -> bool:
    """Whether the server, with so many bytes more, would use more than :data:`FILL` of what it may.

    Without a bound over all sessions the system would end the server, and everybody would lose everything.
    """
    limit, used = limit_bytes(), resident_bytes()
    found = limit is not None and used is not None and used + more > FILL * limit
    if found:
        give_back_soon()
    return found


Holder = MutableMapping[Any, Any]


@dataclass(frozen=True, eq=False)
class _Held:
    """What a session holds; weakly, so that this neither keeps it nor lets another session see it."""

    session: str
    files: weakref.ref[UploadedFileManager]
    holders: list[weakref.ref[Holder]]


def hold(holder: Holder) -> None:
    """Empty what a session holds when its tab was closed for longer than Streamlit waits for it to come back.

    The files of its uploader go as well.
    """
    context = get_script_run_ctx()
    if context is None or not runtime.exists():
        return
    held = _holders(context.session_id, context.uploaded_file_mgr)
    if not any(one() is holder for one in held.holders):
        held.holders.append(weakref.ref(holder))


def _closed(held: _Held) -> None:
    """A tab has lost its connection."""
    _away[held.session] = held
    _look_later(held)


def _look_later(held: _Held) -> None:
    wait_s = float(st.get_option("server.disconnectedSessionTTL"))
    later = threading.Timer(wait_s + AFTER_S, _drop, [held])
    later.daemon = True
    later.start()


@st.cache_resource(scope="session", on_release=_closed, show_spinner=False)
def _holders(session: str, _files: UploadedFileManager) -> _Held:
    before = _away.pop(session, None)  # it has come back: what it held before is still its own
    return _Held(session, weakref.ref(_files), before.holders if before else [])


def _drop(held: _Held) -> None:
    """Empty what a session held, if that is the last that closed and its tab can no longer come back."""
    if _away.get(held.session) is not held:
        return
    if kept(held.session):
        # A tab that comes back does not run its page, and so holds nothing, until somebody uses it: if it is closed
        # before that, nobody tells.
        _look_later(held)
        return
    del _away[held.session]
    for one in held.holders:
        holder = one()
        if holder is not None:
            holder.clear()
    files = held.files()
    if files is not None:
        files.remove_session_files(held.session)
    give_back_soon()


def kept(session: str) -> bool:
    """Whether Streamlit keeps a session: its tab is open, or was lost so short a time ago that it may come back."""
    return runtime.exists() and runtime.get_instance()._session_mgr.get_session_info(session) is not None


def give_back_soon() -> None:
    """Give memory back in a moment, from a thread of its own."""
    if _waiting.acquire(blocking=False):
        later = threading.Timer(AFTER_S, _give_back)
        later.daemon = True
        later.start()


def _give_back() -> None:
    """Hand memory that nobody holds back to the system.

    A page's script that has ended is a cycle of its functions and all that it showed, which waits for the collector;
    and the C library keeps what was freed for itself.
    """
    _waiting.release()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
