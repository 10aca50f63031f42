"""What docs/cloud.md and docs/container.md say to other tools: against the tools' own schemas, and the scripts run."""

import ast
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import botocore.loaders
import pytest
import typer
import yaml
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from typer.core import TyperGroup
from typer.exceptions import TyperException

import resight
from resight.cli.app import app
from resight.errors import ResightError

DOCS = Path(resight.__file__).parents[2] / "docs"
OTHER_WAYS = (DOCS / "cloud.md").read_text(encoding="utf-8").partition("## Other ways with the same contract")[2]
STARTERS = ("resight", "docker", "podman", "buildah", "srun", "torchrun", "exec")
TRAIN = {"data": "s3://bucket/records", "out": "s3://bucket/runs/first", "resume": True, "log_format": "json"}


def blocks(text, language=""):
    """The fenced blocks of a language, or of any."""
    return re.findall(rf"^```{language or '[^`]*?'}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def parsed(words):
    """The verb and its options, as the command line takes ``words``, without running anything.

    Raises:
        TyperException, ResightError: it does not.
    """
    command, name, context = typer.main.get_command(app), "resight", None
    while True:
        context = command.make_context(name, list(words), parent=context)
        if not isinstance(command, TyperGroup):
            return context.command_path.partition(" ")[2], context.params
        words = [*context._protected_args, *context.args]
        name, command, words = command.resolve_command(context, words)


def resight_words(line):
    """What ``resight`` is called with in a line for a shell, by itself or as an image; None where it is not called."""
    words = shlex.split(line, comments=True)
    words = words[: next((at for at, word in enumerate(words) if re.match(r"[|&;<>]|\d>", word)), None)]
    if not words or words[0] not in STARTERS or (words[0] in STARTERS[1:4] and words[1] != "run"):
        return None
    for inner in words[1:]:
        if " resight " in inner:  # sh -c '...'
            return resight_words(inner[inner.index("resight ") :])
    called = [at for at, word in enumerate(words) if re.fullmatch(r"(.*/)?resight([:@][\w.:-]+)?", word)]
    return words[called[-1] + 1 :] if called else None


def command_lines(text):
    """The lines for a shell in code blocks, those that go on behind a backslash joined."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    code = [*blocks(text), *re.findall(r"(?:^ {4}.*\n)+", outside, re.MULTILINE)]
    joined = "\n".join(code).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
    return [found for line in lines if line.split(" ")[0] in STARTERS and (found := resight_words(line)) is not None]


@pytest.mark.parametrize("page", ["cloud.md", "container.md", "training.md", "your-photographs.md", "configuration.md"])
def test_every_command_line_is_one(page):
    found = command_lines((DOCS / page).read_text(encoding="utf-8"))
    assert found
    for words in found:
        try:
            parsed(words)
        except (TyperException, ResightError) as error:
            raise AssertionError(f"{page}: resight {shlex.join(words)}: {error}") from error


def test_a_wrong_command_line_would_be_found():
    text = "```bash\ndocker run --gpus all some/resight:1 \\\n    trian --data x\n```\n\n    resight train --dat x\n"
    found = command_lines(text)
    assert found == [["trian", "--data", "x"], ["train", "--dat", "x"]]
    for words in found:
        with pytest.raises((TyperException, ResightError)):
            parsed(words)
    assert parsed(["train", "--data", "x"])[1]["data"] == "x"


def is_the_training(words):
    verb, options = parsed(words)
    assert verb == "train" and {name: options[name] for name in TRAIN} == TRAIN


def test_the_skypilot_task_is_the_one_that_its_parser_took():
    """Read by SkyPilot 0.14.1; its schema does not refuse an unknown key of `job_recovery`."""
    (text,) = blocks(OTHER_WAYS, "yaml")
    task = yaml.safe_load(text)
    run = task.pop("run")
    assert task == {
        "name": "resight-first",
        "resources": {
            **{"infra": "aws", "accelerators": "A10G:1", "use_spot": True, "disk_size": 100},
            "job_recovery": {"recover_on_exit_codes": [75]},
        },
    }
    (line,) = run.replace("\\\n", " ").splitlines()
    is_the_training(resight_words(line))


def check_call(service, operation, arguments):
    model = ServiceModel(botocore.loaders.Loader().load_service_model(service, "service-2"))
    shape = model.operation_model(operation).input_shape
    report = ParamValidator().validate(arguments, shape)
    assert not report.has_errors(), report.generate_report()
    return shape


def matches_patterns(value, shape, where=""):
    """botocore does not look at the patterns of its model."""
    if shape.type_name == "structure":
        for name, inner in value.items():
            matches_patterns(inner, shape.members[name], f"{where}.{name}")
    elif shape.type_name == "list":
        for inner in value:
            matches_patterns(inner, shape.member, where)
    elif shape.type_name == "string":
        limits = shape.metadata
        assert not shape.enum or value in shape.enum, f"{where}: {value}"
        assert len(value) <= limits.get("max", len(value)), f"{where}: {value}"
        if pattern := limits.get("pattern"):
            assert re.fullmatch(pattern, value), f"{where}: {value} against {pattern}"


def test_the_sagemaker_call_fits_the_service():
    (code,) = blocks(OTHER_WAYS, "python")
    call = ast.parse(code).body[-1].value
    assert call.func.attr == "create_training_job"
    arguments = {keyword.arg: eval(ast.unparse(keyword.value), {}) for keyword in call.keywords}
    matches_patterns(arguments, check_call("sagemaker", "CreateTrainingJob", arguments))
    algorithm, stopping = arguments["AlgorithmSpecification"], arguments["StoppingCondition"]
    assert algorithm["ContainerEntrypoint"] == ["resight"]
    is_the_training(algorithm["ContainerArguments"])
    assert (
        stopping["MaxRuntimeInSeconds"] <= stopping["MaxWaitTimeInSeconds"] and arguments["EnableManagedSpotTraining"]
    )


def test_the_ecs_task_definition_fits_the_service():
    (text,) = blocks(OTHER_WAYS, "json")
    definition = json.loads(text)
    matches_patterns(definition, check_call("ecs", "RegisterTaskDefinition", definition))
    (container,) = definition["containerDefinitions"]
    is_the_training(container["command"])
    assert container["resourceRequirements"] == [{"type": "GPU", "value": "1"}] and container["stopTimeout"] == 110


# Slurm


def slurm_script():
    return next(block for block in blocks(OTHER_WAYS, "bash") if block.startswith("#!/bin/bash\n#SBATCH"))


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Runs the script with an ``srun`` that does what a piece of Python says, and an ``scontrol`` that records."""
    (tmp_path / "job.sh").write_text(slurm_script())
    scripts = {
        "srun": "import os, signal, sys, time\nopen('called', 'w').write(repr(sys.argv[1:]))\nexec(os.environ['SRUN'])",
        "scontrol": "import sys\nopen('requeued', 'a').write(' '.join(sys.argv[1:]) + '\\n')",
    }
    for name, code in scripts.items():
        (tmp_path / name).write_text(f"#!{sys.executable}\n{code}")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")

    def start(code):
        given = {**os.environ, "SRUN": code}
        return subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=given, stdout=subprocess.PIPE, text=True)

    return tmp_path, start


def requeued(folder):
    return (folder / "requeued").read_text().splitlines() if (folder / "requeued").exists() else []


@pytest.mark.parametrize("code", [0, 2, 75, 70])
def test_the_slurm_job_goes_back_to_the_queue_on_75_alone(slurm, code):
    folder, start = slurm
    assert start(f"sys.exit({code})").wait(timeout=60) == code
    assert requeued(folder) == (["requeue 4711"] if code == 75 else [])
    words = ast.literal_eval((folder / "called").read_text())
    assert words[0] == "resight" and parsed(words[1:])[1]["resume"]


STOPS = """
def stop(number, frame):
    print("saving", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: None)
    time.sleep(0.2)
    sys.exit({})
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("code", "times"), [(75, 1), (75, 2), (0, 1)])
def test_the_signal_of_slurm_reaches_the_training_and_its_exit_code_the_shell(slurm, code, times):
    folder, start = slurm
    process = start(STOPS.format(code))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "saving\n"
    if times == 2:
        process.send_signal(signal.SIGTERM)  # at the time limit itself
    assert process.communicate(timeout=60) and process.returncode == code
    assert requeued(folder) == (["requeue 4711"] if code == 75 else [])


def test_a_training_that_was_killed_is_not_mistaken_for_an_interrupted_one(slurm):
    folder, start = slurm
    assert start("os.kill(os.getpid(), signal.SIGKILL)").wait(timeout=60) == 128 + signal.SIGKILL
    assert requeued(folder) == []


def test_the_options_of_slurm_are_those_that_were_looked_up():
    options = re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", slurm_script(), re.MULTILINE)
    assert {"signal": "B:TERM@120", "requeue": "", "open-mode": "append"}.items() <= dict(options).items()
