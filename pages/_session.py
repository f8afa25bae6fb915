"""Every cache, session key and URL key of the dashboard.

Pixels and analyses live in the session of one browser tab, in bounded dictionaries keyed by checksums and settings.
Caches that all users share hold networks and synthetic samples only.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, cast

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from streamlit.runtime.scriptrunner import get_script_run_ctx

from cxnet.analysis import Analysis, Models, Settings, analyse, available_models
from cxnet.classifier import Classifier
from cxnet.errors import CxnetError, DatasetError, RadiographError, TooLarge, WeightsError
from cxnet.explain import METHODS
from cxnet.explain.lime import LimeSettings
from cxnet.lungs import LungMask, LungSegmenter
from cxnet.phantom import SAMPLES, Phantom
from cxnet.radiograph import Radiograph, is_no_radiograph, read_radiographs
from cxnet.weights import Card, card, network_of
from pages import _jobs, _memory, _server, _server_log, _store

UPLOADS_KEPT = 24
UPLOADED_PIXELS_KEPT = 160_000_000
READING_S = 60.0
SAME_DROP_S = 30.0
SAID_MOST, SAID_OF = 8, 4
ANALYSES_KEPT = 24
#: Bytes of results: analyses, jobs' results and edited radiographs, the radiographs themselves not counted.
RESULTS_BYTES_KEPT = 200_000_000
#: The folds of a cross-validation, to be looked at by turns, and one network more.
CLASSIFIERS_KEPT = 6
SAMPLE_SIZE_PX = 640
WARM_UP_AFTER_S = 1.5

SAMPLES_BY_NAME = {sample.name: sample for sample in SAMPLES}


@st.cache_resource(max_entries=CLASSIFIERS_KEPT, show_spinner=False)
def _classifier(name: str) -> Classifier:
    return Classifier(name)


@st.cache_resource(show_spinner=False)
def _segmenter() -> LungSegmenter:
    return LungSegmenter()


def models(name: str) -> Models:
    """A network and the lung segmenter, shared by all sessions and treated as read-only."""
    return Models(_classifier(name), _segmenter())


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


def hold_settings() -> None:
    """Keep the sidebar's choices while a page without them is shown; Streamlit would forget them."""
    for name in list(st.session_state):
        if str(name).startswith("set-"):
            st.session_state[name] = st.session_state[name]


def setting(widget: Callable[..., Any], title: str, name: str, default: Any, *options: Any, **more: Any) -> Any:
    """A widget of the sidebar whose value outlives a visit to another page.

    `options` are the widget's choices or its limits; a value that is no longer among the choices is given up.
    """
    key = f"set-{name}"
    choices = options[0] if options and isinstance(options[0], list) else None
    kept = st.session_state.get(key)
    if kept is None or (choices is not None and isinstance(kept, str) and kept not in choices):
        st.session_state[key] = default
    if choices is not None:
        return widget(title, choices, key=key, **more)
    limits = dict(zip(("min_value", "max_value"), options, strict=False))
    return widget(title, key=key, **limits, **more)


def networks() -> dict[str, Card]:
    """Networks to choose from, by name: those that come first, and the one that is chosen already."""
    found = {known.name: known for known in available_models()}
    chosen = st.session_state.get("set-model")
    if chosen is not None and chosen not in found:
        found[chosen] = card(chosen)
    return found


def choose_network() -> Card:
    """The sidebar's choice of a network, which pages share."""
    cards = networks()
    names = list(cards)
    return cards[setting(st.selectbox, "Network", "model", names[0], names, format_func=lambda name: cards[name].title)]


def _bounded(name: str) -> OrderedDict[Hashable, Any]:
    found: OrderedDict[Hashable, Any] = st.session_state.setdefault(name, OrderedDict())
    _memory.hold(found)
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
    """Read the files that are new in the uploader: good ones are kept for this session, bad ones leave a sentence.

    Their bytes go at once; Streamlit would hold them until the tab is closed. A file that was read stays on the
    uploader's list without them, and its sentences stay as long.
    """
    drop_link_error()
    _begin_refusals()
    files = st.session_state.get(uploader_key()) or []
    before: dict[str, list[tuple[str, str]]] = st.session_state.get("files_read", {})
    told = {file.file_id: before.get(file.file_id, []) for file in files}
    drop = _Drop(end=time.monotonic() + READING_S)
    with st.spinner("Reading …"):
        for number, file in enumerate(files, 1):
            if file.file_id in before:
                continue
            if not drop.stopped and (len(files) == 1 or not is_no_radiograph(file.name)):
                told[file.file_id] = list(_take(file.getvalue(), number, len(files) > 1, drop))
            _release(file)
    st.session_state["files_read"] = told
    said = _in_few_words(entry for entries in told.values() for entry in entries)
    if drop.pushed_out:
        said.append(f"Of the radiographs that were there, the oldest gave way ({drop.pushed_out}), as {_HOLDS}.")
    st.session_state["upload_errors"] = said


@dataclass
class _Refused:
    """Files that were turned away, by status; when the page learned of it, and whether a drop has been read since."""

    counts: Counter[int]
    when: float
    read: bool


def _begin_refusals() -> None:
    """A drop is read: forget what was told of earlier ones, but not what was told of this one while it arrived."""
    now = time.monotonic()
    told: list[_Refused] = st.session_state.get("upload_refused", [])
    told = [one for one in told if not one.read and now - one.when < SAME_DROP_S]
    for one in told:
        one.read = True
    st.session_state["upload_refused"] = told
    _learn_refusals(read=True)


def _learn_refusals(read: bool) -> None:
    context = get_script_run_ctx()
    if context is not None and (counts := _server.refused(context.session_id)):
        st.session_state["upload_refused"].append(_Refused(counts, time.monotonic(), read))


def refusals() -> list[str]:
    """Files that were turned away before they were read, a sentence for each reason; told until files are dropped later."""
    kept: list[_Refused] = st.session_state.setdefault("upload_refused", [])
    _learn_refusals(read=False)
    total: Counter[int] = sum((one.counts for one in kept), Counter())
    most = f"{_server.WAITING_FILES:,} files and {_server.WAITING_BYTES // 2**20} MB"
    reasons = {413: f"a drop may have {most} in all; drop them later", 503: _FULL}
    said = {status: "1 file was" if count == 1 else f"{count} files were" for status, count in total.items()}
    return [f"{said[status]} not taken, as {why}." for status, why in reasons.items() if status in said]


@dataclass
class _Drop:
    """Files that were dropped at once: pixels of the radiographs that were taken, by case, and how it goes."""

    end: float
    taken: dict[str, int] = field(default_factory=dict)
    read: int = 0
    pushed_out: int = 0
    stopped: bool = False


_HOLDS = f"a tab holds {UPLOADS_KEPT} radiographs and {UPLOADED_PIXELS_KEPT // 10**6} million pixels"
_FULL = "the server's memory is full; use Forget everything where you are done, or try again later"


def _take(data: bytes, number: int, several: bool, drop: _Drop) -> Iterator[tuple[str, str]]:
    """Keep the radiographs of one file; where and why there is none.

    The first one of a drop is taken however long it took, or it could never be brought in.
    """
    for inner, found in read_radiographs(data):
        archive = f"archive {number}" if several else "the archive"
        where = f"file {number}" if inner is None else f"file {inner} of {archive}"
        if drop.read and time.monotonic() > drop.end:
            drop.stopped = True
            yield f"from {where} on", "Reading took too long and was stopped; drop the rest in smaller parts."
            return
        if _memory.full():
            drop.stopped = True
            yield f"from {where} on", f"No more was read, as {_FULL}."
            return
        drop.read += 1
        size = _server_log.size_class(len(data))
        if isinstance(found, RadiographError):
            _server_log.event("upload", outcome="refused", size=size, error=type(found).__name__)
            yield where, str(found)
            continue
        case = f"upload:{found.sha256}"
        taken = {**drop.taken, case: found.pixels.size}
        if len(taken) > UPLOADS_KEPT or sum(taken.values()) > UPLOADED_PIXELS_KEPT:
            drop.stopped = True
            yield f"from {where} on", f"No more was read, as {_HOLDS}; drop the rest later, and the oldest give way."
            return
        drop.taken = taken
        _server_log.event("upload", outcome="accepted", format=found.format, size=size)
        known = case in uploads()
        drop.pushed_out += len(_keep("uploads", case, found, UPLOADS_KEPT)) - known
        st.session_state["case"] = case
        drop.pushed_out += _fit("uploads", lambda kept: kept)


def _fit(name: str, radiograph: Callable[[Any], Radiograph]) -> int:
    """Let the oldest radiographs go until the pixels that are kept are not too many; how many went."""
    entries, gone = _bounded(name), 0
    while sum(radiograph(kept).pixels.size for kept in entries.values()) > UPLOADED_PIXELS_KEPT and len(entries) > 1:
        entries.popitem(last=False)
        gone += 1
    return gone


def _in_few_words(told: Iterable[tuple[str, str]]) -> list[str]:
    """One entry a sentence, with all that it is said of, and not more entries than anybody reads."""
    places: dict[str, list[str]] = {}
    for where, sentence in told:
        places.setdefault(sentence, []).append(where)
    said = []
    for sentence, where in places.items():
        more = f" and {len(where) - SAID_OF} more" if len(where) > SAID_OF else ""
        named = ", ".join(where[:SAID_OF]) + more
        said.append(f"{named[0].upper()}{named[1:]}: {sentence}")
    left = sum(len(where) for where in list(places.values())[SAID_MOST:])
    return [*said[:SAID_MOST], *([f"{left} more files could not be read."] if left else [])]


def _release(file: Any) -> None:
    """Let go of an uploaded file's bytes, Streamlit's and the widget's."""
    context = get_script_run_ctx()
    if context is not None and hasattr(context.uploaded_file_mgr, "remove_file"):
        context.uploaded_file_mgr.remove_file(context.session_id, file.file_id)
    file.truncate(0)


def uploads() -> dict[str, Radiograph]:
    """This session's radiographs by case, oldest first."""
    return dict(_bounded("uploads"))  # type: ignore[arg-type]


def drop_link_error() -> None:
    """Another case was chosen: what the link wanted is past."""
    st.session_state["link_error"] = None


def case_title(case: str) -> str:
    """What the picker shows. File names often are patient names, so they are never shown."""
    kind, _, name = case.partition(":")
    if kind == "sample":
        return f"Sample: {SAMPLES_BY_NAME[name].title} (synthetic)"
    if kind == "run":
        opened = stored_case(case)
        return f"{opened.run}, fold {opened.fold}: true class {opened.true}, case {opened.case[:8]}"
    radiograph = uploads()[case]
    height, width = radiograph.pixels.shape
    return f"Upload {list(uploads()).index(case) + 1}: {width} × {height} {radiograph.format}"


def radiograph_of(case: str) -> Radiograph:
    """The radiograph of a case of this session."""
    kind, _, name = case.partition(":")
    if kind == "upload":
        return uploads()[case]
    if kind == "run":
        return stored_case(case).radiograph
    pixels = sample_phantom(name).pixels
    checksum = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    return Radiograph(pixels, checksum, "synthetic", notes=(SAMPLES_BY_NAME[name].caption,))


def cases() -> list[str]:
    """All cases that can be chosen: uploads first, newest first."""
    return [*reversed(uploads()), *reversed(_bounded("stored")), *(f"sample:{name}" for name in SAMPLES_BY_NAME)]


@dataclass(frozen=True, eq=False)
class StoredCase:
    """A case of a stored run whose radiograph is at hand; `network` is the one that answered it, if that is too."""

    run: str
    fold: int
    case: str
    true: str
    radiograph: Radiograph
    network: str | None


def stored_case(case: str) -> StoredCase:
    """A case of a stored run that this session has opened."""
    found: StoredCase = _bounded("stored")[case]
    return found


def stored_cases() -> list[StoredCase]:
    """All cases of stored runs that this session has opened."""
    return list(_bounded("stored").values())


def open_from_url() -> None:
    """Before the sidebar is drawn: take the network, the class and the case of a run from a changed URL.

    What the URL cannot mean is ignored, but a link to a stored case that cannot be opened says why.
    """
    asked = tuple(st.query_params.get(key) for key in ("model", "target", "run", "case"))
    if asked == st.session_state.get("url-asked"):
        return
    st.session_state["url-asked"] = asked
    model, target, run, case = asked
    st.session_state["link_error"] = None
    if model is not None and _known(model):
        st.session_state["set-model"] = model
    if run is not None and case is not None:
        try:
            opened = _open_stored(run, case)
        except CxnetError as error:
            st.session_state["link_error"] = str(error)
        else:
            key = f"run:{run}:{case}"
            _keep("stored", key, opened, UPLOADS_KEPT)
            _fit("stored", lambda kept: kept.radiograph)
            st.session_state["case"] = key
            if opened.network is not None:
                st.session_state["set-model"] = opened.network
    if target is not None and target in networks()[st.session_state.get("set-model") or next(iter(networks()))].classes:
        st.session_state["set-target"] = target


def _known(model: str) -> bool:
    try:
        return card(model).recipe.task == "classification"
    except CxnetError:
        return False


def _open_stored(name: str, case: str) -> StoredCase:
    found = _store.listing()[0].get(name)
    if found is None:
        raise DatasetError("The link names a run that is not here; open it from the page Runs.")
    rows = found.table[found.table["case"] == case]
    if rows.empty:
        raise DatasetError(f"The run {name} has no such case; open one from the page Runs.")
    if _memory.full():
        raise TooLarge(f"The radiograph was not opened, as {_FULL}.")
    row = rows.iloc[0]
    radiograph = _store.radiograph(row.get("file"), case)
    if radiograph is None:
        raise DatasetError(
            f"The radiograph of this case of {name} is not at hand; start the server with CXNET_IMAGES set to the "
            "folder of its data set's manifest."
        )
    try:
        network = network_of(found, int(row["fold"])).name
    except WeightsError:  # an imported run has none: the case is shown with the network that is chosen
        network = None
    return StoredCase(name, int(row["fold"]), case, str(row["true"]), radiograph, network)


def analysis_of(radiograph: Radiograph, settings: Settings) -> Analysis:
    """Everything but LIME, computed once for a radiograph and settings."""
    quick = replace(settings, methods=tuple(m for m in settings.methods if m != "lime"))
    key = (radiograph.sha256, replace(quick, lime=type(quick.lime)(seed=quick.seed)))
    entries = _bounded("analyses")
    if key not in entries:
        found = models(settings.model)
        same = (kept.lungs for kept in entries.values() if kept.radiograph.sha256 == radiograph.sha256)
        known = next(same, None)
        if known is not None:
            found = Models(found.classifier, cast(LungSegmenter, _Segmented(found.segmenter, known)))
        slow = [METHODS[method] for method in quick.methods if method != "grad-cam"]
        told = st.spinner(f"Computing {' and '.join(slow)} with TensorFlow; this takes a while …")
        with told if slow else nullcontext(), _server_log.timed("analysis", network=settings.model):
            made = analyse(radiograph, found, quick)
        _keep("analyses", key, made, ANALYSES_KEPT)
    entries.move_to_end(key)
    within_budget()
    kept: Analysis = entries[key]
    return kept


class _Segmented:
    """The segmenter when it has seen the radiograph: its lungs, not once more, and one mask for all analyses."""

    def __init__(self, segmenter: LungSegmenter, lungs: LungMask) -> None:
        self.card, self._lungs = segmenter.card, lungs

    def __call__(self, pixels: NDArray[np.uint8]) -> LungMask:
        return self._lungs


def within_budget() -> None:
    """Let the oldest results go until this session keeps no more than :data:`RESULTS_BYTES_KEPT` of them.

    The last of each kind stays, and what a job still works on.
    """
    radiographs = _arrays([_bounded("uploads"), _bounded("stored")])
    while True:
        sizes: dict[str, int] = {}
        seen = dict(radiographs)
        for name in ("analyses", "jobs", "whatif-outcomes"):
            held = _arrays(_bounded(name))
            sizes[name] = sum(array.nbytes for number, array in held.items() if number not in seen)
            seen |= held
        may_go = {name: key for name in sizes if (key := _oldest(name)) is not None}
        if sum(sizes.values()) <= RESULTS_BYTES_KEPT or not may_go:
            return
        name = max(may_go, key=lambda name: sizes[name])
        del _bounded(name)[may_go[name]]


def _oldest(name: str) -> Hashable | None:
    """Key of what may go first."""
    before = list(_bounded(name).items())[:-1]
    return next((key for key, kept in before if not (isinstance(kept, _jobs.Job) and kept.active)), None)


def _arrays(*roots: Any) -> dict[int, NDArray[Any]]:
    """The arrays that values hold, each once: views count as what they are views of."""
    found: dict[int, NDArray[Any]] = {}
    todo = list(roots)
    while todo:
        value = todo.pop()
        if isinstance(value, np.ndarray):
            while isinstance(value.base, np.ndarray):
                value = value.base
            found[id(value)] = value
        elif isinstance(value, Mapping):
            todo += value.values()
        elif isinstance(value, (list, tuple)):
            todo += value
        elif is_dataclass(value) and not isinstance(value, type):
            todo += [getattr(value, one.name) for one in fields(value)]
    return found


def lime_key(radiograph: Radiograph, settings: Settings) -> Hashable:
    """What a LIME result belongs to."""
    return (radiograph.sha256, settings)


def maps_key(kind: str, analysis: Analysis, lime: bool = True) -> Hashable:
    """What a job of this kind on finished maps belongs to: a radiograph, these maps, and the settings behind them.

    Without `lime`, that of the job before LIME's map was there.
    """
    finished = {method for method, found in analysis.explanations.items() if found.finished}
    settings = replace(analysis.settings, methods=())
    if not lime or "lime" not in finished:
        finished.discard("lime")
        settings = replace(settings, lime=LimeSettings(), superpixels=Settings.superpixels)
    return (kind, analysis.radiograph.sha256, settings, frozenset(finished))


def job_of(key: Hashable) -> _jobs.Job | None:
    """The job for this radiograph and these settings, if this session has started one."""
    found: _jobs.Job | None = _bounded("jobs").get(key)
    return found


def start_job(key: Hashable, job: _jobs.Job) -> None:
    """Remember a job; the oldest are cancelled and dropped."""
    for dropped in _keep("jobs", key, job, ANALYSES_KEPT):
        _jobs.runner().cancel(dropped)


def batch_rows() -> OrderedDict[Hashable, Any]:
    """What the page Batch has found, by what it depends on: plain values, added by its job while the page looks them up."""
    return _bounded("batch-rows")


def forget() -> None:
    """Drop everything that this session holds: radiographs, analyses, rows, jobs, the uploader's files."""
    for job in _bounded("jobs").values():
        _jobs.runner().cancel(job)
    context = get_script_run_ctx()
    if context is not None:
        _jobs.runner().cancel_session(context.session_id)  # one that a click kept from being remembered
    for file in st.session_state.get(uploader_key()) or []:
        # Streamlit keeps the bytes of an uploader that is gone until the tab is closed.
        if context is not None and hasattr(context.uploaded_file_mgr, "remove_file"):
            context.uploaded_file_mgr.remove_file(context.session_id, file.file_id)
    if context is not None:
        # A run that ends in st.stop, as the empty page's does, leaves the last run's fragments and all that they show.
        context.fragment_storage.clear()
    times = st.session_state.get("times-forgotten", 0)
    for name in list(st.session_state):
        if name != "_entered":
            del st.session_state[name]
    st.session_state["times-forgotten"] = times + 1
    st.session_state["case"] = None  # said, not left out: the browser would go on showing the old choice
    st.query_params.clear()
    _memory.give_back_soon()


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
    """After the picker was drawn: keep the choice, and put it into the URL unless it is an upload.

    The address of a case that could not be opened stays until another is chosen: it may open after a reload.
    """
    st.session_state["last_case"] = case
    opened = stored_case(case) if case is not None and case.startswith("run:") else None
    if case is not None or st.session_state.get("link_error") is None:
        write_url(run=opened.run if opened else None, case=opened.case if opened else None)
    st.session_state["url-asked"] = tuple(st.query_params.get(key) for key in ("model", "target", "run", "case"))
    st.session_state["url_case"] = case if case is not None and case.startswith("sample:") else None
    write_url(sample=case.partition(":")[2] if st.session_state["url_case"] else None)


def choice_from_url(key: str, allowed: list[str]) -> str | None:
    """A value of the URL if it is on the list, else None; anything else in the URL is ignored."""
    value = st.query_params.get(key)
    return value if value in allowed else None


def write_url(**values: str | None) -> None:
    """Put the choices that may be shared into the URL, all at once: one entry of the history. Uploads never."""
    now = st.query_params.to_dict()
    wanted = {key: value for key, value in {**now, **values}.items() if value is not None}
    if wanted != now:
        st.query_params.from_dict(wanted)
