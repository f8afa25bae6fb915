"""Command line: ``python -m cxnet analyse | report | predict | lungs | train | runs | audit | exam | dataset``.

Exit code 0 if all went well, 1 if a file failed (the others are still done), 2 for wrong use.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxnet import __version__
from cxnet.errors import CxnetError, RadiographError, SettingsError
from cxnet.radiograph import MAX_BYTES, open_radiograph, open_radiographs
from cxnet.writing import refusal, write_files

#: Of every command that asks a network about radiographs.
_MODEL: dict[str, Any] = {
    "default": "covid-cxnet",
    "metavar": "NAME",
    "help": "covid-cxnet (the default), another of weights/manifest.toml, or RUN/fold-K of a stored run",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; wrong use exits with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m cxnet",
        description="See why a chest-radiograph classifier decides as it does. Research and teaching only.",
    )
    parser.add_argument("--version", action="version", version=f"cxnet {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    analyse = commands.add_parser("analyse", help="explain one radiograph: JSON, raw maps and PNG panels")
    analyse.add_argument("file", type=Path, metavar="FILE", help="a radiograph: PNG, JPEG, WebP, TIFF or DICOM")
    analyse.add_argument("--model", **_MODEL)
    analyse.add_argument("--target", metavar="CLASS", help="class to explain; the predicted one when left out")
    analyse.add_argument(
        "--methods", default="grad-cam,lime", help="comma-separated: grad-cam, grad-cam++, score-cam, lime"
    )
    analyse.add_argument("--samples", type=int, default=1000, help="most perturbed pictures that LIME may use")
    analyse.add_argument("--seed", type=int, default=0)
    analyse.add_argument("--out", type=Path, default=Path("analysis"), metavar="DIR")
    analyse.set_defaults(run=_analyse)

    _add_report(commands)

    predict = commands.add_parser("predict", help="probabilities of many radiographs as a CSV")
    predict.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a radiograph, or a zip of radiographs")
    predict.add_argument("--model", **_MODEL)
    predict.add_argument("--csv", type=Path, required=True, metavar="OUT")
    predict.set_defaults(run=_predict)

    lungs = commands.add_parser("lungs", help="lung masks of many radiographs as PNG, 0 or 255")
    lungs.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a radiograph")
    lungs.add_argument("--out", type=Path, required=True, metavar="DIR")
    lungs.set_defaults(run=_lungs)

    _add_training(commands)
    _add_runs(commands)
    _add_audit(commands)
    _add_exam(commands)
    _add_dataset(commands)

    options = parser.parse_args(arguments)
    try:
        code = int(options.run(options))
        sys.stdout.flush()  # here, where a closed pipe is understood
        return code
    except RadiographError as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        print("cxnet: stopped before anything could be kept", file=sys.stderr)
        return 130
    except CxnetError as error:
        _complain(error)
        return 2
    except BrokenPipeError:  # whoever read the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _complain(refusal(error))
        return 2


def _complain(error: Exception | str, file: Path | str | None = None) -> None:
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
    for note in analysis.radiograph.notes:
        _complain(note, options.file)
    for reason in analysis.lungs.reasons:
        _complain(f"check the mask of the lungs: {reason}", options.file)
    for name, probability in zip(analysis.card.classes, analysis.prediction.probabilities, strict=True):
        print(f"model output for {name}: {probability:.3f}")
    print(f"explained class: {analysis.target}; written to {options.out}")
    return 0


def _add_report(commands: Any) -> None:
    report = commands.add_parser("report", help="a report on one radiograph: HTML, PDF, and a bundle for auditors")
    report.add_argument("file", metavar="FILE", help="a radiograph, or sample:NAME:SIZE_PX for a synthetic one")
    report.add_argument("--out", type=Path, required=True, metavar="DIR")
    report.add_argument("--model", **_MODEL)
    report.add_argument("--target", metavar="CLASS", help="class to explain; the predicted one when left out")
    report.add_argument("--methods", default="grad-cam,lime", help="as for analyse; '' for none")
    report.add_argument("--seed", type=int, default=0)
    report.add_argument("--superpixels", type=int, default=60, help="superpixels aimed at")
    report.add_argument("--lime", nargs="+", default=[], metavar="NAME=VALUE", help="such as samples=500 design=random")
    report.add_argument(
        "--enhancement", nargs="+", default=[], metavar="NAME=VALUE", help="unlike training, such as text_removal=True"
    )
    report.add_argument(
        "--audit", nargs="?", const="full", choices=["full", "exhaustive"], help="add causal tests and the verdict"
    )
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    from cxnet import report, verdict
    from cxnet.analysis import analyse, load_models

    settings = report.settings_of(
        options.model,
        options.target,
        options.methods,
        options.seed,
        options.superpixels,
        options.lime,
        options.enhancement,
    )
    radiograph = report.open_case(options.file)
    models = load_models(options.model)
    analysis = analyse(radiograph, models, settings)
    audit = verdict.audit(analysis, models, options.audit) if options.audit else None
    report.write(analysis, options.out, audit)
    print(f"explained class: {analysis.target}; report.html, report.pdf and bundle.zip written to {options.out}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from cxnet.classifier import Classifier
    from cxnet.lungs import LungSegmenter, look_at

    classifier = Classifier(options.model)
    region = classifier.card.region
    segmenter = None if region == "full" else LungSegmenter()
    probabilities = [f"probability_{name}" for name in classifier.classes]
    columns = ["file", "sha256", *probabilities, "predicted_class", "error", "notes"]
    failed = 0
    rows = []
    for file in options.files:
        for number, found in open_radiographs(file):
            name = str(file) if number is None else f"{file}, file {number} in it"
            row = dict.fromkeys(columns, "") | {"file": name}
            if isinstance(found, RadiographError):
                failed += 1
                row |= {"sha256": _checksum(file) if number is None else "", "error": str(found)}
                _complain(found, name)
            else:
                row["sha256"] = found.sha256
                pixels, notes = found.pixels, list(found.notes)
                if segmenter is not None:
                    lungs = segmenter(pixels)
                    notes += [f"Check the mask of the lungs: {reason}." for reason in lungs.reasons]
                    pixels, _ = look_at(pixels, lungs, region)
                prediction = classifier.predict(classifier.prepare(pixels))
                for column, probability in zip(probabilities, prediction.probabilities, strict=True):
                    row[column] = f"{probability:.8f}"
                row |= {"predicted_class": prediction.predicted, "notes": " ".join(notes)}
            rows.append(row)
    write_files(options.csv.parent, {options.csv.name: _table(columns, rows)})
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


def _table(columns: list[str], rows: Iterable[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _lungs(options: argparse.Namespace) -> int:
    from cxnet.lungs import LungSegmenter

    stems = [file.stem for file in options.files]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise SettingsError(
            f"Several files would be written as {twice[0]}.png; give them in separate calls with another --out."
        )
    segmenter = LungSegmenter()
    failed = 0
    for file in options.files:
        try:
            lungs = segmenter(open_radiograph(file).pixels)
        except RadiographError as error:
            failed += 1
            _complain(error, file)
            continue
        picture = lungs.mask.astype(np.uint8) * 255
        write_files(options.out, {f"{file.stem}.png": cv2.imencode(".png", picture)[1].tobytes()})
        for reason in lungs.reasons:
            print(f"{file}: check the mask: {reason}", file=sys.stderr)
    print(f"{len(stems) - failed} of {len(stems)} masks written to {options.out}")
    return 1 if failed else 0


# ---------------------------------------------------------------------------------------------------------- training


def _add_training(commands: Any) -> None:
    train = commands.add_parser("train", help="train an architecture in patient-grouped folds and store the run")
    train.add_argument("--dataset", type=Path, required=True, metavar="MANIFEST", help="CSV, or a folder per class")
    train.add_argument("--architecture", required=True, metavar="NAME")
    train.add_argument("--recipe", required=True, metavar="NAME")
    train.add_argument("--out", type=Path, required=True, metavar="runs/NAME")
    train.add_argument("--classes", default="", help="comma-separated labels, in the order of the outputs")
    train.add_argument(
        "--region", help="full, lung-crop, lung-mask or background; the architecture's own when left out"
    )
    train.add_argument("--folds", type=int, default=5)
    train.add_argument("--only", type=int, nargs="+", default=[], metavar="FOLD", help="train only these folds")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--epochs", type=int, help="instead of the recipe's")
    train.add_argument("--batch-size", type=int, help="instead of the recipe's")
    train.add_argument(
        "--initial", type=Path, metavar="FILE", help="weights to start from: .npz or a CheXNet checkpoint"
    )
    train.add_argument("--mixed-precision", action="store_true", help="bfloat16 where it is safe; for GPUs")
    train.add_argument(
        "--masks", metavar="COLUMN", help="column of the manifest with lung masks, instead of segmenting"
    )
    train.add_argument("--cache", type=Path, metavar="DIR", help="where prepared pictures are kept; ~/.cache/cxnet")
    train.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    from cxnet.training import TrainingSettings, train

    run = train(
        TrainingSettings(
            dataset=options.dataset,
            architecture=options.architecture,
            recipe=options.recipe,
            out=options.out,
            classes=tuple(name.strip() for name in options.classes.split(",") if name.strip()),
            region=options.region,
            folds=options.folds,
            only=tuple(options.only),
            seed=options.seed,
            epochs=options.epochs,
            batch_size=options.batch_size,
            initial=options.initial,
            mixed_precision=options.mixed_precision,
            cache=options.cache,
            mask_column=options.masks,
        ),
        say=lambda sentence: print(sentence, flush=True),
    )
    _show_run(run)
    return 1 if run.info["stopped"] else 0


# -------------------------------------------------------------------------------------------------------------- runs


def _add_runs(commands: Any) -> None:
    runs = commands.add_parser("runs", help="stored runs: list, show, check, import")
    runs.set_defaults(run=_list_runs, root=None)
    actions = runs.add_subparsers(metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="all runs of a folder")
    listed.add_argument(
        "--root", type=Path, metavar="DIR", help="the product's own and those of CXNET_RUNS when left out"
    )
    listed.set_defaults(run=_list_runs)
    for name, what, function in (
        ("show", "confusion matrix and figures with intervals", _show),
        ("check", "checksums, classes, overlapping folds", _check),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("folder", type=Path, metavar="RUN", help="its folder, or its name as `runs list` has it")
        action.set_defaults(run=function)
    imported = actions.add_parser(
        "import",
        help="make a run of someone else's predictions",
        description="Make a run of someone else's predictions, one class a case. It has figures and comparisons, but no "
        "network and no maps, so it cannot be audited; a network that is here can be, on the folder of its radiographs "
        "(audit FOLDER --model NAME).",
    )
    imported.add_argument(
        "csv",
        type=Path,
        metavar="CSV",
        help="columns case (an id; the sha256 of the file if the radiographs shall be shown), true, and predicted or one "
        "probability_<class> a class with sum 1; if known, fold, file (path below the data set's folder), group (patient), "
        "source, view",
    )
    imported.add_argument("--out", type=Path, required=True, metavar="runs/NAME")
    imported.add_argument("--classes", default="", help="comma-separated, in the order wanted")
    imported.add_argument("--note", default="")
    imported.set_defaults(run=_import_run)


def _list_runs(options: argparse.Namespace) -> int:
    from cxnet import runs

    if options.root and not options.root.is_dir():
        raise SettingsError(f"There is no folder {options.root}; give --root a folder of runs.")
    found: list[runs.Run] = []
    problems: list[str] = []
    for root in [options.root] if options.root else runs.folders():
        more, said = runs.list_runs(root)
        found, problems = found + more, problems + said
    for sentence in problems:
        print(f"cxnet: {sentence}", file=sys.stderr)
    if found:
        print(runs.describe(found).to_string(index=False))
    else:
        print("There is no run.")
    return 1 if problems else 0


def _named_run(folder: Path) -> Any:
    from cxnet.runs import find_run, open_run

    return find_run(folder.name) if not folder.exists() and folder == Path(folder.name) else open_run(folder)


def _show(options: argparse.Namespace) -> int:
    _show_run(_named_run(options.folder))
    return 0


def _show_run(run: Any) -> None:
    import pandas as pd

    from cxnet.statistics import ConfusionMatrix, check_folds, patient_metrics

    table = run.table
    if "group" not in table.columns:
        table = table.assign(group=None)
    matrix = ConfusionMatrix.from_cases(list(table["true"]), list(table["predicted"]), run.classes, list(table["case"]))
    checked = check_folds(table)
    print(f"{run.info.get('title', run.name)}: {len(table)} cases in {len(run.folds)} fold(s), out of fold")
    print(pd.DataFrame(matrix.counts, index=[f"true {c}" for c in run.classes], columns=list(run.classes)).to_string())
    for sentence in checked.problems:
        print(f"beware: {sentence}")
    answers = list(table["true"]), list(table["predicted"]), list(table["group"])
    for metric in patient_metrics(*answers, run.classes, withhold=checked.intervals_reason):
        interval = f" [{metric.low:.3f}, {metric.high:.3f}], {metric.interval}" if metric.low is not None else ""
        value = f"{metric.value:.3f}{interval}" if metric.value is not None else f"undefined: {metric.reason}"
        print(f"{metric.name}{' ' + metric.cls if metric.cls else ''}: {value}")


def _check(options: argparse.Namespace) -> int:
    from cxnet.runs import check

    problems = check(_named_run(options.folder))
    for sentence in problems:
        print(f"cxnet: {sentence}", file=sys.stderr)
    if not problems:
        print("The run is whole.")
    return 1 if problems else 0


def _import_run(options: argparse.Namespace) -> int:
    from cxnet.runs import import_predictions

    classes = [name.strip() for name in options.classes.split(",") if name.strip()]
    _show_run(import_predictions(options.csv, options.out, classes or None, options.note, say=_complain))
    return 0


# ------------------------------------------------------------------------------------------------------------- audit


def _add_audit(commands: Any) -> None:
    audit = commands.add_parser("audit", help="audit a stored run, or a folder of radiographs, case by case")
    audit.add_argument(
        "source", type=Path, metavar="RUN_OR_FOLDER",
        help="a stored run (its folder, or its name as `runs list` has it), a folder of radiographs, or one radiograph",
    )  # fmt: skip
    audit.add_argument(
        "--images", type=Path, action="append", default=[], metavar="DIR",
        help="where the run's radiographs lie; the folders of CXNET_IMAGES when left out",
    )  # fmt: skip
    audit.add_argument("--model", metavar="NAME", help="for a folder of radiographs: " + _MODEL["help"])
    audit.add_argument(
        "--tier", choices=("fast", "full"), default="fast", help="fast: map and figures; full: causal tests and verdict"
    )
    audit.add_argument("--lime", action="store_true", help="explain every case with LIME too; several times as long")
    audit.add_argument(
        "--lime-seeds", type=int, metavar="N", help="run LIME with N seeds and tell how stable it is; one when left out"
    )
    how = audit.add_mutually_exclusive_group()
    how.add_argument("--workers", type=int, metavar="N", help="processes of this machine; one a core when left out")
    how.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, as tcp://host:8786")
    audit.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's own folder, as a rule")
    audit.set_defaults(run=_audit)


def _audit(options: argparse.Namespace) -> int:
    from cxnet.batch import plan, run_audit

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    if options.lime_seeds is not None and (options.lime_seeds < 1 or not options.lime):
        raise SettingsError("--lime-seeds goes with --lime and must be at least 1.")
    lime_seeds = (options.lime_seeds or 1) if options.lime else 0
    planned = plan(options.source, options.images, options.model, options.tier, lime_seeds=lime_seeds)
    workers = options.workers if options.workers is not None else os.cpu_count() or 1
    try:
        path, failed = run_audit(planned, options.out, workers=workers, scheduler=options.scheduler, say=say)
    except KeyboardInterrupt:
        print("cxnet: stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    if failed:
        _say_failed(path)
    print(f"{len(planned.tasks) - failed} of {len(planned.tasks)} cases audited; written to {path}")
    return 1 if failed else 0


def _say_failed(table: Path) -> None:
    """Which files of an audit failed and why: the first twenty."""
    import pandas as pd

    rows = pd.read_parquet(table, columns=["file", "error"]).dropna(subset="error").to_dict("records")
    for row in rows[:20]:
        _complain(row["error"], row["file"])
    if len(rows) > 20:
        print(f"{len(rows) - 20} more failed; the column error of {table} says why", file=sys.stderr)


# -------------------------------------------------------------------------------------------------------------- exam


def _add_exam(commands: Any) -> None:
    exam = commands.add_parser("exam", help="how well the audit tells networks that cheat from networks that do not")
    exam.add_argument("--show", action="store_true", help="print the stored results instead of sitting the exam again")
    exam.add_argument("--write", action="store_true", help="store the results and the thresholds that they give")
    exam.add_argument("--workers", type=int, metavar="N", help="processes; one a core when left out")
    real = exam.add_argument_group("on real radiographs, with drawn opacities and planted shortcuts")
    real.add_argument("--data", type=Path, metavar="FOLDER_OR_MANIFEST", help="radiographs; phantoms when left out")
    real.add_argument("--label", default="Normal", help="take those of one label, so that nothing natural differs")
    real.add_argument("--source", metavar="NAME", help="and of one collection; the most frequent when left out")
    real.add_argument(
        "--networks", type=Path, metavar="DIR",
        help="train networks into DIR, or go on with those there; the shipped ones when left out",
    )  # fmt: skip
    exam.set_defaults(run=_exam)


def _exam(options: argparse.Namespace) -> int:
    from cxnet import exam

    if options.show:
        print("\n\n".join(exam.show(exam.stored(exam=which)) for which in (exam.PHANTOMS, exam.REAL)))
        return 0
    if options.data is None and options.networks is not None:
        raise SettingsError("Networks are trained on real radiographs here; name them with --data.")
    workers = options.workers if options.workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise SettingsError("The exam needs at least one process; give --workers 1 or more.")

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    if options.data is not None:
        found, networks = exam.run_real(
            options.data, options.networks, options.label, options.source, workers, say=say
        )  # fmt: skip
    else:
        found, _ = exam.run(workers, say=say)
    print(exam.show(found))
    if options.write and options.data is not None:
        exam.write_real(found, None if options.networks is None else networks)
        print("written: cxnet/exam/real-cases.parquet and real-results.json, and real-fixtures.npz of new networks")
    elif options.write:
        exam.write(found)
        print("written: cxnet/exam/cases.parquet, cxnet/exam/results.json and cxnet/thresholds.toml")
    return 0


# ---------------------------------------------------------------------------------------------------------- data sets


def _add_dataset(commands: Any) -> None:
    dataset = commands.add_parser("dataset", help="make a manifest of a public collection or a folder per class")
    actions = dataset.add_subparsers(metavar="ACTION", required=True)
    imported = actions.add_parser("import", help="labels, patients and near-duplicates of a collection")
    imported.add_argument("source", type=Path)
    imported.add_argument(
        "--layout", default="auto",
        help="auto, folders, covid-19-radiography-database, covid-chestxray-dataset, covid-cxnet or nih",
    )  # fmt: skip
    imported.add_argument("--out", type=Path, required=True, metavar="MANIFEST.csv")
    imported.add_argument("--no-near-duplicates", action="store_true", help="do not look for them (faster)")
    imported.set_defaults(run=_import_dataset)


def _import_dataset(options: argparse.Namespace) -> int:
    from cxnet.dataset import import_dataset, write_manifest

    result = import_dataset(
        options.source, options.layout, copies=not options.no_near_duplicates, workers=os.cpu_count() or 1
    )
    write_manifest(result.table, options.out)
    for sentence in result.notes:
        print(sentence)
    for entry in result.skipped[:20]:
        print(f"left out: {entry.file}: {entry.reason}", file=sys.stderr)
    if len(result.skipped) > 20:
        print(f"left out: {len(result.skipped) - 20} more", file=sys.stderr)
    counts = ", ".join(f"{label} {count}" for label, count in result.table["label"].value_counts().items())
    print(
        f"{len(result.table)} radiographs of {result.table['group'].nunique()} groups ({counts}); wrote {options.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
