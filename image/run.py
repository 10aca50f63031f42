#!/usr/bin/env python3
"""``make local-run`` and ``make ecs-run``: a training in the container on this machine, as the old workflow ran it.

    python3 image/run.py local|ecs [--dry-run]

Variables are read from the environment, else from ``.env`` in the current folder; ``.env.example`` explains them.
Needs Python 3.8 and nothing else. No value of a credential is ever on a command line or printed.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

FILE = ".env"
DATA, RUNS, CACHE, START = "/data", "/runs", "/cache", "/start"  # in the container
AWS = "/workspace/.aws"  # where SSO looks for its tokens, too: HOME is /workspace
STOP_SECONDS = 110  # what `ENGINE stop` waits for the state to be saved
INTERRUPTED, ENGINE_FAILED = 75, 125
NEEDED = {
    "local": {"LOCAL_DATA_PATH": "the folder of the records, in which `runs` is written"},
    "ecs": {"S3_DATA": "the s3:// address of the records"},
}
DEFAULTS = {
    "IMAGE": "resight",
    "ENGINE": "docker",
    "GPUS": "",  # all where there is an NVIDIA driver
    "CONTAINER_USER": "",  # whoever starts it
    "RESIGHT_CACHE": "",
    "RUN_NAME": "first",
    "S3_RUN": "",
    "AWS_PROFILE": "",
    "AWS_ROOT": "",
    "AWS_REGION": "",
    "PRETRAINED_MODEL_NAME": "faster_rcnn_resnet101_v1_800x1333_coco17_gpu-8",
    "NUM_CLASSES": "3",
    "MIN_DIM": "600",
    "MAX_DIM": "1024",
    "NUM_STEPS": "50000",
    "BATCH_SIZE": "1",
}
COUNTS = ("NUM_CLASSES", "MIN_DIM", "MAX_DIM", "NUM_STEPS", "BATCH_SIZE")
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
FILES = {"AWS_SHARED_CREDENTIALS_FILE": "credentials", "AWS_CONFIG_FILE": "config"}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")

# Of the zoo's pipeline.config what its checkpoint does not say; the learning rate falls as a cosine to the last step.
WARMUP_STEPS = 5000  # a tenth of the steps at most
TRAINING = {
    "train.optimizer": "momentum",
    "train.learning_rate": "0.01",
    "train.warmup_rate": "0.0",
    "train.weight_decay": "0.0",
    "train.ema": "0.0",
    "augment.operations": '[{name = "random_horizontal_flip"}, {name = "random_adjust_hue"}, '
    '{name = "random_adjust_contrast"}, {name = "random_adjust_saturation"}, '
    '{name = "random_square_crop_by_scale", options = {scale_min = 0.6, scale_max = 1.3}}]',
}


def fail(*problems: str, fix: str = "") -> NoReturn:
    print("\n".join(f"error: {problem}" for problem in problems) + (f"\n  {fix}" if fix else ""), file=sys.stderr)
    sys.exit(2)


# The file .env


class Assigned(NamedTuple):
    value: str
    line: int


def read_file(path: str, environment: Mapping[str, str]) -> dict[str, Assigned]:
    """The assignments of an environment file, as docker compose reads them; the last of a name counts.

    Quotes, ``export``, comments, ``$NAME``, ``${NAME}`` and ``${NAME:-default}`` mean what they do there. A message
    names the line and does not show it: it may hold a secret.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}")
    found: dict[str, Assigned] = {}
    wrong = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        line = line.strip()
        if not line or line[0] == "#" or re.fullmatch(r"export(\s+\w+)+", line):
            continue
        match = re.fullmatch(r"(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*)", line, re.ASCII)
        try:
            if match is None:
                raise ValueError("is not NAME=value")
            known = {**{name: assigned.value for name, assigned in found.items()}, **environment}
            found[match[1]] = Assigned(value_of(match[2], known), number)
        except ValueError as error:
            wrong.append(f"{path}:{number}: {error}")
    if wrong:
        fail(*wrong, fix="A line is NAME=value, a comment or empty; quote a value that has quotes, # or $ in it.")
    return found


def value_of(text: str, known: Mapping[str, str]) -> str:
    """What ``text`` to the right of the ``=`` means.

    Raises:
        ValueError: a quote without its partner, text behind one, a command, a variable that is not known.
    """
    if "\0" in text:
        raise ValueError("holds a NUL character")
    if text[:1] not in ("'", '"'):
        plain = re.split(r"(?:^|\s)#", text, maxsplit=1)[0].strip()
        return expanded(plain.replace("\\ ", " "), known)  # as the shell reads a space
    quote = text[0]
    match = re.match(rf"{quote}((?:\\.|[^\\{quote}])*){quote}", text)
    if match is None:
        raise ValueError(f"has no closing {quote}")
    if not re.fullmatch(r"\s*(#.*)?", text[match.end() :]):
        raise ValueError(f"goes on behind the closing {quote}")
    if quote == "'":
        return match[1].replace("\\'", "'")
    signs = {"n": "\n", "r": "\r", "t": "\t"}
    parts = re.split(r"\\(.)", match[1])  # text, an escaped sign, text, ...
    for at in range(0, len(parts), 2):
        parts[at] = expanded(parts[at], known)
    parts[1::2] = [signs.get(sign, sign if sign in "\"\\$'" else f"\\{sign}") for sign in parts[1::2]]
    return "".join(parts)


def expanded(text: str, known: Mapping[str, str]) -> str:
    """``text`` with the values of the variables in it."""
    if "$(" in text or "`" in text:
        raise ValueError("has a command in it, and none is run")

    def value(match: re.Match[str]) -> str:
        if match["bad"]:
            raise ValueError("has a ${...} that is not ${NAME}, ${NAME-default} or ${NAME:-default}")
        name = match["name"] or match["plain"]
        if match["sign"] and (name not in known or (match["sign"] == ":-" and not known[name])):
            return match["default"]
        if name not in known:
            raise ValueError(f"uses {name}, which is not set")
        return known[name]

    braced = r"\$\{(?P<name>[A-Za-z_]\w*)(?:(?P<sign>:?-)(?P<default>[^{}$]*))?\}"
    return re.sub(rf"{braced}|\$(?P<plain>[A-Za-z_]\w*)|(?P<bad>\$\{{)", value, text, flags=re.ASCII)


def read_settings(kind: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables, all of ``DEFAULTS`` and whatever else is set: the environment before ``.env``, and a value that
    is empty like none."""
    file = read_file(FILE, environment)
    names = [*DEFAULTS, *(name for needed in NEEDED.values() for name in needed)]
    for name, (_, line) in file.items():
        near = difflib.get_close_matches(name.upper(), names, 1, 0.8)
        if near and name not in names and not name.startswith("AWS_"):
            print(f"warning: {FILE}:{line}: {name} is not used; did you mean {near[0]}?", file=sys.stderr)
    given = {**{name: assigned.value for name, assigned in file.items()}, **environment}
    settings = {**DEFAULTS, **{name: value for name, value in given.items() if value}}
    missing = [f"{name} is not set: {purpose}" for name, purpose in NEEDED[kind].items() if name not in settings]
    if missing:
        fail(*missing, fix=f"Copy .env.example, which explains all variables, to {FILE}, or set it in the environment.")
    wrong = [
        f"{name} is {settings[name]!r:.80}, and must be a whole number of 1 or more"
        for name in COUNTS
        if not re.fullmatch(r"0*[1-9][0-9]{0,8}", settings[name], re.ASCII)
    ]
    if not wrong and int(settings["MIN_DIM"]) > int(settings["MAX_DIM"]):
        wrong.append(f"MIN_DIM is {settings['MIN_DIM']}, more than MAX_DIM, which is {settings['MAX_DIM']}")
    for name in ("S3_DATA", "S3_RUN") if kind == "ecs" else ():
        if settings.get(name) and not re.match(r"s3://[^/\s]+", settings[name]):
            wrong.append(f"{name} is {settings[name]!r:.200}, and must be of the form s3://bucket/path")
    if not re.fullmatch(r"[^\W_][^/\n]*", settings["RUN_NAME"]):
        wrong.append(f"RUN_NAME is {settings['RUN_NAME']!r:.80}, and must be the name of a folder")
    if not re.fullmatch(r"|all|none|\d+(,\d+)*", settings["GPUS"]):
        wrong.append(f"GPUS is {settings['GPUS']!r:.80}, and must be all, none, or numbers of GPUs such as 0 or 0,1")
    if not re.fullmatch(r"|\d+(:\d+)?", settings["CONTAINER_USER"]):
        wrong.append(f"CONTAINER_USER is {settings['CONTAINER_USER']!r:.80}, and must be UID or UID:GID")
    if wrong:
        fail(*wrong)
    return settings


# The engine's commands


def folder(settings: Mapping[str, str], name: str, purpose: str) -> str:
    path = os.path.realpath(os.path.expanduser(settings[name]))
    if not os.path.isdir(path):
        what = "is not a folder" if os.path.exists(path) else "does not exist"
        fail(f"{name}, {purpose}: {path} {what}")
    return path


def made(path: str, name: str) -> str:
    """``path``, made if it is not there: by the engine it would be root's."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        fail(f"{path} cannot be made: {error.strerror}", fix=f"It follows from {name}.")
    if not os.access(path, os.W_OK):
        fail(f"{path} cannot be written to", fix=f"It follows from {name}.")
    return path


def mount(source: str, target: str, writable: bool = False) -> list[str]:
    """``--mount`` is a line of CSV, so that a path may have spaces, colons and commas."""
    fields = ["type=bind", f"source={source}", f"target={target}", *([] if writable else ["readonly"])]
    quoted = ['"' + field.replace('"', '""') + '"' if re.search('[",\r\n]', field) else field for field in fields]
    return ["--mount", ",".join(quoted)]


def engine_options(settings: Mapping[str, str], engine: str) -> list[str]:
    """What docker and podman are told differently, and what depends on the machine."""
    podman = "podman" in os.path.basename(os.path.realpath(engine))
    options = [] if "/" in settings["IMAGE"] else ["--pull=never"]  # a plain name is an image of this machine
    gpus = settings["GPUS"] or ("all" if shutil.which("nvidia-smi") else "none")
    if gpus != "none" and podman:
        options += [word for gpu in gpus.split(",") for word in ("--device", f"nvidia.com/gpu={gpu}")]
    elif gpus != "none":
        options += ["--gpus", "all" if gpus == "all" else f'"device={gpus}"']
    if os.path.exists("/sys/fs/selinux/enforce"):
        options += [
            "--security-opt",
            "label=disable",
        ]  # else the mounts are denied; relabelling ~/.aws would harm others
    if podman and os.getuid() and not settings["CONTAINER_USER"]:
        options.append("--userns=keep-id")
    return [*options, "--user", settings["CONTAINER_USER"] or f"{os.getuid()}:{os.getgid()}"]


def credentials(settings: Mapping[str, str]) -> list[str]:
    """Variables of AWS by their names alone, and the folder of the credentials where one is given."""
    names = {name for name in settings if name.startswith("AWS_") and settings[name]} - {"AWS_ROOT", *FILES}
    options: list[str] = []
    if settings["AWS_ROOT"] or settings["AWS_PROFILE"]:
        place = {"AWS_ROOT": settings["AWS_ROOT"] or "~/.aws"}
        root = folder(place, "AWS_ROOT", "the folder of the AWS credentials")
        if not any(os.path.isfile(os.path.join(root, name)) for name in FILES.values()):
            fail(f"AWS_ROOT, the folder of the AWS credentials: {root} holds neither `credentials` nor `config`")
        names -= set(KEYS)  # they would go before the profile
        options += mount(root, AWS)
        for variable, name in FILES.items():
            options += ["-e", f"{variable}={AWS}/{name}"]
    for name in sorted(names):
        options += ["-e", name]
    return options


def commands(kind: str, settings: Mapping[str, str], dry_run: bool) -> list[list[str]]:
    """The engine's commands, the training and its evaluation."""
    if os.path.basename(settings["ENGINE"]) == "buildah":
        fail("ENGINE is buildah, which kills a training where it should stop it", fix="Take docker or podman.")
    engine = shutil.which(settings["ENGINE"])
    if engine is None:
        fix = "Install Docker or Podman, or name the one there is: make local-run ENGINE=podman"
        fail(f"ENGINE is {settings['ENGINE']!r}, and there is no such command", fix=fix)
    make = (lambda path, name: path) if dry_run else made
    cache = settings["RESIGHT_CACHE"] or os.path.join(settings.get("XDG_CACHE_HOME") or "~/.cache", "resight")
    mounts = mount(make(os.path.realpath(os.path.expanduser(cache)), "RESIGHT_CACHE"), CACHE, writable=True)
    if kind == "local":
        root = folder(settings, "LOCAL_DATA_PATH", NEEDED["local"]["LOCAL_DATA_PATH"])
        records = os.path.realpath(os.path.join(root, "records"))
        mounts += mount(records if os.path.isdir(records) else root, DATA)
        mounts += mount(make(os.path.join(root, "runs"), "LOCAL_DATA_PATH"), RUNS, writable=True)
        data, run = DATA, f"{RUNS}/{settings['RUN_NAME']}"
    else:
        data = settings["S3_DATA"].rstrip("/")
        bucket = "/".join(data.split("/")[:3])
        run = settings["S3_RUN"].rstrip("/") or f"{bucket}/runs/{settings['RUN_NAME']}"
        if run == data:
            fail(f"S3_RUN is the same as S3_DATA, {data}", fix="Name another place for the run.")
    start = settings["PRETRAINED_MODEL_NAME"]
    if "/" in start and not start.startswith("s3://"):
        path = os.path.realpath(os.path.expanduser(start))
        if not os.path.exists(path):
            fail(f"PRETRAINED_MODEL_NAME, the weights to start from: {path} does not exist")
        start = f"{START}/{os.path.basename(path)}"
        mounts += mount(path, start)
    aws = credentials(settings) if kind == "ecs" or start.startswith("s3://") else []
    proxies = [name for proxy in PROXIES for name in (proxy, proxy.lower()) if name in settings]
    container = [
        *[settings["ENGINE"], "run", "--rm", "--shm-size=2g", f"--stop-timeout={STOP_SECONDS}"],
        *[*engine_options(settings, engine), *mounts, "-e", f"RESIGHT_CACHE={CACHE}"],
        *[*aws, *(word for name in proxies for word in ("-e", name)), settings["IMAGE"]],
    ]
    form = ["--log-format", "json"] if kind == "ecs" else []
    steps = int(settings["NUM_STEPS"])
    keys = {
        **TRAINING,
        "train.warmup_steps": min(WARMUP_STEPS, steps // 10),
        "data.num_classes": settings["NUM_CLASSES"],
    }
    train = ["train", "--data", data, "--out", run, "--resume", "--start", start]
    train += ["--size", f"{settings['MIN_DIM']},{settings['MAX_DIM']}", "--steps", str(steps)]
    train += ["--batch", settings["BATCH_SIZE"], *(word for key in keys for word in ("--set", f"{key}={keys[key]}"))]
    return [[*container, *train, *form], [*container, "evaluate", run, *form]]


def run(command: list[str], environment: Mapping[str, str]) -> tuple[int, int]:
    """Runs ``command``; its exit code, and the signal that was passed on to it or 0.

    It has a session of its own, so that Ctrl-C reaches it once, through here, however it was sent.
    """
    process = subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True)
    passed = 0

    def pass_on(number: int, frame: object) -> None:
        nonlocal passed
        passed = number
        process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return (code if code >= 0 else 128 - code), passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(NEEDED), help="data here, or in S3")
    parser.add_argument("--dry-run", action="store_true", help="print the engine's commands and stop")
    arguments = parser.parse_args()
    settings = read_settings(arguments.kind, os.environ)
    work = commands(arguments.kind, settings, arguments.dry_run)
    if arguments.dry_run:
        print("\n".join(map(shlex.join, work)))
        return 0
    for command in work:
        print(shlex.join(command), file=sys.stderr, flush=True)
        code, passed = run(command, settings)
        if code == INTERRUPTED:
            note = f"interrupted, and its state is saved; make {arguments.kind}-run goes on from there"
            print(note, file=sys.stderr)
        elif code == ENGINE_FAILED:
            engine = settings["ENGINE"]
            note = f"{engine} did not start the container. Is the image there ({engine} images; make image)?"
            print(f"{note} GPUS=none goes without GPUs.", file=sys.stderr)
        if code or passed:
            return code or 128 + passed
    if arguments.kind == "local":
        print(
            f"the run is in {os.path.join(settings['LOCAL_DATA_PATH'], 'runs', settings['RUN_NAME'])}", file=sys.stderr
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
