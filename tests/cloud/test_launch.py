import json
import re
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from typer.testing import CliRunner

from resight.cli.app import app
from resight.cloud.aws import Aws
from resight.cloud.launch import Request, launch, plan_launch
from resight.errors import ResightError
from resight.io import object_store as storage
from resight.training.run_record import Attempt, read_run_record, update_run_record

MODEL = '[model]\nname = "test_efficientnet"\nstart = "none"\nmin_size = 64\nmax_size = 96\n'


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(storage, "_PAUSE", 0.01)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "signs.toml").write_text(f"{MODEL}[train]\nsteps = 3\nbatch_size = 4\n")
    return tmp_path / "signs.toml"


@pytest.fixture
def plan(deployed, prices, config):
    """``plan(**changes)``: what a launch is going to do."""
    aws = Aws(stack=deployed.stack)

    def make(**changes):
        given = {"config": str(config), "data": deployed.records, "out": deployed.out, "max_hours": 8, "max_cost": 6}
        given |= changes
        return plan_launch(aws, Request(**given))

    make.aws, make.carry_out = aws, lambda **changes: launch(aws, make(**changes))
    return make


def speak(place, line, *words):
    """Runs ``resight cloud LINE WORDS...`` against the stack."""
    result = CliRunner().invoke(app, ["cloud", *line.split(), *map(str, words), "--stack", place.stack])
    assert "Traceback" not in result.stderr and result.exit_code != 70, result.stderr
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def record(run):
    return read_run_record(run)[0]


def objects(place):
    return [found.address.removeprefix(place.out) for found in storage.find(place.out)]


def attempted(run, **facts):
    """Notes an attempt at the run, as its training would."""
    facts = {"started": datetime.now(UTC), "usd_per_hour": 1.2, "step": 2, "number": 1} | facts
    update_run_record(run, lambda before: replace(before, attempts=(Attempt(**facts),)))


def test_a_launch_in_ten_calls_at_most_read_back(deployed, prices, plan, config):
    dry = speak(
        deployed, "launch --dry-run", config, "--data", deployed.records, "-o", deployed.out,
        "--max-hours", 8, "--max-cost", 6, "--notify", "me@example.org",
    )  # fmt: skip
    assert dry.code == 0 and not [call for call in deployed.calls if re.search("Put|Register|Submit|Subscribe", call)]
    assert objects(deployed) == [] and deployed.jobs() == []
    deployed.calls.clear()
    prices.requests.clear()
    said = speak(
        deployed, "launch --yes", config, "--data", deployed.records, "--out", deployed.out,
        "--max-hours", 8, "--max-cost", 6, "--notify", "me@example.org",
    )  # fmt: skip
    assert said.code == 0 and said.out == dry.out  # the plan is what --dry-run shows, word for word
    assert len(deployed.calls) + len(prices.requests) <= 10, deployed.calls
    for part in (
        f"{deployed.out} (new)", "@sha256:", "(0.1.0, pushed", "g4dn.xlarge (1 GPU, $0.526/h), g5.xlarge",
        "8 h and $6.00", "at most $6.00, at $5.672/h", "at most 10, as Batch allows",
        "--resume --device auto --log-format json",
    ):  # fmt: skip
        assert part in said.out, part
    assert f"Next: resight cloud status {deployed.out}" in said.err
    assert objects(deployed) == ["/launch/config.toml", "/run.json"]
    assert storage.read(f"{deployed.out}/launch/config.toml") == config.read_bytes()
    (job,), noted = deployed.jobs(), record(deployed.out)
    found = boto3.client("batch").describe_job_definitions(jobDefinitionName=job.job_name)["jobDefinitions"]
    (definition,) = found
    assert re.fullmatch(re.escape(deployed.outputs["Repository"]) + "@sha256:[0-9a-f]{64}", noted.image)
    assert noted.launch.prices == {"g4dn.xlarge": 0.526, "g5.xlarge": 1.006, "g5.12xlarge": 5.672}
    assert (noted.launch.instance, noted.launch.limits.hours, noted.launch.limits.usd) == ("g4dn.xlarge", 8, 6)
    assert [one.name for one in noted.launch.jobs] == [job.job_name] == [definition["jobDefinitionName"]]
    container = definition["containerProperties"]
    assert container["image"] == noted.image and container["jobRoleArn"] == deployed.outputs["JobRole"]
    assert ["resight", *container["command"]] == list(noted.command)
    assert container["command"][:3] == ["train", f"{deployed.out}/launch/config.toml", "--data"]
    needs = {one["type"]: one["value"] for one in container["resourceRequirements"]}
    assert needs == {"GPU": "1", "VCPU": "4", "MEMORY": "14745"}
    assert container["linuxParameters"]["sharedMemorySize"] == 7372
    assert container["logConfiguration"]["options"]["awslogs-group"] == deployed.outputs["LogGroup"]
    assert definition["retryStrategy"]["attempts"] == 10
    assert definition["retryStrategy"]["evaluateOnExit"] == [
        {"onStatusReason": "Host EC2*", "action": "retry"},
        {"onExitCode": "75", "action": "retry"},
        {"onReason": "*", "action": "exit"},
    ]  # Batch writes the actions in small letters
    # As long as the limits last at the lowest price, and a quarter of an hour.
    assert job.timeout["attemptDurationSeconds"] == definition["timeout"]["attemptDurationSeconds"] == 8 * 3600 + 900
    tags = boto3.client("batch").describe_jobs(jobs=[job.job_id])["jobs"][0]["tags"]
    assert tags == {"project": "resight", "stack": deployed.stack, "run": deployed.out}
    topic = boto3.client("sns").list_subscriptions_by_topic(TopicArn=deployed.outputs["Topic"])["Subscriptions"]
    assert [(one["Protocol"], one["Endpoint"]) for one in topic] == [("email", "me@example.org")]
    secret = "a-secret-key"
    assert not any(secret in text for text in (json.dumps(definition, default=str), noted.text(), said.out, said.err))


def test_without_a_terminal_nothing_is_launched_unless_told_to(deployed, config, plan):
    limits = ["--max-hours", 1, "--max-cost", 1]
    said = speak(deployed, "launch", config, "--data", deployed.records, "-o", deployed.out, *limits)
    assert said.code == 2 and "--yes" in said.err and "command   resight train" in said.out
    assert objects(deployed) == [] and deployed.jobs() == []


@pytest.mark.parametrize(("answer", "code", "launched"), [("n\n", 2, 0), ("y\n", 0, 1)])
def test_on_a_terminal_it_is_asked(deployed, prices, config, monkeypatch, answer, code, launched):
    monkeypatch.setattr("resight.cli.cloud.sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    words = ["launch", config, "--data", deployed.records, "-o", deployed.out, "--max-hours", 1, "--max-cost", 1]
    words = [*map(str, words), "--stack", deployed.stack]
    result = CliRunner().invoke(app, ["cloud", *words], input=answer)
    assert result.exit_code == code and "Go on?" in result.stderr and len(deployed.jobs()) == launched


def test_lost_answers_make_nothing_twice(deployed, plan):
    deployed.lose = ["batch:SubmitJob", "batch:RegisterJobDefinition", "s3:PutObject", "s3:PutObject", "sns:Subscribe"]
    plan.carry_out(notify="me@example.org")
    assert deployed.lose == []
    assert len(deployed.jobs()) == len(deployed.definitions()) == len(record(deployed.out).launch.jobs) == 1


def test_with_a_fifth_of_the_calls_failing_there_is_one_job_or_a_clear_error(deployed, plan):
    deployed.faults, ended = 0.2, 0
    for number in range(4):
        with suppress(ResightError):
            plan.carry_out(out=f"{deployed.out}-{number}")
            ended += 1
    deployed.faults = 0
    assert len(deployed.injected) > 5 and ended > 1
    noted = {found[0].launch.jobs[-1].name for n in range(4) if (found := read_run_record(f"{deployed.out}-{n}"))}
    assert sorted(job.job_name for job in deployed.jobs()) == sorted(noted)


def test_the_same_launch_goes_on_where_the_first_ended(deployed, plan):
    for call in ("s3:PutObject", "sns:Subscribe", "batch:RegisterJobDefinition", "batch:SubmitJob"):
        deployed.refuse = {call: ("AccessDeniedException", f"User is not authorized to perform: {call} on it")}
        with pytest.raises(ResightError, match=r"not allowed|do not allow"):
            plan.carry_out(notify="me@example.org")
        assert deployed.jobs() == []
    deployed.refuse = {}
    assert "no attempt has started" in plan().text()
    plan.carry_out()
    assert [job.job_name for job in deployed.jobs()] == [record(deployed.out).launch.jobs[-1].name]


def test_a_second_launch_at_the_same_time_is_refused(deployed, plan):
    first, second = plan(), plan()
    launch(plan.aws, first)
    with pytest.raises(ResightError, match="another launch of this run"):
        launch(plan.aws, second)
    assert len(deployed.jobs()) == 1


def test_a_run_that_exists(deployed, plan):
    plan.carry_out()
    (job,) = deployed.jobs()
    with pytest.raises(ResightError, match=f"its job {job.job_name} is RUNNABLE") as caught:
        plan()
    assert "resight cloud stop" in caught.value.fix
    job.status = "FAILED"
    attempted(deployed.out, ended="limit", exit_code=1, seconds=3600.0 * 5)
    with pytest.raises(ResightError, match=r"has taken 6\.00 already") as caught:
        plan()
    assert caught.value.where == "--max-cost 6"
    with pytest.raises(ResightError) as caught:
        plan(max_hours=5, max_cost=100)
    assert caught.value.where == "--max-hours 5"
    more = plan(max_cost=9)
    assert "continues from step 2, after 1 attempt of 5.00 h and $6.00; the last one was limit" in more.text()
    assert "at most $3.00 from here on" in more.text()
    update_run_record(deployed.out, lambda before: replace(before, git_commit="c0ffee"))
    more = plan(max_cost=9)
    assert ", commit c0ffee)" in more.rows["image"]
    with pytest.raises(ResightError, match="0 is not a valid amount"):
        plan(again=deployed.out, max_cost=0, config=None, data=None)
    # As the training itself says when it ends at a limit.
    again = plan(again=deployed.out, max_cost=9, config=None, data=None, out=None)
    assert again.rows["run"] == more.rows["run"] and again.record.command == more.record.command
    launch(plan.aws, more)
    noted = record(deployed.out)
    assert len(noted.launch.jobs) == 2 and len(noted.attempts) == 1 and noted.launch.limits.usd == 9
    assert deployed.jobs()[-1].timeout["attemptDurationSeconds"] == 3 * 3600 + 900  # of hours 3 are left
    deployed.jobs()[-1].status = "SUCCEEDED"
    with pytest.raises(ResightError, match="exists and is done"):
        plan(max_cost=20)
    storage.write(f"{deployed.out}-own/run.json", b'{"format": 1, "run": "s3://a/b", "attempts": []}')
    with pytest.raises(ResightError, match="was not launched by resight cloud"):
        plan(out=f"{deployed.out}-own")


def test_again_repeats_a_launch(deployed, plan, config):
    plan.carry_out(instance="g5.xlarge", on_demand=True)
    config.write_text("changed since")
    second = f"{deployed.out}/second"
    everything = dict.fromkeys(("config", "data", "max_hours", "max_cost"))
    plan.carry_out(out=second, again=deployed.out.rpartition("/")[2], **everything)
    before, after = record(deployed.out), record(second)
    assert storage.read(f"{second}/launch/config.toml") == storage.read(f"{deployed.out}/launch/config.toml")
    assert after.image == before.image
    for name in ("data", "config", "instance", "on_demand", "limits", "devices"):
        assert getattr(after.launch, name) == getattr(before.launch, name), name
    job = deployed.jobs()[-1]
    assert job.job_queue.arn == deployed.outputs["OnDemandQueue"] and "-second-" in job.job_name


def test_a_type_with_several_gpus_trains_on_all_of_them(deployed, plan):
    made = plan(instance="g5.12xlarge")
    assert "--devices 4" in made.text() and made.record.launch.devices == 4


def test_a_model_of_this_machine_goes_with_the_launch(deployed, plan, config, untrained):
    config.write_text(f'[model]\nstart = "{untrained}"\nname = "test_efficientnet"\n')
    made = plan.carry_out()
    assert made.launch.start == "start.safetensors"
    start = f"{deployed.out}/launch/start.safetensors"
    assert storage.stat(start).size == untrained.stat().st_size
    command = deployed.definitions()[0].container_properties["command"]
    assert command[command.index("--start") + 1] == start
    deployed.jobs()[-1].status = "SUCCEEDED"
    # What is repeated takes it from there.
    untrained_again = plan(out=f"{deployed.out}-2", again=deployed.out, config=None)
    assert untrained_again.record.launch.start == start and f"--start {start}" in untrained_again.text()
    config.write_text(MODEL)  # another configuration starts as it says itself
    assert plan(out=f"{deployed.out}-2", again=deployed.out).record.launch.start is None


def test_published_weights_go_with_the_launch(deployed, plan, config, monkeypatch):
    monkeypatch.setattr("resight.training.start.write_published", lambda name, path: Path(path).write_text(name))
    config.write_text('[model]\nname = "resnet18"\n')
    made = plan()
    assert made.record.launch.start == "pretrained.safetensors" and "--start" not in made.text()
    launch(plan.aws, made)
    address = f"{deployed.out}/launch/pretrained.safetensors"
    assert storage.read(address) == b"resnet18"
    variables = deployed.definitions()[0].container_properties["environment"]
    assert {"name": "RESIGHT_PRETRAINED", "value": address} in variables
    config.write_text("")  # the default's are in the image
    assert plan(out=f"{deployed.out}-2").record.launch.start is None


def test_a_model_of_tfods_goes_with_its_files(tmp_path):
    from resight.dialect import load_config
    from resight.training.start import start_files, start_name

    (tmp_path / "model/checkpoint").mkdir(parents=True)
    for name in ("checkpoint/ckpt-0.index", "checkpoint/ckpt-0.data-00000-of-00001", "pipeline.config", "other"):
        (tmp_path / "model" / name).touch()
    config = load_config(None, {"model.start": str(tmp_path / "model")})
    found = start_files(config, tmp_path)
    assert start_name(config) == "start"
    assert set(found) == {
        "start/checkpoint/ckpt-0.index", "start/checkpoint/ckpt-0.data-00000-of-00001", "start/pipeline.config"
    }  # fmt: skip
    with pytest.raises(ResightError, match="no such model"):
        start_files(load_config(None, {"model.start": str(tmp_path / "none")}), tmp_path)


def test_a_model_of_the_zoo_is_not_fetched_to_name_it(monkeypatch):
    from resight.dialect import load_config
    from resight.tfod import zoo
    from resight.training.start import start_name

    def fetched(name):
        raise AssertionError(f"{name} was fetched")

    config = load_config(None, {"model.start": zoo.NAMES[0]})
    monkeypatch.setattr(zoo, "fetch", fetched)
    assert start_name(config) == "start"


def test_a_configuration_in_s3_is_copied(deployed, plan, config):
    address = f"{deployed.outputs['Data']}signs.toml"
    storage.write(address, config)
    launch(plan.aws, plan(config=address))
    assert storage.read(f"{deployed.out}/launch/config.toml") == config.read_bytes()
    storage.write(address, b"[trian]\n")
    with pytest.raises(ResightError, match="trian") as caught:
        plan(config=address, out=f"{deployed.out}-2")
    assert caught.value.where.startswith(address)


DIGEST = "sha256:" + "ab" * 32


BAD = [
    ({"max_hours": None}, "--max-hours: is missing"),
    ({"max_cost": None}, "--max-cost: is missing"),
    ({"max_hours": 0}, "--max-hours: 0 is not a valid amount"),
    ({"max_cost": -1.0}, "--max-cost: -1 is not a valid amount"),
    ({"max_cost": float("nan")}, "--max-cost: nan is not a valid amount"),
    ({"max_hours": float("inf")}, "--max-hours: inf is not a valid amount"),
    ({"price": 0}, "--price: 0 is not a valid amount"),
    ({"config": None}, "CONFIG: is missing"),
    ({"data": None}, "--data: is missing"),
    ({"out": None}, "--out: is missing"),
    ({"data": "records"}, "records is not below s3://"),
    ({"data": "s3://elsewhere/data"}, "s3://elsewhere/data is not below"),
    ({"data": "{Data}nothing"}, "there is nothing at this address"),
    ({"data": "{Data}signs"}, "holds no records"),
    ({"out": "runs/first"}, "--out runs/first: no name of a run below s3://"),
    ({"out": "s3://elsewhere/runs/first"}, "no name of a run below s3://"),
    ({"out": "{Runs}"}, "no name of a run below"),
    ({"out": "{Runs}a b"}, "no name of a run below"),
    ({"config": "none.toml"}, "none.toml: cannot be read"),
    ({"config": "{Data}none.toml"}, "none.toml: there is no such object"),
    ({"config": "s3://no-such-bucket-here/none.toml"}, "there is no bucket"),
    ({"instance": "m5.large"}, "m5.large is not one of the stack's"),
    ({"image": DIGEST}, "is not in 123456789012.dkr.ecr"),
    ({"image": "0.2.0"}, "0.2.0 is not in 123456789012.dkr.ecr"),
    ({"image": "ghcr.io/me/resight:latest"}, "a tag is not fixed"),
    ({"again": "none"}, "there is no such run"),
]


def test_bad_input_is_refused_before_anything_is_made(deployed, plan):
    storage.write(f"{deployed.outputs['Data']}signs/a.jpg", b"")
    for given, said in BAD:
        changes = {
            key: value.format(**deployed.outputs) if isinstance(value, str) else value for key, value in given.items()
        }
        with pytest.raises(ResightError) as caught:
            plan(**changes)
        assert said in str(caught.value) and caught.value.exit_code == 2, given
    assert objects(deployed) == [] and deployed.jobs() == [] and deployed.definitions() == []


UNSEEN = [
    ("[trian]\nsteps = 3", "unknown key 'trian'"),
    ('[data]\nlabel_map = "/home/me/map.pbtxt"', "data.label_map: /home/me/map.pbtxt is a local path"),
    ('[data]\ntrain = "/home/me/*.tfrecord"', "data.train: /home/me/*.tfrecord is a local path"),
    ('[data]\nval = "s3://elsewhere/val-*"', "data.val: s3://elsewhere/val-* is not below"),
    ('[model]\nstart = "s3://elsewhere/model"', "model.start: s3://elsewhere/model is not below"),
    ('[model]\nstart = "no/such/model"', "there is no such model"),
    ('[model]\nname = "faster_rcnn_resnet50_v1"\ndetections = 0', "detections"),
]


def test_what_the_job_cannot_do_is_refused_by_its_key(deployed, plan, config):
    for text, said in UNSEEN:
        config.write_text(text)
        with pytest.raises(ResightError) as caught:
            plan()
        assert said in str(caught.value), text


def test_what_lies_beside_the_records_may_be_named(deployed, plan, config):
    config.write_text('[data]\nlabel_map = "label_map.pbtxt"\ntrain = "train-*.tfrecord"\n')
    assert "launch/config.toml" in plan().text()


def test_an_image_of_another_registry_is_taken_by_its_digest(deployed, plan):
    made = plan(image=f"ghcr.io/me/resight@{DIGEST}")
    assert made.record.image == f"ghcr.io/me/resight@{DIGEST}" and "ecr:DescribeImages" not in deployed.calls
    newest = plan().record.image
    assert plan(image="0.1.0").record.image == plan(image=newest.partition("@")[2]).record.image == newest


def test_expired_credentials_and_missing_permissions_are_told(deployed, plan):
    deployed.refuse = {"cloudformation:.*": ("ExpiredToken", "The security token included in the request is expired")}
    with pytest.raises(ResightError, match="credentials have expired"):
        plan()
    denied = "User: arn:aws:iam::1:user/me is not authorized to perform: ecr:DescribeImages on resource: x"
    deployed.refuse = {"ecr:.*": ("AccessDeniedException", denied)}
    with pytest.raises(ResightError, match="not allowed: ecr:DescribeImages"):
        plan()


def test_a_pipeline_config_goes_as_it_is_with_its_checkpoint(deployed, plan, tmp_path, least_pipeline):
    folder = tmp_path / "zoo/checkpoint"
    folder.mkdir(parents=True)
    for name in ("ckpt-0.index", "ckpt-0.data-00000-of-00001"):
        (folder / name).write_bytes(name.encode())
    config = tmp_path / "pipeline.config"
    config.write_text(least_pipeline(f'batch_size: 2 fine_tune_checkpoint: "{folder}/ckpt-0"'))
    made = plan.carry_out(config=str(config))
    assert (made.launch.config, made.launch.start) == ("pipeline.config", "start")
    assert objects(deployed) == [
        "/launch/pipeline.config", "/launch/start/checkpoint/ckpt-0.data-00000-of-00001",
        "/launch/start/checkpoint/ckpt-0.index", "/run.json",
    ]  # fmt: skip
    assert storage.read(f"{deployed.out}/launch/pipeline.config").decode() == config.read_text()
    assert made.command[made.command.index("--start") + 1] == f"{deployed.out}/launch/start"
    again = plan(out=f"{deployed.out}-2", again=deployed.out, config=None)
    assert again.record.launch.start == f"{deployed.out}/launch/start"
    config.write_text(least_pipeline(f'batch_size: 2 fine_tune_checkpoint: "{tmp_path}/gone/ckpt-0"'))
    with pytest.raises(ResightError, match="gone/ckpt-0"):
        plan(config=str(config), out=f"{deployed.out}-3")
