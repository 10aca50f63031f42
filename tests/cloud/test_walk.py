"""All commands of `resight cloud`, one after the other, and what they leave asked of AWS directly."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import boto3
from typer.testing import CliRunner

import resight
from resight.cli.app import app
from resight.io import object_store as storage
from resight.models.checkpoints import LAST, load_checkpoint
from resight.training.run_record import read_run_record

SETTINGS = """
[model]
name = "test_efficientnet"
start = "none"
min_size = 64
max_size = 96
[train]
steps = 2
batch_size = 2
[data]
workers = 0
"""


def speak(stack, *words):
    result = CliRunner().invoke(app, ["cloud", *map(str, words), "--stack", stack])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def work(definition, job):
    """Runs the command of a job definition as its container would, and returns what it says, line by line."""
    container = definition["containerProperties"]
    own = {one["name"]: one["value"] for one in container["environment"]}
    environment = os.environ | own | {"RESIGHT_LOG_STREAM": "stdout", "AWS_BATCH_JOB_ID": job}
    environment["PYTHONPATH"] = str(Path(resight.__file__).parents[1])
    command = [sys.executable, "-m", "resight", *container["command"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_from_init_to_down(aws, prices, shapes, tmp_path, monkeypatch):
    monkeypatch.setattr("resight.cloud.stack.POLL", 0.0)
    name, batch, ecr = aws.stack, boto3.client("batch"), boto3.client("ecr")
    assert "AWSTemplateFormatVersion" in speak(name, "template").out
    types = "InstanceTypes=g4dn.xlarge,g5.xlarge"
    dry = speak(name, "init", "--set", types, "--dry-run")
    assert dry.code == 0 and not [
        one for one in batch.describe_job_queues()["jobQueues"] if name in one["jobQueueName"]
    ]
    made = speak(name, "init", "--set", types, "--yes")
    assert made.code == 0 and made.out.startswith(dry.out), made.err
    outputs = {line.split()[0]: line.split()[1] for line in made.out.removeprefix(dry.out).splitlines()}
    assert f"resight cloud launch CONFIG --data {outputs['Data']}RECORDS --out {outputs['Runs']}NAME" in made.err
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": {"digest": f"sha256:{'b' * 64}"}})
    ecr.put_image(repositoryName=name, imageTag="latest", imageManifest=manifest)
    records, run = f"{outputs['Data']}records", f"{outputs['Runs']}first"
    for file in shapes(train=4, val=2).iterdir():
        storage.write(f"{records}/{file.name}", file)
    (tmp_path / "signs.toml").write_text(SETTINGS)
    limits = ["--max-hours", 2, "--max-cost", 1]
    said = speak(name, "launch", tmp_path / "signs.toml", "--data", records, "--out", run, *limits, "--yes")
    assert said.code == 0, said.err
    (job,) = read_run_record(run)[0].launch.jobs
    (definition,) = batch.describe_job_definitions(jobDefinitionName=job.name)["jobDefinitions"]
    (submitted,) = batch.list_jobs(jobQueue=outputs["SpotQueue"], filters=[{"name": "JOB_NAME", "values": [job.name]}])[
        "jobSummaryList"
    ]
    lines = work(definition, submitted["jobId"])
    client, where = boto3.client("logs"), {"logGroupName": name, "logStreamName": f"{job.name}/default/1"}
    assert definition["containerProperties"]["logConfiguration"]["options"]["awslogs-stream-prefix"] == job.name
    client.create_log_stream(**where)
    client.put_log_events(
        **where, logEvents=[{"timestamp": int(time.time() * 1000), "message": line} for line in lines]
    )
    told = speak(name, "logs", "first")
    assert told.code == 0 and f"run folder {run}" in told.out and '"level"' not in told.out
    state = json.loads(speak(name, "status", "first", "--json").out)
    (attempt,) = state["attempts"]
    assert (state["status"], attempt["ended"], attempt["step"]) == ("SUCCEEDED", "done", 2)
    assert (attempt["job"], attempt["exit_code"], attempt["usd_per_hour"]) == (submitted["jobId"], 0, 1.006)
    assert state["metrics"].keys() == {"mAP", "AP50"} and 0 < state["usd"] < 1
    assert "  nothing" not in speak(name, "stop", "first", "--yes").out
    assert speak(name, "fetch", "first", "-o", tmp_path / "first").code == 0
    assert load_checkpoint(tmp_path / "first" / LAST).state["step"] == 2
    assert (tmp_path / "first/run.json").read_text() == storage.read(f"{run}/run.json").decode()
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert not any(secret in text for text in (json.dumps(definition, default=str), *lines, told.out))
    gone = speak(name, "down", "--yes")
    assert gone.code == 0 and "left but the bucket" in gone.err, gone.err
    left = batch.describe_job_definitions(status="ACTIVE")["jobDefinitions"]
    assert not [one for one in left if one["jobDefinitionName"] == job.name]
    assert not [one for one in batch.describe_job_queues()["jobQueues"] if one["jobQueueName"].startswith(f"{name}-")]
    assert storage.stat(f"{run}/run.json")  # what was trained stays
