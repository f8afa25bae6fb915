"""What a session holds goes when its tab is gone for good, and not while it may come back.

A model of a Streamlit server in virtual time: it keeps a session for TTL seconds after its tab lost the connection, and
tells of the loss only if the session has held something since it came.
"""

from __future__ import annotations

import heapq
import itertools
import subprocess
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxnet.analysis import Models, Settings
from cxnet.enhance import Enhancement
from cxnet.errors import SettingsError
from cxnet.phantom import make_phantom
from cxnet.radiograph import Radiograph
from pages import _jobs, _memory, _session

ROOT = Path(__file__).parents[1]
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


#: A page's thread that has held 200 MB in pieces, of which one in a thousand stays; memory then and afterwards.
HELD = """
import threading
from pathlib import Path
from pages import _memory

def mib():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024

def work():
    held = [bytearray(20_000) for _ in range(10_000)]
    kept.extend(held[::1000])

_memory.start()
kept, before = [], mib()
thread = threading.Thread(target=work)
thread.start()
thread.join()
after = mib()
_memory._waiting.acquire()
_memory._give_back()
print(after - before, mib() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_memory_that_nobody_holds_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", HELD], cwd=ROOT, capture_output=True, text=True, check=True)
    kept, given_back = map(float, done.stdout.split())
    assert kept > 100  # else there was nothing to give back
    assert given_back < 0.25 * kept


# --------------------------------------------------------------------------------------- what an open session may hold

MB = 10**6


@dataclass
class Result:
    """What holds arrays, as analyses and edits do: of its own, shared, and in pieces."""

    pixels: Any
    more: Any = None


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, OrderedDict[Hashable, Any]]:
    """What a session keeps, by name; it may keep 10 MB of results."""
    found: dict[str, OrderedDict[Hashable, Any]] = {}
    monkeypatch.setattr(_session, "_bounded", lambda name: found.setdefault(name, OrderedDict()))
    monkeypatch.setattr(_session, "RESULTS_BYTES_KEPT", 10 * MB)
    return found


def result(mb: int) -> Result:
    return Result(np.zeros(mb * MB, np.uint8))


def test_results_are_kept_up_to_the_last_byte(kept: dict[str, OrderedDict[Hashable, Any]]) -> None:
    kept["analyses"] = OrderedDict((number, result(2)) for number in range(5))
    _session.within_budget()
    assert list(kept["analyses"]) == [0, 1, 2, 3, 4]
    kept["analyses"][5] = Result(np.zeros(1, np.uint8))
    _session.within_budget()
    assert list(kept["analyses"]) == [1, 2, 3, 4, 5]


def test_an_array_counts_once_and_radiographs_do_not(kept: dict[str, OrderedDict[Hashable, Any]]) -> None:
    shared, radiograph = np.zeros(8 * MB, np.uint8), np.zeros(50 * MB, np.uint8)
    kept["uploads"] = OrderedDict(case=Result(radiograph))
    kept["analyses"] = OrderedDict((n, Result(radiograph, {"lungs": (shared[:, None], [shared])})) for n in range(9))
    _session.within_budget()
    assert len(kept["analyses"]) == 9
    kept["uploads"].clear()  # now only analyses hold it
    _session.within_budget()
    assert list(kept["analyses"]) == [8]


def test_the_kind_that_holds_most_gives_way_and_work_goes_on(kept: dict[str, OrderedDict[Hashable, Any]]) -> None:
    kept["analyses"] = OrderedDict((number, result(1)) for number in range(4))
    kept["whatif-outcomes"] = OrderedDict((number, result(5)) for number in range(3))
    running = _jobs.Job(partial=result(5), _state="running")
    kept["jobs"] = OrderedDict(running=running, done=_jobs.Job(partial=result(1), _state="done"))
    _session.within_budget()
    assert list(kept["whatif-outcomes"]) == [2]
    assert list(kept["jobs"]) == ["running", "done"] and list(kept["analyses"]) == [3]
    _session.within_budget()  # what is left is the last of each kind, and work
    assert list(kept["jobs"]) == ["running", "done"]


def test_a_changed_setting_takes_no_second_lung_mask(
    kept: dict[str, OrderedDict[Hashable, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    networks, asked = _session.models("base-cnn-v2/fold-0"), []

    class Segmenter:
        card = networks.segmenter.card

        def __call__(self, pixels: Any) -> Any:
            asked.append(pixels.shape)
            return networks.segmenter(pixels)

    segmenter: Any = Segmenter()
    monkeypatch.setattr(_session, "models", lambda name: Models(networks.classifier, segmenter))
    radiographs = [Radiograph(make_phantom(n, 256).pixels, f"{n}" * 64, "synthetic") for n in range(2)]
    changed = [Settings(model="base-cnn-v2/fold-0", enhancement=Enhancement(beasf_gamma=gamma)) for gamma in (1, 2, 3)]
    first, second, third = (_session.analysis_of(radiographs[0], settings) for settings in changed)
    other = _session.analysis_of(radiographs[1], changed[0])
    assert len(asked) == 2
    assert first.lungs is second.lungs is third.lungs is not other.lungs
    assert second.segmenter_sha256 == first.segmenter_sha256
    assert not np.array_equal(first.stack, third.stack)
    assert _session.analysis_of(radiographs[0], changed[0]) is first
    assert list(kept["analyses"].values()) == [second, third, other, first]  # the last that was looked at goes last


def test_five_folds_by_turns_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(_session, "Classifier", lambda name: loaded.append(name) or object())
    _session._classifier.clear()
    try:
        for _ in range(2):
            for fold in range(5):
                _session.models(f"any/fold-{fold}")
        assert loaded == [f"any/fold-{fold}" for fold in range(5)]
        assert len({id(_session.models(f"any/fold-{fold}").segmenter) for fold in range(5)}) == 1
    finally:
        _session._classifier.clear()  # or other tests would be given these


# ------------------------------------------------------------------------------------------------- what it may use


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int | None]:
    """The limit with a variable, and files as Linux has them."""

    def limit(said: str | None = None, *files: str) -> int | None:
        monkeypatch.delenv("CXNET_MEMORY_MB", raising=False)
        if said is not None:
            monkeypatch.setenv("CXNET_MEMORY_MB", said)
        for number, text in enumerate(files):
            (tmp_path / str(number)).write_text(text, "ascii")
        monkeypatch.setattr(_memory, "_LIMITS", [str(tmp_path / str(number)) for number in range(len(files))] + ["no"])
        return _memory.limit_bytes.__wrapped__()

    return limit


def test_the_limit_is_the_variable_s_or_the_container_s(limits: Callable[..., int | None]) -> None:
    assert limits() is None
    assert limits("1600", f"{512 << 20}") == 1600 << 20
    assert limits(None, "max\n") is None
    assert limits(None, f"{512 << 20}\n", f"{700 << 20}\n") == 512 << 20
    assert limits(None, "9223372036854771712\n") is None  # of the first version, for none
    for said in ("lots", "-5", "1023", "1.5"):
        with pytest.raises(SettingsError, match="at least 1024"):
            limits(said)


def test_what_the_server_uses_grows_with_what_it_holds() -> None:
    before = _memory.resident_bytes()
    if before is None:
        pytest.skip("the system does not say what a process uses")
    held = np.ones(64 << 20, np.uint8)
    assert _memory.resident_bytes() - before > 60 << 20
    assert held.all()


def test_a_server_is_full_at_four_fifths(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[None] = []
    monkeypatch.setattr(_memory, "give_back_soon", lambda: given_back.append(None))
    for limit, used, more, full in ((1000, 800, 0, False), (1000, 800, 1, True), (None, 800, 10**12, False)):
        monkeypatch.setattr(_memory, "limit_bytes", lambda limit=limit: limit)
        monkeypatch.setattr(_memory, "resident_bytes", lambda used=used: used)
        assert _memory.full(more) is full
    assert len(given_back) == 1  # what nobody needs goes before the next one asks
