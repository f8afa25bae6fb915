"""The server's log for machines: one JSON object a line on stderr, switched on by ``CXNET_LOG=json``.

An event carries a few facts from a fixed list, and each must look like a word or a figure. So no file name, tag, pixel
or id of a case can get into the log, whatever a caller passes. Of an error it has the type and the place in the code,
not the message, which may quote what somebody has put in.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import streamlit as st

from cxnet import __version__

Event = Literal["start", "upload", "analysis", "job", "error", "server"]

#: What an event may say. Words: letters, digits and a few signs; a longer or another one becomes "?".
_WORD = re.compile(r"[A-Za-z0-9 _.<>/+-]{1,40}")
_ROOT = Path(__file__).parents[1]
_SIZES_MB = (1, 5, 20)
_events = logging.getLogger("cxnet.events")
_lock = threading.Lock()


def event(
    name: Event,
    *,
    outcome: str | None = None,
    format: str | None = None,
    size: str | None = None,
    seconds: float | None = None,
    network: str | None = None,
    kind: str | None = None,
    state: str | None = None,
    error: str | None = None,
    version: str | None = None,
) -> None:
    """Write an event, if the log is on.

    Parameters
    ----------
    name : str
    outcome : str
        "accepted" or "refused", of an upload.
    format : str
        Of the file, as read from its content.
    size : str
        From :func:`size_class`.
    seconds : float
        How long it took.
    network : str
    kind, state : str
        Of a job.
    error : str
        The name of a type.
    version : str
    """
    facts = {
        "outcome": outcome, "format": format, "size": size, "network": network, "kind": kind, "state": state,
        "error": error, "version": version,
    }  # fmt: skip
    told: dict[str, str | float] = {key: _word(value) for key, value in facts.items() if value is not None}
    if seconds is not None:
        told["seconds"] = round(float(seconds), 3)
    _events.info(name, extra={"facts": told})


@contextmanager
def timed(name: Event, network: str | None = None, kind: str | None = None) -> Iterator[None]:
    """Write an event with its duration when a block has ended, with the type of the error if it failed."""
    start = time.perf_counter()
    try:
        yield
    except Exception as error:
        seconds = time.perf_counter() - start
        event(name, seconds=seconds, network=network, kind=kind, error=type(error).__name__)
        raise
    event(name, seconds=time.perf_counter() - start, network=network, kind=kind)


def size_class(size_bytes: int) -> str:
    """How large a file is, roughly: an exact size may tell which file it was."""
    return next((f"<{most} MB" for most in _SIZES_MB if size_bytes < most * 2**20), f">{_SIZES_MB[-1]} MB")


def start() -> None:
    """Switch the log on if the environment asks for it; once a process, so it may be called with every run."""
    if os.environ.get("CXNET_LOG") != "json":
        return
    with _lock:
        if any(isinstance(handler.formatter, Lines) for handler in _events.handlers):
            return
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(Lines())
        _events.addHandler(handler)
        _events.setLevel(logging.INFO)
        _events.propagate = False
        own = logging.getLogger("cxnet")
        own.addHandler(handler)
        own.propagate = False
        # Streamlit has a handler for each of its loggers, and prints errors of a page past them unless told not to.
        st.config.set_option("logger.enableRich", False)
        for logger in list(logging.root.manager.loggerDict.values()):
            for old in getattr(logger, "handlers", []):
                old.setFormatter(handler.formatter)
        threading.excepthook = _thread_failed
    event("start", version=__version__)


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    """Like any other error; Python would print its message, too. A thread that ends by SystemExit has not failed."""
    if args.exc_type is SystemExit:
        return
    error = args.exc_value if args.exc_value is not None else args.exc_type()
    logging.getLogger("cxnet").error("A thread failed", exc_info=(args.exc_type, error, args.exc_traceback))


def _word(value: str) -> str:
    return value if _WORD.fullmatch(value) else "?"


class Lines(logging.Formatter):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        if hasattr(record, "facts"):
            line |= {"event": record.getMessage(), **record.facts}
        elif record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            line |= {"event": "error", "error": kind.__name__, "at": _place(trace), "logger": record.name}
        else:
            line |= {"event": "server", "logger": record.name, "message": record.getMessage()}
        return json.dumps(line, ensure_ascii=False)


def _place(trace: object) -> str:
    """File and line of the innermost call in cxnet's own code, else of the innermost one."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(trace)]  # type: ignore[arg-type]
    if not frames:
        return "?"
    own = [(path.relative_to(_ROOT), line) for path, line in frames if _own(path)]
    path, line = own[-1] if own else (Path(frames[-1][0].name), frames[-1][1])
    return f"{path.as_posix()}:{line}"


def _own(path: Path) -> bool:
    return path.is_relative_to(_ROOT) and not any(part in (".venv", "site-packages") for part in path.parts)
