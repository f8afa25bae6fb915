"""Long work beside the page: one bounded runner for the whole server, progress, partial results, cancel.

Workers never call Streamlit. One job runs at a time: a network already uses every core, so a second one would slow the
first as much as it gains itself, and would keep clicks of other readers waiting. Sessions take turns; the work of a
closed tab stops by itself.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from cxnet.analysis import Analysis, Models, Settings, analyse_steps
from cxnet.classifier import Classifier, Prediction
from cxnet.errors import CxnetError
from pages import _server_log

#: A lost connection comes back within this time, or its tab was closed.
ORPHANED_AFTER_S = 10.0
MOST_JOBS = 20
#: Jobs of other kinds that a session may have. The pages have five kinds, LIME, the verdict, the tests of maps, the batch
#: and the resampling of a run, and a new job replaces the session's older one of its kind: who has three is refused a
#: fourth.
MOST_PER_SESSION = 3
POLL_S = 0.5
#: A page whose job has others before it asks less often: all that it learns is its place, and every question costs the
#: server time that the first job needs.
QUEUE_POLL_S = 2.0
#: Within this time a job that is told to stop has stopped: it looks at the event between two pictures.
STOPS_WITHIN_S = 0.5
#: Drawing a partial map costs the server time that the map itself needs.
REDRAW_S = 2.0

State = Literal["queued", "running", "done", "cancelled", "failed"]
Work = Callable[[threading.Event], Iterator[Any]]


class TooManyJobs(CxnetError):
    """The server or the session has enough to do."""


@dataclass(eq=False)
class Job:
    """One piece of long work, seen by its page.

    Parameters
    ----------
    session : str
        Whose it is.
    kind : str
        A session has at most one job of a kind.
    partial : object
        The last value that the work has given.
    updates : int
        How many values it has given.
    error : str or None
        One sentence, if it failed.
    cancel : threading.Event
        Says stop; set it by :meth:`Runner.cancel`.
    started : float or None
        By the monotonic clock, when its present turn began.
    spent_s : float
        Seconds that it ran in turns before that.
    ended : threading.Event
        Set when nothing more will come of it.
    """

    session: str = ""
    kind: str = ""
    partial: Any = None
    updates: int = 0
    error: str | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    started: float | None = None
    spent_s: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)
    _state: State = "queued"

    @property
    def state(self) -> State:
        """A job that is cancelled before its turn never runs."""
        return "cancelled" if self._state == "queued" and self.cancel.is_set() else self._state

    @property
    def active(self) -> bool:
        return self.state in ("queued", "running")

    def seconds_left(self, share: float) -> float | None:
        """Seconds to go at the pace so far, when this share of the work is done; None before anything is."""
        if self.started is None or share <= 0:
            return None
        return (self.spent_s + time.monotonic() - self.started) * (1 - min(1.0, share)) / share


@dataclass(eq=False)
class _Place:
    """A job in the queue; jobs run by round, and within a round in the order of their coming."""

    job: Job
    work: Work
    round: int
    number: int
    gives_way: bool
    steps: Iterator[Any] | None = None

    @property
    def order(self) -> tuple[int, int]:
        return self.round, self.number


class Runner:
    """Runs generators one after another; the last value of a generator is its result.

    A value may say by an attribute ``complete`` that nothing is missing in it.

    Parameters
    ----------
    connected : callable
        Whether the tab of a session is still there.
    patience_s : float
        How long a tab may be away before its work is stopped.

    Notes
    -----
    Sessions take turns as in start-time fair queueing (Goyal et al. 1996, doi:10.1145/248156.248171): a job's round is
    the one that is being served, or the one after its session's last job, whichever is later. So a session that asks
    for more never delays another one's first job, and its own second job is not put off for ever. A job that gives way is
    put back into the queue after a value while another job waits, of its own session too: what counts as one job is then
    the work between two values.
    """

    def __init__(
        self, connected: Callable[[str], bool] = lambda session: True, patience_s: float = ORPHANED_AFTER_S
    ) -> None:
        self._connected, self._patience_s = connected, patience_s
        self._changed = threading.Condition()
        self._waiting: list[_Place] = []
        self._running: _Place | None = None
        self._served: dict[str, int] = {}
        self._round = self._number = 0
        self._closed = False
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._serve, self._watch)]
        for thread in self._threads:
            thread.start()
        # Daemon threads, stopped here: a pool's thread would hold up the end of the server until its job is done.
        atexit.register(self.close)

    def submit(self, work: Work, session: str = "", kind: str = "", gives_way: bool = False) -> Job:
        """Queue work; it is given the event that says stop. An older job of this session and kind is cancelled.

        With `gives_way` it lets other jobs go before it between two of its values.

        Raises
        ------
        TooManyJobs
            If the session has :data:`MOST_PER_SESSION` jobs of other kinds, or the server :data:`MOST_JOBS` jobs.
        """
        with self._changed:
            places = self._places()
            own = [place for place in places if place.job.session == session and not place.job.cancel.is_set()]
            older = [place for place in own if place.job.kind == kind]
            if len(own) - len(older) >= MOST_PER_SESSION:
                raise TooManyJobs("Three jobs of this tab are under way; cancel one or wait until it is done.")
            if len(places) - len(older) >= MOST_JOBS:
                raise TooManyJobs("Too many jobs are waiting on this server; try again in a few minutes.")
            self._number += 1
            round_ = max([self._round, self._served.get(session, -1) + 1, *(place.round + 1 for place in own)])
            place = _Place(Job(session, kind), work, round_, self._number, gives_way)
            for old in older:
                if old in self._waiting:  # who thinks again keeps the place
                    place.round, place.number = old.order
                self._cancel(old.job)
            self._waiting.append(place)
            _server_log.event("job", kind=kind, state="queued")  # before a worker can say that it runs
            self._changed.notify_all()
        return place.job

    def cancel(self, job: Job) -> None:
        """Stop a job: at once if it waits, at its next look at the event if it runs."""
        with self._changed:
            self._cancel(job)

    def cancel_session(self, session: str) -> None:
        """Stop all jobs of a session."""
        with self._changed:
            for place in self._places():
                if place.job.session == session:
                    self._cancel(place.job)

    def _cancel(self, job: Job) -> None:
        job.cancel.set()
        # its work holds a radiograph
        left = [place for place in self._waiting if place.job is not job]
        if len(left) < len(self._waiting):
            job.ended.set()
            _server_log.event("job", kind=job.kind, state=job.state)  # one that runs says so itself when it has ended
        self._waiting = left

    def position(self, job: Job) -> int:
        """How many jobs come before this one."""
        with self._changed:
            mine = next((place for place in self._waiting if place.job is job), None)
            if mine is None:
                return 0
            return (self._running is not None) + sum(place.order < mine.order for place in self._waiting)

    def close(self) -> None:
        """Cancel everything and end; work that listens has stopped afterwards."""
        with self._changed:
            self._closed = True
            for place in self._places():
                self._cancel(place.job)
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(2.0)
        atexit.unregister(self.close)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                place = min(self._waiting, key=lambda place: place.order)
                self._waiting.remove(place)
                self._running, self._round = place, place.round
                self._served = {s: r for s, r in self._served.items() if r >= self._round}
                self._served[place.job.session] = place.round
                place.job.started, place.job._state = time.monotonic(), "running"
            if place.steps is None:
                _server_log.event("job", kind=place.job.kind, state="running")
            failure = self._run(place)
            place.job.spent_s += time.monotonic() - place.job.started
            with self._changed:
                self._running = None
                paused = place.job._state == "running" and not self._closed and not place.job.cancel.is_set()
                if paused:
                    self._number += 1
                    place.job._state, place.round, place.number = "queued", self._round + 1, self._number
                    self._waiting.append(place)
                elif place.job._state == "running":
                    place.job._state = "cancelled"
            if not paused:
                place.job.ended.set()
                _server_log.event(
                    "job", kind=place.job.kind, state=place.job.state, seconds=place.job.spent_s, error=failure
                )
            del place  # or the last radiograph would stay until the next job

    def _somebody_waits(self) -> bool:
        with self._changed:
            return bool(self._waiting)

    def _run(self, place: _Place) -> str | None:
        """Run a job to its end, or until it gives way: then it is still "running". The type of the error if it failed."""
        job = place.job
        try:
            if place.steps is None:
                place.steps = place.work(job.cancel)
            for partial in place.steps:
                job.partial = partial
                job.updates += 1
                if job.cancel.is_set():
                    break
                if place.gives_way and not getattr(partial, "complete", False) and self._somebody_waits():
                    return None
            # a result that was complete before the cancel arrived stands
            stopped = job.cancel.is_set() and not getattr(job.partial, "complete", False)
            job._state = "cancelled" if stopped else "done"
        except CxnetError as error:
            job.error, job._state = str(error), "failed"
            return type(error).__name__
        except Exception as error:  # the page must learn of it, and the runner must go on
            logging.getLogger("cxnet").exception("A job failed")
            job.error = f"The work failed unexpectedly ({type(error).__name__}); see the server's log."
            job._state = "failed"
            return type(error).__name__
        return None

    def _watch(self) -> None:
        away: dict[str, float] = {}
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._running or self._closed)
            away = self._look(away)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, timeout=min(1.0, self._patience_s / 4))

    def _look(self, away: dict[str, float]) -> dict[str, float]:
        """Cancel the work of sessions that are away for too long; since when sessions are away."""
        now = time.monotonic()
        with self._changed:
            jobs = [place.job for place in self._places()]
        away = {job.session: away.get(job.session, now) for job in jobs if not self._connected(job.session)}
        for job in jobs:
            if now - away.get(job.session, now) > self._patience_s:
                self.cancel(job)
        return away

    def _places(self) -> list[_Place]:
        return [*self._waiting, *([self._running] if self._running else [])]


@st.cache_resource(show_spinner=False)
def runner() -> Runner:
    """The server's one runner."""
    return Runner(_connected)


def _connected(session: str) -> bool:
    return not runtime.exists() or bool(runtime.get_instance().is_active_session(session))


def submit(kind: str, work: Work, gives_way: bool = False) -> Job:
    """:meth:`Runner.submit` for the session whose page asks."""
    context = get_script_run_ctx()
    return runner().submit(work, context.session_id if context else "", kind, gives_way)


class Stopped(Exception):
    """The reader cancelled."""


class Watched:
    """A classifier that listens to Cancel: it looks at one picture at a time, and at none once it is told to stop.

    Its answers are those of the classifier to the last bit. A batch of eight would be most of a second in which no
    cancel is heard and no other reader's picture is looked at; it is no faster than eight single ones.
    """

    def __init__(self, classifier: Classifier, cancel: threading.Event, count: Callable[[int], None]) -> None:
        self._classifier, self._cancel, self._count = classifier, cancel, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._classifier, name)

    def prepare(self, *arguments: Any) -> NDArray[np.uint8]:
        self._go_on()
        return self._classifier.prepare(*arguments)

    def predict(self, stack: NDArray[np.uint8]) -> Prediction:
        self._go_on()
        return self._classifier.predict(stack)

    def logits(self, stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = []
        for number in range(len(stacks)):
            self._go_on()
            found.append(self._classifier.logits(stacks[number : number + 1]))
            self._count(1)
        return np.concatenate(found)

    def _go_on(self) -> None:
        if self._cancel.is_set():
            raise Stopped


def lime_steps(quick: Analysis, models: Models, settings: Settings, cancel: threading.Event) -> Iterator[Analysis]:
    """:func:`cxnet.analysis.analyse_steps` for an analysis that has everything but LIME.

    The maps that are there are taken as they are: Score-CAM would be seconds in which no cancel is heard.
    """
    cheap = tuple(method for method in settings.methods if method in ("grad-cam", "lime"))
    watched: Any = Watched(models.classifier, cancel, lambda count: None)
    listening = Models(watched, models.segmenter)
    try:
        for found in analyse_steps(quick.radiograph, listening, replace(settings, methods=cheap), cancel):
            yield replace(
                found,
                settings=settings,
                explanations=MappingProxyType({**quick.explanations, **found.explanations}),
                scores=MappingProxyType({**quick.scores, **found.scores}),
            )
    except Stopped:
        return


def poll_s(job: Job) -> float:
    """How often a page asks for news of a job, in seconds."""
    return QUEUE_POLL_S if runner().position(job) else POLL_S


def wait_text(ahead: int) -> str:
    """What the queue looks like from one's place in it."""
    return f"Waiting: {ahead} before you" if ahead else "Starting …"


def left_text(seconds: float | None) -> str:
    """How long it will take, roughly; nothing is said before it can be told."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f", about {max(1, round(seconds))} s left at most"
    return f", about {seconds / 60:.0f} min left at most"


def follow(job: Job, progress: Callable[[Any], tuple[float, str]], key: str, drawn: int | None = None) -> None:
    """A bar that moves by itself, how long it will take or how many come before, and Cancel.

    `progress` tells of the work's last value (None before there is one) which share is done, and that in words. The page
    is run again when the job has ended; with `drawn`, the number of updates that the page shows, also when there are
    more. Call it outside of fragments: a click in a fragment waits until a run of the page has ended, and drawing maps
    takes seconds on a busy server, but a click on the page itself is heard at once.
    """
    left, right = st.columns([5, 1], vertical_alignment="center")
    with left:
        st.fragment(_bar, run_every=poll_s(job))(job, progress, drawn, time.monotonic())
    # weakly: Streamlit keeps the arguments of a button that is gone, and a job holds a radiograph
    right.button("Cancel", key=key, width="stretch", on_click=_stop, args=(weakref.ref(job),))


def _stop(found: weakref.ref[Job]) -> None:
    """Cancel, and wait the moment that it takes, so that the page shows at once what has become of it."""
    job = found()
    if job is not None:
        runner().cancel(job)
        job.ended.wait(STOPS_WITHIN_S)


def _bar(job: Job, progress: Callable[[Any], tuple[float, str]], drawn: int | None, since: float) -> None:
    """The part that is run by itself."""
    more = drawn is not None and job.updates > drawn and time.monotonic() - since > REDRAW_S
    if not job.active or more:
        st.rerun()
    share, told = progress(job.partial)
    if job.cancel.is_set():
        told = "Stopping …"
    elif job.state == "queued":
        told = wait_text(runner().position(job))
    else:
        told += left_text(job.seconds_left(share))
    st.progress(min(1.0, share), text=told)
