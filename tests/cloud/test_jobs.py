import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from typer.testing import CliRunner

from resight.cli.app import app
from resight.cloud import jobs
from resight.cloud.aws import Aws
from resight.cloud.jobs import logs, status, stop
from resight.cloud.launch import Request, launch, plan_launch
from resight.errors import ResightError
from resight.io import object_store as storage
from resight.training.run_record import Attempt, update_run_record


@pytest.fixture
def run(deployed, prices, tmp_path, monkeypatch):
    """A run that has been launched: its address, ``name``, ``job``, and ``aws``, the connection."""
    monkeypatch.setattr(storage, "_PAUSE", 0.01)
    monkeypatch.setattr(jobs, "EVERY", 0.0)
    (tmp_path / "signs.toml").write_text('[model]\nname = "test_efficientnet"\nstart = "none"\n[train]\nsteps = 100\n')
    aws = Aws(stack=deployed.stack)
    asked = Request(str(tmp_path / "signs.toml"), deployed.records, deployed.out, max_hours=8, max_cost=6)
    launch(aws, plan_launch(aws, asked))
    (job,) = deployed.jobs()
    return SimpleNamespace(address=deployed.out, name=deployed.out.rpartition("/")[2], job=job, aws=aws)


def speak(place, line, *words):
    result = CliRunner().invoke(app, ["cloud", *line.split(), *map(str, words), "--stack", place.stack])
    assert "Traceback" not in result.stderr and result.exit_code != 70, result.stderr
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def note(run, *attempts):
    update_run_record(run.address, lambda before: replace(before, attempts=tuple(attempts)))


def attempt(number, hours_ago, **facts):
    started = datetime.now(UTC) - timedelta(hours=hours_ago)
    return Attempt(started=started, number=number, instance_type="g5.xlarge", usd_per_hour=1.0, **facts)


def say(place, run, stream, *messages):
    """Writes to the log as the container of an attempt would."""
    client, where = boto3.client("logs"), {"logGroupName": place.outputs["LogGroup"]}
    where["logStreamName"] = f"{run.job.job_name}/default/{stream}"
    if not client.describe_log_streams(logGroupName=where["logGroupName"], logStreamNamePrefix=where["logStreamName"])[
        "logStreams"
    ]:
        client.create_log_stream(**where)
    now = int(time.time() * 1000)
    events = [{"timestamp": now + at, "message": message} for at, message in enumerate(messages)]
    client.put_log_events(**where, logEvents=events)


def test_a_run_that_trains(deployed, run):
    first = attempt(1, 5, seconds=7200.0, from_step=0, step=40, lost_steps=3, ended="interrupted", exit_code=75)
    note(run, first, attempt(2, 1, seconds=60.0, from_step=37, step=60))
    run.job.status = "RUNNING"
    rows = [
        {"split": "train", "step": 50, "loss": 1.0},
        {"split": "val", "step": 40, "mAP": 0.25, "AP50": 0.5},
        {"split": "train"},
    ]
    storage.write(f"{run.address}/metrics.jsonl", "\n".join(map(json.dumps, rows)).encode() + b'\n{"half')
    (state,) = status(run.aws, run.name)
    told = state.json()
    assert (told["status"], told["attempts"][-1]["step"], told["metrics"]) == (
        "RUNNING",
        60,
        {"mAP": 0.25, "AP50": 0.5},
    )
    assert told["hours"] == pytest.approx(3, abs=0.01) and told["usd"] == pytest.approx(3, abs=0.01)  # up to now
    assert (told["interruptions"], told["lost_steps"], len(told["attempts"])) == (1, 3, 2)
    note(run, *(replace(one, job="a") for one in state.record.attempts))
    said = speak(deployed, "status", run.address)
    for part in (
        f"{run.address}  RUNNING\n", f"job       {run.job.job_name}\n", "training  step 60, mAP 0.250, AP50 0.500\n",
        "attempt   1: interrupted, exit code 75, steps 0 to 40 in 2 h on g5.xlarge\n", "attempt   2: running",
        "spent     3.00 of 8 h, $3.00 of $6.00\n", "lost      3 steps by 1 interruption\n", "image     ",
    ):  # fmt: skip
        assert part in said.out, part
    assert "Next: resight cloud logs --follow" in said.err
    assert json.loads(speak(deployed, "status --json", run.address).out)["lost_steps"] == 3
    assert run.address in [one["run"] for one in json.loads(speak(deployed, "status --json").out)]


def test_a_job_that_does_not_start_says_why(deployed, run, monkeypatch):
    assert status(run.aws, run.name)[0].reason == ""
    reason = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - the service cannot fulfil the capacity"
    run.job.job_stopped_reason = reason  # what the imitation gives out as statusReason
    quotas = [
        {"QuotaName": "All G and VT Spot Instance Requests", "Value": 0.0},
        {"QuotaName": "Running On-Demand G and VT instances", "Value": 0.0},
        {"QuotaName": "All P5 Spot Instance Requests", "Value": 0.0},
        {"QuotaName": "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", "Value": 0.0},
    ]
    pages = run.aws.pages

    def answered(service, action, key, **options):
        return quotas if service == "service-quotas" else pages(service, action, key, **options)

    monkeypatch.setattr(run.aws, "pages", answered)
    job = {"container": {"resourceRequirements": [{"type": "VCPU", "value": "4"}]}}
    job |= {"status": "RUNNABLE", "statusReason": reason, "jobId": "1"}
    monkeypatch.setattr(jobs, "jobs_named", lambda *_: [job])
    why = status(run.aws, run.name)[0].reason
    assert why == f"{reason}; the quota 'All G and VT Spot Instance Requests' is 0 vCPUs, and the job needs 4"


def test_a_job_that_batch_does_not_list_yet_is_waited_for(run, monkeypatch):
    monkeypatch.setattr(jobs, "SETTLED", 60.0)
    named, late = jobs.jobs_named, [[], []]
    monkeypatch.setattr(jobs, "jobs_named", lambda *told: late.pop() if late else named(*told))
    with pytest.raises(ResightError, match="exists, and its job"):
        plan_launch(run.aws, Request(again=run.address))
    assert not late


def test_of_two_jobs_of_one_name_the_one_that_trains_is_the_runs(run, monkeypatch):
    told = [{"jobId": str(at), "status": status, "createdAt": at} for at, status in enumerate(("RUNNING", "FAILED"))]
    monkeypatch.setattr(jobs, "jobs_named", lambda *_: told)
    assert status(run.aws, run.name)[0].status == "RUNNING"


def test_a_run_of_another_stack_is_told_by_its_name(deployed, run):
    update_run_record(run.address, lambda before: replace(before, launch=replace(before.launch, region="eu-west-1")))
    said = speak(deployed, "stop --yes", run.address)
    assert said.code == 2 and f"--stack {deployed.stack} --region eu-west-1" in said.err
    gone = replace(jobs.find_run(run.aws.outputs(), run.address)[2], region="us-east-1", stack="no-more")
    assert jobs.find_job(run.aws, run.aws.outputs(), gone) is None


def test_a_container_that_failed_says_why(deployed, run, monkeypatch):
    told = {"exitCode": 2, "reason": "CannotPullContainerError: not found"}
    job = {"status": "FAILED", "statusReason": "Essential container in task exited", "container": told, "jobId": "1"}
    monkeypatch.setattr(jobs, "jobs_named", lambda *_: [job])
    why = status(run.aws, run.name)[0].reason
    assert why == "Essential container in task exited; CannotPullContainerError: not found; exit code 2"


def test_what_is_no_run_is_told(deployed, run):
    for line in ("status", "logs", "stop --yes", "fetch"):
        said = speak(deployed, line, "none")
        assert said.code == 2 and "there is no such run" in said.err, line
    run.job.status = "SUCCEEDED"
    storage.delete(f"{run.address}/run.json")
    assert any("there is no such run" in one.reason for one in status(run.aws) if one.run == run.address)


def test_a_stack_of_another_template_says_which_output_it_lacks(aws):
    resource = {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": aws.stack}}
    template = {"Resources": {"Topic": resource}, "Outputs": {"Runs": {"Value": "s3://runs/"}}}
    boto3.client("cloudformation").create_stack(StackName=aws.stack, TemplateBody=json.dumps(template))
    said = speak(aws, "status")
    assert said.code == 2 and "no output 'SpotQueue'" in said.err and "resight cloud init" in said.err


def test_a_job_that_batch_has_forgotten_is_told_by_its_record(deployed, run):
    note(run, attempt(1, 5, seconds=7200.0, step=40, ended="limit", exit_code=1))
    del deployed.jobs()[0].job_queue.jobs[:]
    (state,) = status(run.aws, run.name)
    assert (state.status, state.record.hours) == ("UNKNOWN", 2.0) and "attempt   1: limit, exit code 1" in state.text()


def test_logs_of_a_job_that_has_not_started_say_its_state(deployed, run):
    said = speak(deployed, "logs", run.name)
    assert said.code == 2 and "has no log yet: its job is RUNNABLE" in said.err


def test_logs_follow_over_attempts_to_the_end(deployed, run, monkeypatch):
    run.job.status, moments = "RUNNING", iter(range(10))

    def passes(_):
        match next(moments):
            case 0:
                say(deployed, run, "a", '{"level": "info", "message": "the second"}')
            case 1:
                say(deployed, run, "b", "another attempt", "\x1b[31mred")
            case 2:
                run.job.status = "FAILED"
                say(deployed, run, "b", "the last")

    say(deployed, run, "a", '{"level": "info", "message": "the first"}')
    monkeypatch.setattr(jobs, "time", SimpleNamespace(sleep=passes, time=time.time, monotonic=time.monotonic))
    found = list(logs(run.aws, run.name, follow=True))
    assert found == ["the first", "the second", "another attempt", "\\u001b[31mred", "the last"]
    assert list(logs(run.aws, run.name)) == found


def test_ctrl_c_ends_the_following_with_130(deployed, run, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    run.job.status = "RUNNING"
    say(deployed, run, "a", "the first")
    monkeypatch.setattr(jobs, "time", SimpleNamespace(sleep=interrupt))
    said = speak(deployed, "logs --follow", run.name)
    assert (said.code, said.out) == (130, "the first\n")


def test_stop_waits_for_the_end_and_can_be_said_twice(deployed, run, monkeypatch):
    dry = speak(deployed, "stop --dry-run", run.name)
    assert dry.code == 0 and f"end job {run.job.job_name}" in dry.out and run.job.status == "RUNNABLE"
    run.job.status = "RUNNING"

    def saves(_):
        note(run, attempt(1, 1, seconds=60.0, step=7, ended="interrupted", exit_code=75))
        run.job.status = "FAILED"

    monkeypatch.setattr("moto.batch.models.Job.terminate", lambda job, reason: setattr(job, "stop", True))
    monkeypatch.setattr(jobs, "time", SimpleNamespace(sleep=saves, time=time.time, monotonic=time.monotonic))
    said = speak(deployed, "stop --yes", run.name)
    assert (
        said.code == 0
        and "  FAILED" in said.out
        and "1: interrupted" in said.out
        and "step 7" in said.out
        and run.job.stop
    )
    deployed.calls.clear()
    assert speak(deployed, "stop --yes", run.name).out.startswith("nothing: no job")
    assert "batch:TerminateJob" not in deployed.calls
    monkeypatch.setattr(jobs, "STOPPING", -1.0)
    run.job.status = "RUNNING"
    with pytest.raises(ResightError, match="is still RUNNING"):
        stop(run.aws, run.name)


def test_a_run_is_fetched_whole_and_a_copy_goes_on(deployed, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "has saved nothing yet" in speak(deployed, "fetch", run.name).err
    names = (
        "config.toml",
        "metrics.jsonl",
        ".lock",
        "checkpoints/last-ab.safetensors",
        "checkpoints/last-cd.safetensors",
    )
    for name in (*names, "checkpoints/best-ef.safetensors", "checkpoints/step-00000004.safetensors", "events.out.1"):
        storage.write(f"{run.address}/{name}", name.encode())
    storage.write(f"{run.address}/checkpoints/last", b"last-cd.safetensors")
    storage.write(f"{run.address}/checkpoints/best", b"best-ef.safetensors")
    download, fetched = storage.download, []

    def cut_off(found, path):
        if len(fetched) == 4:
            raise storage.StorageError("the network is gone")
        fetched.append(found.address)
        download(found, path)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "download", cut_off)
        assert speak(deployed, "fetch", run.name).code == 2
    deployed.calls.clear()
    said = speak(deployed, "fetch", run.name)
    assert said.code == 0 and f"Next: resight evaluate runs/{run.name}" in said.err
    folder = tmp_path / "runs" / run.name
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "checkpoints/best.safetensors", "checkpoints/last.safetensors", "checkpoints/step-00000004.safetensors",
        "config.toml", "events.out.1", "launch/config.toml", "metrics.jsonl", "run.json",
    ]  # fmt: skip
    assert (folder / "checkpoints/last.safetensors").read_bytes() == b"checkpoints/last-cd.safetensors"
    assert deployed.count("s3:GetObject") < 2 * 8  # what was there already was not fetched again
    said = speak(deployed, "fetch", run.address, "-o", folder)
    assert said.code == 2 and "already holds something" in said.err


def test_every_verb_ends_right_or_clearly_where_a_fifth_of_the_calls_fail(deployed, run, tmp_path):
    run.job.status = "RUNNING"
    say(deployed, run, "a", "said")
    for name in ("config.toml", "checkpoints/last-cd.safetensors"):
        storage.write(f"{run.address}/{name}", b"x")
    storage.write(f"{run.address}/checkpoints/last", b"last-cd.safetensors")
    deployed.faults = 0.2
    right = 0
    for number in range(2):
        for line in ("status", "logs", f"fetch -o {tmp_path}/{number}", "stop --yes"):
            said = speak(deployed, line, run.name)
            assert said.code == 0 or (said.code == 2 and said.err.strip().startswith(("error: ", "fetching"))), said.err
            right += said.code == 0
    assert len(deployed.injected) > 8 and right >= 6


def test_a_profile_that_is_named_comes_before_keys_of_the_environment(deployed, run, monkeypatch):
    """Of calls to AWS and of addresses in S3 alike, and only for as long as the command takes."""
    keys = {"AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other"}
    for key, value in keys.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).write_text(
        "[mine]\naws_access_key_id = mine\naws_secret_access_key = s\n"
    )
    Path(os.environ["AWS_CONFIG_FILE"]).write_text("[profile mine]\nregion = us-east-1\n")
    before, deployed.keys = dict(os.environ), []
    said = speak(deployed, "status --profile mine", run.name)
    assert said.code == 0 and set(deployed.keys) == {"mine"}
    assert "--profile mine --region us-east-1 --stack jobs" in said.err
    assert dict(os.environ) == before
