"""Insertion and deletion on the page Analyse, and what is stored of whole networks on the page About."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cxnet.analysis import Analysis, Models, Settings, analyse, load_models
from cxnet.audit import AuditScore, Curves, Level, Randomisation, SanityCheck, insertion_deletion
from cxnet.audit.siblings import Repeatability
from cxnet.explain import Explanation
from cxnet.phantom import SAMPLES
from cxnet.radiograph import Radiograph
from cxnet.runs import find_run
from cxnet.weights import network_of
from pages import _jobs, _map_tests, _session
from tests.test_whatif import when

APP = str(Path(__file__).parents[1] / "app.py")


@cache
def models() -> Models:
    return load_models()


class Reader:
    """A network whose logit is the brightness of the picture's upper left quarter."""

    def __init__(self, stop: threading.Event | None = None, after: int = 0) -> None:
        self.classes = models().classifier.classes
        self.card = models().classifier.card
        self.asked, self._stop, self._after = 0, stop, after

    def logits(self, stacks: Any) -> Any:
        self.asked += len(stacks)
        if self._stop is not None and self.asked >= self._after:
            self._stop.set()
        quarter = stacks[:, :160, :160, 0].astype(np.float64).mean(axis=(1, 2))
        return np.stack([quarter, 0 * quarter, 0 * quarter], axis=1).astype(np.float32)


@cache
def analysed() -> Analysis:
    """With a map of exactly what :class:`Reader` uses, one of the rest, and one that is not finished."""
    pixels = SAMPLES[0].make(320).pixels
    found = analyse(Radiograph(pixels, "0" * 64, "synthetic"), models(), Settings(target="COVID-19"))
    stack = np.full((320, 320, 3), 20, np.uint8)
    stack[:160, :160] = 200
    rng = np.random.default_rng(0)
    exact = rng.random((320, 320)).astype(np.float32)
    exact[:160, :160] += 5
    maps = {
        "grad-cam": Explanation("grad-cam", "COVID-19", exact),
        "grad-cam++": Explanation("grad-cam++", "COVID-19", -exact),
        "score-cam": Explanation("score-cam", "COVID-19", np.zeros((320, 320), np.float32)),
        "lime": Explanation("lime", "COVID-19", exact, finished=False),
    }
    return replace(found, stack=stack, explanations=maps)


@cache
def trial() -> _map_tests.Trial:
    *_, last = _map_tests.steps(analysed(), Models(Reader(), models().segmenter), threading.Event())  # type: ignore[arg-type]
    return last


def test_finished_maps_are_tested_within_the_promised_pictures() -> None:
    reader: Any = Reader()
    values = [
        (step.shown, tuple(step.found), step.complete)
        for step in _map_tests.steps(analysed(), Models(reader, models().segmenter), threading.Event())
    ]
    maps = ("grad-cam", "grad-cam++", "score-cam")
    assert values[0] == (0, (), False)
    assert [names for _, names, _ in values[1:]] == [maps[:1], maps[:2], maps]
    assert [complete for _, _, complete in values] == [False, False, False, True]
    assert values[-1][0] == reader.asked == 2 + 5 * (19 + 2 * 2)  # the map that is 0 everywhere costs nothing
    assert trial().most == 2 + 5 * (19 + 2 * 3)
    assert _map_tests.Trial(("a", "b", "c", "d")).most <= 150


def test_figures_are_the_librarys() -> None:
    found = trial().found
    for method in ("grad-cam", "grad-cam++"):
        alone = insertion_deletion(
            analysed().stack, analysed().explanations[method].heatmap, Reader().logits, 0, steps=6, random_orders=19
        )
        assert found[method].scores == alone.scores
    assert {method: curves.beats_random for method, curves in found.items()} == {
        "grad-cam": (True, True), "grad-cam++": (False, False), "score-cam": None,
    }  # fmt: skip


def test_cancel_is_heard_between_pictures_and_what_is_known_stays() -> None:
    cancel = threading.Event()
    reader: Any = Reader(cancel, after=2 + 5 * 19 + 5 * 2 + 3)
    *_, last = _map_tests.steps(analysed(), Models(reader, models().segmenter), cancel)
    assert (tuple(last.found), last.complete) == (("grad-cam",), False)
    assert reader.asked == last.shown == 2 + 5 * 19 + 5 * 2 + 3


def test_what_is_said_of_a_map() -> None:
    def said(deletion: bool, insertion: bool) -> str:
        scores = [
            AuditScore(str(k), 0.5, null={"random order": 0.0, "best random order": 0.4 if beats else 0.6})
            for k, beats in enumerate((True, True, deletion, insertion))
        ]
        return _map_tests.verdict("grad-cam", Curves(np.linspace(0, 1, 3), None, None, None, 1.0, tuple(scores)))

    assert said(True, True) == "**Grad-CAM** beats all 19 random orders by deletion and by insertion."
    assert said(True, False) == "**Grad-CAM** beats all 19 random orders by deletion, but not by insertion."
    assert said(False, True) == "**Grad-CAM** beats all 19 random orders by insertion, but not by deletion."
    assert said(False, False) == "**Grad-CAM**: this map does not follow the network better than chance order."
    undefined = _map_tests.verdict("score-cam", trial().found["score-cam"])
    assert undefined == "**Score-CAM**: undefined, because the map is the same everywhere."


def test_tables_say_what_the_scores_say() -> None:
    table = _map_tests.table(trial().found)
    scores = trial().found["grad-cam"].scores
    assert list(table["Beats chance order"]) == [
        "yes",
        "yes",
        "no",
        "no",
        *["undefined"] * 2,
    ]
    row = table.iloc[1]
    assert (row["Map"], row["Area"], row["Better by"]) == (
        "Grad-CAM",
        f"{scores[1].value:.3f}",
        f"+{scores[3].value:.3f}",
    )
    assert row["Random order"] == f"{scores[1].null['random order']:.3f}"
    assert table["Better by"][2].startswith("−")
    rows = _map_tests.curve_rows(trial().found["grad-cam"])
    assert list(rows.iloc[0]) == [1, 1, 0, 0] and list(rows.iloc[-1]) == [0, 0, 1, 1]
    assert np.trapezoid(rows["Shown, hottest first"], dx=1 / 6) == pytest.approx(scores[1].value, abs=0.01)
    assert np.trapezoid(rows["Shown, random order"], dx=1 / 6) == pytest.approx(float(row["Random order"]), abs=0.01)


# -------------------------------------------------------------------------------------------------------- the page


def press(at: AppTest, key: str) -> AppTest:
    at.button(key=key).click().run()
    assert not at.exception
    return at


def keys(at: AppTest) -> list[str]:
    return [button.key for button in at.button]


def test_maps_are_tested_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a test that comes back at once; the real one is run in a browser."""
    go = threading.Event()

    def steps(analysis: Analysis, networks: Models, cancel: threading.Event) -> Any:
        found = _map_tests.Trial(("grad-cam",), shown=40)
        yield found
        while not go.wait(0.02):
            if cancel.is_set():
                return
        found.found = {"grad-cam": trial().found["grad-cam++"]}
        yield found

    monkeypatch.setattr(_map_tests, "steps", steps)
    at = AppTest.from_file(APP, default_timeout=120)
    at.query_params["sample"] = "normal"
    at.run()
    assert not at.exception
    assert [box.label for box in at.expander if not box.proto.expanded].count("Do the maps follow the network?") == 1
    at = when(press(at, "run-maps"), lambda job: job.partial)
    assert "run-maps" not in keys(at)
    press(at, "cancel-maps")
    at = when(at, lambda job: not job.active)
    assert any("The test was stopped" in info.value for info in at.info)
    at = press(at, "run-maps")
    go.set()
    at = when(at, lambda job: not job.active)
    assert any(f"**Grad-CAM**: {_map_tests.WORSE}." in m.value for m in at.markdown)
    assert not {"run-maps", "cancel-maps"} & set(keys(at))
    table = next(d.value for d in at.dataframe if "Beats chance order" in d.value)
    assert list(table["Beats chance order"]) == ["no", "no"]
    twin = next(t.value for t in at.table if "Hidden, hottest first" in t.value)
    assert len(twin) == _map_tests.STEPS + 1
    at.selectbox(key="set-target").set_value("Normal").run()  # another question has no answer yet
    assert not at.exception and "run-maps" in keys(at)
    assert not any(_map_tests.WORSE in m.value for m in at.markdown)


def test_a_test_without_limes_map_stays_until_it_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = replace(analysed(), explanations={"grad-cam": analysed().explanations["grad-cam"]})
    running = analysed().explanations["lime"]
    unfinished = replace(quick, explanations={**quick.explanations, "lime": running})
    done = replace(quick, explanations={**quick.explanations, "lime": replace(running, finished=True)})
    other = replace(done, settings=replace(done.settings, superpixels=20))
    key = partial(_session.maps_key, "maps")
    assert key(quick) == key(unfinished) == key(done, lime=False) == key(other, lime=False)
    assert len({key(quick), key(done), key(other), key(replace(quick, settings=replace(quick.settings, seed=1)))}) == 4
    job = _jobs.Job(kind="maps", partial=trial())
    monkeypatch.setattr(_session, "job_of", {key(quick): job}.get)
    assert _map_tests._job(done) is job is _map_tests._job(unfinished)


# --------------------------------------------------------------------------------------------------- whole networks


def check(name: str, last: list[float | None]) -> SanityCheck:
    tests = []
    for value in last:
        passes, reason = (None, "no map") if value is None else (value < 0.5, None)
        level = Level("all", value, value, 0 if value is None else 4)
        tests.append(Randomisation((level,), {"ssim": 0.5, "spearman": 0.5}, passes, reason))
    return SanityCheck(name, "0" * 64, "grad-cam", 4, tuple(tests))


def test_folds_of_a_run_are_one_line() -> None:
    folds = [check(f"r/fold-{k}", [0.1 + k / 10, -0.2]) for k in range(3)]
    rows = _map_tests.randomisation_rows(
        {"A run": [*folds, check("r/fold-3", [0.6]), check("r/fold-4", [None])], "One": [check("x", [None, 0.3])]}
    )
    assert rows.to_dict("records") == [
        {"Networks": "A run", "Number": 5, "Likeness": "−0.20 to 0.60", "Different radiographs": "0.50",
         "Passed": "yes 3, no 1, undefined 1"},
        {"Networks": "One", "Number": 1, "Likeness": "0.30", "Different radiographs": "0.50", "Passed": "undefined"},
    ]  # fmt: skip


def panels() -> AppTest:
    """The two panels alone: the rest of the page resamples patients."""

    def script() -> None:
        from pages import _map_tests

        _map_tests.randomisation()
        _map_tests.repeatability()

    at = AppTest.from_function(script, default_timeout=60).run()
    assert not at.exception
    return at


def about() -> AppTest:
    at = AppTest.from_file(APP, default_timeout=60).run().switch_page("pages/about.py").run()
    assert not at.exception
    return at


def test_about_without_and_with_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever networks the files hold, and while there are none."""
    from cxnet.audit import faithfulness, siblings

    first, second = tmp_path / "randomisation.json", tmp_path / "repeatability.json"
    for module, name, path in (
        (_map_tests, "sanity_check", first), (_map_tests, "sibling_check", second),
    ):  # fmt: skip
        plain = {"sanity_check": faithfulness.sanity_check, "sibling_check": siblings.sibling_check}[name]
        monkeypatch.setattr(module, name, lambda one, plain=plain, path=path: plain(one, path=path))
    at = panels()
    told = [info.value for info in at.info]
    assert any("No sanity check is stored" in text for text in told)
    assert any("Repeatability is not stored" in text for text in told)

    run = find_run("mobilenet-v1")
    folds = [network_of(run, fold) for fold in run.folds]
    first.write_text(
        json.dumps([replace(check(f.name, [0.2, 0.3, 0.4]), sha256=f.sha256).to_json() for f in folds[:4]])
    )
    found = Repeatability(5, 40, 0.61, (0.5, 0.7), 0.2, (0.3, 0.5), 0.9, 0.55, 0.65)
    second.write_text(
        json.dumps(
            [{"run": run.name, "method": "grad-cam", "sha256": [f.sha256 for f in folds], "found": found.to_json()}]
        )
    )
    at = about()
    groups = next(d.value for d in at.dataframe if "Passed" in d.value and "Number" in d.value)
    title = folds[0].title.removesuffix(", fold 0")
    assert groups.to_dict("records") == [
        {"Networks": title, "Number": 4, "Likeness": "0.20 to 0.40", "Different radiographs": "0.50", "Passed": "yes 4"}
    ]
    each = next(d.value for d in at.dataframe if "Likeness by seed" in d.value)
    assert list(each["Network"]) == [f.name for f in folds[:4]]
    untested = next(c.value for c in at.caption if c.value.startswith("Not tested yet: "))
    assert folds[4].name in untested and folds[0].name not in untested
    row = next(d.value for d in at.dataframe if "Same radiograph" in d.value).iloc[0]
    assert (row["Networks"], row["Same radiograph"], row["its interval"]) == (title, "0.61", "0.50 to 0.70")
    assert (row["Different radiographs"], row["Difference, interval"]) == ("0.20", "0.30 to 0.50")
    assert (row["One never saw it"], row["Both trained on it"]) == ("0.55", "0.65")

    for path in (first, second):
        path.write_text("[")
    assert sum("cannot be read" in info.value for info in panels().info) == 2
