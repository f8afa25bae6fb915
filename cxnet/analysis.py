"""One radiograph from pixels to figures: the same function for the page, the command line and a batch.

``analysis.json`` (:func:`to_json`) holds, with schema version 1::

    schema, cxnet, notice
    radiograph   sha256, format, height_px, width_px, tags, notes
    model        name, sha256, architecture, classes, channels, input_size_px, feature_layer, region
    shown        top, bottom, left, right: the part of the radiograph that the network saw, in its pixels
    settings     target ("predicted" or a class), methods, seed, enhancement, lime, superpixels
    prediction   logits and probabilities by class, predicted_class, target_class
    lungs        source, convention, model_sha256, area_fraction, right_left_ratio, solidity, ok, reasons
    explanations by method: r2, r2_held_out, samples, stable, finished, maximum, scores
    agreement    scores between Grad-CAM and LIME
    score        {name, value or null, unit, direction, null, reason, reference}

It holds neither times nor paths: the same file, settings, weights and seed give the same text.
"""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxnet import __version__, overlay
from cxnet.audit import AuditScore, cam_lime_agreement, localisation_scores, upsample
from cxnet.classifier import Classifier, Prediction
from cxnet.enhance import Enhancement
from cxnet.errors import SettingsError, WeightsError
from cxnet.explain import METHODS, Explanation
from cxnet.explain.grad_cam import by_tf_keras_vis, grad_cam
from cxnet.explain.lime import LimeExplanation, LimeSettings, Predict, explain_lime, superpixels
from cxnet.lungs import Crop, LungMask, LungSegmenter, look_at
from cxnet.radiograph import Radiograph
from cxnet.runs import folders, list_runs
from cxnet.weights import Card, cards, fold_card
from cxnet.writing import write_files

NOTICE = "Research and teaching only. Not a medical device; do not use it for diagnosis or patient care."
SCHEMA = 1


@dataclass(frozen=True)
class Settings:
    """Everything that an analysis depends on besides the file and the weights.

    Parameters
    ----------
    model : str
        Name of the weights.
    target : str or None
        Class to explain; None for the predicted one.
    methods : tuple of str
        Keys of :data:`cxnet.explain.METHODS`.
    enhancement : Enhancement or None
        None for the one that the network was trained with.
    lime : LimeSettings
    superpixels : int
        Superpixels aimed at; splitting them along the lungs' outline adds a few.
    seed : int
        Of the superpixels, of LIME's samples and of the shifted copies.
    """

    model: str = "covid-cxnet"
    target: str | None = None
    methods: tuple[str, ...] = ("grad-cam",)
    enhancement: Enhancement | None = None
    lime: LimeSettings = field(default_factory=LimeSettings)
    superpixels: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown:
            raise SettingsError(f"Unknown method {unknown[0]!r}; choose from {', '.join(METHODS)}.")
        if not 5 <= self.superpixels <= 400:
            raise SettingsError(f"Superpixels must be from 5 to 400; received {self.superpixels}.")
        if self.lime.seed != self.seed:
            object.__setattr__(self, "lime", replace(self.lime, seed=self.seed))


@dataclass(frozen=True, eq=False)
class Models:
    """The networks that an analysis needs, loaded once and shared by all users."""

    classifier: Classifier
    segmenter: LungSegmenter


@dataclass(frozen=True, eq=False)
class Analysis:
    """All that is known about one radiograph under some settings.

    Arrays "in the model's frame" are square with the network's input size and show the part `crop` of the radiograph;
    :func:`to_original` maps them back.
    """

    radiograph: Radiograph
    settings: Settings
    card: Card
    segmenter_sha256: str
    crop: Crop
    stack: NDArray[np.uint8]
    lungs: LungMask
    model_lungs: NDArray[np.bool_]
    prediction: Prediction
    target: str
    explanations: Mapping[str, Explanation]
    scores: Mapping[str, tuple[AuditScore, ...]]
    agreement: tuple[AuditScore, ...]

    @cached_property
    def complete(self) -> bool:
        """Whether every method that was asked for has finished."""
        return all(m in self.explanations and self.explanations[m].finished for m in self.settings.methods)


def available_models() -> tuple[Card, ...]:
    """Cards of the networks that can classify: the manifest's, then the first fold of each run that has weights.

    Loads no network. The other folds of a run have cards too: :func:`cxnet.weights.card` by name.
    """
    found = [card for card in cards().values() if card.recipe.task == "classification"]
    names = {card.run[0] for card in found if card.run}
    for run in (run for folder in folders() for run in list_runs(folder)[0]):
        if run.name not in names and run.info.get("architecture"):
            names.add(run.name)
            with contextlib.suppress(WeightsError):  # a run without weights can be looked at, not asked
                found.append(fold_card(run, run.folds[0]))
    return tuple(found)


def load_models(name: str | Card = "covid-cxnet", threads: int | None = None) -> Models:
    """Load a classifier and the lung segmenter; on how many threads they run is for :class:`cxnet.engine.Network`."""
    return Models(Classifier(name, threads), LungSegmenter(threads))


def analyse(radiograph: Radiograph, models: Models, settings: Settings | None = None) -> Analysis:
    """Predict, segment, explain and score one radiograph. See :func:`analyse_steps`."""
    *_, result = analyse_steps(radiograph, models, settings or Settings(), partials=False)
    return result


def analyse_steps(
    radiograph: Radiograph,
    models: Models,
    settings: Settings,
    cancel: threading.Event | None = None,
    partials: bool = True,
) -> Iterator[Analysis]:
    """As :func:`analyse`, but yields what is known so far: first all maps but LIME's, then LIME as it settles.

    Without `partials` LIME comes once, when it is done: scoring a map takes longer than refitting it.

    Raises
    ------
    SettingsError
        If the target is no class of the model, or the settings name another model.
    """
    classifier = models.classifier
    if settings.model != classifier.card.name:
        raise SettingsError(f"The settings ask for {settings.model!r}, but {classifier.card.name!r} is loaded.")
    if settings.target is not None and settings.target not in classifier.classes:
        raise SettingsError(f"Unknown class {settings.target!r}; choose from {', '.join(classifier.classes)}.")
    lungs = models.segmenter(radiograph.pixels)
    shown, crop = look_at(radiograph.pixels, lungs, classifier.card.region)
    stack = classifier.prepare(shown, settings.enhancement)
    stack.setflags(write=False)
    prediction = classifier.predict(stack)
    target = settings.target or prediction.predicted
    within = np.ascontiguousarray(lungs.mask[crop.top : crop.bottom, crop.left : crop.right])
    model_lungs = replace(lungs, mask=within).resized(stack.shape[0])
    model_lungs.setflags(write=False)
    analysis = Analysis(
        radiograph=radiograph,
        settings=settings,
        card=classifier.card,
        segmenter_sha256=models.segmenter.card.sha256,
        crop=crop,
        stack=stack,
        lungs=lungs,
        model_lungs=model_lungs,
        prediction=prediction,
        target=target,
        explanations=MappingProxyType({}),
        scores=MappingProxyType({}),
        agreement=(),
    )
    index = classifier.classes.index(target)
    for method in settings.methods:
        if method == "lime":
            continue
        if method == "grad-cam":
            coarse = grad_cam(prediction, classifier.head)[index]
        else:
            coarse = by_tf_keras_vis(classifier.card.name, method, stack, index)
        analysis = _with(analysis, Explanation(method, target, upsample(coarse, model_lungs.shape)))
    yield analysis
    if "lime" not in settings.methods:
        return
    segments = superpixels(
        stack[:, :, 0], model_lungs if model_lungs.any() else None, settings.superpixels, settings.seed
    )
    latest = None
    predict = looking(analysis, classifier.logits)
    for partial in explain_lime(stack, segments, predict, [index], settings.lime, cancel):
        latest = partial[index]
        if partials:
            analysis = _with(analysis, _from_lime(latest, target))
            yield analysis
    if latest is not None and not partials:
        yield _with(analysis, _from_lime(latest, target))


def looking(analysis: Analysis, predict: Predict) -> Predict:
    """`predict` for edited copies of the analysis's stack, as its network would be shown them.

    What lies outside the lungs never reaches a network that is shown nothing else ("lung-mask"), so no edit does there:
    the blur of a hidden superpixel would spread a grey rim that such a network has never met.
    """
    if analysis.card.region != "lung-mask":
        return predict
    inside, stack = analysis.model_lungs[..., None], analysis.stack
    return lambda pictures: predict(np.where(inside, pictures, stack))


def _from_lime(lime: LimeExplanation, target: str) -> Explanation:
    return Explanation(
        method="lime",
        target_class=target,
        heatmap=lime.heatmap(),
        r2=lime.r2,
        r2_held_out=lime.r2_held_out,
        samples=lime.samples,
        stable=lime.stable,
        finished=lime.finished,
        segments=lime.segments,
        weights=lime.weights,
        standard_errors=lime.standard_errors,
    )


def _with(analysis: Analysis, explanation: Explanation) -> Analysis:
    """The analysis with one more explanation and its scores."""
    explanations = {**analysis.explanations, explanation.method: explanation}
    cell_px = analysis.stack.shape[0] / analysis.prediction.features.shape[0]
    scores = localisation_scores(
        np.maximum(explanation.heatmap, 0), analysis.model_lungs, cell_px=cell_px, seed=analysis.settings.seed
    )
    agreement = analysis.agreement
    cam, lime = explanations.get("grad-cam"), explanations.get("lime")
    if cam is not None and lime is not None and lime.weights is not None and lime.segments is not None:
        # what chance gives is drawn once, for the result that stays
        copies = 100 if lime.finished else 0
        agreement = cam_lime_agreement(cam.heatmap, lime.weights, lime.segments, analysis.model_lungs, copies=copies)
    return replace(
        analysis,
        explanations=MappingProxyType(explanations),
        scores=MappingProxyType({**analysis.scores, explanation.method: scores}),
        agreement=agreement,
    )


def to_original(heatmap: NDArray[np.floating[Any]], analysis: Analysis) -> NDArray[np.float32]:
    """A map in the model's frame, on the grid of the radiograph: float32 (height, width)."""
    height, width = analysis.radiograph.pixels.shape
    return analysis.crop.to_original(heatmap, (height, width))


def to_json(analysis: Analysis) -> dict[str, Any]:
    """What ``analysis.json`` holds, as plain values; the schema stands in this module's docstring."""
    radiograph, card, lungs, prediction = analysis.radiograph, analysis.card, analysis.lungs, analysis.prediction
    lime = asdict(analysis.settings.lime)
    lime.pop("seed")
    return {
        "schema": SCHEMA,
        "cxnet": __version__,
        "notice": NOTICE,
        "radiograph": {
            "sha256": radiograph.sha256,
            "format": radiograph.format,
            "height_px": radiograph.pixels.shape[0],
            "width_px": radiograph.pixels.shape[1],
            "tags": dict(radiograph.tags),
            "notes": list(radiograph.notes),
        },
        "model": {
            "name": card.name,
            "sha256": card.sha256,
            "architecture": card.architecture,
            "classes": list(card.classes),
            "channels": list(card.channels),
            "input_size_px": card.input_size_px,
            "feature_layer": card.feature_layer,
            "region": card.region,
        },
        "shown": asdict(analysis.crop),
        "settings": {
            "target": analysis.settings.target or "predicted",
            "methods": list(analysis.settings.methods),
            "seed": analysis.settings.seed,
            "enhancement": asdict(analysis.settings.enhancement or card.enhancement),
            "lime": lime,
            "superpixels": analysis.settings.superpixels,
        },
        "prediction": {
            "logits": dict(zip(card.classes, prediction.logits.astype(float).tolist(), strict=True)),
            "probabilities": dict(zip(card.classes, prediction.probabilities.tolist(), strict=True)),
            "predicted_class": prediction.predicted,
            "target_class": analysis.target,
        },
        "lungs": {
            "source": lungs.source,
            "convention": lungs.convention,
            "model_sha256": analysis.segmenter_sha256,
            "area_fraction": lungs.area_fraction,
            "right_left_ratio": lungs.right_left_ratio,
            "solidity": lungs.solidity,
            "ok": lungs.ok,
            "reasons": list(lungs.reasons),
        },
        "explanations": {
            method: {
                "r2": explanation.r2,
                "r2_held_out": explanation.r2_held_out,
                "samples": explanation.samples,
                "stable": explanation.stable,
                "finished": explanation.finished,
                "maximum": float(np.abs(explanation.heatmap).max()),
                "scores": [score.to_json() for score in analysis.scores[method]],
            }
            for method, explanation in analysis.explanations.items()
        },
        "agreement": [score.to_json() for score in analysis.agreement],
    }


def dumps(analysis: Analysis) -> str:
    """:func:`to_json` as text; fails rather than write a value that JSON does not know."""
    return json.dumps(to_json(analysis), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def panels(analysis: Analysis, colour_map: str = "inferno", opacity: float = 0.35) -> dict[str, NDArray[np.uint8]]:
    """Pictures by name, RGB uint8 in the radiograph's frame: the radiograph, and one for every map, lungs outlined.

    "as-the-model-sees-it" is in the model's frame: the three channels side by side.
    """
    pixels = analysis.radiograph.pixels
    pictures = {
        "radiograph": overlay.draw_outline(np.repeat(pixels[:, :, None], 3, axis=2), analysis.lungs.mask),
        "as-the-model-sees-it": np.repeat(np.hstack(list(analysis.stack.transpose(2, 0, 1)))[:, :, None], 3, axis=2),
    }
    for method, explanation in analysis.explanations.items():
        blended = overlay.blend(
            pixels, to_original(explanation.heatmap, analysis), opacity, colour_map, signed=explanation.signed
        )
        pictures[method] = overlay.draw_outline(blended, analysis.lungs.mask)
    return pictures


def files(analysis: Analysis) -> dict[str, bytes]:
    """What :func:`write` writes, by file name: ``analysis.json``, ``heatmaps.npz`` (raw float32, model's frame, by
    method, and the bool array "lungs") and a PNG for every panel."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {method: e.heatmap for method, e in analysis.explanations.items()}
    np.savez_compressed(buffer, **arrays, lungs=analysis.model_lungs)
    found = {"analysis.json": dumps(analysis).encode(), "heatmaps.npz": buffer.getvalue()}
    for name, picture in panels(analysis).items():
        found[f"{name}.png"] = cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()
    return found


def write(analysis: Analysis, folder: Path) -> None:
    """Write :func:`files` to a folder, all of them or none.

    Raises
    ------
    SettingsError
        If a file cannot be written; the folder then holds what it held before.
    """
    write_files(folder, files(analysis))
