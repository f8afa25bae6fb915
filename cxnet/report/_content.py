"""What a report says, apart from how it is written: sections of texts, tables and pictures.

Everything here comes from :func:`cxnet.analysis.to_json` and the audit. Texts are plain: writers escape them.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet import __version__, overlay
from cxnet.analysis import Analysis, panels, to_json
from cxnet.audit import AuditScore
from cxnet.explain import METHODS, Explanation
from cxnet.thresholds import TESTS, thresholds
from cxnet.verdict import CaseAudit

#: Longer side of a picture in the report; the bundle holds all of its pixels.
PICTURE_PX = 640
#: Below the first LIME must not be read, below the second only with care.
LOW_R2, WEAK_R2 = 0.3, 0.5
#: Superpixels that are listed.
LISTED = 5

_PACKAGES = (
    "numpy", "opencv-python-headless", "openvino", "scikit-image", "scikit-learn", "lime", "keras", "tensorflow-cpu",
    "tensorflow", "tf-keras-vis", "pydicom", "python-gdcm", "pyjpegls", "Pillow", "reportlab",
)  # fmt: skip
_WHOLE_WORDS = {True: "turned", False: "not turned", None: "could not be read"}


@dataclass(frozen=True)
class Text:
    """A paragraph; a warning stands out, code keeps its characters."""

    text: str
    kind: Literal["plain", "warning", "code"] = "plain"


@dataclass(frozen=True)
class Table:
    """Rows of texts under a caption; `columns` is empty for a table of names and values."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A PNG with a badge that tells its scale, and for a map its colours from lowest to highest with their values."""

    title: str
    badge: str
    png: bytes
    width_px: int
    height_px: int
    colours: bytes | None = None
    ends: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side."""

    items: tuple[Picture, ...]

    @property
    def columns(self) -> int:
        """How many stand side by side on paper."""
        return 3 if len(self.items) in (3, 5, 6) else min(2, len(self.items))


Block = Text | Table | Pictures


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


def sections(analysis: Analysis, audit: CaseAudit | None, command: str) -> tuple[Section, ...]:
    """The whole report, in reading order."""
    found = [_answer(analysis), _verdict(audit), _pictures(analysis), _figures(analysis)]
    if audit is not None:
        found.append(Section("What the network needs", (_scores("Causal figures", audit.scores),)))
    return (*found, _lungs(analysis), _file(analysis), _network(analysis), _reproduction(analysis, command))


# ------------------------------------------------------------------------------------------------------------ numbers


def number(value: float) -> str:
    """Three decimals, or as many digits as a small value needs."""
    text = f"{value:.3f}"
    return f"{value:.2e}" if value and float(text) == 0 else text


def visible(text: str) -> str:
    """The text with a mark for each character that has no look, such as one that turns the reading direction."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def score_row(score: AuditScore) -> tuple[str, ...]:
    """Name, value or why there is none, unit, what speaks for the lungs, null, reference."""
    value = f"undefined: {score.reason}" if score.value is None else number(score.value)
    null = ", ".join(f"{name} {number(at)}" for name, at in score.null.items()) or "none"
    return score.name, value, score.unit, score.direction, null, score.reference


def _scores(caption: str, scores: Sequence[AuditScore]) -> Table:
    names = ("Figure", "Value", "Unit", "Better", "What content-free maps or control edits score", "Reference")
    return Table(caption, names, tuple(score_row(score) for score in scores))


def _pairs(caption: str, values: Mapping[str, object]) -> Table:
    return Table(caption, (), tuple((name, _plain(value)) for name, value in values.items()))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "undefined"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple | list) else str(value)


# ----------------------------------------------------------------------------------------------------------- sections


def _answer(analysis: Analysis) -> Section:
    content = to_json(analysis)["prediction"]
    rows = tuple(
        (name, number(probability), f"{content['logits'][name]:+.3f}")
        for name, probability in content["probabilities"].items()
    )
    top = content["predicted_class"]
    return Section(
        "What the network says",
        (
            Text(
                f"Model output for {top}: {content['probabilities'][top]:.3f} (uncalibrated: it is not the probability "
                f"of a disease). The maps explain {analysis.target}."
            ),
            Table("Outputs by class", ("Class", "Probability", "Logit"), rows),
        ),
    )


def _verdict(audit: CaseAudit | None) -> Section:
    title = "Is the answer given for a wrong reason?"
    if audit is None:
        return Section(title, (Text("No audit was made for this report, so it says nothing about wrong reasons."),))
    verdict, limits = audit.verdict, thresholds()
    same, lines = limits.version == verdict.thresholds_version, limits.lines(verdict.usual, verdict.finding)
    evidence = tuple(
        (
            name,
            says,
            "undefined" if (value := verdict.evidence.values.get(name)) is None else f"{value:+.2f}",
            number(lines[name]) if same else "of another version",
        )
        for name, says in TESTS.items()
        if name in verdict.asked
    )
    return Section(
        title,
        (
            Text(f"Verdict: {verdict.name}", "plain" if verdict.name == "none found" else "warning"),
            *(Text(f"• {fact}.") for fact in verdict.facts),
            _pairs(
                "Keys",
                {
                    "Map key (the maps lie in the lungs no more than by chance)": _WHOLE_WORDS[verdict.map_key],
                    "Causal key (the network needs something else than the lungs)": _WHOLE_WORDS[verdict.causal_key],
                    "Version of the thresholds": verdict.thresholds_version,
                    "Pictures that the network was shown": audit.passes,
                },
            ),
            Table(
                "Evidence against the network, in logits of the explained class",
                ("Test", "What it says when it turns", "Evidence", "Turns from"),
                evidence,
            ),
            Text("No wrong reason found is not a right reason proven: nobody can give such a proof."),
        ),
    )


def _pictures(analysis: Analysis) -> Section:
    found = panels(analysis)
    channels = ", ".join(analysis.card.channels)
    maps = tuple(_map(found[method], explanation) for method, explanation in analysis.explanations.items())
    return Section(
        "Where it looked",
        (
            Text(
                "The lungs' outline is drawn in white. A map shows where the network found evidence, not why. Text "
                "that is burned into the radiograph is part of the pictures: look before you pass the report on."
            ),
            Pictures((_picture("Radiograph", "as read, lungs outlined", found["radiograph"]), *maps)),
            Pictures(
                (
                    _picture(
                        "As the model sees it",
                        f"channels {channels}, {analysis.stack.shape[0]} px each",
                        found["as-the-model-sees-it"],
                    ),
                )
            ),
            *_fidelity(analysis.explanations.get("lime")),
        ),
    )


def _fidelity(lime: Explanation | None) -> list[Block]:
    """What LIME's map is worth, or why there is none."""
    if lime is None:
        return [Text("LIME was not run for this report.")]
    held_out = "undefined" if lime.r2_held_out is None else f"{lime.r2_held_out:.2f}"
    fitted = "undefined" if lime.r2 is None else f"{lime.r2:.2f}"
    told: list[Block] = [
        Text(
            f"LIME's local R²: held out {held_out}, fitted {fitted}; {lime.samples} samples, "
            f"top superpixels {'settled' if lime.stable else 'not settled'}."
        )
    ]
    if not lime.finished:
        told.append(
            Text(
                f"LIME was stopped after {lime.samples} samples: its map and figures are partial, and the command at "
                "the end, which runs it to its end, gives others.",
                "warning",
            )
        )
    r2 = lime.r2_held_out if lime.r2_held_out is not None else lime.r2
    if r2 is None or r2 < LOW_R2:
        told.append(Text("Do not interpret LIME's map: its surrogate does not follow the network here.", "warning"))
    elif r2 < WEAK_R2:
        told.append(Text("LIME's map is weak: its surrogate follows the network only in part.", "warning"))
    return told


def _map(picture: NDArray[np.uint8], explanation: Explanation) -> Picture:
    strongest = float(np.abs(explanation.heatmap).max())
    title = f"{METHODS[explanation.method]} for {explanation.target_class}"
    if not explanation.finished:
        title += " (partial)"
    if explanation.signed:
        badge, ends = f"blue against, orange for; ±{strongest:.2g} logits", (f"-{strongest:.2g}", f"+{strongest:.2g}")
    else:
        badge, ends = f"stretched to its maximum, {strongest:.2g}", ("0", f"{strongest:.2g}")
    table = overlay.lookup_table("signed" if explanation.signed else "inferno")
    return _picture(title, badge, picture, _png(np.repeat(table[None], 8, axis=0)), ends)


def _picture(
    title: str, badge: str, picture: NDArray[np.uint8], colours: bytes | None = None, ends: tuple[str, str] = ("", "")
) -> Picture:
    height, width = picture.shape[:2]
    most = PICTURE_PX if width <= 2 * height else 2 * PICTURE_PX  # the network's channels stand side by side
    scale = most / max(height, width)
    if scale < 1:
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return Picture(title, badge, _png(picture), width, height, colours, ends)


def _png(picture: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes())


def _figures(analysis: Analysis) -> Section:
    blocks: list[Block] = [
        Text(
            "Each figure stands beside what maps without any content score on the same lungs; only the difference "
            "says something. They describe one radiograph, so they have no interval."
        )
    ]
    blocks += [_scores(METHODS[method], scores) for method, scores in analysis.scores.items()]
    if not analysis.scores:
        blocks.append(Text("No map was made, so there are no figures."))
    lime = analysis.explanations.get("lime")
    if lime is not None:
        blocks.append(_superpixels(lime, analysis.model_lungs))
    if analysis.agreement:
        blocks.append(_scores("Agreement of Grad-CAM and LIME", analysis.agreement))
    return Section("How far the maps can be trusted", tuple(blocks))


def _superpixels(lime: Explanation, lungs: NDArray[np.bool_]) -> Block:
    """LIME's strongest superpixels with intervals from the surrogate's standard errors."""
    segments, weights, errors = lime.segments, lime.weights, lime.standard_errors
    if segments is None or weights is None or errors is None:
        return Text("LIME gave no weights.")
    rows = []
    for rank, k in enumerate(np.argsort(-np.abs(weights), kind="stable")[:LISTED].tolist(), 1):
        where = segments == k
        row, column = (float(at.mean()) for at in np.nonzero(where))
        low, high = weights[k] - 1.96 * errors[k], weights[k] + 1.96 * errors[k]
        rows.append(
            (
                str(rank),
                f"{weights[k]:+.3f}",
                f"{low:+.3f} to {high:+.3f}",
                f"{100 * lungs[where].mean():.0f} %",
                f"{column:.0f}, {row:.0f}",
            )
        )
    names = ("Rank", "Weight, logits", "95 % interval", "Inside the lungs", "Centre x, y, px of the model's input")
    return Table("LIME's strongest superpixels", names, tuple(rows))


def _lungs(analysis: Analysis) -> Section:
    content = to_json(analysis)["lungs"]
    blocks: list[Block] = []
    if not content["ok"]:
        reasons = "; ".join(content["reasons"])
        blocks.append(
            Text(
                f"The lung outline may be wrong: {reasons}. Do not trust figures that depend on it.", "warning"
            )
        )  # fmt: skip
    ratio, solidity = content["right_left_ratio"], content["solidity"]
    blocks.append(
        _pairs(
            "Lung fields",
            {
                "Outline passes its checks": content["ok"],
                "Share of the picture": f"{100 * content['area_fraction']:.1f} %",
                "Area, image left over image right": "undefined: there are not two lungs"
                if ratio is None
                else number(ratio),
                "Smallest solidity": "undefined: there are not two lungs" if solidity is None else number(solidity),
                "Found by": content["source"],
                "What counts as lung": content["convention"],
                "Network's sha256": content["model_sha256"],
            },
        )
    )
    return Section("Lungs", tuple(blocks))


def _file(analysis: Analysis) -> Section:
    content = to_json(analysis)["radiograph"]
    shown = analysis.crop
    blocks: list[Block] = [
        _pairs(
            "File",
            {
                "sha256": content["sha256"],
                "Format": content["format"],
                "Width and height": f"{content['width_px']} × {content['height_px']} px",
                "Shown to the network": f"rows {shown.top} to {shown.bottom}, columns {shown.left} to {shown.right}",
            },
        )
    ]
    if content["tags"]:
        blocks.append(_pairs("Technical tags; no others are kept", content["tags"]))
    blocks += [Text(f"• {note}") for note in content["notes"]]
    return Section("Radiograph", tuple(blocks))


def _network(analysis: Analysis) -> Section:
    card, content = analysis.card, to_json(analysis)["model"]
    blocks: list[Block] = [
        _pairs(
            "Network",
            {
                "Name": f"{content['name']}: {card.title}",
                "Weights' sha256": content["sha256"],
                "Architecture": content["architecture"],
                "Classes": content["classes"],
                "Channels": content["channels"],
                "Input": f"{content['input_size_px']} px",
                "Layer of the maps": content["feature_layer"] or "none",
                "Region shown": content["region"],
                "Trained on": card.trained_on,
                "Licence": card.licence,
            },
        )
    ]
    if card.held_out:
        blocks.append(_pairs("On radiographs that it never saw, with 95 % intervals where known", card.held_out))
    return Section("Network", tuple(blocks))


def versions() -> dict[str, str]:
    """What made the figures, by name."""
    found = {"cxnet": __version__, "Python": platform.python_version(), "Processor": platform.machine()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # TensorFlow goes by either of two names
            continue
    return found


def _reproduction(analysis: Analysis, command: str) -> Section:
    settings = to_json(analysis)["settings"]
    plain = {
        "Explained class": settings["target"],
        "Methods": settings["methods"],
        "Seed": settings["seed"],
        "Superpixels aimed at": settings["superpixels"],
        **{f"LIME: {name}": value for name, value in settings["lime"].items()},
        **{f"Enhancement: {name}": value for name, value in settings["enhancement"].items()},
    }
    return Section(
        "Settings, versions, and how to get this report again",
        (
            _pairs("Settings", plain),
            _pairs("Versions", versions()),
            Text("With these versions, this processor and the file of the checksum above, this gives the same bytes:"),
            Text(command, "code"),
        ),
    )
