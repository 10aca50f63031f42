"""A training as a job of AWS Batch: planned whole, then begun in an order that the same command can go on from."""

from __future__ import annotations

import math
import os
import re
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..config.tree import Config
from ..dialect import load_config
from ..errors import ResightError, counted
from ..io import object_store as storage
from ..io.files import IS_RECORD, TEXT, read_file
from ..io.object_store import Conflict, is_remote
from ..tfod.pipeline.config import examine_pipeline, is_pipeline
from ..training import run_record
from ..training.run_record import LAUNCH, PUBLISHED, Job, Launch, Limits, RunRecord, seconds_left
from .aws import Aws
from .instances import InstanceType, choose_types
from .jobs import LIVE, QUEUES, find_job, find_run, jobs_named

ATTEMPTS = 10  # as many as Batch allows
MARGIN = 900  # seconds that Batch's own timeout leaves beyond the limits, to load, to save and to end
LISTED = 1000  # objects of the data that are looked at: as many as one call lists
_RUN_NAME = re.compile(r"[A-Za-z0-9][\w.=-]*(/[A-Za-z0-9][\w.=-]*)*", re.ASCII)  # it is in a tag, too
_BY_DIGEST = re.compile(r"(?:(?P<repository>[^@\s]+)@)?(?P<digest>sha256:[0-9a-f]{64})")
_RETRY = [
    {"action": "RETRY", "onStatusReason": "Host EC2*"},  # the instance was taken away
    {"action": "RETRY", "onExitCode": "75"},  # interrupted, and saved
    {"action": "EXIT", "onReason": "*"},
]


@dataclass(frozen=True)
class Request:
    """What is asked for, each as the help of ``resight cloud launch`` says; ``start`` is the address of weights that an
    earlier launch has copied."""

    config: str | None = None
    data: str | None = None
    out: str | None = None
    max_hours: float | None = None
    max_cost: float | None = None
    instance: str | None = None
    on_demand: bool = False
    price: float | None = None
    image: str | None = None
    notify: str | None = None
    again: str | None = None
    start: str | None = None


@dataclass(frozen=True)
class LaunchPlan:
    """All that a launch is going to do. ``replacing`` is the ETag of the record before, "" where there is none; under
    ``launch/`` of the run go ``files`` and, where there is a ``start``, the files of the weights to start from."""

    record: RunRecord
    replacing: str
    settings: Config
    files: Mapping[str, bytes]
    start: str | None
    definition: Mapping[str, Any]
    submission: Mapping[str, Any]
    subscription: Mapping[str, str]
    rows: Mapping[str, str]

    def text(self) -> str:
        return "\n".join(f"{key:<10}{value}" for key, value in self.rows.items() if value)


def launch(aws: Aws, plan: LaunchPlan) -> RunRecord:
    """Does what is planned, and returns the record of the run. After a failure the same launch can be planned again:
    the job comes last, and a run whose job was not submitted goes on. Raises ResightError: nothing was submitted; or
    another launch of the same run has come before."""
    run, files = plan.record.run, dict[str, bytes | Path](plan.files)
    try:  # first, since of two launches at once only one may bring its files
        run_record.write_run_record(run, plan.record, plan.replacing)
    except Conflict:  # also where the answer to a write was lost, and its repetition refused
        found = run_record.read_run_record(run)
        if found is None or found[0] != plan.record:
            fix = "Look: resight cloud status"
            raise ResightError("another launch of this run has just begun", where=run, fix=fix) from None
    with tempfile.TemporaryDirectory(prefix="resight-") as folder:
        if plan.start:
            from ..training.start import start_files

            files |= start_files(plan.settings, Path(folder))
        for name, content in files.items():
            storage.write(storage.join(run, LAUNCH, name), content)
    if plan.subscription:
        aws.call("sns", "subscribe", **plan.subscription)
    job, queue = plan.submission["jobName"], plan.submission["jobQueue"]

    def registered() -> dict[str, Any] | None:
        wanted = {"jobDefinitionName": job, "status": "ACTIVE"}
        return next(iter(aws.pages("batch", "describe_job_definitions", "jobDefinitions", **wanted)), None)

    made = aws.once("batch", "register_job_definition", registered, **plan.definition)
    submission = {"jobDefinition": made["jobDefinitionArn"], **plan.submission}
    aws.once("batch", "submit_job", lambda: next(iter(jobs_named(aws, queue, job)), None), **submission)
    return plan.record


def plan_launch(aws: Aws, request: Request) -> LaunchPlan:
    """Everything a launch needs, looked at and worked out; nothing is changed. Raises ResightError: something is wrong
    or missing."""
    from ..training.start import start_name

    outputs = aws.outputs()
    asked = _repeated(outputs, request)
    config, data, run = _addresses(outputs, asked)
    limits = Limits(asked.max_hours, asked.max_cost)
    before, etag, standing = _standing(aws, outputs, run, limits)
    changes = {"data.path": data} | ({"model.start": asked.start} if asked.start else {})
    name, content, settings = _read_config(config, changes)
    _check_seen(outputs, settings, data)
    copied = None if asked.start else start_name(settings)
    image, known = _find_image(aws, outputs, asked.image)
    if before and before.image == image and before.git_commit:
        known += f", commit {before.git_commit}"
    types = choose_types(aws, outputs["InstanceTypes"].split(","), asked.instance, asked.price)
    slug = re.sub(r"[^A-Za-z0-9_]+", "-", run.removeprefix(outputs["Runs"]))[:60]
    job = Job(f"{aws.stack}-{slug}-{uuid.uuid4().hex[:8]}", datetime.now(UTC))
    noted = Launch(
        stack=aws.stack,
        region=aws.region,
        data=data,
        config=name,
        instance=types[0].name,
        on_demand=asked.on_demand,
        devices=types[0].gpus,
        start=copied or asked.start,
        limits=limits,
        prices={one.name: one.usd for one in types},
        jobs=(*(before.launch.jobs if before and before.launch else ()), job),
    )
    record = replace(before or RunRecord(run), image=image, launch=noted)
    definition, submission = _batch_job(outputs, record, noted, types[0])
    command = ("resight", *definition["containerProperties"]["command"])
    record = record if before else replace(record, command=command)
    rows = {
        "run": f"{run} {standing}",
        "config": f"{config}, as {LAUNCH}/{name} of the run",
        "data": data,
        "start": settings.model.start + (f", as {LAUNCH}/{copied} of the run" if copied else ""),
        "image": f"{image} ({known})",
        **_terms(record, types, submission["timeout"]["attemptDurationSeconds"]),
        "mails": f"to {asked.notify}, after the subscription e-mail is confirmed" if asked.notify else "",
        "command": " ".join(command),
    }
    mail = {"TopicArn": outputs["Topic"], "Protocol": "email", "Endpoint": asked.notify} if asked.notify else {}
    return LaunchPlan(record, etag, settings, {name: content}, copied, definition, submission, mail, rows)


def _terms(record: RunRecord, types: Sequence[InstanceType], seconds: int) -> dict[str, str]:
    """Where the job runs, and what bounds it."""
    kind, dearest, limits = types[0], max(one.usd for one in types), record.limits
    usd = seconds_left(record, dearest) * dearest / 3600
    where = "on demand" if record.launch and record.launch.on_demand else "on Spot"
    return {
        "job": f"{counted(kind.gpus, 'GPU')}, {kind.vcpus} vCPUs, {kind.job_memory / 1024:.1f} GiB, "
        f"{where}: any of {', '.join(one.text() for one in types)}",
        "limits": f"{limits.hours:g} h and ${limits.usd:.2f} over all attempts, at prices on demand; at the first of "
        f"the two the run saves and ends. Batch itself ends an attempt after {seconds / 3600:.2f} h",
        "cost": f"at most ${usd:.2f}{' from here on' if record.attempts else ''}, at ${dearest:.3f}/h; and what is not "
        "counted: the minutes in which an instance boots, its volume, S3 and logs",
        "attempts": f"at most {ATTEMPTS}, as Batch allows: another one after an interruption, none after a failure",
    }


def _repeated(outputs: dict[str, str], request: Request) -> Request:
    """The request, with what it does not say taken from the launch that it repeats."""
    if request.again is None:
        return request
    run, record, old = find_run(outputs, request.again)
    earlier = Request(
        config=storage.join(run, LAUNCH, old.config),
        data=old.data,
        out=run,
        max_hours=old.limits.hours,
        max_cost=old.limits.usd,
        instance=old.instance,
        on_demand=old.on_demand,
        image=record.image,
        start=None if request.config else _start(run, old),
    )
    given = {key: value for key, value in vars(request).items() if value is not None and value is not False}
    return replace(earlier, **given)


def _addresses(outputs: Mapping[str, str], asked: Request) -> tuple[str, str, str]:
    """Where the configuration, the data and the run are; refuses what is not given, or where the job may not read or
    write."""
    amounts = {"--max-hours": asked.max_hours, "--max-cost": asked.max_cost, "--price": asked.price}
    needed = {"CONFIG": asked.config, "--data": asked.data, "--out": asked.out, **amounts}
    for option, value in needed.items():
        if value is None and option != "--price":
            fix = "launch CONFIG --data s3://... --out s3://... --max-hours N --max-cost USD, or --again RUN for all."
            raise ResightError("is missing", where=option, fix=f"resight cloud {fix}")
    for option, amount in amounts.items():
        if amount is not None and not 0 < amount <= 1e6:  # which NaN is not, either
            raise ResightError(f"{amount:g} is not a valid amount", where=option, fix="Above 0, 1,000,000 at most.")
    data, run, prefix = str(asked.data).rstrip("/"), str(asked.out).rstrip("/"), outputs["Runs"]
    if not run.startswith(prefix) or not _RUN_NAME.fullmatch(run.removeprefix(prefix)) or len(run) > 256:
        fix = f"--out {prefix}NAME, of letters, digits and . _ = -. The parameters Bucket and RunsPrefix say where."
        raise ResightError(f"no name of a run below {prefix}, where the job may write", where=f"--out {run}", fix=fix)
    _check_readable(outputs, data, "--data")
    return str(asked.config), data, run


def _check_readable(outputs: Mapping[str, str], address: str, where: str) -> None:
    allowed = (outputs["Data"], outputs["Runs"])
    if not f"{address}/".startswith(allowed):
        fix = f"Copy it to {allowed[0]}NAME (aws s3 sync), or deploy the stack with its DataBucket and DataPrefix."
        message = f"{address} is not below {' or '.join(allowed)}, and the job may read nothing else"
        raise ResightError(message, where=where, fix=fix)


def _standing(aws: Aws, outputs: dict[str, str], run: str, limits: Limits) -> tuple[RunRecord | None, str, str]:
    """The record of a run that goes on, its ETag, and how it stands; refuses one that is under way, done, not of a
    launch, or has used up the limits."""
    if (found := run_record.read_run_record(run)) is None:
        return None, "", "(new)"
    record, etag = found
    if record.launch is None:
        fix = f"Continue it as it was begun, resight train --resume -o {run}, or choose another --out."
        raise ResightError("exists, and was not launched by resight cloud", where=run, fix=fix)
    job, last = find_job(aws, outputs, record.launch), record.attempts[-1] if record.attempts else None
    if job and job["status"] in LIVE:
        fix = f"resight cloud status {run} shows it, resight cloud stop {run} ends it; or choose another --out."
        raise ResightError(f"exists, and its job {job['jobName']} is {job['status']}", where=run, fix=fix)
    if (last and last.ended == "done") or (job and job["status"] == "SUCCEEDED"):
        fix = f"resight cloud fetch {run} brings it here, --again {run} with another --out repeats it."
        raise ResightError("exists and is done", where=run, fix=fix)
    hours, usd = record.hours, record.usd or 0.0
    for option, limit, spent in (("--max-hours", limits.hours, hours), ("--max-cost", limits.usd, usd)):
        if limit is not None and limit <= spent:
            fix = "The limit is of all attempts together: with a higher one the run continues from where it is."
            raise ResightError(f"the run has taken {spent:.2f} already", where=f"{option} {limit:g}", fix=fix)
    if last is None:
        return record, etag, "(launched before, and no attempt has started)"
    taken = f"{counted(len(record.attempts), 'attempt')} of {hours:.2f} h and ${usd:.2f}"
    how = f"from step {last.step:,}, after {taken}; the last one was {last.ended or 'killed'}"
    return record, etag, f"(continues {how})"


def _read_config(config: str, changes: Mapping[str, Any]) -> tuple[str, bytes, Config]:
    """The name that the file gets and its content, and what it means with ``changes``."""
    if is_remote(config):
        with tempfile.TemporaryDirectory(prefix="resight-") as folder:
            copy = Path(folder, config.rpartition("/")[2])
            copy.write_bytes(storage.read(config))
            with storage.named_as(config, copy):
                return _read_config(str(copy), changes)
    if is_pipeline(config):
        pipeline = examine_pipeline(config, changes=changes).check()
        return "pipeline.config", pipeline.source.encode(), load_config(None, pipeline.overrides)
    return "config.toml", read_file(config, TEXT), load_config(config, changes)


def _check_seen(outputs: Mapping[str, str], settings: Config, data: str) -> None:
    """Refuses data without records, and a configuration that names something that the job does not see."""
    objects = storage.find(data, most=LISTED)
    if len(objects) < LISTED and not any(IS_RECORD.search(one.address) for one in objects):
        what = "holds no records" if objects else "there is nothing at this address"
        raise ResightError(what, where=data, fix=f"Copy a records folder there: aws s3 sync RECORDS {data}")
    named = {f"data.{key}": getattr(settings.data, key) for key in ("train", "val", "test")}
    named |= {"data.label_map": (settings.data.label_map,), "model.start": (settings.model.start,)}
    for key, places in named.items():
        for place in places:
            if is_remote(place):
                _check_readable(outputs, place, key)
            elif key != "model.start" and os.path.isabs(place):
                fix = f"Copy it to {data} and name it as it is called there, or leave {key} out."
                raise ResightError(f"{place} is a local path; the job cannot read it", where=key, fix=fix)


def _find_image(aws: Aws, outputs: Mapping[str, str], image: str | None) -> tuple[str, str]:
    """The address of an image by its digest, and what is known of it. One of another repository than the stack's has to
    be named by its digest."""
    own = outputs["Repository"]
    named = _BY_DIGEST.fullmatch(image or "")
    if named and named["repository"] not in (None, own):
        return str(image), "in another registry, not checked"
    if image and not named and re.search("[/:@]", image):
        fix = f"Name it REPOSITORY@sha256:DIGEST, or push it to {own} (make push)."
        raise ResightError(f"{image} is in another registry, where a tag is not fixed", where="--image", fix=fix)
    wanted = {"imageDigest": named["digest"]} if named else {"imageTag": image}
    asked = {"imageIds": [wanted]} if image else {"maxResults": 1000, "filter": {"tagStatus": "TAGGED"}}
    answer = aws.found("ecr", "describe_images", "NotFound", repositoryName=own.partition("/")[2], **asked)
    found = max((answer or {}).get("imageDetails", ()), key=lambda one: one["imagePushedAt"], default=None)
    if found is None:
        message = f"{image} is not in {own}" if image else f"{own} holds no image yet"
        raise ResightError(message, where="--image", fix=f"In a clone of Resight: make image push REPOSITORY={own}")
    tags = ", ".join(found.get("imageTags", ())) or "no tag"
    return f"{own}@{found['imageDigest']}", f"{tags}, pushed {found['imagePushedAt']:%Y-%m-%d %H:%M}"


def _start(run: str, launch: Launch) -> str | None:
    """The address of the weights to start from; None where the job finds them by itself."""
    named = launch.start and not is_remote(launch.start)
    return storage.join(run, LAUNCH, str(launch.start)) if named else launch.start


def _batch_job(
    outputs: Mapping[str, str], record: RunRecord, launch: Launch, kind: InstanceType
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of RegisterJobDefinition and of SubmitJob."""
    run, name, start = record.run, launch.jobs[-1].name, _start(record.run, launch) or ""
    command = ["train", storage.join(run, LAUNCH, launch.config), "--data", launch.data, "--out", run, "--resume"]
    command += ["--device", "auto"]  # whatever the configuration says of another machine
    command += ["--start", start] if start and not start.endswith(PUBLISHED) else []
    command += ["--devices", str(launch.devices)] if launch.devices > 1 else []
    environment = {"RESIGHT_IMAGE": str(record.image), "AWS_DEFAULT_REGION": launch.region}
    environment |= {"RESIGHT_PRETRAINED": start} if start.endswith(PUBLISHED) else {}
    wanted = {"VCPU": kind.vcpus, "MEMORY": kind.job_memory, "GPU": kind.gpus}
    log = {"awslogs-group": outputs["LogGroup"], "awslogs-region": launch.region, "awslogs-stream-prefix": name}
    left = math.ceil(seconds_left(record, min(launch.prices.values())))
    seconds = min(left + MARGIN, 2**31 - 1)  # as much as Batch takes
    common = {
        "retryStrategy": {"attempts": ATTEMPTS, "evaluateOnExit": _RETRY},
        "timeout": {"attemptDurationSeconds": seconds},
        "tags": {"project": outputs["Project"], "stack": launch.stack, "run": run},
        "propagateTags": True,
    }
    container = {
        "image": record.image,
        "command": [*command, "--log-format", "json"],
        "jobRoleArn": outputs["JobRole"],
        "resourceRequirements": [{"type": key, "value": str(value)} for key, value in wanted.items()],
        # Half of the memory, for /dev/shm: loader workers hand batches over in it.
        "linuxParameters": {"sharedMemorySize": kind.job_memory // 2},
        "logConfiguration": {"logDriver": "awslogs", "options": log},
        "environment": [{"name": key, "value": value} for key, value in environment.items()],
    }
    definition = {"jobDefinitionName": name, "type": "container", "platformCapabilities": ["EC2"]}
    submission = {"jobName": name, "jobQueue": outputs[QUEUES[launch.on_demand]]}
    return definition | {"containerProperties": container} | common, submission | common
