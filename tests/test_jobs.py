"""The runner of long work: turns, places, cancel, tabs that are gone, and what it lets go of."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxnet.analysis import Analysis, Models, Settings, analyse, dumps, load_models
from cxnet.errors import CxnetError
from cxnet.explain.lime import LimeSettings
from cxnet.phantom import make_phantom
from cxnet.radiograph import Radiograph
from pages import _jobs, _session
from pages._whatif import audit_steps

CANCEL_S = 0.5


@pytest.fixture
def runner() -> Iterator[_jobs.Runner]:
    found = _jobs.Runner()
    yield found
    found.close()


def until(true: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def endless(cancel: threading.Event) -> Iterator[int]:
    number = 0
    while not cancel.wait(0.005):
        number += 1
        yield number


class Recorder:
    """Jobs that note when they run; the first holds the runner until it is told."""

    def __init__(self, runner: _jobs.Runner) -> None:
        self.order: list[str] = []
        self._go, self._runner = threading.Event(), runner
        self.first = runner.submit(self._hold, "holder", "hold")
        until(lambda: self.first.state == "running")

    def _hold(self, cancel: threading.Event) -> Iterator[None]:
        self._go.wait(20)
        yield None

    def ask(self, session: str, kind: str, name: str | None = None) -> _jobs.Job:
        def work(cancel: threading.Event) -> Iterator[None]:
            self.order.append(name or f"{session}-{kind}")
            yield None

        return self._runner.submit(work, session, kind)

    def finish(self, *jobs: _jobs.Job) -> list[str]:
        self._go.set()
        until(lambda: not any(job.active for job in (self.first, *jobs)))
        return self.order


def test_sessions_take_turns_and_know_their_place(runner: _jobs.Runner) -> None:
    recorder = Recorder(runner)
    jobs = [recorder.ask(*asked) for asked in (("a", "lime"), ("a", "verdict"), ("b", "lime"), ("c", "lime"))]
    assert [runner.position(job) for job in (recorder.first, *jobs)] == [0, 1, 4, 2, 3]
    assert recorder.finish(*jobs) == ["a-lime", "b-lime", "c-lime", "a-verdict"]
    assert [runner.position(job) for job in jobs] == [0, 0, 0, 0]


def test_a_second_job_is_not_put_off_by_those_who_come_back(runner: _jobs.Runner) -> None:
    """b asks again as soon as it was served; a's second job came before that."""
    order: list[str] = []
    again: list[_jobs.Job] = []
    recorder = Recorder(runner)

    def b(cancel: threading.Event) -> Iterator[None]:
        order.append("b")
        if len(again) < 3:
            again.append(runner.submit(b, "b", f"again-{len(again)}"))
        yield None

    first, second = recorder.ask("a", "lime"), recorder.ask("a", "verdict")
    started = runner.submit(b, "b", "lime")
    recorder.order = order
    recorder.finish(first, second, started)
    until(lambda: len(again) == 3 and not any(job.active for job in again))
    assert order == ["a-lime", "b", "a-verdict", "b", "b", "b"]


class Long:
    """A job that gives way, one value a call of :meth:`more`."""

    def __init__(self, runner: _jobs.Runner, order: list[str], values: int = 3) -> None:
        self._order, self._values, self._go = order, values, threading.Semaphore(0)
        self.job = runner.submit(self._work, "long", "batch", gives_way=True)
        until(lambda: self.job.state == "running")

    def _work(self, cancel: threading.Event) -> Iterator[int]:
        for number in range(self._values):
            while not self._go.acquire(timeout=0.01):
                if cancel.is_set():
                    return
            self._order.append(f"value {number}")
            yield number

    def more(self, count: int = 1) -> None:
        self._go.release(count)


def test_long_work_gives_way_between_its_values_and_goes_on(runner: _jobs.Runner) -> None:
    order: list[str] = []
    long = Long(runner, order)

    def other(cancel: threading.Event) -> Iterator[None]:
        assert long.job.state == "queued" and long.job.active and runner.position(long.job) == 1
        order.append("other")
        yield None

    one = runner.submit(other, "a", "lime")
    assert (one.state, runner.position(one)) == ("queued", 1)
    long.more()
    until(lambda: not one.active)
    assert (one.state, one.error) == ("done", None)
    long.more(2)
    until(lambda: not long.job.active)
    assert order == ["value 0", "other", "value 1", "value 2"]
    assert (long.job.state, long.job.updates, long.job.partial) == ("done", 3, 2)


def test_long_work_gives_way_to_its_own_session_too(runner: _jobs.Runner) -> None:
    """Who ticks a line of a batch wants to see its LIME now."""
    order: list[str] = []
    long = Long(runner, order)
    own = runner.submit(lambda cancel: iter([order.append("own")]), "long", "lime")
    long.more(3)
    until(lambda: not own.active and not long.job.active)
    assert order == ["value 0", "own", "value 1", "value 2"]


def test_all_jobs_of_a_session_can_be_stopped(runner: _jobs.Runner) -> None:
    running = runner.submit(endless, "a", "lime")
    until(lambda: running.state == "running")
    waiting, other = runner.submit(endless, "a", "verdict"), runner.submit(lambda cancel: iter([1]), "b", "lime")
    runner.cancel_session("a")
    until(lambda: not other.active)
    assert [job.state for job in (running, waiting, other)] == ["cancelled", "cancelled", "done"]


def test_long_work_can_be_cancelled_while_it_has_given_way(runner: _jobs.Runner) -> None:
    order: list[str] = []
    long = Long(runner, order)
    other = runner.submit(endless, "a", "lime")
    long.more()
    until(lambda: other.state == "running")
    assert long.job.state == "queued"
    runner.cancel(long.job)
    assert (long.job.state, long.job.ended.is_set(), long.job.partial) == ("cancelled", True, 0)
    runner.cancel(other)
    until(lambda: not other.active)
    assert other.ended.is_set() and order == ["value 0"]


def test_a_new_job_takes_the_place_of_the_sessions_older_one(runner: _jobs.Runner) -> None:
    recorder = Recorder(runner)
    older, other = recorder.ask("a", "lime", "old"), recorder.ask("b", "lime")
    newer = recorder.ask("a", "lime", "new")
    assert (older.state, older.active) == ("cancelled", False)
    assert [runner.position(job) for job in (newer, other)] == [1, 2]
    assert recorder.finish(newer, other) == ["new", "b-lime"]


def test_a_new_job_stops_the_sessions_older_one_that_runs(runner: _jobs.Runner) -> None:
    older = runner.submit(endless, "a", "lime")
    until(lambda: older.updates > 2)
    newer = runner.submit(endless, "a", "lime")
    until(lambda: newer.state == "running", 1)
    assert older.state == "cancelled"
    assert older.partial == older.updates
    runner.cancel(newer)
    until(lambda: newer.state == "cancelled", 1)


def test_limits_are_sentences(runner: _jobs.Runner) -> None:
    recorder = Recorder(runner)
    jobs = [recorder.ask("a", kind) for kind in "wxy"]
    with pytest.raises(_jobs.TooManyJobs, match=r"Three jobs of this tab .* wait until it is done\.$"):
        recorder.ask("a", "z")
    jobs += [recorder.ask(f"s{number}", "lime") for number in range(_jobs.MOST_JOBS - 4)]
    with pytest.raises(_jobs.TooManyJobs, match="Too many jobs are waiting"):
        recorder.ask("late", "lime")
    runner.cancel(jobs.pop())
    jobs.append(recorder.ask("late", "lime"))
    assert len(recorder.finish(*jobs)) == _jobs.MOST_JOBS - 1


def test_cancelled_while_waiting_frees_its_place_at_once(runner: _jobs.Runner) -> None:
    recorder = Recorder(runner)
    first, second = recorder.ask("a", "lime"), recorder.ask("b", "lime")
    runner.cancel(first)
    assert (first.state, runner.position(second)) == ("cancelled", 1)
    assert recorder.finish(second) == ["b-lime"]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("xy")), min_size=1, max_size=12))
def test_positions_are_the_order_and_nobody_waits_for_two_of_another(asked: list[tuple[str, str]]) -> None:
    runner = _jobs.Runner()
    try:
        recorder = Recorder(runner)
        newest = {key: recorder.ask(*key) for key in asked}
        foreseen = sorted(newest, key=lambda key: runner.position(newest[key]))
        assert sorted(runner.position(job) for job in newest.values()) == list(range(1, len(newest) + 1))
        assert recorder.finish(*newest.values()) == ["-".join(key) for key in foreseen]
        sessions = [key[0] for key in foreseen]
        firsts = len(set(sessions))
        assert len(set(sessions[:firsts])) == firsts  # everybody's first before anybody's second
    finally:
        runner.close()


def test_a_tab_that_is_gone_stops_its_work_and_frees_its_places() -> None:
    here = {"a": True, "b": True}
    runner = _jobs.Runner(here.__getitem__, patience_s=0.3)
    try:
        running, waiting = runner.submit(endless, "a", "lime"), runner.submit(endless, "a", "verdict")
        other = runner.submit(endless, "b", "lime")
        until(lambda: running.updates > 2)
        here["a"] = False
        time.sleep(0.15)  # a connection that comes back in time is none that was lost
        here["a"] = True
        time.sleep(0.5)
        assert running.state == "running"
        here["a"] = False
        start = time.monotonic()
        until(lambda: other.state == "running")
        assert 0.3 <= time.monotonic() - start < 1
        assert (running.state, waiting.state) == ("cancelled", "cancelled")
        assert other.state == "running"
    finally:
        runner.close()
    assert other.state == "cancelled"
    assert not any(thread.is_alive() for thread in runner._threads)


def test_failures_are_one_sentence_and_the_next_job_runs(runner: _jobs.Runner, caplog: Any) -> None:
    def told(cancel: threading.Event) -> Iterator[None]:
        raise CxnetError("The lungs are missing; choose another radiograph.")
        yield

    def unknown(cancel: threading.Event) -> Iterator[int]:
        yield 1
        raise KeyError("ZZTESTPHI")

    jobs = [runner.submit(work, session) for work, session in ((told, "a"), (unknown, "b"))]
    last = runner.submit(lambda cancel: iter([7]), "c")
    until(lambda: not last.active)
    assert (last.state, last.partial) == ("done", 7)
    assert [job.state for job in jobs] == ["failed", "failed"]
    assert jobs[0].error == "The lungs are missing; choose another radiograph."
    assert jobs[1].error == "The work failed unexpectedly (KeyError); see the server's log."
    assert jobs[1].partial == 1


@dataclass
class Result:
    complete: bool


@pytest.mark.parametrize(("complete", "state"), [(True, "done"), (False, "cancelled")])
def test_cancel_after_the_last_step(runner: _jobs.Runner, complete: bool, state: str) -> None:
    def work(cancel: threading.Event) -> Iterator[Result]:
        yield Result(complete)
        cancel.set()  # arrives when the result is there

    job = runner.submit(work)
    until(lambda: not job.active)
    assert job.state == state


class Picture:
    pass


def show_and_cancel(runner: _jobs.Runner) -> list[weakref.ref[Picture]]:
    """Run work on one picture and queue work on another, then cancel both; weak references to the two."""
    shown, queued = Picture(), Picture()

    def work(cancel: threading.Event) -> Iterator[Picture]:
        yield shown
        cancel.wait(20)

    running = runner.submit(work, "a", "lime")
    waiting = runner.submit(lambda cancel: iter([queued]), "b", "lime")
    until(lambda: running.updates)
    runner.cancel(waiting)
    runner.cancel(running)
    until(lambda: not running.active)
    return [weakref.ref(shown), weakref.ref(queued)]


def test_an_idle_runner_holds_nothing(runner: _jobs.Runner) -> None:
    gone = show_and_cancel(runner)

    def freed() -> bool:
        gc.collect()
        return all(ref() is None for ref in gone)

    until(freed, 5)


def test_words() -> None:
    assert [_jobs.wait_text(ahead) for ahead in (0, 2)] == ["Starting …", "Waiting: 2 before you"]
    told = [None, 0.2, 12.4, 300]
    assert [_jobs.left_text(seconds) for seconds in told] == [
        "", ", about 1 s left at most", ", about 12 s left at most", ", about 5 min left at most",
    ]  # fmt: skip
    job = _jobs.Job(started=time.monotonic() - 10)
    assert job.seconds_left(0) is None
    assert job.seconds_left(0.25) == pytest.approx(30, abs=0.5)
    assert job.seconds_left(1.2) == 0
    assert _jobs.Job().seconds_left(0.5) is None


# ------------------------------------------------------------------------------------------- the real networks


@cache
def models() -> Models:
    return load_models()


@cache
def analysed(size: int = 1024) -> Analysis:
    return analyse(Radiograph(make_phantom(5, size).pixels, "0" * 64, "synthetic"), models(), Settings())


def watched_models(pictures: list[int]) -> Models:
    """The real networks; `pictures` grows with every picture that one of them is shown."""

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(models().classifier, name)

        def logits(self, stacks: Any) -> Any:
            pictures.append(len(stacks))
            return models().classifier.logits(stacks)

    counting: Any = Counting()
    return Models(counting, models().segmenter)


class Slow:
    """A classifier that takes 50 ms for a picture, without using the processor."""

    card = None

    def __init__(self) -> None:
        self.shown = 0

    def logits(self, stacks: Any) -> Any:
        time.sleep(0.05 * len(stacks))
        self.shown += len(stacks)
        return np.zeros((len(stacks), 2), np.float32)


def test_cancel_is_heard_within_a_batch(runner: _jobs.Runner) -> None:
    """By the clock: a hundred pictures are five seconds, and a cancel that waits for a lock uses no processor."""
    slow: Any = Slow()

    def work(cancel: threading.Event) -> Iterator[int]:
        watched = _jobs.Watched(slow, cancel, lambda count: None)
        yield 0
        try:
            watched.logits(np.zeros((100, 4, 4, 3), np.uint8))
        except _jobs.Stopped:
            return

    job = runner.submit(work)
    until(lambda: slow.shown > 2)
    start = time.monotonic()
    runner.cancel(job)
    assert time.monotonic() - start < 0.5  # the page does not wait for the work
    until(lambda: not job.active)
    assert time.monotonic() - start < 1.5
    assert job.state == "cancelled" and slow.shown < 40


def test_slow_maps_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    @contextmanager
    def spinner(text: str) -> Iterator[None]:
        said.append("begin")
        yield
        said.append(text)

    entries: Any = OrderedDict()
    monkeypatch.setattr(_session, "_bounded", lambda name: entries if name == "analyses" else OrderedDict())
    monkeypatch.setattr(_session, "models", lambda name: Models(None, SimpleNamespace(card=None)))  # type: ignore[arg-type]
    monkeypatch.setattr(
        _session, "analyse", lambda radiograph, *more: SimpleNamespace(radiograph=radiograph, lungs=None)
    )
    monkeypatch.setattr(_session.st, "spinner", spinner)
    radiograph = Radiograph(make_phantom(5, 64).pixels, "0" * 64, "synthetic")
    _session.analysis_of(radiograph, Settings(methods=("grad-cam", "lime")))
    assert said == []
    _session.analysis_of(radiograph, Settings(methods=("grad-cam", "grad-cam++", "score-cam")))
    assert said == ["begin", "Computing Grad-CAM++ and Score-CAM with TensorFlow; this takes a while …"]


LONG = Settings(methods=("grad-cam", "lime"), lime=LimeSettings(samples=2000, stop_when_stable=False))


def steps_of(kind: str, networks: Models, cancel: threading.Event) -> Iterator[Any]:
    if kind == "lime":
        return _jobs.lime_steps(analysed(), networks, LONG, cancel)
    return audit_steps(analysed(), networks, cancel)


@pytest.mark.parametrize(
    ("kind", "after"), [("lime", -1), ("lime", 0), ("lime", 1), ("lime", 19), ("verdict", -1), ("verdict", 11)]
)
def test_cancel_of_real_work_takes_half_a_second(runner: _jobs.Runner, kind: str, after: int) -> None:
    """As soon as it runs, when the maps are there, and when so many pictures were shown.

    By processor time of all threads, which is more than the clock's on an idle machine, and no more on a busy one; the
    clock's own bound is there for a cancel that waits.
    """
    analysed()
    pictures: list[int] = []
    job = runner.submit(lambda cancel: steps_of(kind, watched_models(pictures), cancel))
    until(lambda: job.state == "running" and (after < 0 or job.updates) and len(pictures) >= after, 120)
    shown, start, end = len(pictures), time.process_time(), time.monotonic() + 10 * CANCEL_S
    runner.cancel(job)
    until(lambda: not job.active)
    assert time.monotonic() < end
    seconds = time.process_time() - start
    assert job.state == "cancelled"
    assert seconds <= CANCEL_S
    assert len(pictures) <= shown + 1
    assert set(pictures) <= {1}  # clicks of others come in between


def test_lime_steps_are_the_whole_analysis() -> None:
    """Bit by bit, though pictures are shown one at a time."""
    settings = replace(LONG, superpixels=10, lime=LimeSettings(samples=16, stop_when_stable=False))
    whole = analyse(analysed().radiograph, models(), settings)
    *_, last = _jobs.lime_steps(analysed(), models(), settings, threading.Event())
    assert dumps(last) == dumps(whole)
    assert last.complete
    assert list(last.explanations) == list(whole.explanations)
    for method, explanation in whole.explanations.items():
        np.testing.assert_array_equal(last.explanations[method].heatmap, explanation.heatmap)


def test_lime_steps_take_slow_maps_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score-CAM would have to be computed by TensorFlow, which hears no cancel."""
    monkeypatch.delattr("cxnet.analysis.by_tf_keras_vis")
    quick = analysed()
    slow = replace(quick.explanations["grad-cam"], method="score-cam")
    quick = replace(quick, explanations={"score-cam": slow}, scores={"score-cam": quick.scores["grad-cam"]})
    lime = LimeSettings(samples=16, stop_when_stable=False)
    settings = Settings(methods=("score-cam", "lime"), superpixels=5, lime=lime)
    *_, last = _jobs.lime_steps(quick, models(), settings, threading.Event())
    assert list(last.explanations) == ["score-cam", "lime"]
    assert last.explanations["score-cam"] is slow
    assert last.agreement == ()
    assert last.complete


def test_a_page_that_waits_asks_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, go = _jobs.Runner(), threading.Event()
    monkeypatch.setattr(_jobs, "runner", lambda: runner)

    def work(cancel: threading.Event) -> Iterator[int]:
        yield 1
        go.wait(20)

    try:
        first, second = runner.submit(work, "a"), runner.submit(work, "b")
        until(lambda: first.state == "running")
        assert (_jobs.poll_s(first), _jobs.poll_s(second)) == (_jobs.POLL_S, _jobs.QUEUE_POLL_S)
        go.set()
        until(lambda: second.state == "done")
        assert _jobs.poll_s(second) == _jobs.POLL_S
    finally:
        go.set()
        runner.close()
