"""Long work beside the page: one bounded runner for the whole server, progress, partial results, cancel.

Workers never call Streamlit. A job whose page stopped asking for it is abandoned and stops by itself.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import streamlit as st

from cxnet.errors import CxnetError

ABANDONED_AFTER_S = 60.0
MOST_WAITING = 20

State = Literal["queued", "running", "done", "cancelled", "failed"]


@dataclass(eq=False)
class Job:
    """One piece of long work, seen by its page."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    state: State = "queued"
    partial: Any = None
    error: str | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    last_seen: float = field(default_factory=time.monotonic)
    started: float | None = None

    @property
    def active(self) -> bool:
        return self.state in ("queued", "running")

    def seen(self) -> None:
        """Its page is still there."""
        self.last_seen = time.monotonic()


class Runner:
    """Runs generators one after another; the last value of a generator is its result.

    A value may say by an attribute ``complete`` that nothing is missing in it.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job")
        self._lock = threading.Lock()
        self._jobs: list[Job] = []

    def submit(self, work: Callable[[threading.Event], Iterator[Any]]) -> Job:
        """Queue work; it is given the event that says stop.

        Raises
        ------
        CxnetError
            If too many jobs are waiting.
        """
        with self._lock:
            self._jobs = [job for job in self._jobs if job.active]
            if len(self._jobs) >= MOST_WAITING:
                raise CxnetError("Too many jobs are waiting on this server; try again in a few minutes.")
            job = Job()
            self._jobs.append(job)
        self._pool.submit(self._run, job, work)
        return job

    def position(self, job: Job) -> int:
        """How many jobs come before this one."""
        with self._lock:
            waiting = [other for other in self._jobs if other.active]
        return waiting.index(job) if job in waiting else 0

    def _run(self, job: Job, work: Callable[[threading.Event], Iterator[Any]]) -> None:
        job.state, job.started = "running", time.monotonic()
        try:
            if not job.cancel.is_set():
                for partial in work(job.cancel):
                    job.partial = partial
                    if time.monotonic() - job.last_seen > ABANDONED_AFTER_S:
                        job.cancel.set()
            # a result that was complete before the cancel arrived stands
            stopped = job.cancel.is_set() and not getattr(job.partial, "complete", False)
            job.state = "cancelled" if stopped else "done"
        except CxnetError as error:
            job.error, job.state = str(error), "failed"
        except Exception as error:  # the page must learn of it, and the runner must go on
            logging.getLogger("cxnet").exception("A job failed")
            job.error = f"The work failed unexpectedly ({type(error).__name__}); see the server's log."
            job.state = "failed"


@st.cache_resource(show_spinner=False)
def runner() -> Runner:
    """The server's one runner."""
    return Runner()
