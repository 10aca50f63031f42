"""The command line: each verb is a thin call of the public function of its name.

What a verb needs is imported inside it, so that ``resight --help`` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from .._version import __version__
from ..config import defaults
from ..errors import BAD, ResightError, listed
from ..io.object_store import is_remote
from ..io.terminal import WIDTH, width_of
from . import guard as console
from .cloud import cloud_app
from .configured import config_of, configured, overrides_of
from .data import data_app
from .frame import (
    DryRun,
    Force,
    Json,
    Merge,
    NoLabels,
    Out,
    PartOf,
    ResightGroup,
    argument,
    option,
    quoted,
    say,
    suggest,
    verb,
    without,
    wrote,
)

log = logging.getLogger(__name__)

app = typer.Typer(
    cls=ResightGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tunes a pretrained Faster R-CNN on your own images: annotations, records, training, COCO evaluation, "
    "export. Start with `resight demo`, or with `resight data check` on a folder of your own.",
)
app.add_typer(data_app, name="data")
zoo_app = typer.Typer(cls=ResightGroup, help="Pretrained models of TensorFlow's detection zoo.")
app.add_typer(zoo_app, name="zoo")
app.add_typer(cloud_app, name="cloud")


LENGTH = f"{defaults.EPOCHS}, repeats not counted, within {defaults.MIN_STEPS:,} to {defaults.MAX_STEPS:,} steps"
SIZE = f"{defaults.MIN_SIZE},{defaults.MAX_SIZE}"
SCORE = f"the model's own threshold, else {defaults.SCORE}"
Device = Annotated[str, option("DEVICE", "auto, cpu, cuda or cuda:N")]
Precision = Annotated[defaults.Precision, option(None, "Arithmetic of the network")]
Model = Annotated[str, argument("MODEL", "A run folder, a checkpoint or an exported model")]
Labels = Annotated[str | None, option("MAP", "A label map that names the classes")]
Detections = Annotated[int | None, option("N", "Maximum detections per image", "the model's", min=1)]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"resight {__version__}")
        raise typer.Exit()


Version = Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")]


@app.callback()
def _root(version: Version = False) -> None:
    pass


@verb(app, "demo")
def demo(
    out: Out = "demo",
    seed: Annotated[int, option("N", "Random seed", min=0)] = defaults.SEED,
    force: Force = False,
) -> None:
    """The complete workflow on generated road scenes, offline, on a CPU: from annotations to an exported model."""
    from ..commands.demo import demo as run_demo

    console.show(run_demo(out, seed=seed, force=force).text())
    wrote(out, "data check photos", "on annotated images of your own")


@verb(app, "train")
def train(
    config: Annotated[
        str | None, argument("CONFIG", "A TOML file (see --show-config) or TFOD's pipeline.config; or its address")
    ] = None,
    data: Annotated[str | None, option("RECORDS", "Records folder")] = None,
    out: Annotated[str | None, option("PATH", "Run folder", "runs/DATE-TIME", "--out", "-o")] = None,
    model: Annotated[str | None, option("NAME", "A timm backbone or a torchvision model", defaults.MODEL)] = None,
    start: Annotated[str | None, option("MODEL", "Weights to start from, or none", "pretrained")] = None,
    size: Annotated[str | None, option("MIN,MAX", "Pixels of the short and the long side", SIZE)] = None,
    epochs: Annotated[float | None, option("N", "Passes over the data", LENGTH)] = None,
    steps: Annotated[int | None, option("N", "Optimizer steps, instead of epochs")] = None,
    batch: Annotated[int | None, option("N", "Batch size", defaults.BATCH_SIZE)] = None,
    max_minutes: Annotated[float | None, option("N", "Minutes of training, for which the input size is chosen")] = None,
    device: Annotated[str | None, option("DEVICE", "cpu, cuda or cuda:N", "cuda where there is one")] = None,
    devices: Annotated[int, option("N", "Processes that share each batch, each on a GPU of its own", min=1)] = 1,
    seed: Annotated[int | None, option("N", "Random seed", defaults.SEED)] = None,
    set: Annotated[list[str] | None, option("KEY=VALUE", "Any key that --show-config lists; repeatable")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out; start it if it is new.")] = False,
    dry_run: DryRun = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the configuration and stop.")] = False,
) -> int:
    """Trains a detector. Only --data is required."""
    overrides = overrides_of(locals())
    if resume and out is None:
        raise ResightError("needs -o RUN", where="--resume", fix="Name the run: resight train --resume -o RUN")
    from ..config.toml_text import to_toml

    settings, pipeline = configured(config or (config_of(str(out)) if resume else None), overrides, show_config)
    if show_config:
        print(to_toml(settings))
        if pipeline:
            print(pipeline.text())
        return console.DONE
    if not (settings.data.path or settings.data.train):
        fix = "Name a records folder: resight train --data RECORDS (resight data build makes one)."
        no_run = f"; {out} holds no run to continue" if resume else ""
        raise ResightError(f"there is nothing to train on{no_run}", where="data.path", fix=fix)
    say(f"Reading {settings.data.path or listed(settings.data.train)}")  # what is imported now takes some seconds
    from ..training.train import train as run_train

    source = pipeline.source if pipeline else None
    result = run_train(settings, out, resume=resume, dry_run=dry_run, devices=devices, pipeline=source)
    console.close_with(result.text())
    if not dry_run and result.exit_code == console.DONE:
        if result.evaluated and not is_remote(result.run):
            try:
                _write_report(result.run, result.evaluated)
            except ResightError as error:  # the training is done all the same
                log.warning("no report: %s", error)
        wrote(str(result.run), f"evaluate {quoted(result.run)}")
    return int(result.exit_code)


def _write_report(run: str, split: str = "test") -> None:
    from ..reporting.report import report as run_report

    say(f"Wrote {run_report(run, split=split).path}")


@verb(app, "evaluate")
def evaluate(
    model: Model,
    data: Annotated[str | None, option("RECORDS", "Records folder", "that of the run")] = None,
    split: Annotated[str, option("SPLIT", "train, val or test")] = "test",
    limit: Annotated[int | None, option("N", "Evaluate only the first N images", min=1)] = None,
    out: Annotated[str | None, option("PATH", "Folder", "evaluation in the run folder", "--out", "-o")] = None,
    require: Annotated[list[str] | None, option("KEY=VALUE", "Exit code 1 when missed, e.g. AP50=.80")] = None,
    ignore_difficult: Annotated[bool, typer.Option("--ignore-difficult", help="Leave difficult boxes out.")] = False,
    labels: Labels = None,
    detections: Detections = None,
    device: Device = "auto",
    precision: Precision = "float32",
    part: PartOf = None,
    merge: Merge = None,
    report: Annotated[bool, typer.Option("--report", help="Write a page of it, too: see `resight report`.")] = False,
    force: Force = False,
    json: Json = False,
) -> int:
    """Measures a model: the 12 COCO numbers, AP of each class, the losses, the operating point."""
    options = without(locals(), "model", "data", "report", "json")
    if report and (part or (is_remote(model) and out is None)):
        message = "a report is written on this machine, and the run is not"
        fix = "Give it to --merge." if part else "Name a folder for the evaluation: --out DIR"
        raise ResightError("is of all parts together" if part else message, where="--report", fix=fix)
    from ..evaluation.evaluate import evaluate as run_evaluate

    result = run_evaluate(model, data, **options | {"require": tuple(require or ())})
    console.show_result(json, lambda: result.metrics, result.text)
    if json:  # the text says what it wrote
        say(f"Wrote {result.path}")
    if report:
        _write_report(os.path.dirname(result.path))
    for miss in result.missed:
        log.error("requirement not met: %s", miss)
    if part:
        remark = "when all parts are done, with the same data and options"
        suggest(f"evaluate {quoted(model)} --merge {quoted(out)}", remark)
    else:
        suggest(f"predict {quoted(model)} PHOTOS -o found")
    return BAD if result.missed else console.DONE


@verb(app, "report")
def report(
    runs: Annotated[list[str], argument("RUN...", "Run folders, all evaluated on the same images")],
    split: Annotated[str, option("SPLIT", "train, val or test")] = "test",
    out: Annotated[str | None, option("PATH", "The page", "report.html beside metrics.json", "--out", "-o")] = None,
    plots: Annotated[str | None, option("DIR", "Folder for the charts as SVG files")] = None,
    force: Force = False,
    json: Json = False,
) -> int:
    """One page that shows where a detector fails, and what to do about it; of several runs, what differs."""
    from ..reporting.report import report as run_report

    result = run_report(*runs, split=split, out=out, plots=plots, force=force)
    console.show_result(json, lambda: result.numbers, result.text)
    if json:  # the text says what it wrote
        say(f"Wrote {result.path}")
    return console.DONE


@verb(app, "predict")
def predict(
    model: Annotated[str | None, argument("MODEL", "A run folder, a checkpoint or an exported model")] = None,
    inputs: Annotated[
        list[str] | None, argument("INPUT...", "Images, videos, folders of images, and s3:// addresses of the same")
    ] = None,
    out: Out = "predictions",
    score: Annotated[
        float | None, option("SHARE", "Score threshold of what is drawn and saved", SCORE, min=0, max=1)
    ] = None,
    nms_iou: Annotated[float | None, option("SHARE", "NMS IoU threshold", "the model's", min=0, max=1)] = None,
    class_agnostic_nms: Annotated[bool, typer.Option("--class-agnostic-nms", help="Class-agnostic NMS.")] = False,
    no_labels: NoLabels = False,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Draw no pictures.")] = False,
    crops: Annotated[bool, typer.Option("--crops", help="Cut each detection out, into OUT/crops.")] = False,
    save: Annotated[
        defaults.SaveFormat | None, option(None, "Write images and detections as a data set, OUT/dataset", "none")
    ] = None,
    frame_stride: Annotated[int, option("N", "Look at every Nth frame of a video", min=1)] = 1,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Write detections.jsonl, a line each image.")] = False,
    part: PartOf = None,
    merge: Merge = None,
    labels: Labels = None,
    detections: Detections = None,
    device: Device = "auto",
    precision: Precision = "float32",
    force: Force = False,
    json: Json = False,
) -> int:
    """Finds objects in images and videos: drawn pictures and detections.json; exit code 1 when one could not be
    read."""
    options = without(locals(), "model", "inputs", "out", "json")
    from ..commands.predict import predict as run_predict
    from ..datasets.export import DATASET
    from ..inference.exported import is_exported

    report = run_predict(model, inputs or [], out, **options)
    console.show_result(json, lambda: report.json(), report.text)
    if part or merge or model is None:
        say(f"Wrote {report.path}")
        if part:
            suggest(f"predict --merge {quoted(out)} -o found", "when all parts are done")
    else:
        name = quoted(model)
        after = f"evaluate {name} --data RECORDS" if is_exported(model) else f"export {name} -o model.onnx"
        wrote(out, f"data check {quoted(Path(out, DATASET))}" if save else after)
    return console.DONE if report.ok else BAD


@verb(app, "export")
def export(
    model: Annotated[str, argument("MODEL", "A run folder, a checkpoint or a model folder of TFOD's")],
    out: Out,
    format: Annotated[defaults.ExportFormat, option(None, "savedmodel: TFOD models only")] = "onnx",
    input_type: Annotated[defaults.InputType, option(None, "What a client sends to a SavedModel")] = "image_tensor",
    labels: Labels = None,
    detections: Detections = None,
    precision: Annotated[defaults.ExportPrecision, option(None, "int8: OpenVINO only, where mAP allows")] = "float32",
    tune: Annotated[defaults.Tuning, option(None, "speed: as few proposals as mAP allows")] = "none",
    data: Annotated[str | None, option("RECORDS", "Records folder of both and of the pictures", "the run's")] = None,
    max_ap_loss: Annotated[
        float, option("LOSS", "mAP on val that both may cost together", min=0, max=1)
    ] = defaults.MAX_AP_LOSS,
    force: Force = False,
) -> int:
    """Exports a model and prints how close its detections are on your own pictures; beyond the tolerance it is not
    written, exit code 1."""
    options = without(locals(), "model", "format", "out")
    say(f"Reading {model}")  # what is imported now takes some seconds
    from ..exporting.export import export as run_export

    report = run_export(model, format, out, **options)
    console.show(report.text())
    if not report.ok:
        return BAD
    wrote(out, f"predict {quoted(report.model)} PHOTOS -o found")
    return console.DONE


@verb(app, "bench")
def bench(
    models: Annotated[list[str], argument("MODEL...", "Run folders, checkpoints and exported models")],
    images: Annotated[str, option("PHOTOS", "An image, or a folder of images")],
    limit: Annotated[int, option("N", "Look at N of the images", min=1)] = 20,
    threads: Annotated[int | None, option("N", "Also with N threads", "one a core", min=1)] = None,
    data: Annotated[str | None, option("RECORDS", "Also measure mAP on a records folder")] = None,
    split: Annotated[str, option("SPLIT", "train, val or test")] = "test",
    device: Device = "auto",
    json: Json = False,
) -> int:
    """Times models on your pictures side by side; a run also as an export for each engine that is installed."""
    options = without(locals(), "models", "images", "json")
    from ..commands.bench import bench as run_bench

    report = run_bench(models, images, **options)
    console.show_result(json, lambda: report.json(), report.text)
    return console.DONE


@verb(app, "serve")
def serve(
    model: Annotated[str, argument("MODEL", "A model, or a folder whose numbered subfolders hold its versions")],
    name: Annotated[str | None, option("NAME", "The model's name for clients", "its file's or folder's")] = None,
    host: Annotated[str, option("HOST", "Address to listen at; 0.0.0.0 is all of this machine")] = defaults.SERVE_HOST,
    port: Annotated[int, option("PORT", "Port; 0 takes one that is free")] = defaults.SERVE_PORT,
    workers: Annotated[int | None, option("N", "Processes with the model", "cores / threads", min=1)] = None,
    threads: Annotated[int | None, option("N", "Threads of a worker", "cores / workers, else 1", min=1)] = None,
    queue: Annotated[int | None, option("N", "Requests that may wait; more get 429", "8 x workers", min=1)] = None,
    timeout: Annotated[float, option("SECONDS", "Seconds until a request gets 504")] = 20.0,
    max_mb: Annotated[int, option("N", "Megabytes of a request", min=1)] = defaults.SERVE_MB,
    max_megapixels: Annotated[int, option("N", "Megapixels of an image", min=1)] = defaults.SERVE_MEGAPIXELS,
    input_type: Annotated[
        defaults.ServedInput | None, option(None, "What clients of TensorFlow Serving send", "either")
    ] = None,
    token_file: Annotated[
        str | None, option("FILE", "File of a token that clients must send", "RESIGHT_SERVE_TOKEN, if set")
    ] = None,
    labels: Labels = None,
    device: Device = "auto",
) -> None:
    """Answers over HTTP: TensorFlow Serving's REST, Open Inference, and images by multipart."""
    options = without(locals(), "model")
    say(f"Loading {model}")  # what is imported now, and the model, takes some seconds
    from ..serving.serve import serve as run_serve

    run_serve(model, **options)


@verb(zoo_app, "list")
def zoo_list(json: Json = False) -> None:
    """Shows the models: published mAP, size, licence, and whether they are here already."""
    from ..tfod.zoo import zoo_rows, zoo_table

    console.show_result(json, zoo_rows, zoo_table)
    suggest("zoo fetch NAME")


@verb(zoo_app, "fetch")
def zoo_fetch(name: Annotated[str, argument("NAME", "A name of zoo list, or a .tar.gz")]) -> None:
    """Downloads a model once, resuming where a download broke off, and prints its folder."""
    from ..tfod.zoo import fetch

    folder = fetch(name)
    print(folder)
    suggest(f"zoo convert {quoted(folder)} -o RUN")


@verb(zoo_app, "convert")
def zoo_convert(
    checkpoint: Annotated[str, argument("CHECKPOINT", "A TFOD model folder or checkpoint, or a name from zoo list")],
    out: Out,
    config: Annotated[str | None, option("CONFIG", "Its pipeline.config, if elsewhere")] = None,
    labels: Labels = None,
) -> None:
    """Makes a run folder of a model that TFOD trained."""
    from ..commands.convert import convert

    console.show(convert(checkpoint, out, config=config, labels=labels))
    wrote(out, f"evaluate {quoted(out)} --data RECORDS")


@verb(app, "runs")
def runs(
    folder: Annotated[str, argument("DIR", "Folder of run folders, or one run")] = "runs",
    json: Json = False,
) -> None:
    """Shows runs side by side."""
    from ..commands.runs import best_run, read_runs, runs_table

    found = read_runs(folder)
    console.show_result(json, lambda: found, lambda: runs_table(found, width_of(sys.stdout) or WIDTH))
    if best := best_run(found):
        suggest(f"evaluate {quoted(best)}")


@verb(app, "doctor")
def doctor(device: Device = "auto", json: Json = False) -> int:
    """Checks the installation and the machine; exit code 1 when something is broken."""
    from ..commands.doctor import examine

    report = examine(device)
    console.show_result(json, lambda: report.json(), report.text)
    if report.ok:
        suggest("demo")
    return console.DONE if report.ok else BAD
