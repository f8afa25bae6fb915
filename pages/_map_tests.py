"""Do maps follow the network: insertion and deletion of one radiograph's maps, and what is stored of whole networks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from cxnet.analysis import Analysis, Models, looking
from cxnet.audit import Curves, SanityCheck, insertion_deletions, sanity_check
from cxnet.audit.siblings import Repeatability, sibling_check
from cxnet.errors import CxnetError, WeightsError
from cxnet.explain import METHODS
from cxnet.weights import Card, network_of
from pages import _jobs, _panels, _session, _store

#: Parts in which the picture is hidden, and random orders that every map is held against: with 19, a map that has
#: nothing to do with the network beats them all with a chance of 1 in 20.
STEPS, ORDERS = 6, 19
WORSE = "this map does not follow the network better than chance order"
#: Names of the two figures, in the order of :attr:`Curves.scores`.
FIGURES = ("Deletion", "Insertion")


@dataclass(eq=False)
class Trial:
    """Insertion and deletion of the maps of one answer while they run, and what came of them."""

    maps: tuple[str, ...]
    shown: int = 0
    found: dict[str, Curves] = field(default_factory=dict)

    @property
    def most(self) -> int:
        """Pictures that the network is shown at most."""
        return 2 + (STEPS - 1) * (ORDERS + 2 * len(self.maps))

    @property
    def complete(self) -> bool:
        return len(self.found) == len(self.maps)


def steps(analysis: Analysis, models: Models, cancel: threading.Event) -> Iterator[Trial]:
    """:func:`cxnet.audit.insertion_deletions` of the finished maps as work for the runner; one value that changes."""
    maps = {method: found.heatmap for method, found in analysis.explanations.items() if found.finished}
    trial = Trial(tuple(maps))
    yield trial

    def count(pictures: int) -> None:
        trial.shown += pictures

    watched: Any = _jobs.Watched(models.classifier, cancel, count)
    target = models.classifier.classes.index(analysis.target)
    seed = analysis.settings.seed
    results = insertion_deletions(
        analysis.stack, maps, looking(analysis, watched.logits), target, steps=STEPS, random_orders=ORDERS, seed=seed
    )
    try:
        for method, curves in results:
            trial.found = {**trial.found, method: curves}  # the page may be reading the older one
            yield trial
    except _jobs.Stopped:
        return


# --------------------------------------------------------------------------------------------------- one radiograph


def section(analysis: Analysis, models: Models) -> None:
    """A button, and how well each map follows the network."""
    job = _job(analysis)
    with st.expander("Do the maps follow the network?", key="maps-section"):
        st.caption(
            "If a map shows what the network uses, hiding its hottest patches first takes the answer away sooner than "
            "hiding patches in a random order (deletion), and showing them first brings it back sooner (insertion)."
        )
        active, updates = (False, 0) if job is None else (job.active, job.updates)
        if job is not None and active:
            _jobs.follow(job, _tested, "cancel-maps", updates)
        st.fragment(panel)(analysis, models, active)


def _tested(trial: Trial | None) -> tuple[float, str]:
    """How far the test is."""
    shown, most = (0, 1) if trial is None else (trial.shown, trial.most)
    return shown / most, f"{shown} edited pictures shown so far"


def _job(analysis: Analysis) -> _jobs.Job | None:
    """The job of these maps, or of those that were there before LIME's."""
    return _session.job_of(_session.maps_key("maps", analysis)) or _session.job_of(
        _session.maps_key("maps", analysis, lime=False)
    )


def panel(analysis: Analysis, models: Models, active: bool) -> None:
    """The figures of the maps that were tested; start button, unless the test is under way."""
    job = _job(analysis)
    trial: Trial | None = None if job is None else job.partial
    if trial is not None and trial.found:
        results(trial, analysis)
    if active:
        return
    finished = [method for method, found in analysis.explanations.items() if found.finished]
    if job is not None and job.state == "failed":
        st.error(job.error or "The test failed.", icon=":material/error:")
    elif job is not None and job.state == "cancelled":
        st.info("The test was stopped; maps that it did not come to have no figures.", icon=":material/stop_circle:")
    elif trial is not None:
        if set(finished) <= set(trial.maps):
            return
        st.info("LIME's map was not there when the maps were tested; test again to have it measured as well.")
    if not finished:
        st.caption("There is no finished map to test: choose one in the sidebar, or run LIME.")
        return
    if st.button("Test the maps", key="run-maps"):
        try:
            _session.start_job(
                _session.maps_key("maps", analysis), _jobs.submit("maps", partial(steps, analysis, models))
            )
        except CxnetError as error:
            st.error(str(error), icon=":material/error:")
        else:
            st.rerun()


def verdict(method: str, curves: Curves) -> str:
    """What the test says of a map, in one sentence."""
    name, beats = METHODS[method], curves.beats_random
    if beats is None:
        return f"**{name}**: undefined, because {curves.scores[0].reason}."
    if not any(beats):
        return f"**{name}**: {WORSE}."
    if all(beats):
        return f"**{name}** beats all {ORDERS} random orders by deletion and by insertion."
    better, worse = FIGURES if beats[0] else FIGURES[::-1]
    return f"**{name}** beats all {ORDERS} random orders by {better.lower()}, but not by {worse.lower()}."


def table(found: dict[str, Curves]) -> pd.DataFrame:
    """Two rows a map: its area, that of random orders, the gap, and whether it beats every one of them."""
    rows = []
    for method, curves in found.items():
        for k, figure in enumerate(FIGURES):
            area, gap = curves.scores[k], curves.scores[2 + k]
            row = {"Map": METHODS[method], "Figure": f"{figure}, {'lower' if k == 0 else 'higher'} is better"}
            if area.value is None or gap.value is None or curves.beats_random is None:
                row |= {"Beats chance order": "undefined"}  # the sentence above says why
                rows.append(row | dict.fromkeys(("Area", "Random order", "Better by", "Best random order"), "—"))
                continue
            row |= {"Beats chance order": "yes" if curves.beats_random[k] else "no"}
            row |= {"Area": f"{area.value:.3f}", "Random order": f"{area.null['random order']:.3f}"}
            row |= {"Better by": signed(gap.value), "Best random order": signed(gap.null["best random order"])}
            rows.append(row)
    return pd.DataFrame(rows)


def signed(value: float) -> str:
    """Three digits and a sign, with a true minus."""
    return f"{value:+.3f}".replace("-", "−")


def results(trial: Trial, analysis: Analysis) -> None:
    """The figures of all maps, and the curves of one."""
    st.markdown("\n".join(f"- {verdict(method, curves)}" for method, curves in trial.found.items()))
    st.dataframe(table(trial.found), hide_index=True, width="stretch")
    drawn = [method for method, curves in trial.found.items() if curves.random is not None]
    if drawn:
        if len(drawn) > 1:
            chosen = st.segmented_control(
                "Curves of",
                drawn,
                format_func=METHODS.get,
                default=drawn[0],
                required=True,
                key=f"maps-curves-{'-'.join(drawn)}",
            )
        else:
            chosen = drawn[0]
        chart(METHODS[chosen], trial.found[chosen])
    st.caption(
        f"For {analysis.target}: patches of 16 px become a strong blur; 1 is the logit of the whole picture, 0 that with "
        f"everything hidden. Every map is held against the same {ORDERS} random orders, and must beat them all: a map "
        "that has nothing to do with the network would with a chance of 1 in 20, for each figure. Random patches lie "
        "scattered and a map's lie together, so a network that reacts to the edges of what is hidden can tilt the test. "
        "That a map follows the network says nothing of whether the network is right."
    )


def curve_rows(curves: Curves) -> pd.DataFrame:
    """The two curves beside the mean of the random orders, one row a step."""
    assert curves.random is not None
    random = curves.random.mean(axis=0)
    columns = {
        "Hidden, hottest first": curves.deletion,
        "Hidden, random order": random,
        "Shown, hottest first": curves.insertion,
        "Shown, random order": random[::-1],
    }
    share = pd.Index([f"{100 * f:.0f} %" for f in curves.fractions], name="Share of the patches")
    return pd.DataFrame(columns, index=share)


def chart(name: str, found: Curves) -> None:
    """The curves of a map as a chart, and as a table."""
    rows = curve_rows(found)
    accent, _, _, ink = _panels.palette()
    lines = go.Figure()
    for title, values in rows.items():
        hottest, hides = str(title).endswith("hottest first"), str(title).startswith("Hidden")
        lines.add_scatter(
            x=found.fractions, y=values, name=str(title), mode="lines+markers" if hottest else "lines",
            line={"color": accent if hottest else ink, "width": 2.5 if hottest else 1.5, "dash": "solid" if hides else "dash"},
            marker={"symbol": "circle" if hides else "diamond", "size": 8},
            hovertemplate=f"{title}: %{{y:.2f}} at %{{x:.0%}}<extra></extra>",
        )  # fmt: skip
    areas = ", ".join(
        f"{figure.lower()} {score.value:.2f} against {score.null['random order']:.2f} in random order"
        for figure, score in zip(FIGURES, found.scores, strict=False)
        if score.value is not None
    )
    _panels.draw_chart(
        lines,
        "maps-chart",
        f"Deletion and insertion curves of {name}; areas: {areas}. The table has the numbers.",
        height=360,
        margin={"l": 0, "r": 10, "t": 10, "b": 0},
        xaxis={"tickformat": ".0%", "title": {"text": "share of the patches", "standoff": 8}, "range": [0, 1.01]},
        yaxis={"title": {"text": "logit, normalised", "standoff": 12}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    st.table(rows.map(lambda value: f"{value:.2f}".replace("-", "−")))


# ------------------------------------------------------------------------------------------------- whole networks


def run_networks() -> dict[str, list[Card]]:
    """Networks that answered each stored run, one a fold, by the run's name; those whose weights are at hand."""
    found: dict[str, list[Card]] = {}
    for run in _store.listing()[0].values():
        cards: dict[str, Card] = {}
        for fold in run.folds:
            with contextlib.suppress(WeightsError):
                card = network_of(run, fold)
                cards[card.name] = card
        if cards:
            found[run.name] = list(cards.values())
    return found


def _title(cards: list[Card]) -> str:
    """What a run's networks are called together."""
    return cards[0].title.rpartition(", fold ")[0] or cards[0].title


def randomisation_rows(checks: dict[str, list[SanityCheck]]) -> pd.DataFrame:
    """One line a group of networks: how many passed, and the range of their figures."""
    rows = []
    for title, found in checks.items():
        passed = {answer: sum(check.passes is answer for check in found) for answer in (True, False, None)}
        told = {True: "yes", False: "no", None: "undefined"}
        answers = ", ".join(f"{told[answer]} {count}" for answer, count in passed.items() if count)
        rows.append(
            {
                "Networks": title,
                "Number": len(found),
                "Likeness": _range([value for check in found for value in check.likeness]),
                "Different radiographs": _range([check.null for check in found if check.null is not None]),
                "Passed": answers if len(found) > 1 else answers.split()[0],
            }
        )
    return pd.DataFrame(rows)


def _range(values: list[float]) -> str:
    texts = [f"{round(value, 2) + 0.0:.2f}".replace("-", "−") for value in (min(values), max(values))] if values else []
    return " to ".join(dict.fromkeys(texts)) or "—"


def randomisation() -> None:
    """The randomisation test of every network that has one: a line a run, and all networks in an expander."""
    st.markdown(
        "A map that stays the same when the weights are randomised shows the picture, not what was learned "
        "([Adebayo et al. 2018](https://arxiv.org/abs/1810.03292)). **Likeness** is the structural similarity of the "
        "Grad-CAM before and after all layers were randomised; it should be below that of maps of **different "
        "radiographs**. Each seed randomises anew; a seed whose network gives maps of zeros only leaves nothing "
        "to compare and is made up for by others."
    )
    groups = run_networks()
    try:
        checks = {
            _title(cards): found
            for cards in groups.values()
            if (found := [check for card in cards if (check := sanity_check(card))])
        }
    except CxnetError as error:
        st.info(str(error), icon=":material/info:")
        return
    if not checks:
        st.info("No sanity check is stored; `python -m benchmarks.randomisation` makes them.", icon=":material/info:")
        return
    st.dataframe(randomisation_rows(checks), hide_index=True, width="stretch")
    untested = [card.name for cards in groups.values() for card in cards if sanity_check(card) is None]
    if untested:
        st.caption(f"Not tested yet: {', '.join(untested)}.")
    with st.expander("Every network and seed"):
        rows = [
            {
                "Network": check.model,
                "Radiographs": check.cases,
                "Likeness by seed": ", ".join(_range([value]) for value in check.likeness) or "—",
                "Maps compared": ", ".join(str(test.levels[-1].cases) for test in check.tests),
                "Different radiographs": _range([] if check.null is None else [check.null]),
                "Passed": {True: "yes", False: "no", None: "undefined"}[check.passes],
            }
            for found in checks.values()
            for check in found
        ]
        st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch")


def repeatability() -> None:
    """Whether networks of the same training point to the same places: a line a run that this was measured for."""
    st.markdown(
        "The networks of a k-fold training differ in the fifth of the radiographs that each did not see. A map of something in the "
        "radiograph should come out alike from all of them "
        "([Arun et al. 2021](https://doi.org/10.1148/ryai.2021200267)). **Same radiograph** is the mean rank correlation "
        "of two such networks' Grad-CAM for the same class; maps of **different radiographs**, by two networks as well, "
        "tell how alike any two maps are."
    )
    try:
        found = {_title(c): check for c in run_networks().values() if len(c) > 1 and (check := sibling_check(c))}
    except CxnetError as error:
        st.info(str(error), icon=":material/info:")
        return
    if not found:
        st.info(
            "Repeatability is not stored; `python -m benchmarks.repeatability` measures it.", icon=":material/info:"
        )
        return
    st.dataframe(repeatability_rows(found), hide_index=True, width="stretch")
    st.caption(
        "Intervals: 95 %, patients resampled. All networks but one were trained on a given radiograph, which may make "
        "their maps more alike: “one never saw it” takes only pairs with that one, “both trained on it” the others. "
        "Alike does not mean right: networks can share a shortcut."
    )


def repeatability_rows(checks: dict[str, Repeatability]) -> pd.DataFrame:
    """One line a run."""

    def text(value: float | None) -> str:
        return "—" if value is None else _range([value])

    def limits(pair: tuple[float, float] | None) -> str:
        return "—" if pair is None else f"{_range([pair[0]])} to {_range([pair[1]])}"

    return pd.DataFrame(
        {
            "Networks": title,
            "Number": found.networks,
            "Radiographs": found.cases,
            "Same radiograph": text(found.value),
            "its interval": limits(found.interval),
            "Different radiographs": text(found.null),
            "Difference, interval": limits(found.above),
            "Told apart (chance 0.50)": text(found.told_apart),
            "One never saw it": text(found.unseen),
            "Both trained on it": text(found.seen),
        }
        | ({"Undefined because": found.reason} if found.reason else {})
        for title, found in checks.items()
    )
