"""Where radiographs are dropped: the same on every page that takes them."""

from __future__ import annotations

from typing import Any

import streamlit as st

from pages import _session

#: Once radiographs are there the uploader is one line, so that what the page shows is in sight on a laptop. It stays what
#: it was, on the page: files can be dropped on it, and its list of files scrolls sideways behind its button.
COMPACT = """<style>
.st-key-open [data-testid=stFileUploaderDropzone] { flex-flow: row; align-items: center; min-height: 0; padding: .25rem .5rem; }
.st-key-open [data-testid=stFileUploaderDropzone] > div { min-width: 0; }
.st-key-open [data-testid=stFileChips] { flex-flow: row nowrap; overflow: auto; align-items: center; max-height: 3.4rem; }
.st-key-open [data-testid=stFileChips] > div { display: flex; flex-flow: row nowrap; gap: .5rem; }
.st-key-open [data-testid=stFileChips] > button { order: -1; flex: none; }
</style>"""


def uploader(compact: bool, *beside: int) -> list[Any]:
    """The uploader, its switch for folders, and what was wrong with files; one line if `compact`.

    Parameters
    ----------
    compact : bool
    beside : int
        Relative widths of further columns in the same line; the uploader has 5 or 7, its switch 3.

    Returns
    -------
    list
        The further columns.
    """
    # the same places in both, or what stands beside it would stand there twice while the first analysis is made
    st.html(COMPACT if compact else "<style></style>")
    with st.container(key="open"):
        first, second, *others = st.columns([5 if compact else 7, 3, *beside], vertical_alignment="bottom")
    with first:
        whole = st.session_state.get("whole-folder", False)
        st.file_uploader(
            f"Drop {'a folder' if whole else 'chest radiographs, or a zip'} of PNG, JPEG, WebP, TIFF or DICOM files, "
            "up to 50 MB each. They stay in this tab's memory.",
            accept_multiple_files="directory" if whole else True,
            key=_session.uploader_key(),
            on_change=_session.take_uploads,
            label_visibility="collapsed" if compact else "visible",
        )
    with second:
        st.toggle("A whole folder", key="whole-folder", help="For a study on disk: DICOM files need no extension.")
    for sentence in [*st.session_state.get("upload_errors", []), *_session.refusals()]:
        st.error(sentence, icon=":material/error:")
    return others
