"""A report on one analysed radiograph: HTML and PDF for people, a bundle for auditors.

All three hold neither times, paths nor file names: the same file, settings, weights and versions give the same
bytes. :func:`command` is the command line that does it again.

The bundle is a zip of ``analysis.json`` (schema in :mod:`cxnet.analysis`), ``heatmaps.npz`` (raw float32 maps in the
model's frame by method, and the bool array "lungs"), a PNG for every panel in full size, ``verdict.json`` where an
audit was made, and ``manifest.json`` with the sha256 of each of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cxnet import __version__
from cxnet.analysis import NOTICE, Analysis, Settings, files
from cxnet.enhance import Enhancement
from cxnet.errors import SettingsError
from cxnet.explain.lime import LimeSettings
from cxnet.phantom import SAMPLES
from cxnet.radiograph import Radiograph, open_radiograph
from cxnet.report._content import LOW_R2, WEAK_R2, number, sections, versions
from cxnet.report._html import write_html
from cxnet.verdict import CaseAudit
from cxnet.weights import card
from cxnet.writing import write_files

__all__ = [
    "LOW_R2",
    "WEAK_R2",
    "bundle",
    "command",
    "html",
    "number",
    "open_case",
    "pdf",
    "settings_of",
    "synthetic_radiograph",
    "versions",
    "write",
]

#: Names of what :func:`write` leaves in a folder.
HTML_NAME, PDF_NAME, BUNDLE_NAME = "report.html", "report.pdf", "bundle.zip"

_Options = TypeVar("_Options", LimeSettings, Enhancement)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can tell
_SYNTHETIC = "synthetic"


def html(analysis: Analysis, audit: CaseAudit | None = None) -> str:
    """The report as one HTML file without scripts and requests.

    Parameters
    ----------
    analysis : Analysis
        LIME may be missing or partial; the report says so.
    audit : CaseAudit, optional
        Adds the verdict and the causal figures.
    """
    analysis = _as_made(analysis)
    return write_html(*_headings(analysis), sections(analysis, audit, command(analysis, audit)))


def pdf(analysis: Analysis, audit: CaseAudit | None = None) -> bytes:
    """The report as a PDF on A4: what :func:`html` says, the notice on each page."""
    from cxnet.report._pdf import write_pdf  # its library is needed by nothing else

    analysis = _as_made(analysis)
    return write_pdf(*_headings(analysis), sections(analysis, audit, command(analysis, audit)))


def bundle(analysis: Analysis, audit: CaseAudit | None = None) -> bytes:
    """The bundle for auditors as a zip."""
    analysis = _as_made(analysis)
    members = files(analysis)
    if audit is not None:
        content = {**audit.verdict.to_json(), "passes": audit.passes, "tier": audit.causal.tier}
        members["verdict.json"] = _json({**content, "scores": [score.to_json() for score in audit.scores]})
    manifest = {
        "schema": 1,
        "notice": NOTICE,
        "command": command(analysis, audit),
        "versions": versions(),
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in members.items()
        },
    }
    return _zipped({**members, "manifest.json": _json(manifest)})


def write(analysis: Analysis, folder: Path, audit: CaseAudit | None = None) -> None:
    """Write ``report.html``, ``report.pdf`` and ``bundle.zip``, all of them or none.

    Raises
    ------
    SettingsError
        If a file cannot be written; the folder then holds what it held before.
    """
    content = {
        HTML_NAME: html(analysis, audit).encode(),
        PDF_NAME: pdf(analysis, audit),
        BUNDLE_NAME: bundle(analysis, audit),
    }
    write_files(folder, content)


def _as_made(analysis: Analysis) -> Analysis:
    """The analysis with the methods that gave something as the ones that were asked for: what was not run is no
    setting of this report, and the command must not run it."""
    made = tuple(method for method in analysis.settings.methods if method in analysis.explanations)
    return replace(analysis, settings=replace(analysis.settings, methods=made))


def _headings(analysis: Analysis) -> tuple[str, str]:
    checksum = analysis.radiograph.sha256[:12]
    return (
        f"cxnet report on the radiograph {checksum}",
        f"Network {analysis.card.title}, weights {analysis.card.sha256[:12]}, seed {analysis.settings.seed}, "
        f"cxnet {__version__}",
    )


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip that depends on nothing but names and contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every system
            archive.writestr(info, content)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------- the command


def command(analysis: Analysis, audit: CaseAudit | None = None) -> str:
    """The command line that makes this report again.

    ``FILE`` and ``DIR`` stand for the radiograph's file and a folder: no report names a file. A synthetic sample is
    named, as there is no file.
    """
    settings = _as_made(analysis).settings
    words = ["python", "-m", "cxnet", "report", _case_word(analysis.radiograph), "--out", "DIR"]
    words += ["--model", settings.model, "--methods", ",".join(settings.methods), "--seed", str(settings.seed)]
    if settings.target is not None:
        words += ["--target", settings.target]
    if settings.superpixels != Settings().superpixels:
        words += ["--superpixels", str(settings.superpixels)]
    lime = _changes(settings.lime, LimeSettings(seed=settings.seed))
    own = analysis.card.enhancement
    enhancement = _changes(settings.enhancement or own, own)
    words += ["--lime", *lime] if lime else []
    words += ["--enhancement", *enhancement] if enhancement else []
    words += ["--audit", audit.causal.tier] if audit is not None else []
    return shlex.join(words)


def settings_of(
    model: str,
    target: str | None = None,
    methods: str = "grad-cam,lime",
    seed: int = 0,
    superpixels: int = 60,
    lime: Sequence[str] = (),
    enhancement: Sequence[str] = (),
) -> Settings:
    """Settings from the words of :func:`command`.

    Parameters
    ----------
    model, target, seed, superpixels
        As in :class:`cxnet.analysis.Settings`.
    methods : str
        Comma-separated; may be empty.
    lime, enhancement : sequences of str
        Changes as ``name=value`` of :class:`LimeSettings`, and of the enhancement that the network was trained with.

    Raises
    ------
    SettingsError
        If an option is unknown or its value cannot work.
    WeightsError
        If there is no such network.
    """
    known = card(model)
    if known.recipe.task != "classification":
        raise SettingsError(f"The network {model!r} does not classify radiographs; choose another one.")
    if target is not None and target not in known.classes:
        raise SettingsError(f"Unknown class {target!r}; choose from {', '.join(known.classes)}.")
    return Settings(
        model=model,
        target=target,
        methods=tuple(dict.fromkeys(word.strip() for word in methods.split(",") if word.strip())),
        enhancement=_changed(known.enhancement, enhancement),
        lime=_changed(LimeSettings(seed=seed), lime),
        superpixels=superpixels,
        seed=seed,
    )


def _changes(options: Any, usual: Any) -> list[str]:
    """``name=value`` of each field that differs; the seed has an option of its own."""
    normal = asdict(usual)
    return [f"{k}={v}" for k, v in asdict(options).items() if k != "seed" and v != normal[k]]


def _changed(usual: _Options, words: Sequence[str]) -> _Options:
    """The options with the changes made that :func:`_changes` wrote."""
    known = {field.name: getattr(usual, field.name) for field in fields(usual) if field.name != "seed"}
    found: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in known:
            raise SettingsError(f"Unknown option {name!r}; choose from {', '.join(known)}, each as NAME=VALUE.")
        kind = type(known[name])
        try:
            found[name] = {"True": True, "False": False}[value] if kind is bool else kind(value)
        except (KeyError, ValueError):
            wanted = "True or False" if kind is bool else f"a value of type {kind.__name__}"
            raise SettingsError(f"The option {name} needs {wanted}; received {value!r}.") from None
    return replace(usual, **found)


def synthetic_radiograph(name: str, size_px: int) -> Radiograph:
    """A built-in sample as a radiograph.

    Raises
    ------
    SettingsError
        If there is no such sample.
    """
    sample = next((sample for sample in SAMPLES if sample.name == name), None)
    if sample is None:
        raise SettingsError(f"There is no sample {name!r}; choose from {', '.join(s.name for s in SAMPLES)}.")
    pixels = sample.make(size_px).pixels
    checksum = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    return Radiograph(pixels, checksum, _SYNTHETIC, notes=(sample.caption,))


def _case_word(radiograph: Radiograph) -> str:
    if radiograph.format == _SYNTHETIC:
        for sample in SAMPLES:
            if radiograph.notes == (sample.caption,):
                return f"sample:{sample.name}:{radiograph.pixels.shape[0]}"
    return "FILE"


def open_case(word: str) -> Radiograph:
    """The radiograph of a path, or of ``sample:NAME:SIZE_PX`` as :func:`command` names a synthetic one.

    Raises
    ------
    RadiographError
        If the file is refused.
    SettingsError
        If there is no such sample.
    """
    kind, _, rest = word.partition(":")
    name, _, size = rest.partition(":")
    if kind == "sample" and size.isdecimal():
        return synthetic_radiograph(name, int(size))
    return open_radiograph(word)
