"""`make local-run` and `make ecs-run`, with an engine that records what it is told."""

import csv
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from typer.testing import CliRunner

from resight.cli.app import app

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "image" / "run.py"
MODULE = runpy.run_path(str(SCRIPT))
# Records its words and variables; what it does then is in FAKE_ENGINE, a piece of Python.
ENGINE = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["FAKE_RECORD"], "a") as file:
    print(json.dumps({{"argv": sys.argv, "env": dict(os.environ)}}), file=file)
exec(os.environ.get("FAKE_ENGINE", ""))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder with nothing of AWS or of these commands in the environment, and docker and podman on PATH."""
    for name in os.environ:
        if name.startswith(("AWS_", "MAKE", "MFLAGS")) or name.upper() in MODULE["PROXIES"]:
            monkeypatch.delenv(name)
    for name in ("docker", "podman"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(ENGINE)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "a place, of: 'mine'"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def start(kind, *options, **environment):
    command = [sys.executable, "-S", "-E", str(SCRIPT), kind, *options]  # nothing but the standard library
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def call(kind, *options, **environment):
    process = start(kind, *options, **environment)
    process.out, process.err = process.communicate(timeout=120)
    return process


def recorded():
    """What the engine was told: for each call the options of `run`, the image's command and the environment."""
    path = Path(os.environ["FAKE_RECORD"])
    calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    return [(*split(found["argv"][1:]), found["env"]) for found in calls]


def split(words):
    verb = next(word for word in ("train", "evaluate") if word in words)
    return words[: words.index(verb)], words[words.index(verb) :]


def values(words, option):
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def mounts(options):
    """Target -> source of what can be written, and of what can be read."""
    writable, readable = {}, {}
    for text in values(options, "--mount"):
        fields = next(csv.reader([text]))
        known = dict(field.partition("=")[::2] for field in fields)
        assert known["type"] == "bind"
        (readable if "readonly" in known else writable)[known["target"]] = known["source"]
    return writable, readable


def records_in(place):
    (place / "data" / "records").mkdir(parents=True)
    return str(place / "data")


# What is run


def test_the_local_run_is_what_the_old_one_was(place):
    done = call("local", LOCAL_DATA_PATH=records_in(place))
    assert done.returncode == 0, done.err
    (options, train, _), (again, evaluate, _) = recorded()
    assert options[0] == "run" and options[-1] == "resight" and again == options
    assert evaluate == ["evaluate", "/runs/first"]
    own = {name: values(train, f"--{name}")[0] for name in ("data", "out", "start", "size", "steps", "batch")}
    assert own == {
        **{"data": "/data", "out": "/runs/first", "start": "faster_rcnn_resnet101_v1_800x1333_coco17_gpu-8"},
        **{"size": "600,1024", "steps": "50000", "batch": "1"},
    }
    assert train[0] == "train" and "--resume" in train and "--log-format" not in train
    assert mounts(options) == (
        {"/cache": os.environ["RESIGHT_CACHE"], "/runs": str(place / "data" / "runs")},
        {"/data": str(place / "data" / "records")},
    )
    assert (place / "data" / "runs").is_dir() and Path(os.environ["RESIGHT_CACHE"]).is_dir()
    assert f"the run is in {place / 'data' / 'runs' / 'first'}\n" in done.err
    assert {"--rm", "--pull=never", "--shm-size=2g", "--stop-timeout=110"} <= set(options)
    assert values(options, "--user") == [f"{os.getuid()}:{os.getgid()}"]


def test_the_configuration_is_that_of_the_zoos_pipeline_config(place):
    """The values are those of faster_rcnn_resnet101_v1_800x1333_coco17_gpu-8 where its checkpoint does not say them."""
    call("local", LOCAL_DATA_PATH=records_in(place))
    (_, train, _), _ = recorded()
    shown = CliRunner().invoke(app, [*train, "--show-config"])
    assert shown.exit_code == 0, shown.output
    config = dict(re.findall(r"^(\w+) = (.*?) +#", shown.stdout, re.MULTILINE))
    wanted = {
        **{"optimizer": '"momentum"', "momentum": "0.9", "learning_rate": "0.01", "schedule": '"cosine"'},
        **{"warmup_steps": "5000", "warmup_rate": "0.0", "clip_norm": "10.0", "weight_decay": "0.0", "ema": "0.0"},
        **{"num_classes": "3", "min_size": "600", "max_size": "1024", "steps": "50000", "batch_size": "1"},
        "start_type": '"detection"',
    }
    assert {name: config.get(name) for name in wanted} == wanted
    operations = ("horizontal_flip", "adjust_hue", "adjust_contrast", "adjust_saturation", "square_crop_by_scale")
    assert re.findall(r"random_\w+", config["operations"]) == [f"random_{name}" for name in operations]


def test_each_value_of_the_training_has_a_variable(place):
    changes = {"NUM_CLASSES": "5", "MIN_DIM": "96", "MAX_DIM": "128", "NUM_STEPS": "40", "BATCH_SIZE": "2"}
    weights = place / "my weights.safetensors"
    weights.touch()
    done = call(
        "local",
        **{**changes, "LOCAL_DATA_PATH": records_in(place), "RUN_NAME": "my run", "IMAGE": "some.where/resight:1"},
        PRETRAINED_MODEL_NAME="./my weights.safetensors",
    )
    assert done.returncode == 0, done.err
    (options, train, _), (_, evaluate, _) = recorded()
    assert values(train, "--size") == ["96,128"] and values(train, "--steps") == ["40"]
    assert values(train, "--batch") == ["2"] and evaluate[1:] == values(train, "--out") == ["/runs/my run"]
    assert {"train.warmup_steps=4", "data.num_classes=5"} <= set(values(train, "--set"))
    assert values(train, "--start") == ["/start/my weights.safetensors"]
    assert mounts(options)[1]["/start/my weights.safetensors"] == str(weights)
    assert options[-1] == "some.where/resight:1" and "--pull=never" not in options


def test_the_records_may_lie_in_the_folder_itself(place):
    done = call("local", LOCAL_DATA_PATH=".")
    assert done.returncode == 0, done.err
    assert mounts(recorded()[0][0])[1] == {"/data": str(place)}


def test_the_ecs_run_reads_and_writes_s3(place):
    done = call("ecs", S3_DATA="s3://bucket/team/records/")
    assert done.returncode == 0, done.err
    (options, train, _), (_, evaluate, _) = recorded()
    assert values(train, "--data") == ["s3://bucket/team/records"]
    assert values(train, "--out") == ["s3://bucket/runs/first"] == evaluate[1:2]
    assert values(train, "--log-format") == ["json"] == values(evaluate, "--log-format")
    assert mounts(options) == ({"/cache": os.environ["RESIGHT_CACHE"]}, {})
    call("ecs", S3_DATA="s3://bucket/records", S3_RUN="s3://other/run/")
    assert values(recorded()[0][1], "--out") == ["s3://other/run"]


# Credentials


def test_without_a_profile_the_environment_is_passed_by_its_names(place):
    (place / ".env").write_text("S3_DATA=s3://b/records\nAWS_SECRET_ACCESS_KEY='se$cret'\n")
    given = {"AWS_ACCESS_KEY_ID": "AKIASECRET", "AWS_REGION": "eu-west-1", "https_proxy": "http://me:secret@proxy"}
    done = call("ecs", **given)
    dry = call("ecs", "--dry-run", **given)
    (options, _, environment), _ = recorded()
    names = [name for name in values(options, "-e") if "=" not in name]
    assert names == ["AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "https_proxy"]
    assert environment["AWS_SECRET_ACCESS_KEY"] == "se$cret" and environment["AWS_ACCESS_KEY_ID"] == "AKIASECRET"
    for text in (done.out, done.err, dry.out, dry.err, " ".join(options)):
        assert "secret" not in text.lower().replace("aws_secret_access_key", "") and "se$cret" not in text


@pytest.mark.parametrize(
    "given", [{"AWS_PROFILE": "me"}, {"AWS_ROOT": "my aws"}, {"AWS_PROFILE": "me", "AWS_ROOT": "my aws"}]
)
def test_a_profile_is_read_from_the_folder_of_credentials_alone(place, given):
    home = place / "home"
    for folder in (home / ".aws", place / "my aws"):
        folder.mkdir(parents=True)
        (folder / "config").touch()
    keys = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_CONFIG_FILE": "/elsewhere"}
    done = call("ecs", S3_DATA="s3://b/records", HOME=str(home), AWS_REGION="eu-west-1", **keys, **given)
    assert done.returncode == 0, done.err
    (options, _, _), _ = recorded()
    folder = place / "my aws" if "AWS_ROOT" in given else home / ".aws"
    assert mounts(options)[1] == {"/workspace/.aws": str(folder)}
    assert set(values(options, "-e")) == {
        *("RESIGHT_CACHE=/cache", "AWS_REGION", *(name for name in given if name == "AWS_PROFILE")),
        *("AWS_SHARED_CREDENTIALS_FILE=/workspace/.aws/credentials", "AWS_CONFIG_FILE=/workspace/.aws/config"),
    }


def test_a_local_run_has_credentials_only_where_its_start_lies_in_s3(place):
    keys = {"LOCAL_DATA_PATH": records_in(place), "AWS_ACCESS_KEY_ID": "AKIA"}
    call("local", **keys)
    call("local", **keys, PRETRAINED_MODEL_NAME="s3://bucket/runs/old")
    passed = ["AWS_ACCESS_KEY_ID" in values(options, "-e") for options, _, _ in recorded()]
    assert passed == [False, False, True, True]


# Engines and GPUs


def test_podman_keeps_the_user(place, monkeypatch):
    data = records_in(place)
    done = call("local", LOCAL_DATA_PATH=data, ENGINE="podman", GPUS="0,1")
    assert done.returncode == 0, done.err
    (options, _, _), _ = recorded()
    assert ("--userns=keep-id" in options) == (os.getuid() != 0)
    assert values(options, "--device") == ["nvidia.com/gpu=0", "nvidia.com/gpu=1"] and "--gpus" not in options
    settings = {**MODULE["DEFAULTS"], "GPUS": "none"}
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "getgid", lambda: 100)
    named = MODULE["engine_options"]
    assert named(settings, "/usr/bin/podman")[-3:] == ["--userns=keep-id", "--user", "1000:100"]
    assert "--userns=keep-id" not in named(settings, "/usr/bin/docker")
    assert named({**settings, "CONTAINER_USER": "0:0"}, "/usr/bin/podman")[-2:] == ["--user", "0:0"]
    (place / "docker").symlink_to(place.parent / "bin" / "podman")
    assert "--userns=keep-id" in named(settings, str(place / "docker"))


@pytest.mark.parametrize(
    ("gpus", "driver", "wanted"),
    [
        ("", True, ["all"]),
        ("", False, []),
        ("none", True, []),
        ("all", False, ["all"]),
        ("0,2", False, ['"device=0,2"']),
    ],
)
def test_gpus_are_passed_where_there_are_some(place, gpus, driver, wanted):
    if driver:
        shutil.copy(place.parent / "bin" / "docker", place.parent / "bin" / "nvidia-smi")
    call("local", LOCAL_DATA_PATH=records_in(place), GPUS=gpus, PATH=f"{place.parent / 'bin'}")
    assert values(recorded()[0][0], "--gpus") == wanted


# The file .env


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("NAME=value", "value"), ("export NAME=value", "value"), ("export\tNAME = value ", "value"), ("NAME=", "")],
        *[
            ("NAME=a b c", "a b c"),
            ("NAME='a  b'", "a  b"),
            ('NAME="a  b"  # comment', "a  b"),
            ("NAME=a=b==", "a=b=="),
        ],
        *[("NAME=a # comment", "a"), ("NAME=a#b", "a#b"), ("NAME=# comment", ""), ("NAME='a # b'", "a # b")],
        *[("NAME=''", ""), ('NAME=""', ""), ("NAME=' '", " "), ("  NAME=a", "a"), ("NAME=/my\\ data", "/my data")],
        *[("NAME='$HOME'", "$HOME"), ("NAME=$KNOWN/x", "known/x"), ('NAME="${KNOWN}x"', "knownx"), ("NAME=a$", "a$")],
        *[
            ("NAME=${NOT:-a b}", "a b"),
            ("NAME=${EMPTY:-a}", "a"),
            ("NAME=${EMPTY-a}", ""),
            ("NAME=${KNOWN-a}", "known"),
        ],
        *[(r"NAME='it\'s'", "it's"), (r'NAME="a\"b\\c\$d"', r'a"b\c$d'), (r"NAME=C:\data", r"C:\data")],
        *[("NAME=it's", "it's"), ("NAME=ä é", "ä é"), ("NAME=\u2028a", "a"), ("NAME=a\u2028b", "a\u2028b")],
        *[("OTHER=1\nNAME=$OTHER", "1"), ("NAME=1\nNAME=2", "2"), ("NAME=a\nexport NAME", "a"), ("NAME=a\r", "a")],
    ],
)
def test_what_a_line_means(tmp_path, text, value):
    for mark, end, last in product(("", "\ufeff"), ("\n", "\r\n"), ("", "\n")):
        content = f"{mark}# comment\n\n{text}{last}".replace("\n", end)
        (tmp_path / "env").write_bytes(content.encode())
        found = MODULE["read_file"](str(tmp_path / "env"), {"KNOWN": "known", "EMPTY": ""})
        assert found["NAME"].value == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *[("hunter2", "is not NAME=value"), ("NAME hunter2", "is not NAME=value"), ("2NAME=a", "is not NAME=value")],
        *[("=hunter2", "is not NAME=value"), ("NAME: hunter2", "is not NAME=value"), ("é=a", "is not NAME=value")],
        *[
            ("A='hunter2", "has no closing '"),
            ('A="hunter2', 'has no closing "'),
            ('A="hunter2\\"', 'has no closing "'),
        ],
        *[("A='a'hunter2", "goes on behind the closing '"), ('A="a" B="hunter2"', 'goes on behind the closing "')],
        *[("A=$(hunter2)", "has a command in it"), ('A="`hunter2`"', "has a command in it"), ("A=\0", "holds a NUL")],
        *[
            ("A=$UNSET/hunter2", "uses UNSET, which is not set"),
            ("A=${KNOWN:?hunter2}", "has a ${...} that is not ${NAME}"),
        ],
    ],
)
def test_a_line_that_means_nothing_is_refused_by_its_number_and_not_shown(place, line, message):
    (place / ".env").write_text(f"# one\nS3_DATA=s3://b/records\r\n{line}\nB='open\n", newline="")
    done = call("ecs", KNOWN="known")
    assert done.returncode == 2 and recorded() == []
    assert f".env:3: {message}" in done.err and ".env:4: has no closing '" in done.err
    assert "hunter2" not in done.out + done.err and "Traceback" not in done.err


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_file_that_cannot_be_read_is_named(place, content):
    (place / ".env").mkdir() if content is None else (place / ".env").write_bytes(content)
    done = call("ecs", S3_DATA="s3://b/records")
    assert done.returncode == 2 and "error: .env: cannot be read: " in done.err


def test_the_environment_goes_before_the_file_also_where_it_is_empty(place):
    (place / ".env").write_text("LOCAL_DATA_PATH='my data'\nNUM_STEPS=7\nBATCH_SIZE=2\nGPUS=none\n")
    (place / "my data").mkdir()
    call("local", NUM_STEPS="9", BATCH_SIZE="")
    (options, train, _), _ = recorded()
    assert mounts(options)[1] == {"/data": str(place / "my data")}
    assert values(train, "--steps") == ["9"] and values(train, "--batch") == ["1"]


def test_a_name_that_is_nearly_one_is_told(place):
    (place / ".env").write_text("S3_DATA=s3://b/records\nNUM_STEP=7\nAWS_PROFILES=x\nPATHS=1\ns3_run=s3://b/x\n")
    done = call("ecs", "--dry-run")
    assert done.returncode == 0
    assert done.err.splitlines() == [
        "warning: .env:2: NUM_STEP is not used; did you mean NUM_STEPS?",
        "warning: .env:5: s3_run is not used; did you mean S3_RUN?",
    ]


def test_the_example_explains_every_variable_and_changes_none(place):
    names = {*MODULE["DEFAULTS"], *(name for needed in MODULE["NEEDED"].values() for name in needed)}
    text = (ROOT / ".env.example").read_text()
    explained = dict(re.findall(r"^# .{9,}\n(?:# )?(\w+)=(.*)$", text, re.MULTILINE))
    assert explained.keys() == names == set(re.findall(r"^(?:# )?(\w+)=", text, re.MULTILINE))
    assert all(value in ("", MODULE["DEFAULTS"].get(name)) for name, value in explained.items())
    (place / ".env").write_text(text)
    done = call("local")
    assert done.returncode == 2 and done.err.startswith("error: LOCAL_DATA_PATH is not set: the folder of the records")


# What is refused


@pytest.mark.parametrize(("kind", "name"), [("local", "LOCAL_DATA_PATH"), ("ecs", "S3_DATA")])
@pytest.mark.parametrize("value", [None, ""])
def test_what_is_missing_is_named_with_its_purpose(place, kind, name, value):
    done = call(kind, **({} if value is None else {name: value}))
    assert done.returncode == 2 and f"error: {name} is not set: the " in done.err and ".env.example" in done.err


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (
            "local",
            {"NUM_STEPS": "1e3", "NUM_CLASSES": "0"},
            "NUM_CLASSES is '0', and must be a whole number of 1 or more",
        ),
        ("local", {"NUM_STEPS": "1e3", "NUM_CLASSES": "0"}, "NUM_STEPS is '1e3', and must be"),
        ("local", {"BATCH_SIZE": "-1"}, "BATCH_SIZE is '-1'"),
        ("local", {"MIN_DIM": "2000"}, "MIN_DIM is 2000, more than MAX_DIM, which is 1024"),
        ("local", {"RUN_NAME": "../x"}, "RUN_NAME is '../x', and must be the name of a folder"),
        ("local", {"GPUS": "two"}, "GPUS is 'two', and must be all, none"),
        ("local", {"CONTAINER_USER": "me"}, "CONTAINER_USER is 'me'"),
        ("local", {"LOCAL_DATA_PATH": "/not/there"}, "LOCAL_DATA_PATH, the folder of the records"),
        ("local", {"LOCAL_DATA_PATH": "file"}, "is not a folder"),
        ("local", {"PRETRAINED_MODEL_NAME": "./nothing"}, "nothing does not exist"),
        ("local", {"ENGINE": "sudo docker"}, "ENGINE is 'sudo docker', and there is no such command"),
        ("local", {"ENGINE": "buildah"}, "ENGINE is buildah, which kills a training"),
        ("ecs", {"S3_DATA": "bucket/records"}, "S3_DATA is 'bucket/records', and must be of the form s3://bucket/path"),
        ("ecs", {"S3_RUN": "runs/first"}, "S3_RUN is 'runs/first'"),
        ("ecs", {"S3_RUN": "s3://b/records/"}, "S3_RUN is the same as S3_DATA"),
        ("ecs", {"AWS_ROOT": "/not/there"}, "AWS_ROOT, the folder of the AWS credentials: /not/there does not exist"),
        ("ecs", {"AWS_ROOT": "."}, "holds neither `credentials` nor `config`"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_run(place, kind, given, message):
    (place / "file").touch()
    given = {"LOCAL_DATA_PATH": records_in(place), "S3_DATA": "s3://b/records", **given}
    done = call(kind, **given)
    assert done.returncode == 2 and message in done.err and recorded() == [] and "Traceback" not in done.err


def test_a_run_folder_that_cannot_be_made_is_named(place):
    (place / "runs").touch()
    done = call("local", LOCAL_DATA_PATH=".")
    assert done.returncode == 2 and "runs cannot be made: " in done.err and recorded() == []


def test_a_dry_run_prints_the_commands_and_changes_nothing(place):
    data = records_in(place)
    done = call("local", "--dry-run", LOCAL_DATA_PATH=data)
    train, evaluate = map(shlex.split, done.out.splitlines())
    assert done.returncode == 0 and train[:2] == ["docker", "run"] and evaluate[-2:] == ["evaluate", "/runs/first"]
    assert recorded() == [] and not (place / "data" / "runs").exists()
    call("local", LOCAL_DATA_PATH=data)
    options, command, _ = recorded()[0]
    assert train[1:] == [*options, *command]


# Exit codes and signals


@pytest.mark.parametrize(
    ("code", "said"),
    [(1, ""), (2, ""), (70, ""), (75, "its state is saved; make local-run goes on from there"), (125, "make image")],
)
def test_the_exit_code_is_the_trainings_and_nothing_is_evaluated_then(place, code, said):
    done = call("local", LOCAL_DATA_PATH=records_in(place), FAKE_ENGINE=f"sys.exit({code})")
    assert done.returncode == code and said in done.err and len(recorded()) == 1


def test_the_exit_code_of_the_evaluation_is_passed_on_too(place):
    done = call("local", LOCAL_DATA_PATH=records_in(place), FAKE_ENGINE="sys.exit('evaluate' in sys.argv and 2)")
    assert done.returncode == 2 and len(recorded()) == 2


STOPS = """
import signal, time
def stop(number, frame):
    print("got", number, flush=True)
    time.sleep(0.3)  # for another one
    sys.exit(code)
code = 75
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, stop)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("sent", "got"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT"), ("SIGHUP", "SIGTERM")])
def test_a_signal_reaches_the_training_once(place, sent, got):
    process = start("local", LOCAL_DATA_PATH=records_in(place), FAKE_ENGINE=STOPS)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, sent))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75 and out == f"got {getattr(signal, got):d}\n" and "make local-run" in err


def test_a_training_that_ended_as_it_was_stopped_is_not_evaluated(place):
    ends = STOPS.replace("code = 75", "code = 0")
    process = start("local", LOCAL_DATA_PATH=records_in(place), FAKE_ENGINE=ends)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and len(recorded()) == 1


# From make, and for real


def test_make_passes_its_variables_on(place):
    for name in ("Makefile", "image/run.py"):
        (place / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    lines = f'LOCAL_DATA_PATH="{place / "my data"}"\r\nENGINE=podman\r\n'
    (place / ".env").write_text(lines, newline="")
    (place / "my data").mkdir()
    make = ["make", "--no-print-directory", f"PYTHON={sys.executable}"]
    done = subprocess.run([*make, "local-run", "NUM_STEPS=11"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert values(recorded()[0][1], "--steps") == ["11"] and "podman run" in done.stderr
    done = subprocess.run([*make, "ecs-run", "S3_DATA=s3://b/r", "ENGINE=docker"], capture_output=True, text=True)
    assert done.returncode == 0 and values(recorded()[0][1], "--data") == ["s3://b/r"]
    assert done.stderr.startswith("docker run")
    done = subprocess.run(
        [*make, "local-run"], capture_output=True, text=True, env={**os.environ, "FAKE_ENGINE": "sys.exit(75)"}
    )
    assert done.returncode == 2 and "Error 75" in done.stderr


# Runs what the container would, with the paths of this machine. What belongs to the TFOD dialect alone is left out: its
# smallest model takes a quarter of a minute for two steps.
FOR_REAL = f"""
import csv, subprocess
words, paths = sys.argv, {{}}
for text in [words[at + 1] for at, word in enumerate(words) if word == "--mount"]:
    known = dict(field.partition("=")[::2] for field in next(csv.reader([text])))
    paths[known["target"]] = known["source"]
verb = next(word for word in ("train", "evaluate") if word in words)
command = words[words.index(verb):]
for target, source in paths.items():
    command = [source + word[len(target):] if (word + "/").startswith(target + "/") else word for word in command]
at = next((at for at, word in enumerate(command) if word.startswith("augment.operations")), None)
if at: del command[at - 1 : at + 1]
if verb == "train":
    sys.exit(subprocess.call([{sys.executable!r}, "-m", "resight", *command]))
"""


@pytest.fixture
def tiny_run(place, shapes, untrained):
    given = {
        "NUM_STEPS": "2",
        "NUM_CLASSES": "2",
        "MIN_DIM": "64",
        "MAX_DIM": "96",
        "BATCH_SIZE": "2",
        "PRETRAINED_MODEL_NAME": str(untrained),
    }
    (place / "records").symlink_to(shapes(train=4, test=2))
    return {"LOCAL_DATA_PATH": ".", "FAKE_ENGINE": FOR_REAL, "PYTHONPATH": str(ROOT / "src"), **given}


@pytest.mark.soak
def test_the_command_trains(place, tiny_run):
    done = call("local", **tiny_run)
    assert done.returncode == 0, done.err
    assert "2 steps in" in done.out and (place / "runs" / "first" / "checkpoints" / "last.safetensors").is_file()
