"""Every cache, session key and URL key of the dashboard.

Pixels and analyses live in the session of one browser tab, in bounded dictionaries keyed by checksums and settings.
Caches that all users share hold networks and synthetic samples only.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from cxnet.analysis import Analysis, Models, Settings, analyse, available_models, load_models
from cxnet.errors import RadiographError
from cxnet.phantom import SAMPLES, Phantom
from cxnet.radiograph import MAX_BYTES, Radiograph, TooLarge, read_radiograph
from pages import _jobs

UPLOADS_KEPT = 8
ANALYSES_KEPT = 24
SAMPLE_SIZE_PX = 640
WARM_UP_AFTER_S = 1.5

SAMPLES_BY_NAME = {sample.name: sample for sample in SAMPLES}


@st.cache_resource(max_entries=2, show_spinner=False)
def models(name: str) -> Models:
    """A network and the lung segmenter, shared by all sessions and treated as read-only."""
    return load_models(name)


@st.cache_resource(show_spinner=False)
def warm_up() -> None:
    """Load the first network in the background, once a server, so that the first upload does not wait for it.

    Not at once: the first page is painted meanwhile.
    """
    timer = threading.Timer(WARM_UP_AFTER_S, _warm)
    timer.daemon = True
    timer.start()


def _warm() -> None:
    models(available_models()[0].name)


@st.cache_data(max_entries=32, show_spinner="Drawing the synthetic radiograph …")
def sample_phantom(name: str, size_px: int = SAMPLE_SIZE_PX) -> Phantom:
    """A built-in sample; synthetic, so it may be shared by all sessions."""
    return SAMPLES_BY_NAME[name].make(size_px)


def _bounded(name: str) -> OrderedDict[Hashable, Any]:
    found: OrderedDict[Hashable, Any] = st.session_state.setdefault(name, OrderedDict())
    return found


def _keep(name: str, key: Hashable, value: Any, most: int) -> list[Any]:
    """Put a value into a bounded dictionary; the values that had to go, oldest first."""
    entries = _bounded(name)
    gone = [entries.pop(key)] if key in entries else []
    entries[key] = value
    while len(entries) > most:
        gone.append(entries.popitem(last=False)[1])
    return gone


def uploader_key() -> str:
    """Key of the uploader; another one after :func:`forget`, so that the browser draws a new, empty uploader."""
    return f"uploader-{st.session_state.get('times-forgotten', 0)}"


def take_uploads() -> None:
    """Read the uploader's files: good ones are kept for this session, bad ones leave a sentence each."""
    st.session_state["upload_errors"] = []
    for number, file in enumerate(st.session_state.get(uploader_key()) or [], 1):
        try:
            if file.size > MAX_BYTES:
                raise TooLarge(
                    f"The file has {file.size / 2**20:.0f} MB and the limit is {MAX_BYTES // 2**20} MB; export a smaller one."
                )
            radiograph = read_radiograph(file.getvalue())
        except RadiographError as error:
            st.session_state["upload_errors"].append(f"File {number}: {error}")
            continue
        case = f"upload:{radiograph.sha256}"
        if case not in _bounded("uploads"):
            _keep("uploads", case, radiograph, UPLOADS_KEPT)
            st.session_state["case"] = case


def uploads() -> dict[str, Radiograph]:
    """This session's radiographs by case, oldest first."""
    return dict(_bounded("uploads"))  # type: ignore[arg-type]


def case_title(case: str) -> str:
    """What the picker shows. File names often are patient names, so they are never shown."""
    kind, _, name = case.partition(":")
    if kind == "sample":
        return f"Sample: {SAMPLES_BY_NAME[name].title} (synthetic)"
    radiograph = uploads()[case]
    height, width = radiograph.pixels.shape
    return f"Upload {list(uploads()).index(case) + 1}: {width} × {height} {radiograph.format}"


def radiograph_of(case: str) -> Radiograph:
    """The radiograph of a case of this session."""
    kind, _, name = case.partition(":")
    if kind == "upload":
        return uploads()[case]
    pixels = sample_phantom(name).pixels
    checksum = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    return Radiograph(pixels, checksum, "synthetic", notes=(SAMPLES_BY_NAME[name].caption,))


def cases() -> list[str]:
    """All cases that can be chosen: uploads first, newest first."""
    return [*reversed(uploads()), *(f"sample:{name}" for name in SAMPLES_BY_NAME)]


def analysis_of(radiograph: Radiograph, settings: Settings) -> Analysis:
    """Everything but LIME, computed once for a radiograph and settings."""
    quick = replace(settings, methods=tuple(m for m in settings.methods if m != "lime"))
    key = (radiograph.sha256, replace(quick, lime=type(quick.lime)(seed=quick.seed)))
    if key not in _bounded("analyses"):
        _keep("analyses", key, analyse(radiograph, models(settings.model), quick), ANALYSES_KEPT)
    found: Analysis = _bounded("analyses")[key]
    return found


def lime_key(radiograph: Radiograph, settings: Settings) -> Hashable:
    """What a LIME result belongs to."""
    return (radiograph.sha256, settings)


def lime_job(key: Hashable) -> _jobs.Job | None:
    """The job for this radiograph and these settings, if this session has started one."""
    found: _jobs.Job | None = _bounded("jobs").get(key)
    return found


def start_lime(key: Hashable, job: _jobs.Job) -> None:
    """Remember a job; the oldest are cancelled and dropped."""
    for dropped in _keep("jobs", key, job, ANALYSES_KEPT):
        dropped.cancel.set()


def forget() -> None:
    """Drop everything that this session holds: radiographs, analyses, jobs, the uploader's files."""
    for job in _bounded("jobs").values():
        job.cancel.set()
    context = get_script_run_ctx()
    for file in st.session_state.get(uploader_key()) or []:
        # Streamlit keeps the bytes of an uploader that is gone until the tab is closed.
        if context is not None and hasattr(context.uploaded_file_mgr, "remove_file"):
            context.uploaded_file_mgr.remove_file(context.session_id, file.file_id)
    times = st.session_state.get("times-forgotten", 0)
    for name in list(st.session_state):
        if name != "_entered":
            del st.session_state[name]
    st.session_state["times-forgotten"] = times + 1
    st.session_state["case"] = None  # said, not left out: the browser would go on showing the old choice
    st.query_params.clear()


# ---------------------------------------------------------------------------------------------------------------- URL


def case_from_url() -> str | None:
    """The sample that the URL names, if there is such a sample."""
    name = st.query_params.get("sample", "")
    return f"sample:{name}" if name in SAMPLES_BY_NAME else None


def restore_case() -> None:
    """Before the picker is drawn: follow a changed URL (Back, Forward, a link), or take up the case again.

    Streamlit forgets a picker's value when another page was shown in between.
    """
    wanted = case_from_url()
    if wanted is not None and wanted != st.session_state.get("url_case"):
        st.session_state["case"] = wanted
    elif "case" not in st.session_state:
        st.session_state["case"] = st.session_state.get("last_case")


def remember_case(case: str | None) -> None:
    """After the picker was drawn: keep the choice, and put it into the URL if it is a sample."""
    st.session_state["last_case"] = case
    st.session_state["url_case"] = case if case is not None and case.startswith("sample:") else None
    write_url(sample=case.partition(":")[2] if st.session_state["url_case"] else None)


def choice_from_url(key: str, allowed: list[str]) -> str | None:
    """A value of the URL if it is on the list, else None; anything else in the URL is ignored."""
    value = st.query_params.get(key)
    return value if value in allowed else None


def write_url(**values: str | None) -> None:
    """Put the choices that may be shared into the URL; uploads never."""
    for key, value in values.items():
        if value is None:
            st.query_params.pop(key, None)
        elif st.query_params.get(key) != value:
            st.query_params[key] = value
