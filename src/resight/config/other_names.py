"""What other tools call the verbs, options and keys of Resight: YOLO, TFOD, detectron2, MMDetection, Lightning, ...

A name is compared without dashes, underscores and case.
"""

import os
import re

# Verbs ("": any), what it is there, its key of the configuration, and its names elsewhere beside the key's own.
_OPTIONS = (
    ("train", "--set train.learning_rate=RATE", "train.learning_rate", "lr lr0 learning-rate base-lr init-lr max-lr"),
    ("train", "--set train.schedule=cosine", "train.schedule", "cos-lr lrf lr-scheduler scheduler lr-schedule"),
    ("train", "--set train.milestones=[[STEP,RATE]]", "train.milestones", "lr-steps lr-step lr-drop gamma lr-gamma"),
    ("train", "--set train.warmup_steps=N", "train.warmup_steps", "warmup warmup-epochs warmup-iters lr-warmup"),
    ("train", "--set train.momentum=SHARE", "train.momentum", "beta1 betas"),
    ("train", "--set train.deterministic=true", "train.deterministic", "reproducible cudnn-deterministic"),
    ("train", "--set train.weight_decay=DECAY", "train.weight_decay", "wd weight-decay l2"),
    ("train", "--set train.optimizer=sgd", "train.optimizer", "opt optim solver adam sgd adamw"),
    ("train", "--set train.clip_norm=NORM", "train.clip_norm", "grad-clip clip max-norm gradient-clip-val clip-grad"),
    ("train", "--set train.accumulate=N", "train.accumulate", "nbs grad-accum gradient-accumulation-steps accum"),
    ("train", "--set train.precision=bfloat16", "train.precision", "amp half fp16 bf16 mixed-precision use-bfloat16"),
    ("train", "--set train.ema=DECAY", "train.ema", "ema-decay model-ema"),
    ("train", "--set train.patience=N", "train.patience", "early-stopping early-stop early-stopping-patience"),
    ("train", "--epochs N", "train.epochs", "num-epochs n-epochs max-epochs num-train-epochs total-epochs"),
    ("train", "--steps N", "train.steps", "num-train-steps num-steps max-steps max-iter max-iters iterations iters"),
    ("train", "--max-minutes N", "train.max_minutes", "time max-time max-hours hours timeout minutes"),
    ("train", "--batch N", "train.batch_size", "batch-size bs train-batch-size ims-per-batch samples-per-gpu"),
    ("train", "--size MIN,MAX", "model.min_size", "imgsz img img-size image-size input-size imsize resolution width"),
    ("train", "--size MIN,MAX", "model.max_size", "min-dimension max-dimension min-size max-size height longest-side"),
    ("train", "--set model.tile=PIXELS", "model.tile", "tile-size slice slice-size sahi patch-size crop-size"),
    ("train", "--model NAME", "model.name", "backbone arch architecture model-name model-type network encoder"),
    ("train", "--start MODEL", "model.start", "weights pretrained pretrained-weights init-weights checkpoint ckpt"),
    ("train", "--start MODEL", "model.start", "fine-tune-checkpoint load-from load ckpt-path checkpoint-path finetune"),
    ("train", "--set model.detections=N", "model.detections", "max-det max-dets max-detections detections-per-img"),
    ("train", "--set model.freeze=STAGES", "model.freeze", "freeze-backbone frozen-stages freeze-at freeze-layers"),
    ("train", "--set model.anchors=fit", "model.anchors", "autoanchor noautoanchor anchor anchor-sizes anchor-t"),
    ("train", "--set data.workers=N", "data.workers", "workers num-workers nw n-workers dataloader-num-workers jobs"),
    ("train", "--devices N", "", "num-gpus gpus n-gpus ngpus nproc nproc-per-node num-devices world-size"),
    ("train", "CONFIG, the first argument", "", "cfg config config-file pipeline-config-path pipeline-config hyp yaml"),
    ("train", "--set checkpoint.every_minutes=N", "checkpoint.every_minutes", "save-period save-interval save-freq"),
    ("train", "--set checkpoint.every_steps=N", "checkpoint.every_steps", "checkpoint-every-n checkpoint-period"),
    ("train", "--set evaluate.every=EPOCHS", "evaluate.every", "val-interval eval-interval eval-period eval-every"),
    ("train", "--set augment.flip=SHARE", "augment.flip", "fliplr hflip flip-lr horizontal-flip random-flip"),
    ("train", "--set augment.color=STRENGTH", "augment.color", "hsv hsv-h hsv-s hsv-v color-jitter jitter brightness"),
    ("train", "--set augment.scale=[LEAST,MOST]", "augment.scale", "multi-scale multiscale zoom random-resize"),
    ("train", "--set data.repeat_threshold=SHARE", "data.repeat_threshold", "oversample class-weights balance"),
    ("train evaluate", "--data RECORDS", "data.path", "dataset datasets data-yaml data-dir data-path data-root root"),
    ("train evaluate", "--data RECORDS", "data.path", "train-data dataset-dir dataset-path input-path records"),
    ("train", "There is no option: validation follows each epoch", "", "val eval validate do-eval"),
    ("train evaluate", "There is no option: records are read from disk", "", "cache cache-images cache-ram preload"),
    ("train", "Resight has augment.flip, scale, crop and color alone", "", "mosaic mixup cutmix copy-paste degrees"),
    ("train", "Resight has augment.flip, scale, crop and color alone", "", "translate shear flipud"),
    ("build", "--classes A,B,C", "", "num-classes nc single-cls class-names names"),
    ("build", "--val-fraction and --test-fraction", "", "val-split test-split val-ratio test-ratio train-ratio"),
    ("build", "--labels MAP", "data.label_map", "label-map label-map-path labelmap class-map"),
    ("evaluate", "--split val", "", "val task use-val eval-split subset set"),
    ("predict", "--score SHARE", "", "conf conf-thres conf-threshold confidence confidence-threshold min-confidence"),
    ("predict", "--score SHARE", "", "score-thr score-threshold min-score min-score-thresh threshold thresh thr"),
    ("predict", "--nms-iou SHARE", "", "iou iou-thres iou-threshold iou-thr nms nms-threshold nms-thresh nms-thr"),
    ("predict", "--class-agnostic-nms", "", "agnostic agnostic-nms"),
    ("predict", "--no-labels", "", "hide-labels show-labels hide-conf show-conf line-width line-thickness"),
    ("predict", "INPUT, the second argument", "", "source input inputs image images img-path image-dir"),
    ("predict", "--save yolo", "", "save-txt save-labels"),
    ("predict", "--save coco", "", "save-json save-coco"),
    ("predict", "--crops", "", "save-crop save-crops crop"),
    ("predict", "--no-pictures", "", "nosave no-save no-draw"),
    ("predict", "There is no option: detections.json and pictures are written", "", "show"),
    ("export", "--format onnx", "", "include export-format target output-format"),
    ("predict evaluate export", "MODEL, the first argument", "", "model weights checkpoint ckpt checkpoint-dir run"),
    ("predict evaluate export", "MODEL, the first argument", "", "trained-checkpoint-dir checkpoint-path model-path"),
    ("", "-o PATH", "", "project name exp exp-name output output-dir out-dir outdir save-dir work-dir run-name"),
    ("", "-o PATH", "", "model-dir log-dir logdir default-root-dir export-dir output-directory output-path"),
    ("", "--force; a training continues with --resume", "", "exist-ok overwrite force-overwrite yes"),
    ("", "--device cuda", "", "gpu cuda use-gpu accelerator"),
    ("", "--device cpu", "", "no-cuda cpu no-gpu use-cpu"),
    ("", "--quiet", "", "silent no-progress no-verbose"),
    ("", "--debug", "", "verbose trace traceback"),
)  # fmt: skip

_VERBS = {
    "train": "fit finetune fine-tune learn training main",
    "train --resume -o RUN": "resume continue restart",
    "train --show-config": "config init configure defaults",
    "evaluate": "eval val validate test validation score measure metrics",
    "predict": "detect infer inference run track segment classify",
    "export": "onnx deploy save freeze quantize",
    "bench": "benchmark speed profile time latency",
    "data build": "create prepare split import convert make dataset records tfrecord build-data",
    "data check": "inspect stats analyze lint verify info",
    "data show": "view visualize plot draw browse display",
    "runs": "tune list ls compare sweep hpo search experiments tensorboard",
    "zoo list": "models list-models hub pretrained",
    "zoo fetch": "download get",
    "doctor": "checks env environment settings diagnose",
    "--help": "help",
    "--version": "version",
}
_NOTES = {
    "tune": "There is no search for hyperparameters; 'resight runs' compares trainings.",
    "sweep": "There is no search for hyperparameters; 'resight runs' compares trainings.",
    "tensorboard": "TensorBoard reads run folders: tensorboard --logdir runs",
}


def option_here(name: str, verb: str = "train") -> str:
    """What is said of an option of another tool that ``verb`` was given, or an empty string."""
    rows = _rows(name)
    rows.sort(key=lambda row: bool(row[0]) and verb not in row[0].split())
    for verbs, here, _, _ in rows[:1]:
        if here.startswith(("There", "Resight")):
            return f"{here}."
        other = verbs and verb not in verbs.split()
        return f"In Resight it is {here}" + (f", of 'resight {_full(verbs.split()[0])}'." if other else ".")
    return ""


def key_here(key: str) -> str:
    """What is said of a key of the configuration that has another name elsewhere, or an empty string."""
    name = key.rpartition(".")[2]
    own = next((row[2] for row in _rows(name) if row[2]), "")
    return f"In Resight it is '{own}'." if own else option_here(name)


def verb_here(word: str, group: str = "resight") -> str:
    """What is said of a verb of another tool that ``group`` was given, or an empty string."""
    plain = _plain(word)
    if plain in _NOTES:
        return _NOTES[plain]
    own = [verb for verb in _VERBS if plain in (_plain(verb), verb.split()[-1])]
    named = [verb for verb, names in _VERBS.items() if plain in map(_plain, names.split())]
    found = next((f"resight {verb}" for verb in (*own, *named) if f"resight {verb}" != f"{group} {word}"), "")
    return f"Did you mean '{found}'?" if found else ""


def _rows(name: str) -> list[tuple[str, str, str, str]]:
    """Those that list the name, then those whose key has it."""
    plain = _plain(name)
    listed = [row for row in _OPTIONS if plain in map(_plain, row[3].split())]
    return listed + [row for row in _OPTIONS if row[2] and plain == _plain(row[2].rpartition(".")[2])]


def _full(verb: str) -> str:
    return "data build" if verb == "build" else verb


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def instead_of_a_file(word: str) -> str:
    """What is said where the name of a configuration is no file's."""
    name, equals, _ = word.partition("=")
    if equals:
        return f"Options start with two dashes: --epochs 3, --set KEY=VALUE. {option_here(name)}".rstrip()
    return "" if "." in word or os.sep in word else f"A model is named with --model {word}, records with --data {word}."
