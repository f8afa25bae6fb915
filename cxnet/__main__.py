"""Command line: ``python -m cxnet analyse | predict | lungs``.

Exit code 0 if all went well, 1 if a file failed (the others are still done), 2 for wrong use.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from cxnet import __version__
from cxnet.errors import CxnetError, RadiographError, SettingsError
from cxnet.radiograph import MAX_BYTES, open_radiograph


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; wrong use exits with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m cxnet",
        description="See why a chest-radiograph classifier decides as it does. Research and teaching only.",
    )
    parser.add_argument("--version", action="version", version=f"cxnet {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    analyse = commands.add_parser("analyse", help="explain one radiograph: JSON, raw maps and PNG panels")
    analyse.add_argument("file", type=Path)
    analyse.add_argument("--model", default="covid-cxnet")
    analyse.add_argument("--target", metavar="CLASS", help="class to explain; the predicted one when left out")
    analyse.add_argument(
        "--methods", default="grad-cam,lime", help="comma-separated: grad-cam, grad-cam++, score-cam, lime"
    )
    analyse.add_argument("--samples", type=int, default=1000, help="most perturbed pictures that LIME may use")
    analyse.add_argument("--seed", type=int, default=0)
    analyse.add_argument("--out", type=Path, default=Path("analysis"), metavar="DIR")
    analyse.set_defaults(run=_analyse)

    predict = commands.add_parser("predict", help="probabilities of many radiographs as a CSV")
    predict.add_argument("files", type=Path, nargs="+", metavar="FILE")
    predict.add_argument("--model", default="covid-cxnet")
    predict.add_argument("--csv", type=Path, required=True, metavar="OUT")
    predict.set_defaults(run=_predict)

    lungs = commands.add_parser("lungs", help="lung masks of many radiographs as PNG, 0 or 255")
    lungs.add_argument("files", type=Path, nargs="+", metavar="FILE")
    lungs.add_argument("--out", type=Path, required=True, metavar="DIR")
    lungs.set_defaults(run=_lungs)

    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except RadiographError as error:
        _complain(error)
        return 1
    except (CxnetError, OSError) as error:
        _complain(error)
        return 2


def _complain(error: Exception, file: Path | None = None) -> None:
    print(f"{file}: {error}" if file else f"cxnet: {error}", file=sys.stderr)


def _analyse(options: argparse.Namespace) -> int:
    from cxnet.analysis import Settings, analyse, load_models, write
    from cxnet.explain.lime import LimeSettings

    methods = tuple(dict.fromkeys(method.strip() for method in options.methods.split(",") if method.strip()))
    if not methods:
        raise SettingsError("No method was given; use --methods grad-cam,lime.")
    settings = Settings(
        model=options.model,
        target=options.target,
        methods=methods,
        lime=LimeSettings(samples=options.samples, seed=options.seed),
        seed=options.seed,
    )
    models = load_models(options.model)
    if options.target is not None and options.target not in models.classifier.classes:
        raise SettingsError(f"Unknown class {options.target!r}; choose from {', '.join(models.classifier.classes)}.")
    analysis = analyse(open_radiograph(options.file), models, settings)
    write(analysis, options.out)
    for name, probability in zip(analysis.card.classes, analysis.prediction.probabilities, strict=True):
        print(f"model output for {name}: {probability:.3f}")
    print(f"explained class: {analysis.target}; written to {options.out}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from cxnet.classifier import Classifier

    classifier = Classifier(options.model)
    columns = ["file", "sha256", *(f"probability_{name}" for name in classifier.classes), "predicted_class", "error"]
    failed = 0
    rows = []
    for file in options.files:
        row = dict.fromkeys(columns, "") | {"file": str(file)}
        try:
            radiograph = open_radiograph(file)
            row["sha256"] = radiograph.sha256
            prediction = classifier.predict(classifier.prepare(radiograph.pixels))
            for name, probability in zip(classifier.classes, prediction.probabilities, strict=True):
                row[f"probability_{name}"] = f"{probability:.8f}"
            row["predicted_class"] = prediction.predicted
        except RadiographError as error:
            failed += 1
            row |= {"sha256": _checksum(file), "error": str(error)}
            _complain(error, file)
        rows.append(row)
    _write_table(options.csv, columns, rows)
    print(f"{len(rows) - failed} of {len(rows)} radiographs done; written to {options.csv}")
    return 1 if failed else 0


def _checksum(file: Path) -> str:
    """sha256 of a file that could not be read as a radiograph; empty if it is no file or too large."""
    try:
        if not file.is_file() or file.stat().st_size > MAX_BYTES:
            return ""
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def _write_table(path: Path, columns: list[str], rows: Iterable[dict[str, str]]) -> None:
    """Write a CSV beside its destination first, so that a half-written table never stands there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", newline="", encoding="utf-8", dir=path.parent, prefix=".cxnet-", delete=False
    ) as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def _lungs(options: argparse.Namespace) -> int:
    from cxnet.lungs import LungSegmenter

    stems = [file.stem for file in options.files]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise SettingsError(f"Several files would be written as {twice[0]}.png; give them in separate calls.")
    segmenter = LungSegmenter()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for file in options.files:
        try:
            lungs = segmenter(open_radiograph(file).pixels)
        except RadiographError as error:
            failed += 1
            _complain(error, file)
            continue
        picture = lungs.mask.astype(np.uint8) * 255
        (options.out / f"{file.stem}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        for reason in lungs.reasons:
            print(f"{file}: check the mask: {reason}", file=sys.stderr)
    print(f"{len(stems) - failed} of {len(stems)} masks written to {options.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
