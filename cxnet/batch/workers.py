"""Who does the work: processes of this machine, or a Dask cluster. Either way a row is a line of JSON."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2

from cxnet.analysis import Models, load_models
from cxnet.batch.case import Row, audit_case
from cxnet.batch.planning import Task
from cxnet.errors import SettingsError, WeightsError
from cxnet.runs import open_run
from cxnet.weights import fold_card


@lru_cache(maxsize=2)
def models(name: str, checksum: str, runs: str) -> Models:
    """Networks of this process, on one thread each.

    Parameters
    ----------
    name, checksum : str
        Of the classifier's weights.
    runs : str
        Folder of its run; "" for a shipped network.

    Raises
    ------
    WeightsError
        If the weights are missing, or are not those that the audit began with.
    """
    run, _, fold = name.partition("/fold-")
    found = load_models(fold_card(open_run(Path(runs) / run), int(fold)) if runs else name, threads=1)
    if found.classifier.card.sha256 != checksum:
        raise WeightsError(f"The weights {name!r} are not those that this audit began with; restore them.")
    return found


def _line(task: Task) -> str:
    row = audit_case(task, models(task.model, task.model_sha256, task.runs))
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _died(task: Task) -> str:
    row: Row = {"case": task.case, "file": task.file} | dict(task.known)
    row |= {"model": task.model, "model_sha256": task.model_sha256}
    row["error"] = "The worker died twice while it audited this file; look at the file by itself."
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


# ------------------------------------------------------------------------------------------ processes of this machine


def _start_worker(parent: Any) -> None:
    """In a fresh process: leave Ctrl-C to the parent, and end when the parent says so or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)

    def watch() -> None:
        parent.poll(None)  # until the other end is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(task: Task) -> str:
    return _line(task)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose workers end with the block, whatever they are at."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (reader,))
    try:
        yield pool
    finally:
        writer.close()
        pool.shutdown(wait=True, cancel_futures=True)
        reader.close()


def in_processes(tasks: Iterable[Task], workers: int) -> Generator[tuple[Task, str], None, None]:
    """Audit in processes of this machine, each case as it is done; a task that kills its worker gets an error row."""
    waiting = deque(tasks)
    while waiting:
        running: dict[Future[str], Task] = {}
        broken = False
        with _pool(min(workers, len(waiting))) as pool:
            while (waiting or running) and not broken:
                try:
                    while waiting and len(running) < 2 * workers:
                        running[pool.submit(_work, waiting[0])] = waiting[0]
                        waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        line = future.result()
                        yield running.pop(future), line
                except BrokenProcessPool:
                    broken = True
        # one of those that ran has killed its worker: each alone, so that only that one pays
        for task in running.values():
            with _pool(1) as alone:
                try:
                    line = alone.submit(_work, task).result()
                except BrokenProcessPool:
                    line = _died(task)
            yield task, line


# --------------------------------------------------------------------------------------------------- a Dask cluster


def _work_for_scheduler(task: Task) -> str:
    cv2.setNumThreads(1)
    return _line(task)


def on_scheduler(tasks: Sequence[Task], address: str) -> Generator[tuple[Task, str], None, None]:
    """Audit on a Dask cluster whose workers have this package, and see the same files under the same paths.

    Raises
    ------
    SettingsError
        If the package distributed is missing, or no scheduler answers.
    """
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        raise SettingsError(
            "--scheduler needs the package distributed (pip install distributed); without --scheduler the processes of "
            "this machine do the work."
        ) from None
    try:
        client = distributed.Client(address, timeout=20)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"No Dask scheduler answers at {address} ({type(error).__name__}); start one or correct the address."
        ) from error
    with client:
        futures = {client.submit(_work_for_scheduler, task, pure=False): task for task in tasks}
        for future in distributed.as_completed(list(futures)):
            try:
                line = future.result()
            except distributed.KilledWorker:
                line = _died(futures[future])
            yield futures[future], line
