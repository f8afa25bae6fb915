"""Which view a DICOM radiograph is: frontal, lateral or oblique (PS3.3 C.7.6.1.1.1, C.8.7.1.1.6, C.8.11.5.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from cxnet.errors import OutOfScope

FRONTAL = "frontal"

#: Of View Codes, as SNOMED CT and, in older files, SNOMED RT name them (PS3.16 CID 4010). Views that are left out say
#: neither: an axial one may be frontal (lordotic), a tangential one anything.
CODES = {
    FRONTAL: (
        "399033003", "R-10202", "399348003", "R-10206", "272479007", "R-40888",
    ),
    "lateral": (
        "399067008", "R-102CD", "399173006", "R-10236", "399198007", "R-10232",
        "399352003", "R-10228", "399260004", "R-10224",
    ),
    "oblique": (
        "399182000", "R-102C1", "399184004", "R-10238", "399236003", "R-10234", "399135007", "R-10220",
        "399356000", "R-40985", "399006002", "R-10212", "399038007", "R-10210", "399312000", "R-10208",
        "399059000", "R-10216", "399160007", "R-10204", "260427002", "R-40783", "260426006", "R-40782",
        "399099002", "R-10230", "399368009", "R-10226", "399004004", "R-10246", "399288005", "R-10248",
        "399225005", "R-10250", "399132005", "R-10252", "399325008", "R-10254",
    ),
}  # fmt: skip
_OF_CODE = {code: view for view, codes in CODES.items() for code in codes}

#: Words of View Position, of its defined terms and of those that manufacturers and hospitals write; what stands first
#: rules ("left lateral decubitus", "right lateral oblique", "PA oblique").
_WORDS = {
    "lateral decubitus": {"LLD", "RLD", "DECUBITUS", "DECUB"},
    "oblique": {"RAO", "LAO", "RPO", "LPO", "RLO", "LLO", "OBL", "OBLIQUE", "OBLIQUES"},
    "lateral": {"LL", "RL", "LAT", "LLAT", "RLAT", "LATERAL", "LATERALE", "SEITLICH", "PROFIL", "PERFIL"},
    FRONTAL: {
        "AP", "PA", "ANTEROPOSTERIOR", "POSTEROANTERIOR", "ANTERO", "POSTERO", "FRONTAL", "LORDOTIC", "SUPINE",
    },
}  # fmt: skip

_ARTICLE = {"lateral decubitus": "a lateral decubitus", "oblique": "an oblique", "lateral": "a lateral"}
_KNOWN = "the networks know frontal views (PA, AP), upright or supine, only"


def directions(orientation: Iterable[str]) -> tuple[str, str] | None:
    """Where rows and columns of the picture run to, a letter each; None where Patient Orientation does not say."""
    runs = [str(run).strip().upper() for run in orientation]
    if len(runs) != 2 or not all(run and set(run) <= set("APRLHF") for run in runs):
        return None
    rows, columns = runs[0][0], runs[1][0]
    same_axis = any({rows, columns} <= set(axis) for axis in ("AP", "RL", "HF"))
    return None if same_axis else (rows, columns)


def check_view(dataset: Any, notes: list[str]) -> None:
    """Refuse views that are not frontal. Of free text, only whether it names a view becomes a note.

    Raises
    ------
    OutOfScope
        If View Position, a View Code or Patient Orientation says so.
    """
    stated = _ruling(_named(str(dataset.get("ViewPosition", "") or "")))
    said = {stated} if stated else set()
    for code in dataset.get("ViewCodeSequence", None) or []:
        coded = _OF_CODE.get(str(code.get("CodeValue", "") or "").strip().upper())
        coded = coded or _ruling(_named(str(code.get("CodeMeaning", "") or "")))
        said |= {coded} if coded else set()
    orientation = dataset.get("PatientOrientation", None)
    runs = directions([] if orientation is None or isinstance(orientation, str) else orientation)
    if runs:
        # from front to back, or back to front, nothing is seen from the front
        said.add("lateral" if set(runs) & set("AP") else FRONTAL)
    other = _ruling(said - {FRONTAL})
    if other:
        raise OutOfScope(f"This is {_ARTICLE[other]} view; {_KNOWN}, so choose one of these.")
    texts = ("SeriesDescription", "ProtocolName", "StudyDescription")
    described = [_named(str(dataset.get(name, "") or "")) for name in texts]
    for views in described:  # a study of several views names them all
        other = _ruling(views)
        if other and FRONTAL not in views:
            notes.append(f"The file's description names {_ARTICLE[other]} view, and {_KNOWN}.")
            return
    if not said and {FRONTAL} not in described:
        notes.append("The file does not say which view it is; cxnet is for frontal radiographs.")


def _named(text: str) -> set[str]:
    words = set(re.findall("[A-Z]+", text.upper()))
    return {view for view, names in _WORDS.items() if words & names}


def _ruling(views: set[str]) -> str | None:
    """The one of the views that rules."""
    return next((view for view in _WORDS if view in views), None)
