"""The page of published runs: figures known by hand, its URL, its filters, its sliders."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from cxnet.published import check_claims
from pages import _published_panels as panels

ROOT = Path(__file__).parents[1]
MULTICLASS = {"study": "haghanifar-2022", "model": "COVID-CXNet multiclass"}
MEAN = {"study": "rahimzadeh-attar-2020", "model": "Concatenated", "fold": "mean"}


def opened(tab: str | None = None, **query: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).switch_page("pages/published.py")
    for key, value in query.items():
        at.query_params[key] = value
    if tab is not None:
        at.session_state[panels.TAB_KEY] = tab
    at.run()
    assert not at.exception
    return at


def choice_of(at: AppTest) -> tuple[str, str, str]:
    return tuple(at.selectbox(key=f"published-{key}").value for key in panels.URL_KEYS)  # type: ignore[return-value]


def figures_of(at: AppTest) -> pd.DataFrame:
    table: pd.DataFrame = at.dataframe[0].value
    return table.set_index("Figure")


def texts(at: AppTest) -> str:
    return "\n".join(str(element.value) for element in (*at.markdown, *at.info, *at.caption))


def test_covid_cxnet_multiclass_worked_by_hand() -> None:
    at = opened(**MULTICLASS)
    assert choice_of(at) == (*MULTICLASS.values(), "")
    table = figures_of(at)
    # Table 4: 894 + 715 + 127 = 1736 of 2028 are right. Wilson with z = 1.959964 (z² = 3.841459):
    # (1736 + 1.920729 ± 1.959964 √(1736 · 292 / 2028 + 0.960365)) / 2031.841459 = (1737.9207 ± 31.0465) / 2031.8415
    assert table.loc["accuracy"].tolist() == [
        "85.60 %",
        "84.01 to 87.06 %",
        "1,736 of 2,028",
        "94.20 %",
        "✗ does not follow",
        "section 5.3 and table 5",
    ]
    # 2 · 127 / (153 + 140); balanced: (894/964 + 715/924 + 127/140) / 3
    assert table.loc["F1, COVID-19"].tolist()[:5] == ["0.8669", "", "", "0.86", "≈ within rounding"]
    assert table.loc["balanced accuracy", "Recomputed"] == "86.94 %"
    assert table.loc["precision, COVID-19"].tolist()[:4] == ["83.01 %", "76.26 to 88.13 %", "127 of 153", "not printed"]
    assert "**2,028 radiographs.** Counts: table 4." in texts(at)
    assert "[doi:10.48550/arXiv.2006.13807](https://doi.org/10.48550/arXiv.2006.13807)" in texts(at)
    assert "no cases behind these cells" in texts(at)
    assert ":red-badge[✗ does not follow] **accuracy**: 94.20 %." in texts(at)
    assert at.expander[0].label == "✓ agrees: 1 of 3 printed figures"


def test_what_does_not_follow_stands_first() -> None:
    at = opened()
    shown = [(at.metric[n].value, at.metric[n + 1].value) for n in (0, 2)]
    assert shown == [("99.56 %", "99.505 %"), ("94.20 %", "85.602 %")]
    assert at.subheader[0].value == "Printed, but does not follow: 2 of 294"
    next(button for button in at.button if button.label == "Show COVID-CXNet multiclass").click().run()
    assert choice_of(at)[1] == MULTICLASS["model"]
    assert {key: at.query_params[key] for key in at.query_params} == MULTICLASS


def test_a_good_run_is_open_at_first_and_the_url_stays_bare() -> None:
    at = opened()
    assert choice_of(at) == ("rahimzadeh-attar-2020", "Concatenated", "1")
    assert not at.query_params
    # Table 3: 26 of 31 found, 68 false alarms.
    assert figures_of(at).loc["precision, COVID-19"].tolist()[2:5] == ["26 of 94", "27.65 %", "≈ within rounding"]


def test_pickers_write_the_url() -> None:
    at = opened()
    at.selectbox(key="published-fold").select("2").run()
    assert at.query_params["fold"] == "2"
    assert figures_of(at).loc["precision, COVID-19"].tolist()[2:4] == ["23 of 50", "46 %"]
    at.selectbox(key="published-model").select("Xception").run()
    assert choice_of(at) == ("rahimzadeh-attar-2020", "Xception", "2")
    at.selectbox(key="published-study").select("kurz-2020").run()
    assert not at.exception
    assert at.query_params["study"] == "kurz-2020" and "fold" not in at.query_params


@pytest.mark.parametrize(
    "query",
    [
        {"study": "<script>alert(1)</script>", "model": "../../etc/passwd", "fold": "99"},
        {"study": "", "model": "", "fold": ""},
        {"study": "rahimzadeh-attar-2020", "model": "COVID-CXNet multiclass", "fold": "'; --"},
        {"model": "Xception", "fold": "5"},
    ],
)
def test_hostile_urls_show_the_default(query: dict[str, str]) -> None:
    at = opened(**query)
    assert choice_of(at) == ("rahimzadeh-attar-2020", "Concatenated", "1")
    assert "script" not in texts(at) and "passwd" not in texts(at)


def test_a_wrong_fold_leaves_study_and_model() -> None:
    assert panels.read_choice({**MULTICLASS, "fold": "3"}) == (*MULTICLASS.values(), None)
    assert panels.read_choice({**MEAN, "fold": "0"}) == (*list(MEAN.values())[:2], "1")


def test_a_link_to_every_choice_opens_it() -> None:
    at, checked = opened(), check_claims()
    for study, models in panels.CHOICES.items():
        for model, folds in models.items():
            for fold in {folds[0], folds[-1]}:
                choice = panels.Choice(study, model, fold)
                assert panels.read_choice(panels.query(choice)) == choice
                at.query_params.clear()
                for key, value in panels.query(choice).items():
                    at.query_params[key] = value
                at.run()
                assert not at.exception
                assert choice_of(at) == (study, model, fold or "")
                claims = [f for f in checked if (f.claim.study, f.claim.model, f.claim.fold) == choice]
                assert all(finding.explanation in texts(at) for finding in claims)


def test_the_mean_of_folds_has_claims_but_no_matrix() -> None:
    at = opened(**MEAN)
    assert "no matrix of its own" in at.info[0].value
    rows = figures_of(at).loc["one-vs-rest accuracy, COVID-19"]
    # The same figure stands in three places, and one of them prints another.
    assert sorted(rows["Printed"] + rows["Verdict"]) == [
        "99.50 %✓ agrees",
        "99.50 %✓ agrees",
        "99.56 %✗ does not follow",
    ]
    assert set(rows["Recomputed"]) == {"99.505 %"} and set(rows["95 % interval"]) == {""}


def test_without_a_matrix_the_reason_is_told() -> None:
    at = opened(study="dialameh-2020")
    assert "No matrix of counts is at hand for COVNET on CT-COV19: the paper prints none" in at.info[0].value
    assert set(figures_of(at)["Verdict"]) == {"? cannot be checked"}


def test_summary_of_all_claims() -> None:
    table = opened("All claims").table[0].value
    assert table.columns.tolist()[1:] == [
        "✓ agrees",
        "≈ within rounding",
        "? cannot be checked",
        "✗ does not follow",
        "All",
    ]
    assert table.iloc[-1].tolist() == ["All studies", "178", "64", "50", "2", "294"]
    assert table.iloc[1].tolist()[1:] == ["5", "1", "3", "1", "10"]


def test_filters() -> None:
    at = opened("All claims")
    assert len(at.dataframe[0].value) == 294
    at.multiselect(key="claims-Verdict").select("✗ does not follow").run()
    assert at.dataframe[0].value["Printed"].tolist() == ["99.56 %", "94.20 %"]
    at.multiselect(key="claims-Verdict").select("? cannot be checked").run()
    assert len(at.dataframe[0].value) == 52
    at.multiselect(key="claims-Study").select("Kurz et al. 2020").run()
    table = at.dataframe[0].value
    assert len(table) == 7 and set(table["Study"]) == {"Kurz et al. 2020"} and set(table["Recomputed"]) == {""}
    assert at.query_params["claims-verdict"] == ["✗ does not follow", "? cannot be checked"]
    at.multiselect(key="claims-Figure").select("F1").run()
    assert not at.exception
    assert "No claim fits" in at.info[0].value and not at.dataframe


def test_a_link_opens_the_claims_with_its_filters() -> None:
    at = opened(**{"claims-verdict": "✗ does not follow", "claims-study": "<script>"})
    assert at.session_state[panels.TAB_KEY] == "All claims"
    assert at.dataframe[0].value["Printed"].tolist() == ["99.56 %", "94.20 %"]
    assert at.multiselect(key="claims-Study").value == []  # no such study
    at.multiselect(key="claims-Verdict").set_value([]).run()
    assert len(at.dataframe[0].value) == 294 and "claims-verdict" not in at.query_params


def test_back_undoes_a_filter_and_returns_from_a_run() -> None:
    at = opened("All claims")
    at.multiselect(key="claims-Verdict").select("✗ does not follow").run()
    del at.query_params["claims-verdict"]  # as Back does
    at.run()
    assert len(at.dataframe[0].value) == 294 and at.multiselect(key="claims-Verdict").value == []
    at.session_state[panels.TAB_KEY] = "One run"
    at.query_params["claims-verdict"] = "✗ does not follow"  # Back from the run that a claim showed
    at.run()
    assert at.session_state[panels.TAB_KEY] == "All claims" and len(at.dataframe[0].value) == 2


def test_a_chosen_claim_tells_its_sentence_and_opens_its_run() -> None:
    at = opened("All claims")
    at.session_state["claims-table----"] = {"selection": {"rows": [1], "columns": [], "cells": []}}
    at.run()
    assert not at.exception
    button = next(button for button in at.button if button.key.startswith("show-row"))
    assert "85.60 %, but 94.20 % is printed" in at.markdown[-1].value
    button.click().run()
    assert at.session_state[panels.TAB_KEY] == "One run" and choice_of(at)[1] == MULTICLASS["model"]


def test_rows_of_the_download() -> None:
    text = panels.claim_rows(check_claims()).to_csv(index=False)
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    assert len(table) == 294
    found = table[(table["Network"] == "COVID-CXNet multiclass") & (table["Figure"] == "accuracy")].iloc[0]
    assert (found["Printed"], found["Recomputed"], found["DOI"]) == ("94.20 %", "85.602 %", "10.48550/arXiv.2006.13807")
    assert found["Why"].endswith("does not give that figure either.")


# --- the teaching note ----------------------------------------------------------------------------------------------


def slide(at: AppTest, name: str, value: float) -> None:
    next(s for s in at.select_slider if s.label.startswith(name)).set_value(value).run()
    assert not at.exception


def test_always_no_beats_99_percent() -> None:
    at = opened("Teaching note")
    # 11,271 of 11,302 = 99.7257 %; 5 missed and 68 false alarms: 11,229 of 11,302 = 99.3541 %.
    assert "still right in 11,271 of 11,302: **99.73 %** one-vs-rest accuracy" in texts(at)
    assert "This network scores **99.35 %**, less than that." in texts(at)
    assert "99.5 % accuracy, yet most alarms are false" in texts(at)
    assert at.table[0].value.iloc[1].tolist()[-1] == "33.2 % (124 of 374)"


def test_sliders_start_at_the_run_and_give_its_own_precision() -> None:
    at = opened("Teaching note")
    # The run's own figures give back its own precision: 26 of 94.
    assert at.metric[-1].value == "27.7 %"
    assert "Of 1,000 people flagged as COVID-19, **277 have** it." in texts(at)
    # 100,000 · 31 / 11,302 = 274, of which 26 / 31; 100,000 · 68 / 11,302 = 602
    assert "274 have it: 230 are flagged and 44 missed. Of the 99,726 others 602 are flagged too." in texts(at)


def test_precision_follows_the_sliders() -> None:
    at = opened("Teaching note")
    slide(at, "Prevalence", 0.5)
    # (26/31) / (26/31 + 68/11271) = 0.992859
    assert at.metric[-1].value == "99.3 %" and "**993 have** it" in texts(at)
    slide(at, "Specificity", 0.99)
    slide(at, "Sensitivity", 0.9)
    slide(at, "Prevalence", 0.01)
    # 0.9 · 0.01 / (0.9 · 0.01 + 0.01 · 0.99) = 90 / 189
    assert at.metric[-1].value == "47.6 %" and "**476 have** it" in texts(at)
    assert "1,000 have it: 900 are flagged and 100 missed. Of the 99,000 others 990 are flagged too." in texts(at)
    slide(at, "Specificity", 0.5)
    slide(at, "Sensitivity", 0.05)
    slide(at, "Prevalence", 1e-4)
    assert "fewer than one has" in texts(at)
    slide(at, "Specificity", 1.0)
    assert "**1,000 have** it" in texts(at)
    slide(at, "Sensitivity", 0.0)
    assert "Nobody would be flagged" in at.info[0].value


def test_another_class_and_another_run_start_anew() -> None:
    at = opened("Teaching note", **MULTICLASS)
    # 127 of 153 alarms
    assert at.metric[-1].value == "83.0 %" and "more than that" in texts(at)
    slide(at, "Prevalence", 0.01)
    at.selectbox[-1].select("Pneumonia").run()
    assert at.metric[-1].value == "90.2 %"  # 715 of 793
    at = opened("Teaching note", study="kurz-2020")
    assert "Concatenated, fold 1: 31 of 11,302" in texts(at)


@pytest.mark.parametrize(
    ("share", "text"),
    [(1e-4, "0.01 %"), (31 / 11302, "0.27 %"), (0.5, "50 %"), (0.05, "5 %"), (0.9995, "99.95 %"), (1.0, "100 %")],
)
def test_shares_keep_their_digits(share: float, text: str) -> None:
    assert panels._share(share) == text


def test_no_framework_is_loaded() -> None:
    code = (
        "import sys\nfrom streamlit.testing.v1 import AppTest\n"
        "at = AppTest.from_file('app.py', default_timeout=60).switch_page('pages/published.py').run()\n"
        "assert not at.exception and at.title[0].value == 'Published runs'\n"
        "print([name for name in ('tensorflow', 'keras', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
