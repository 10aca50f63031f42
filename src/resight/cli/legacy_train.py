"""The old workflow's second command: fetch a pretrained model, train, evaluate, export, in one go.

Where it was stopped, the same command goes on.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from ..dialect import load_config
from ..errors import BAD, ResightError
from ..io.outputs import check_output, check_place, write_text
from ..io.textproto import read
from ..label_map import read_label_map
from ..tfod.checkpoint.folder import PIPELINE, find_tfod
from ..tfod.pipeline.config import examine_pipeline, translate
from ..tfod.pipeline.text import edit_pipeline
from ..tfod.pipeline.translation import classes_of
from . import guard as console
from .frame import quoted, say, wrote

TRAINING, TESTING, LABELS = "training.record", "testing.record", "classes.pbtxt"
WARMUP = 10  # at most a tenth of the steps
MARK = "# Written by resight.tfod.train."  # as by the first version, whose runs go on


@dataclass(frozen=True)
class Arguments:
    """The eleven arguments, in their order."""

    models: str  # a clone of TFOD, which is not needed
    model_dir: str  # the run folder
    exported_model_dir: str  # what TFOD's export writes
    records: str  # the folder of training.record, testing.record and classes.pbtxt
    pretrained_model_name: str  # a name of the zoo, or a folder or .tar.gz as the zoo has them
    num_classes: int  # of the label map
    min_dim: int  # pixels of the short side,
    max_dim: int  # unless the long side would exceed these
    num_steps: int
    batch_size: int
    num_test_examples: int  # how many images are evaluated, the first of testing.record


NAMES = tuple(field.name for field in fields(Arguments))
NUMBERS = tuple(field.name for field in fields(Arguments) if field.type == "int")
USAGE = f"usage: train.sh {' '.join(f'<{name}>' for name in NAMES)}"


def read_arguments(words: Sequence[str]) -> Arguments:
    """Raises ResightError: there are not eleven, or one of them cannot be."""
    if missing := NAMES[len(words) :]:
        raise ResightError(f"missing: {' '.join(f'<{name}>' for name in missing)}", fix=USAGE)
    if extra := words[len(NAMES) :]:
        raise ResightError(f"{len(extra)} too many: {' '.join(map(quoted, extra))}", fix=USAGE)
    wrong, values = [], dict[str, Any](zip(NAMES, words, strict=True))
    for name, word in values.items():
        if name in NUMBERS:
            values[name] = value = int(word) if re.fullmatch(r"[0-9]{1,9}", word) else word
            if not isinstance(value, int) or not value:
                wrong.append(f"<{name}> is {value!r:.80}, and must be a whole number of 1 or more")
        elif name != "models" and not word:
            wrong.append(f"<{name}> is empty")
    if not wrong and values["min_dim"] > values["max_dim"]:
        wrong.append("<min_dim> is {min_dim}, more than <max_dim>, which is {max_dim}".format(**values))
    if wrong:
        raise ResightError("; ".join(wrong), fix=USAGE)
    return Arguments(**values)


def train(arguments: Arguments) -> int:
    """Trains into ``model_dir`` from where it stands there, evaluates the run and exports it.

    Returns: the exit code: 0; 1 where the export finds other things than the model; 75 where the training was
        interrupted with its state saved, so that the same call goes on.

    Raises:
        ResightError: something that one of the stages needs is wrong or missing. Nothing was done, except that the
            pretrained model may have been downloaded.
    """
    run, exported = Path(arguments.model_dir), Path(arguments.exported_model_dir)
    _check_outputs(run, exported)
    if importlib.util.find_spec("tensorflow") is None:
        fix = "pip install 'resight[tensorflow]'"
        raise ResightError("exporting the trained model needs TensorFlow, which is not installed", fix=fix)
    data = _check_records(Path(arguments.records), arguments.num_classes)
    say("Reading what is installed")  # takes some seconds
    from ..evaluation.evaluate import evaluate
    from ..exporting.export import export
    from ..tfod.zoo import fetch
    from ..training.plan import MIN_SIZE
    from ..training.run_folder import check_run
    from ..training.train import train as train_run

    if arguments.min_dim < MIN_SIZE:
        raise ResightError(f"<min_dim> is {arguments.min_dim}, and the minimum is {MIN_SIZE}", fix=USAGE)
    try:
        check_run(run, resume=True)
    except ResightError as error:
        raise ResightError(f"<model_dir> {error.message}", where=error.where, fix="Choose another folder.") from error
    pretrained = fetch(arguments.pretrained_model_name)
    text = write_config(arguments, pretrained, data)
    config = load_config(None, translate(text, str(run / PIPELINE)).overrides)
    if not (run / "config.toml").exists():
        write_text(run / PIPELINE, text)
    result = train_run(config, run, resume=True, pipeline=text)
    write_text(run / PIPELINE, text)  # a run that refused to go on so keeps what it had
    print(result.text())
    if result.exit_code:
        say("Run the same command again: it continues, evaluates and exports.")
        return result.exit_code
    evaluation, wanted = evaluate(run, limit=arguments.num_test_examples), arguments.num_test_examples
    print(evaluation.text())
    if (measured := evaluation.metrics["num_images"]) < wanted:
        say(f"{TESTING} holds {measured} images, and <num_test_examples> is {wanted}: all were measured.")
    report = export(run, "savedmodel", exported, force=True)
    print(report.text())
    if not report.ok:
        return BAD
    wrote(str(exported), f"predict {quoted(report.model)} PHOTOS -o found")
    return console.DONE


def write_config(arguments: Arguments, pretrained: Path, data: Mapping[str, Path]) -> str:
    """The text of the pretrained model's ``pipeline.config`` with the values of ``arguments``; ``data`` are the paths
    of the files of the records, by their names. Raises ResightError: the model has a fixed size and ``arguments``
    another, or something is not supported."""
    found = find_tfod(pretrained)
    assert found is not None and found.pipeline is not None  # else it was not fetched
    before = examine_pipeline(found.pipeline).overrides
    rcnn, training = "model.faster_rcnn", "train_config"
    changes: dict[str, Any] = {
        f"{rcnn}.num_classes": arguments.num_classes,
        f"{training}.num_steps": arguments.num_steps,
        f"{training}.batch_size": arguments.batch_size,
        f"{training}.fine_tune_checkpoint": str(found.prefix.absolute()),
        f"{training}.fine_tune_checkpoint_type": "detection",
    }
    for reader, name in {"train_input_reader": TRAINING, "eval_input_reader": TESTING}.items():
        changes[f"{reader}.label_map_path"] = str(data[LABELS].absolute())
        changes[f"{reader}.tf_record_input_reader.input_path"] = [glob.escape(str(data[name].absolute()))]
    size = (arguments.min_dim, arguments.max_dim)
    if fixed := before.get("model.tfod.fixed_size"):
        if size != (min(fixed), max(fixed)):
            message = f"stretches every image to {fixed[0]} x {fixed[1]} pixels (height x width), so that <min_dim> "
            message += f"{size[0]} and <max_dim> {size[1]} would not apply"
            fix = f"Give {min(fixed)} and {max(fixed)}, or a pretrained model of another size."
            raise ResightError(message, where=arguments.pretrained_model_name, fix=fix)
    elif "model.tfod.fixed_size" in before:
        resizer = f"{rcnn}.image_resizer.keep_aspect_ratio_resizer"
        changes |= {f"{resizer}.min_dimension": size[0], f"{resizer}.max_dimension": size[1]}
    if "train.learning_rate" in before:
        changes[f"{training}.optimizer.momentum_optimizer.learning_rate"] = {
            "cosine_decay_learning_rate": {
                "learning_rate_base": before["train.learning_rate"],
                "total_steps": arguments.num_steps,
                "warmup_learning_rate": before.get("train.warmup_rate") or 0.0,
                "warmup_steps": min(before.get("train.warmup_steps", 0), arguments.num_steps // WARMUP),
            }
        }
    text = edit_pipeline(read(found.pipeline), changes)
    translate(text, str(found.pipeline)).check()
    return f"{MARK}\n{text}"


def _check_outputs(run: Path, exported: Path) -> None:
    """Raises ResightError: a folder to write holds what is not ours, lies in the other, or cannot be written to."""
    places = [Path(os.path.realpath(path)) for path in (run, exported)]
    if places[0].is_relative_to(places[1]) or places[1].is_relative_to(places[0]):
        raise ResightError("one of <model_dir> and <exported_model_dir> lies in the other", where=exported, fix=USAGE)
    from ..inference.saved_model import written_before

    check_output(exported, True, written_before(exported))
    check_place(run)
    config = run / PIPELINE
    if config.exists() and not read(config).startswith(MARK):
        raise ResightError("is not of this command, and is not replaced", where=config, fix="Move it away.")


def _check_records(folder: Path, num_classes: int) -> dict[str, Path]:
    """Raises ResightError: a file is missing or damaged, holds nothing, or the label map has not ``num_classes``
    classes."""
    found = {name: folder / name for name in (TRAINING, TESTING, LABELS)}
    if missing := [name for name, path in found.items() if not path.is_file()]:
        command = "resight data build SOURCE -o RECORDS --layout tfod --shards 1"
        fix = f"build_lisa_records.py makes them of lisa/, {command} of others."
        raise ResightError(f"<records> holds no {', no '.join(missing)}", where=folder, fix=fix)
    labels = read_label_map(found[LABELS])
    if (count := classes_of(labels)) != num_classes:
        raise ResightError(f"has {count} classes, and <num_classes> is {num_classes}", where=found[LABELS], fix=USAGE)
    from ..records.reader import open_records

    globs = {name: glob.escape(str(path.absolute())) for name, path in found.items()}
    records = open_records("", train=globs[TRAINING], test=globs[TESTING], label_map=str(found[LABELS]))
    for split, name in {"train": TRAINING, "test": TESTING}.items():
        if not len(records.by_id().splits[split]):
            raise ResightError("holds no record", where=found[name])
    return found


def main() -> NoReturn:
    """``train.sh``, and ``python -m resight.cli.legacy_train``."""
    argv = sys.argv[1:]
    if argv in (["-h"], ["--help"]):
        print(f"{USAGE}\n\n{__doc__}")
        sys.exit()
    console.listen()
    sys.exit(console.guard(lambda: train(read_arguments(argv)), argv))


if __name__ == "__main__":
    main()
