"""How public collections of chest radiographs lie on a disk, and what their labels are called here.

Each reader lists the pictures of one layout without opening them. Labels are ``COVID-19``, ``Normal``, ``Pneumonia``
and ``Other``; what the publisher wrote is kept in ``findings``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxnet.errors import DatasetError

COLUMNS = ("file", "label", "group", "source", "view", "patient", "findings", "lung_mask")
#: A DICOM file without one of these endings is not found; rename it.
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".dcm", ".dicom"})

_SPELLINGS = {
    "covid": "COVID-19", "covid-19": "COVID-19", "covid19": "COVID-19", "normal": "Normal", "no finding": "Normal",
    "pneumonia": "Pneumonia", "viral pneumonia": "Pneumonia", "bacterial pneumonia": "Pneumonia", "other": "Other",
}  # fmt: skip
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_NO_CLASS = {"masks", "lung_masks", "annotations", "__macosx"}
_DATABASE = {"COVID": "COVID-19", "Normal": "Normal", "Viral Pneumonia": "Pneumonia", "Lung_Opacity": "Other"}


@dataclass(frozen=True)
class Skipped:
    """A picture or row that was left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """What a layout lists; files are absolute, groups still empty."""

    rows: tuple[dict[str, str], ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


def _row(file: Path, label: str, **known: str) -> dict[str, str]:
    return dict.fromkeys(COLUMNS, "") | {"file": file.as_posix(), "label": label} | known


def _pictures(folder: Path) -> Iterator[Path]:
    """Pictures anywhere below the folder, in order, without masks and hidden files."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix.lower() not in ENDINGS or any(part.startswith(".") for part in parts):
            continue
        if not any(part.lower() in _NO_CLASS for part in parts[:-1]) and path.is_file():
            yield path


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name.lower() not in _NO_CLASS
    )


def _table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV by lower-case column name; rows with more or fewer values than the header are no error.

    The headers of NIH and of covid-chestxray-dataset end with a comma in some versions and their rows in others.
    """
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        rows: list[dict[str, str]] = []
        reader = csv.DictReader(file)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return rows
            except csv.Error as error:
                raise DatasetError(f"{path.name} is no readable CSV ({error}); take the original file.") from None
            named = {
                name.strip().lower(): (value or "").strip() for name, value in row.items() if isinstance(name, str)
            }
            rows.append(named)


def _columns(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        return {name.strip().lower() for name in next(csv.reader(file), [])}


# ---------------------------------------------------------------------------------------------------------- folders


def _class_folders(root: Path) -> tuple[list[Path], bool]:
    """Folders that stand for classes, and whether they lie below folders like train and test."""
    folders = _subfolders(root)
    if folders and all(folder.name.lower() in _SPLITS for folder in folders):
        return [below for folder in folders for below in _subfolders(folder)], True
    return folders, False


def _is_folders(root: Path) -> bool:
    with_pictures = {folder.name for folder in _class_folders(root)[0] if next(_pictures(folder), None) is not None}
    return len(with_pictures) > 1


def _read_folders(root: Path) -> Listing:
    """A folder per class, pictures anywhere below it; the folder's name is the label.

    Common spellings such as COVID, NORMAL or "Viral Pneumonia" become ours. Folders that are all called train, val or
    test are looked through for class folders, and that split is given up: it may hold a patient on both sides.
    Patients are unknown.
    """
    folders, split = _class_folders(root)
    rows, notes, renamed = [], [], {}
    for folder in folders:
        label = _SPELLINGS.get(folder.name.lower().replace("_", " "), folder.name)
        if label != folder.name:
            renamed[folder.name] = label
        known = {"findings": folder.name} if label != folder.name else {}
        rows += [_row(file, label, **known) for file in _pictures(folder)]
    if split:
        notes.append("The publisher's folders for training and testing were put together; split by group instead.")
    if renamed:
        notes.append("Labels: " + ", ".join(f"{old} is called {new}" for old, new in sorted(renamed.items())) + ".")
    notes.append("Patients are unknown in this layout; only copies share a group.")
    return Listing(tuple(rows), (), tuple(notes))


def list_folders(root: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Table of a folder per class, each picture a group of its own, and notes.

    Raises
    ------
    DatasetError
        If there are no folders with pictures.
    """
    listing = _read_folders(Path(root).resolve())
    if not listing.rows:
        raise DatasetError(
            f"The folder {Path(root).name} has neither a manifest.csv nor folders of radiographs, one per class; "
            "give a manifest or such a folder."
        )
    table = pd.DataFrame(listing.rows, columns=list(COLUMNS))
    table["group"] = [str(number) for number in range(len(table))]
    return table, listing.notes


# ------------------------------------------------------------------------------------- COVID-19 Radiography Database


def _is_radiography_database(root: Path) -> bool:
    return sum((root / name / "images").is_dir() for name in _DATABASE) > 1


def _read_radiography_database(root: Path) -> Listing:
    """COVID-19 Radiography Database (Kaggle, Chowdhury et al., doi:10.1109/ACCESS.2020.3010287), version 4 or later.

    ``COVID``, ``Lung_Opacity``, ``Normal`` and ``Viral Pneumonia``, each with ``images/*.png`` (299 x 299) and
    ``masks/*.png`` of the same names (256 x 256); ``*.metadata.xlsx`` is not read, it names no patients.
    ``Lung_Opacity`` (from the RSNA challenge, without a stated cause) is called Other.
    """
    rows, skipped = [], []
    for name, label in _DATABASE.items():
        images = root / name / "images"
        for file in _pictures(images) if images.is_dir() else ():
            mask = root / name / "masks" / file.name
            rows.append(
                _row(
                    file,
                    label,
                    source="covid-19-radiography-database",
                    findings="" if label == "Normal" else name,
                    lung_mask=mask.as_posix() if mask.is_file() else "",
                )
            )
        if not images.is_dir():
            skipped.append(Skipped(f"{name}/images", "the folder is not there"))
    notes = (
        "Lung_Opacity is called Other, Viral Pneumonia is called Pneumonia.",
        "Lung masks of this collection are smaller than their images; scale them before use.",
        "Patients are unknown in this layout; only copies share a group.",
    )
    return Listing(tuple(rows), tuple(skipped), notes)


# -------------------------------------------------------------------------------------------- covid-chestxray-dataset

_CHESTXRAY_COLUMNS = {"patientid", "finding", "view", "modality", "filename", "folder"}
_FRONTAL = {"PA": "PA", "AP": "AP", "AP SUPINE": "AP", "AP ERECT": "AP"}


def _is_chestxray(root: Path) -> bool:
    return _columns(root / "metadata.csv") >= _CHESTXRAY_COLUMNS


#: Findings that are a pneumonia: the tree's own word, and what clones of 2020 call the germs and kinds.
_PNEUMONIAS = {
    "pneumonia", "sars", "mers-cov", "influenza", "varicella", "herpes", "viral", "bacterial", "fungal", "aspiration",
    "lipoid", "streptococcus", "klebsiella", "chlamydophila", "legionella", "e.coli", "mycoplasma", "nocardia",
    "staphylococcus", "mrsa", "pneumocystis", "aspergillosis",
}  # fmt: skip


def _read_chestxray(root: Path) -> Listing:
    """Clone of ieee8023/covid-chestxray-dataset (Cohen et al., arXiv:2006.11988).

    ``metadata.csv`` with the columns patientid, finding, view, modality, filename and folder; pictures in
    ``folder/filename``. Radiographs that are PA, AP, AP Supine or AP Erect are kept. A finding is a path:
    Pneumonia/Viral/COVID-19 is COVID-19, everything else below Pneumonia is Pneumonia, "No Finding" is Normal, the
    rest Other. Clones of 2020 have flat lists instead ("COVID-19, ARDS"): COVID-19 in it is COVID-19, a name of
    :data:`_PNEUMONIAS` Pneumonia. "todo", "Unknown" and no finding are skipped, as they would be labelled by guessing.
    """
    rows, skipped = [], []
    for row in _table(root / "metadata.csv"):
        name, view, finding = row["filename"], row["view"].upper(), row["finding"]
        file = root / (row["folder"] or "images") / name
        if row["modality"].lower() != "x-ray":
            reason = f"modality {row['modality'] or 'unstated'}, not X-ray"
        elif view not in _FRONTAL:
            reason = f"view {row['view'] or 'unstated'}, not frontal"
        elif finding.lower() in ("", "todo", "unknown"):
            reason = "the finding is not stated"
        elif not file.is_file():
            reason = "the file is not there"
        else:
            parts = {part.strip().lower() for part in re.split("[/,]", finding)}
            label = "Normal" if parts == {"no finding"} else "Other"
            if "covid-19" in parts:
                label = "COVID-19"
            elif parts & _PNEUMONIAS:
                label = "Pneumonia"
            rows.append(
                _row(
                    file,
                    label,
                    source="covid-chestxray",
                    view=_FRONTAL[view],
                    patient=f"ieee-{row['patientid']}" if row["patientid"] else "",
                    findings="" if label == "Normal" else finding,
                )
            )
            continue
        skipped.append(Skipped(name, reason))
    return Listing(tuple(rows), tuple(skipped), ())


# --------------------------------------------------------------------------------------------------------- COVID-CXNet


def _is_cxnet(root: Path) -> bool:
    return (root / "chest_xray_images").is_dir()


def _read_cxnet(root: Path) -> Listing:
    """Clone of armiro/COVID-CXNet (Haghanifar et al., doi:10.1007/s11042-022-12156-z).

    ``chest_xray_images/covid19/*`` (PNG, JPEG, also named .jfif) and further folders per class beside it, named as in
    the layout "folders". ``metadata.csv`` beside it, where there is one, has filename, patient_id and view of a part
    of the COVID-19 pictures; lateral views are skipped, an unstated view is taken as frontal.
    """
    path = root / "metadata.csv"
    known = {}
    if _columns(path) >= {"filename", "patient_id", "view"}:
        known = {row["filename"]: row for row in _table(path)}
    listing = _read_folders(root / "chest_xray_images")
    rows, skipped = [], []
    for row in listing.rows:
        file = Path(row["file"])
        # Its file names are those of the COVID-19 folder; another class may use the same numbers.
        entry = known.get(file.name, {}) if row["label"] == "COVID-19" else {}
        view = entry.get("view", "")
        if view and view.upper() not in _FRONTAL:
            skipped.append(Skipped(file.name, f"view {view}, not frontal"))
            continue
        patient = f"cxnet-{entry['patient_id']}" if entry.get("patient_id") else ""
        rows.append(row | {"source": "covid-cxnet", "view": _FRONTAL[view.upper()] if view else "", "patient": patient})
    named = sum(bool(row["patient"]) for row in rows)
    return Listing(tuple(rows), tuple(skipped), (f"The patient is known for {named} of {len(rows)} pictures.",))


# ----------------------------------------------------------------------------------------------------------------- NIH


def _nih_table(root: Path) -> Path | None:
    """The newest labels: Data_Entry_2017_v2020.csv sorts behind Data_Entry_2017.csv."""
    found = sorted(root.glob("Data_Entry_2017*.csv"), key=lambda path: path.stem)
    return found[-1] if found else None


def _read_nih(root: Path) -> Listing:
    """NIH ChestX-ray14 (Wang et al., doi:10.1109/CVPR.2017.369).

    ``Data_Entry_2017*.csv`` with "Image Index", "Finding Labels" (separated by |), "Patient ID" and "View Position";
    PNG files anywhere below folders whose names start with ``images``, as in images_001/images/00000001_000.png.
    "No Finding" is Normal, labels with Pneumonia are Pneumonia, the rest Other. All views are frontal.
    """
    path = _nih_table(root)
    if path is None:
        raise DatasetError("There is no Data_Entry_2017*.csv, the table of labels of NIH ChestX-ray14; add it.")
    table = _table(path)
    lacking = {"image index", "finding labels", "patient id"} - _columns(path)
    if lacking:
        raise DatasetError(f"{path.name} lacks the column(s) {', '.join(sorted(lacking))}; take the original file.")
    where = {f.name: f for folder in sorted(root.glob("images*")) if folder.is_dir() for f in _pictures(folder)}
    rows, skipped = [], []
    for row in table:
        file = where.get(row["image index"])
        if file is None:
            skipped.append(Skipped(row["image index"], "the file is not there"))
            continue
        findings = row["finding labels"].split("|")
        normal = findings == ["No Finding"]
        patient = row["patient id"]
        rows.append(
            _row(
                file,
                "Normal" if normal else "Pneumonia" if "Pneumonia" in findings else "Other",
                source="nih-cxr14",
                view=row.get("view position", ""),
                patient=f"nih-{int(patient):08d}" if re.fullmatch(r"[0-9]+", patient) else patient and f"nih-{patient}",
                findings="" if normal else row["finding labels"],
            )
        )
    return Listing(tuple(rows), tuple(skipped), ())


# ------------------------------------------------------------------------------------------------------------ choosing


@dataclass(frozen=True)
class Layout:
    """A way in which files may lie."""

    looked_for: str
    fits: Callable[[Path], bool]
    read: Callable[[Path], Listing]


#: In the order in which "auto" tries them.
LAYOUTS: dict[str, Layout] = {
    "nih": Layout("a Data_Entry_2017*.csv", lambda root: _nih_table(root) is not None, _read_nih),
    "covid-chestxray-dataset": Layout(
        "a metadata.csv with " + ", ".join(sorted(_CHESTXRAY_COLUMNS)), _is_chestxray, _read_chestxray
    ),
    "covid-cxnet": Layout("a folder chest_xray_images", _is_cxnet, _read_cxnet),
    "covid-19-radiography-database": Layout(
        "two or more of " + ", ".join(f"{name}/images" for name in _DATABASE),
        _is_radiography_database,
        _read_radiography_database,
    ),
    "folders": Layout("two or more folders of pictures, one per class", _is_folders, _read_folders),
}


def find_layout(source: Path, layout: str = "auto") -> tuple[str, Path]:
    """Name of the layout and the folder that has it: the source, or the only folder in it, as archives unpack.

    Raises
    ------
    DatasetError
        If the source is no folder, the layout is unknown or does not fit, or none fits.
    """
    source = Path(source)
    if layout != "auto" and layout not in LAYOUTS:
        raise DatasetError(f"There is no layout {layout!r}; choose auto, {', '.join(sorted(LAYOUTS))}.")
    if not source.is_dir():
        raise DatasetError(f"{source} is no folder; give the one that holds the data set.")
    roots = [source.resolve()]
    inside = _subfolders(roots[0])
    if len(inside) == 1:
        roots.append(inside[0])
    names = list(LAYOUTS) if layout == "auto" else [layout]
    for name in names:
        for root in roots:
            if LAYOUTS[name].fits(root):
                return name, root
    # A single class is a data set where the user says so, and too little to recognise one by.
    if layout == "folders" and next(_pictures(roots[0]), None) is not None and _class_folders(roots[0])[0]:
        return layout, roots[0]
    looked_for = "; ".join(f"{name}: {LAYOUTS[name].looked_for}" for name in names)
    raise DatasetError(
        f"The folder {source.name} has none of the layouts that were looked for ({looked_for}); check the path or "
        "make a folder per class."
    )
