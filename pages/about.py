"""What cxnet is and is not, its networks, and how to read its figures."""

import pandas as pd
import streamlit as st

from pages import _navigation

_navigation.require_entry()

from cxnet.analysis import available_models  # noqa: E402
from cxnet.audit import ZONES  # noqa: E402
from cxnet.weights import cards  # noqa: E402
from pages import _lesion_panels, _map_tests, _panels  # noqa: E402

_panels.notice()
st.title("About cxnet")
st.markdown(
    """
cxnet shows **why** a chest-radiograph classifier decides as it does, and helps to catch it when it is right for the
wrong reason: a marker, a border, the scanner's look, instead of the lungs.

It is for research and teaching. It is no medical device, gives no diagnosis, and never says that a reason is right:
at best **no wrong reason was found**. Uploaded radiographs stay in the memory of your browser tab's session on this
server; nothing is written to disk, logged or sent anywhere.

### Where to go
- **Analyse** one radiograph; **Runs**: every prediction of a k-fold training, by cell of its confusion matrix.
- **Audit**: how often right answers have wrong reasons; **Exam**: what the audit itself is worth.
- **Published**: figures of the literature, recomputed; **Teach**: plant a shortcut, watch a known cheat, read before you look.

### How to read the figures
- **In the lungs**: share of the map's positive evidence inside the lung outline. Alone it means little: a map without
  content scores what the grey line says, so read it beside these.
- **Lift**: that share over the lungs' share of the picture. 1 is what an even map scores.
- **z against shifted copies**: how unusual the share is among copies of the same map moved at random. Below −1.6 the
  map avoids the lungs; around 0 it does not care about them.
- **Outside**: where the rest lies.
- **Local R²** (LIME): how well the surrogate follows the network on perturbations that it was not fitted to. Below 0.5
  be careful, below 0.3 do not interpret.
"""
)
st.dataframe(pd.DataFrame(list(ZONES.items()), columns=["Zone", "Where"]), hide_index=True, width="stretch")
st.subheader("Networks")
for card in {**cards(), **{known.name: known for known in available_models()}}.values():
    with st.expander(card.title):
        _panels.sanity(card)
        st.markdown(f"**Trained on.** {card.trained_on}\n\n**How.** {card.training_run}\n\n**Licence.** {card.licence}")
        rows = [
            ("Architecture", f"{card.architecture} ({card.recipe.paper})"),
            ("Classes", ", ".join(card.classes)),
            ("Channels, in order", ", ".join(card.channels)),
            ("Input", f"{card.input_size_px} x {card.input_size_px} px"),
            ("Feature layer", card.feature_layer or "none"),
            ("Shown", card.region),
            ("sha256", card.sha256),
            *((f"Held out: {key}", str(value)) for key, value in card.held_out.items()),
        ]
        st.dataframe(pd.DataFrame(rows, columns=["What", "Value"]), hide_index=True, width="stretch")
st.subheader("Do the maps find what experts drew?")
_lesion_panels.lesions()
st.subheader("Do the maps depend on what was learned?")
_map_tests.randomisation()
st.subheader("Do networks of the same training agree?")
_map_tests.repeatability()
