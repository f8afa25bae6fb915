"""Confusion matrices that papers printed, whether their other figures follow from them, and what accuracy hides."""

import streamlit as st

from pages import _navigation

_navigation.require_entry()

from cxnet.published import STUDIES, check_claims, published_runs  # noqa: E402
from pages import _panels  # noqa: E402
from pages import _published_panels as published  # noqa: E402

_panels.notice()
st.title("Published runs")
st.markdown(
    f"Papers print figures, and some print the confusion matrix behind them. Here are {len(published_runs())} printed "
    f"matrices and {len(check_claims())} figures that {len(STUDIES)} papers print, each recomputed from its own "
    "matrix in exact fractions where there is one."
)
published.contradictions()
choice = published.read_choice(st.query_params.to_dict())
run = published.run_of(choice)
published.follow_filters()
# Only the open tab is drawn: the curve's library is fetched when it is wanted.
one_run, all_claims, note = st.tabs(published.TABS, key=published.TAB_KEY, on_change="rerun")
if one_run.open:
    with one_run:
        published.choose(choice)
        published.source(choice, run)
        published.figures(choice, run)
if all_claims.open:
    with all_claims:
        published.summary()
        published.claims_table()
if note.open:
    with note:
        published.note()
        st.fragment(published.precision_by_prevalence)(run or published.run_of(published.DEFAULT))
