"""Many radiographs as one job: the rows of ``python -m cxnet audit``, for the page Batch.

The upper half of the file computes and knows no page; the lower half shows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import pandas as pd
import streamlit as st

from cxnet import batch
from cxnet.analysis import NOTICE, Models
from cxnet.audit.localisation import CONSTANT
from cxnet.batch import Row
from cxnet.errors import CxnetError
from cxnet.radiograph import Radiograph
from cxnet.thresholds import thresholds
from cxnet.verdict import NAMES
from cxnet.weights import Card
from cxnet.wrong_reasons import Tier
from pages import _jobs, _run_exports, _session
from pages._whatif import MOST_SHOWN

ROWS_KEPT = 1000
FACTS_SHOWN = 2
NOT_PROVEN = "**No wrong reason found is not a right reason proven.**"


@dataclass(frozen=True)
class Key:
    """What a row depends on."""

    case: str
    model: str
    model_sha256: str
    tier: Tier


@dataclass(frozen=True, eq=False)
class Judged:
    """A row and the seconds that it took."""

    row: Row
    seconds: float


@dataclass(eq=False)
class Batch:
    """How far a batch is; its rows lie where :func:`batch_steps` was told to put them.

    Parameters
    ----------
    model : str
    tier : {"fast", "full"}
    total, done : int
        Radiographs.
    shown : int
        Edited pictures of the radiograph at hand that the network was shown.
    """

    model: str
    tier: Tier
    total: int
    done: int = 0
    shown: int = 0

    @property
    def complete(self) -> bool:
        """Whether every radiograph has its row."""
        return self.done == self.total

    @property
    def share(self) -> float:
        """How much of the work is done, 0 to 1."""
        part = min(0.95, self.shown / MOST_SHOWN) if self.tier == "full" else 0.0
        return 1.0 if self.complete else (self.done + part) / self.total

    def count(self, pictures: int) -> None:
        """The network was shown so many more."""
        self.shown += pictures


def batch_steps(
    todo: deque[tuple[Key, Callable[[], Radiograph | None]]],
    models: Models,
    tier: Tier,
    rows: MutableMapping[Any, Judged],
    cancel: threading.Event,
) -> Iterator[Batch]:
    """:func:`cxnet.batch.audit_radiograph` for one after another as work for the runner: one value that changes.

    Rows go to `rows` as they come and stay there when the work is stopped. `todo` is emptied, so that no radiograph is
    held for longer than it is needed; what gives None was given up by its tab meanwhile and is passed over. An error that
    nobody expected costs the row of its radiograph, and is logged.
    """
    found = Batch(models.classifier.card.name, tier, len(todo))
    yield found
    watched: Any = _jobs.Watched(models.classifier, cancel, found.count)
    while todo:
        key, held = todo.popleft()
        radiograph = held()
        if radiograph is None:
            found.total -= 1
            continue
        since = time.monotonic()
        try:
            row = batch.audit_radiograph(radiograph, Models(watched, models.segmenter), tier)
        except _jobs.Stopped:
            return
        except Exception as error:  # the others must not wait for this one for ever
            logging.getLogger("cxnet").exception("A radiograph of a batch failed")
            why = f"It failed unexpectedly ({type(error).__name__}); see the server's log."
            row = batch.failed_row(key.case, models.classifier.card, why)
        del radiograph, held
        rows[key] = Judged(row, time.monotonic() - since)
        found.done, found.shown = found.done + 1, 0
        yield found


def in_order(rows: Mapping[str, Row]) -> list[str]:
    """Cases by how suspicious they are: verdict, then lift, lowest first; undefined ones, then failed ones, come last."""

    def suspicion(case: str) -> tuple[bool, int, bool, float]:
        row = rows[case]
        name, lift = row.get("verdict"), row.get("lift")
        return row["error"] is not None, NAMES.index(name) if name else 0, lift is None, lift or 0.0

    return sorted(rows, key=suspicion)


def frame(rows: Mapping[str, Row], titles: Mapping[str, str], tier: Tier) -> pd.DataFrame:
    """What the table shows, one line a case in the order of `rows`; None where a figure is undefined.

    Parameters
    ----------
    rows : mapping of str to dict
        Case → its row.
    titles : mapping of str to str
        Case → what it is called.
    tier : {"fast", "full"}
    """
    lines = []
    for case, row in rows.items():
        called = row.get("predicted")
        line: dict[str, Any] = {"Radiograph": titles[case], "Predicted": called}
        if tier == "full":
            line["Verdict"] = row.get("verdict")
        line["Output"] = row.get(f"probability {called}")
        line |= {"In lungs": row.get("in_lung"), "Even map": row.get("in_lung_uniform_map")}
        line |= {"Lift": row.get("lift"), "z": row.get("z")}
        lungs_ok = row.get("lungs_ok")
        line["Lungs"] = None if lungs_ok is None else "ok" if lungs_ok else f"doubtful: {row['lungs_reasons']}"
        if tier == "full":
            line["First facts"] = _facts(row)
        line["Note"] = row["error"] or _undefined(row)
        lines.append(line)
    found = pd.DataFrame(lines)
    figures = ["Output", "In lungs", "Even map", "Lift", "z"]
    return found.astype(dict.fromkeys(figures, float)) if lines else found


def _facts(row: Row) -> str:
    facts = json.loads(row.get("facts") or "[]")
    more = f" (and {len(facts) - FACTS_SHOWN} more)" if len(facts) > FACTS_SHOWN else ""
    return "; ".join(facts[:FACTS_SHOWN]) + more


def _undefined(row: Row) -> str:
    """Why figures of the map are undefined; nothing if all are there."""
    if row["in_lung"] is None:
        return f"No figures of the map: {row['map_reason']}."
    return f"z is undefined: {CONSTANT}." if row["z"] is None else ""


def told(rows: Sequence[Row], tier: Tier) -> str:
    """What came of all, in a plain sentence or two."""
    good = [row for row in rows if row["error"] is None]
    failed = f" {len(rows) - len(good)} could not be judged; the note says why." if len(good) < len(rows) else ""
    if tier == "full":
        counts = {name: sum(row["verdict"] == name for row in good) for name in NAMES}
        named = " · ".join(f"**{count}** {name}" for name, count in counts.items())
        return f"{counted(len(good))} judged: {named}.{failed} {NOT_PROVEN}"
    limits = thresholds()
    defined = [row for row in good if row["lift"] is not None]
    outside = sum(
        row["lift"] < limits.least_lift or (row["z"] is not None and row["z"] < limits.least_z) for row in defined
    )
    without = f" For {len(good) - len(defined)} this is undefined." if len(defined) < len(good) else ""
    return (
        f"The maps of **{outside}** of {counted(len(defined))} lie in the lungs less than chance would put them there "
        f"(lift below {limits.least_lift:g} or z below {limits.least_z:g}).{without}{failed} A map alone accuses nobody "
        f"and clears nobody: verdicts need the causal tests. {NOT_PROVEN}"
    )


def counted(count: int) -> str:
    """So many radiographs."""
    return f"{count} radiograph{'' if count == 1 else 's'}"


def csv(rows: Sequence[Row]) -> bytes:
    """Rows as the command line writes them, and the notice."""
    return _run_exports.csv(batch.table(rows).to_pandas(types_mapper=pd.ArrowDtype).assign(notice=NOTICE))


def files(rows: Sequence[Row], card: Card, tier: Tier) -> dict[str, bytes]:
    """The Parquet file and the JSON file of the command line, by name."""
    return batch.files(rows, batch.settings_told({card.name: card.sha256}, card.classes, tier))


def command(card: Card, tier: Tier) -> str:
    """What to type for the same rows."""
    return f"python -m cxnet audit FOLDER --model {shlex.quote(card.name)} --tier {tier} --out RESULTS"


# --------------------------------------------------------------------------------------------------------------- page

#: Of the batch among the session's jobs.
JOB = ("batch",)
TIERS: dict[Tier, str] = {"fast": "Maps and figures", "full": "With causal tests and verdict"}
FIGURE = st.column_config.NumberColumn
COLUMNS = {
    "Verdict": st.column_config.TextColumn(width=120),
    "First facts": st.column_config.TextColumn(width="large"),
    "Output": FIGURE(format="%.3f", help="The network's uncalibrated output for the class that it calls.", width=80),
    "In lungs": FIGURE(format="%.3f", help="Share of the Grad-CAM map's energy in the lungs.", width=80),
    "Even map": FIGURE(format="%.3f", help="What a map that is the same everywhere has there.", width=80),
    "Lift": FIGURE(format="%.2f", help="In lungs over even map: 1 is chance.", width=70),
    "z": FIGURE(format="%.1f", help="Against copies of the map shifted at random: 0 is chance.", width=70),
    "Lungs": st.column_config.TextColumn(help="Whether the lung mask looks like two lungs."),
    "Note": st.column_config.TextColumn(help="Why figures are undefined, or why there is no row.", width="large"),
}


def listed(samples: bool) -> dict[str, Radiograph]:
    """The radiographs of this tab by case, newest first, each once; the synthetic samples if they are wanted."""
    found: dict[str, Radiograph] = {}
    seen = set()
    for case in _session.cases():
        if case.startswith("sample:") and not samples:
            continue
        radiograph = _session.radiograph_of(case)
        if radiograph.sha256 not in seen:
            seen.add(radiograph.sha256)
            found[case] = radiograph
    return found


def key_of(radiograph: Radiograph, card: Card, tier: Tier) -> Key:
    """What the row of this radiograph depends on."""
    return Key(radiograph.sha256, card.name, card.sha256, tier)


def under_way() -> bool:
    """Whether this tab's batch runs or waits."""
    job = _session.job_of(JOB)
    return job is not None and job.active


def judged(cases: Mapping[str, Radiograph], card: Card, tier: Tier) -> dict[str, Judged]:
    """What is there already for these settings, by case."""
    rows = _session.batch_rows()
    looked_up = {case: rows.get(key_of(radiograph, card, tier)) for case, radiograph in cases.items()}
    return {case: found for case, found in looked_up.items() if found is not None}


def cost(cases: Mapping[str, Radiograph], card: Card, tier: Tier) -> str:
    """What a tier costs: passes of the network, and the time as far as it was measured in this tab."""
    done = [one for one in judged(cases, card, tier).values() if one.row["error"] is None]
    if tier == "fast":
        passes = "1 pass of the network and 1 of the lung finder a radiograph"
    elif done:
        passes = f"about {1 + median(one.row['passes'] for one in done):.0f} passes a radiograph"
    else:
        passes = f"up to {1 + MOST_SHOWN} passes of the network a radiograph"
    if not done:
        return passes
    each = median(one.seconds for one in done)
    return f"{passes}; {each:.1f} s each here, {_time(each * len(cases))} for {counted(len(cases))}"


def _time(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def start(cases: Mapping[str, Radiograph], card: Card, tier: Tier) -> None:
    """Queue the radiographs that have no row yet.

    Raises
    ------
    WeightsError
        If the network cannot be loaded.
    TooManyJobs
        If this tab, or the server, has enough to do.
    """
    models, rows = _session.models(card.name), _session.batch_rows()
    there = judged(cases, card, tier)
    todo = deque((key_of(one, card, tier), _holder(case, one)) for case, one in cases.items() if case not in there)
    st.session_state["batch-of"] = card.name, tier
    job = _jobs.submit("batch", partial(batch_steps, todo, models, tier, rows), gives_way=True)
    _session.start_job(JOB, job)
    while len(rows) > ROWS_KEPT:
        rows.popitem(last=False)


def _holder(case: str, radiograph: Radiograph) -> Callable[[], Radiograph | None]:
    """The radiograph as long as the tab keeps it; a sample for good, as it is drawn anew each time."""
    return (lambda: radiograph) if case.startswith("sample:") else weakref.ref(radiograph)


def controls(cases: Mapping[str, Radiograph], card: Card, tier: Tier) -> None:
    """Start button, or how far the job is."""
    asked = st.session_state.pop("batch-start", False)
    job = _session.job_of(JOB)
    # in this order: what arrives meanwhile is drawn by the next run
    active, updates = (job.active, job.updates) if job is not None else (False, 0)
    left = len(cases) - len(judged(cases, card, tier))
    if job is not None and active:
        _jobs.follow(job, partial(_progress, card.name, tier), "cancel-batch", updates)
        return
    if job is not None and job.state == "failed":
        st.error(job.error or "The batch failed.", icon=":material/error:")
    elif (
        job is not None and job.state == "cancelled" and left and st.session_state.get("batch-of") == (card.name, tier)
    ):
        st.info(
            f"Stopped. {len(cases) - left} of {counted(len(cases))} done; their rows stay.",
            icon=":material/stop_circle:",
        )
    if not left:
        return
    title = f"Judge {counted(left)}" if left == len(cases) else f"Go on: {left} of {len(cases)} left"
    if st.button(title, type="primary", key="run-batch") or asked:
        try:
            start(cases, card, tier)
        except CxnetError as error:
            st.error(str(error), icon=":material/error:")
        else:
            st.rerun()


def _progress(model: str, tier: Tier, found: Batch | None) -> tuple[float, str]:
    if found is None:
        return 0.0, "Starting …"
    other = "" if (found.model, found.tier) == (model, tier) else f" ({found.model}, {TIERS[found.tier].lower()})"
    return found.share, f"{found.done} of {counted(found.total)} done{other}"


def results(cases: Mapping[str, Radiograph], card: Card, tier: Tier) -> None:
    """Counts, table and downloads of what is there for these settings."""
    there = judged(cases, card, tier)
    if not there:
        return
    rows = {case: there[case].row for case in in_order({case: one.row for case, one in there.items()})}
    st.markdown(told(list(rows.values()), tier))
    order = tuple(rows)
    st.caption("Most suspicious first. Tick a line to open its radiograph on Analyse with this network.")
    # a click belongs to the table that was on the screen: another order, another table
    key = f"batch-table-{hashlib.sha256(repr((order, card.name, tier)).encode()).hexdigest()[:12]}"
    shown = frame(rows, {case: _session.case_title(case) for case in rows}, tier)
    st.dataframe(
        shown if shown["Note"].any() else shown.drop(columns="Note"),
        hide_index=True, key=key, on_select=partial(_choose, order, key), selection_mode="single-row",
        column_config=COLUMNS, placeholder="undefined",
        alt="One line a radiograph, the most suspicious first: class, output, figures of the map, verdict.",
    )  # fmt: skip
    _downloads(list(rows.values()), card, tier)


def _choose(order: Sequence[str], key: str) -> None:
    """A line was ticked: its radiograph is the one that Analyse shows."""
    chosen = st.session_state[key]["selection"]["rows"]
    if chosen and order[chosen[0]] in _session.cases():
        st.session_state["case"] = st.session_state["last_case"] = order[chosen[0]]
        st.session_state["batch-opens"] = True


def _downloads(rows: list[Row], card: Card, tier: Tier) -> None:
    stem = f"audit-{tier}"
    with st.container(horizontal=True):
        for title, name, kind in (
            ("Table (CSV)", f"{stem}.csv", "text/csv"),
            ("Table (Parquet)", f"{stem}.parquet", "application/vnd.apache.parquet"),
            ("Settings (JSON)", f"{stem}.json", "application/json"),
        ):
            st.download_button(
                title, partial(_file, rows, card, tier, name), name, kind, on_click="ignore", key=f"batch-{kind}",
                icon=":material/download:",
            )  # fmt: skip
    st.caption(
        "Columns are those of the command line; a case is named by its file's sha256. For the same rows, and for any "
        "number of files:"
    )
    st.code(command(card, tier), language=None, wrap_lines=True)


def _file(rows: list[Row], card: Card, tier: Tier, name: str) -> bytes:
    return csv(rows) if name.endswith(".csv") else files(rows, card, tier)[name]
