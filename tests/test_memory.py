"""What a session holds goes when its tab is gone for good, and not while it may come back.

A model of a Streamlit server in virtual time: it keeps a session for TTL seconds after its tab lost the connection, and
tells of the loss only if the session has held something since it came.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pages import _memory

TTL = 120.0


class Files:
    """The server's uploaded files."""

    def __init__(self) -> None:
        self.gone: list[str] = []

    def remove_session_files(self, session: str) -> None:
        self.gone.append(session)


class Server:
    """Streamlit with one session, and the clock."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now, self.lost_at, self.told = 0.0, None, None
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.started = itertools.count()
        self.stored: OrderedDict[str, int] = OrderedDict(radiograph=1)
        self.files = Files()
        manager = SimpleNamespace(get_session_info=lambda session: object() if self.keeps() else None)
        found = SimpleNamespace(is_active_session=lambda session: self.lost_at is None, _session_mgr=manager)
        patch.setattr(_memory, "runtime", SimpleNamespace(exists=lambda: True, get_instance=lambda: found))
        patch.setattr(_memory.st, "get_option", lambda name: TTL)
        patch.setattr(_memory, "threading", SimpleNamespace(Timer=self.timer))
        patch.setattr(_memory, "give_back_soon", lambda: None)
        patch.setattr(_memory, "_away", {})

    def timer(self, after_s: float, call: Callable[..., None], arguments: list[Any]) -> Any:
        def start() -> None:
            heapq.heappush(self.timers, (self.now + after_s, next(self.started), lambda: call(*arguments)))

        return SimpleNamespace(start=start)

    def keeps(self) -> bool:
        return self.lost_at is None or self.now < self.lost_at + TTL

    def until(self, time: float) -> None:
        while self.timers and self.timers[0][0] <= time:
            self.now, _, call = heapq.heappop(self.timers)
            call()
        self.now = time

    def run_page(self, *holders: OrderedDict[str, int]) -> None:
        """The page holds something, as :func:`pages._memory.hold` does."""
        if self.told is None:
            self.told = _memory._holders.__wrapped__("session", self.files)
        self.told.holders.extend(weakref.ref(one) for one in holders)

    def lose(self, time: float) -> None:
        self.until(time)
        self.lost_at = time
        if self.told is not None:
            told, self.told = self.told, None
            _memory._closed(told)

    def come_back(self, time: float) -> None:
        self.until(time)
        assert self.keeps()
        self.lost_at = None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


@pytest.mark.parametrize("used", [True, False])
def test_away_twice_keeps_everything(server: Server, used: bool) -> None:
    """Away at 0 s, back at 5 s, away at 121 s, back at 125 s; whether or not the page was used in between."""
    server.run_page(server.stored)
    server.lose(0)
    server.come_back(5)
    if used:
        server.run_page(server.stored)
    server.lose(121)
    server.until(124)
    assert server.stored
    server.come_back(125)
    server.until(1000)
    assert server.stored and not server.files.gone
    server.lose(1000)
    server.until(1000 + 2 * (TTL + _memory.AFTER_S))
    assert not server.stored
    assert server.files.gone == ["session"]
    assert not server.timers and not _memory._away


def test_what_was_held_before_the_connection_was_lost_goes_as_well(server: Server) -> None:
    """The page that is open after it may hold less."""
    server.run_page(server.stored)
    server.lose(0)
    server.come_back(5)
    gallery = OrderedDict(thumbnail=1)
    server.run_page(gallery)
    server.lose(10)
    server.until(10 + TTL + _memory.AFTER_S - 0.1)
    assert server.stored and gallery
    server.until(10 + TTL + _memory.AFTER_S)
    assert not server.stored and not gallery


@given(st.lists(st.tuples(st.floats(0.1, 400), st.floats(0.1, TTL - 0.1), st.booleans()), max_size=6))
def test_kept_as_long_as_streamlit_keeps_it_and_not_much_longer(visits: list[tuple[float, float, bool]]) -> None:
    """Seconds here and away, and whether the page was used."""
    with pytest.MonkeyPatch.context() as patch:
        server = Server(patch)
        server.run_page(server.stored)
        for here, away, used in visits:
            server.lose(server.now + here)
            server.come_back(server.now + away)
            assert server.stored
            if used:
                server.run_page(server.stored)
        server.lose(server.now + 1)
        end = server.now
        server.until(end + TTL - 0.1)
        assert server.stored
        server.until(end + 2 * (TTL + _memory.AFTER_S))
        assert not server.stored and not server.timers
