"""A training as a job of AWS Batch: planned whole, then begun in an order that the same command can go on from."""

from __future__ import annotations

import fnmatch
import math
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import defaults
from ..config import Config, load_config
from ..data import storage
from ..data.storage import Conflict, is_remote
from ..errors import ResightError, counted
from ..files import IS_RECORD, TEXT, read_file
from ..tfod.pipeline_config import examine_pipeline, is_pipeline
from ..tfod.zoo import NAMES
from ..training.run_record import LAUNCH, Job, Launch, Limits, RunRecord, read_run_record, write_run_record
from .aws import Aws
from .instances import InstanceType, choose_types
from .jobs import LIVE, QUEUES, find_job, find_run, jobs_named

ATTEMPTS = 10  # as many as Batch allows
MARGIN = 900  # seconds that Batch's own timeout leaves beyond the limits, to load, to save and to end
LISTED = 1000  # objects of the data that are looked at: as many as one call lists
PUBLISHED = "pretrained.safetensors"  # under launch/: published weights that a job without internet reads
_RUN_NAME = re.compile(r"[A-Za-z0-9][\w.=-]*(/[A-Za-z0-9][\w.=-]*)*", re.ASCII)  # it is in a tag, too
_BY_DIGEST = re.compile(r"(?:(?P<repository>[^@\s]+)@)?(?P<digest>sha256:[0-9a-f]{64})")
_MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_RETRY = [
    {"action": "RETRY", "onStatusReason": "Host EC2*"},  # the instance was taken away
    {"action": "RETRY", "onExitCode": "75"},  # interrupted, and saved
    {"action": "EXIT", "onReason": "*"},
]

Files = Callable[[Path], Mapping[str, bytes | Path]]  # what is uploaded to launch/ of a run, by name; made in a folder


@dataclass(frozen=True)
class LaunchPlan:
    """All that a launch is going to do."""

    record: RunRecord
    replacing: str  # ETag of the record that is replaced, "" where there is none
    files: Files
    definition: Mapping[str, Any]
    submission: Mapping[str, Any]
    subscription: Mapping[str, str]
    lines: tuple[str, ...]

    def text(self) -> str:
        return "\n".join(self.lines)


def launch(aws: Aws, plan: LaunchPlan) -> RunRecord:
    """Does what is planned, and returns the record of the run. After a failure the same launch can be planned again:
    the job comes last, and a run whose job was not submitted goes on.

    Raises:
        ResightError: nothing was submitted; or another launch of the same run has come before.
    """
    run = plan.record.run
    with tempfile.TemporaryDirectory(prefix="resight-") as folder:
        for name, content in plan.files(Path(folder)).items():
            storage.write(storage.join(run, LAUNCH, name), content)
    try:
        write_run_record(run, plan.record, plan.replacing)
    except Conflict:  # also where the answer to a write was lost, and its repetition refused
        found = read_run_record(run)
        if found is None or found[0] != plan.record:
            raise ResightError(
                "another launch of this run has just begun", where=run, fix="Look: resight cloud status"
            ) from None
    if plan.subscription:
        aws.call("sns", "subscribe", **plan.subscription)
    name, queue = plan.submission["jobName"], plan.submission["jobQueue"]

    def registered() -> dict[str, Any] | None:
        found = aws.pages(
            "batch", "describe_job_definitions", "jobDefinitions", jobDefinitionName=name, status="ACTIVE"
        )
        return found[0] if found else None

    made = aws.once("batch", "register_job_definition", registered, **plan.definition)
    submitted = lambda: next(iter(jobs_named(aws, queue, name)), None)  # noqa: E731
    aws.once("batch", "submit_job", submitted, jobDefinition=made["jobDefinitionArn"], **plan.submission)
    return plan.record


def plan_launch(
    aws: Aws,
    config: str | None,
    data: str | None,
    out: str,
    *,
    max_hours: float | None = None,
    max_cost: float | None = None,
    instance: str | None = None,
    on_demand: bool = False,
    price: float | None = None,
    image: str | None = None,
    notify: str | None = None,
    again: str | None = None,
) -> LaunchPlan:
    """Everything a launch needs, looked at and worked out; nothing is changed.

    Args:
        config: a TOML file or a `pipeline.config`, here or in S3.
        data, out: addresses of the records and of the run; a run that ended at its limit or failed goes on.
        max_hours, max_cost: hours of training and USD, of the whole run over all attempts.
        instance: the type that the job is made for; None for the cheapest of the stack's.
        price: USD per hour, in place of the prices on demand that AWS tells.
        image: REPOSITORY@sha256:..., or digest or tag of one in the stack's repository; None for its newest.
        notify: mails about the stack's jobs go to this address.
        again: a run whose launch is repeated: what is not given here is as it was there.

    Raises:
        ResightError: something is wrong or missing.
    """
    outputs, start = aws.outputs(), None
    if again is not None:
        source, old_record = find_run(outputs, again)
        old = old_record.launch
        assert old is not None
        config, data = config or storage.join(source, LAUNCH, old.config), data or old.data
        start = storage.join(source, LAUNCH, old.start) if old.start and not is_remote(old.start) else old.start
        max_hours = old.limits.hours if max_hours is None else max_hours
        max_cost = old.limits.usd if max_cost is None else max_cost
        instance, on_demand, image = instance or old.instance, on_demand or old.on_demand, image or old_record.image
    limits = _limits(max_hours, max_cost)
    if price is not None and not 0 < price < math.inf:
        raise ResightError(f"{price:g} is no price", where="--price", fix="US dollars per hour, more than 0.")
    if notify is not None and not _MAIL.fullmatch(notify):
        raise ResightError(f"{notify!r} is no mail address", where="--notify")
    if not config or not data:
        fix = "resight cloud launch CONFIG --data s3://BUCKET/RECORDS --out s3://BUCKET/runs/NAME, or --again RUN"
        raise ResightError("is missing", where="--data" if config else "CONFIG", fix=fix)
    run, data = _run_of(outputs, out), data.rstrip("/")
    _check_readable(outputs, data, "--data")
    before, etag, standing = _standing(aws, outputs, run, limits)
    objects = storage.find(data, most=LISTED)
    if not any(IS_RECORD.search(one.address) for one in objects) and len(objects) < LISTED:
        what = "holds no records" if objects else "there is nothing at this address"
        raise ResightError(what, where=data, fix=f"Copy a records folder there: aws s3 sync RECORDS {data}")
    given = start if start and not start.endswith(PUBLISHED) else None
    name, text, settings = _read_config(config, {"data.path": data} | ({"model.start": given} if given else {}))
    _check_config(outputs, settings, data, [one.address for one in objects])
    files, start, options, variables = _start_of(settings, run, start)
    address, told = _find_image(aws, outputs, image)
    types = choose_types(aws, outputs["InstanceTypes"].split(","), instance, price)
    kind, prices = types[0], {one.name: one.usd or 0.0 for one in types}
    if (batch := settings.train.batch_size) < kind.gpus:
        fix = "Set it to their number or more, or choose another --instance."
        raise ResightError(f"{kind.gpus} GPUs share a batch of {batch}", where="train.batch_size", fix=fix)
    command = ["train", storage.join(run, LAUNCH, name), "--data", data, "--out", run, "--resume", *options]
    command += [*(["--devices", str(kind.gpus)] if kind.gpus > 1 else []), "--log-format", "json"]
    slug = re.sub(r"[^A-Za-z0-9_]+", "-", run.removeprefix(outputs["Runs"]))[:60]
    job = Job(f"{aws.stack}-{slug}-{uuid.uuid4().hex[:8]}", datetime.now(UTC))
    jobs = (*(before.launch.jobs if before and before.launch else ()), job)
    asked = Launch(aws.stack, aws.region, data, name, kind.name, on_demand, kind.gpus, start, limits, prices, jobs)
    record = replace(before or RunRecord(run, command=("resight", *command)), image=address, launch=asked)
    hours, usd = (limits.hours or 0.0) - record.hours, (limits.usd or 0.0) - (record.usd or 0.0)
    seconds = math.ceil(min(hours, usd / min(prices.values())) * 3600) + MARGIN
    dearest = max(prices.values())
    ends = {
        "retryStrategy": {"attempts": ATTEMPTS, "evaluateOnExit": _RETRY},
        "timeout": {"attemptDurationSeconds": seconds},
        "tags": {"project": outputs["Project"], "stack": aws.stack, "run": run},
        "propagateTags": True,
    }
    rows = {
        "run": f"{run} {standing}",
        "config": f"{config}, as {LAUNCH}/{name} of the run",
        "data": f"{data}: {'at least ' * (len(objects) >= LISTED)}{counted(len(objects), 'object')}, "
        f"{sum(one.size for one in objects) / 1e9:,.2f} GB",
        "start": settings.model.start + (f", as {LAUNCH}/{start} of the run" if start and not is_remote(start) else ""),
        "image": f"{address} ({told})",
        "job": f"{aws.stack}-{slug}-..., {'on demand' if on_demand else 'on Spot instances'}, {kind.asks()}",
        "instances": "any of " + ", ".join(one.text() for one in types),
        "limits": f"{limits.hours:g} h and ${limits.usd:.2f} over all attempts, at prices on demand; at the first of "
        f"the two the run saves and ends. Batch itself ends an attempt after {seconds / 3600:.2f} h",
        "cost": f"at most ${min(usd, hours * dearest):.2f}{' from here on' if before else ''}, at ${dearest:.3f}/h; "
        "and what is not counted: the minutes in which an instance boots, its volume, S3 and logs",
        "attempts": f"at most {ATTEMPTS}, as Batch allows: another one after an interruption, none after a failure",
        "mails": f"to {notify}, once it has confirmed the mail that comes first" if notify else "",
        "command": " ".join(("resight", *command)),
    }
    return LaunchPlan(
        record,
        etag,
        lambda folder: {name: text, **files(folder)},
        _definition(aws, outputs, job.name, kind, address, command, variables) | ends,
        {"jobName": job.name, "jobQueue": outputs[QUEUES[on_demand]]} | ends,
        {"TopicArn": outputs["Topic"], "Protocol": "email", "Endpoint": notify} if notify else {},
        tuple(f"{key:<10}{value}" for key, value in rows.items() if value),
    )


def _limits(hours: float | None, usd: float | None) -> Limits:
    for option, value in (("--max-hours", hours), ("--max-cost", usd)):
        if value is None:
            fix = "Both are needed, --max-hours N and --max-cost USD: they bound the whole run over all attempts."
            raise ResightError("is missing", where=option, fix=fix)
        if not 0 < value <= 1e6:  # which NaN is not, either
            raise ResightError(f"{value:g} is no limit", where=option, fix="A number above 0, 1,000,000 at most.")
    return Limits(hours, usd)


def _run_of(outputs: Mapping[str, str], out: str) -> str:
    run, prefix = out.rstrip("/"), outputs["Runs"]
    if not run.startswith(prefix):
        fix = f"Choose --out {prefix}NAME. The stack's parameters Bucket and RunsPrefix say where."
        raise ResightError(f"is not below {prefix}, where the job may write", where=f"--out {out}", fix=fix)
    if not _RUN_NAME.fullmatch(run.removeprefix(prefix)) or len(run) > 256:
        fix = "Letters, digits and . _ = - after a letter or a digit; parts between slashes."
        raise ResightError("cannot be the name of a run", where=f"--out {out}", fix=fix)
    return run


def _check_readable(outputs: Mapping[str, str], address: str, where: str) -> None:
    if not is_remote(address):
        fix = f"Copy it to S3 and name it there: aws s3 sync {address} {outputs['Data']}NAME"
        raise ResightError(f"{address} is no address in S3, and the job sees nothing else", where=where, fix=fix)
    if not f"{address}/".startswith((outputs["Data"], outputs["Runs"])):
        fix = "Copy it there, or deploy the stack with its DataBucket and DataPrefix: resight cloud init --help"
        allowed = f"{outputs['Data']} and {outputs['Runs']}"
        raise ResightError(f"{address} is not below {allowed}, and the job may read nothing else", where=where, fix=fix)


def _standing(aws: Aws, outputs: dict[str, str], run: str, limits: Limits) -> tuple[RunRecord | None, str, str]:
    """The record of a run that goes on, its ETag, and how it stands.

    Raises:
        ResightError: it is under way, done, not of a launch, or has used up the limits.
    """
    if (found := read_run_record(run)) is None:
        return None, "", "(new)"
    record, etag = found
    if record.launch is None:
        fix = f"Continue it as it was begun, resight train --resume -o {run}, or choose another --out."
        raise ResightError("exists, and was not launched by resight cloud", where=run, fix=fix)
    job, last = find_job(aws, outputs, record), record.attempts[-1] if record.attempts else None
    if job and job["status"] in LIVE:
        fix = f"resight cloud status {run} shows it, resight cloud stop {run} ends it; or choose another --out."
        raise ResightError(f"exists, and its job {job['jobName']} is {job['status']}", where=run, fix=fix)
    if (last and last.ended == "done") or (job and job["status"] == "SUCCEEDED"):
        fix = f"resight cloud fetch {run} brings it here, --again {run} with another --out repeats it."
        raise ResightError("exists and is done", where=run, fix=fix)
    for option, limit, spent in (
        ("--max-hours", limits.hours, record.hours),
        ("--max-cost", limits.usd, record.usd or 0.0),
    ):
        if limit is not None and spent >= limit:
            fix = "The limit is of all attempts together: with a higher one the run goes on from where it is."
            raise ResightError(f"the run has taken {spent:.2f} already", where=f"{option} {limit:g}", fix=fix)
    if last is None:
        return record, etag, "(launched before, and no attempt has begun)"
    spent_in_all = f"{record.hours:.2f} h" + ("" if record.usd is None else f" and ${record.usd:.2f}")
    ended = f"{counted(len(record.attempts), 'attempt')} took {spent_in_all}, the last was {last.ended or 'killed'}"
    return record, etag, f"(goes on from step {last.step:,}: {ended})"


def _read_config(config: str, changes: Mapping[str, Any]) -> tuple[str, bytes, Config]:
    """The name that the file gets, its content, and what it means with ``changes``."""
    with tempfile.TemporaryDirectory(prefix="resight-") as folder:
        path = os.path.join(folder, config.rpartition("/")[2]) if is_remote(config) else config
        if is_remote(config):
            Path(path).write_bytes(storage.read(config))
        try:
            if is_pipeline(path):
                pipeline = examine_pipeline(path, changes=changes).check()
                return "pipeline.config", pipeline.source.encode(), load_config(None, pipeline.overrides)
            settings = load_config(path, changes)
            return "config.toml", read_file(path, TEXT), settings
        except ResightError as error:
            message, where, fix = (part.replace(path, config) for part in (error.message, error.where, error.fix))
            raise ResightError(message, where=where, fix=fix) from error


def _check_config(outputs: Mapping[str, str], settings: Config, data: str, objects: Sequence[str]) -> None:
    """
    Raises:
        ResightError: it names something that the job cannot see, or another device than its GPUs.
    """
    if settings.train.device not in ("auto", "cuda"):
        fix = "Leave it out: the job has GPUs, which are paid for."
        raise ResightError(f"{settings.train.device} is not for a job on AWS", where="train.device", fix=fix)
    if is_remote(settings.model.start):
        _check_readable(outputs, settings.model.start, "model.start")
    named = {key: getattr(settings.data, key) for key in ("train", "val", "test")}
    for key, patterns in (named | {"label_map": (settings.data.label_map,)}).items():
        for pattern in filter(None, patterns):
            if is_remote(pattern):
                _check_readable(outputs, pattern, f"data.{key}")
            elif len(objects) < LISTED and not fnmatch.filter(objects, storage.join(data, pattern)):
                fix = f"Copy it into that folder and name it as it is called there, or leave data.{key} out."
                message = f"{pattern} is not in {data}, and the job sees no files of this machine"
                raise ResightError(message, where=f"data.{key}", fix=fix)


def _start_of(settings: Config, run: str, given: str | None) -> tuple[Files, str | None, list[str], dict[str, str]]:
    """What makes the files of the weights to start from, what the record calls them, and the options and the
    environment by which the job finds them."""
    model, nothing = settings.model, dict[str, Path]()
    if given:  # of a run that is repeated
        own = given.endswith(PUBLISHED)
        return lambda _: nothing, given, [] if own else ["--start", given], {"RESIGHT_PRETRAINED": given} if own else {}
    packaged = model.start == "pretrained" and model.name == defaults.MODEL  # the image has these
    if model.start == "none" or is_remote(model.start) or packaged:
        return lambda _: nothing, None, [], {}
    if model.start == "pretrained" and not model.is_tfod:

        def download(folder: Path) -> dict[str, Path]:
            from ..models.starts import write_published

            write_published(model.name, folder / PUBLISHED)
            return {PUBLISHED: folder / PUBLISHED}

        return download, PUBLISHED, [], {"RESIGHT_PRETRAINED": storage.join(run, LAUNCH, PUBLISHED)}
    from ..training.start import start_files

    name = "start" if model.start in NAMES else next(iter(start_files(settings))).partition("/")[0]
    return lambda _: start_files(settings), name, ["--start", storage.join(run, LAUNCH, name)], {}


def _find_image(aws: Aws, outputs: Mapping[str, str], image: str | None) -> tuple[str, str]:
    """The address of an image by its digest, and what is known of it.

    Raises:
        ResightError: it is not in the stack's repository, or is of another one and not named by its digest.
    """
    own = outputs["Repository"]
    named = _BY_DIGEST.fullmatch(image or "")
    if named and named["repository"] not in (None, own):
        return str(image), "of another registry, not looked at"
    tag = None if named or not image else image.removeprefix(f"{own}:")
    if tag and re.search("[/:@]", tag):
        fix = f"Name it REPOSITORY@sha256:DIGEST, or push it to {own} (make push)."
        raise ResightError(f"{image} is of another registry, and a tag can move", where="--image", fix=fix)
    wanted = {"imageDigest": named["digest"]} if named else {"imageTag": tag} if tag else None
    asked = {"imageIds": [wanted]} if wanted else {"maxResults": 1000}
    answer = aws.found("ecr", "describe_images", "NotFound", repositoryName=own.partition("/")[2], **asked) or {}
    images = [one for one in answer.get("imageDetails", ()) if wanted or one.get("imageTags")]
    if not images:
        message = f"{image} is not in {own}" if image else f"{own} holds no image yet"
        raise ResightError(message, where="--image", fix=f"In a clone of Resight: make image push REPOSITORY={own}")
    found = max(images, key=lambda one: one["imagePushedAt"])
    told = f"{', '.join(found.get('imageTags', ())) or 'no tag'}, pushed {found['imagePushedAt']:%Y-%m-%d %H:%M}"
    return f"{own}@{found['imageDigest']}", told


def _definition(
    aws: Aws, outputs: Mapping[str, str], name: str, kind: InstanceType, image: str, command: Sequence[str],
    variables: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    environment = {"RESIGHT_IMAGE": image, "AWS_DEFAULT_REGION": aws.region, **variables}
    wanted = {"VCPU": kind.vcpus, "MEMORY": kind.job_memory, "GPU": kind.gpus}
    log = {"awslogs-group": outputs["LogGroup"], "awslogs-region": aws.region, "awslogs-stream-prefix": name}
    return {
        "jobDefinitionName": name,
        "type": "container",
        "platformCapabilities": ["EC2"],
        "containerProperties": {
            "image": image,
            "command": list(command),
            "jobRoleArn": outputs["JobRole"],
            "resourceRequirements": [{"type": key, "value": str(value)} for key, value in wanted.items()],
            "linuxParameters": {"sharedMemorySize": kind.shared_memory},
            "logConfiguration": {"logDriver": "awslogs", "options": log},
            "environment": [{"name": key, "value": value} for key, value in environment.items()],
        },
    }
