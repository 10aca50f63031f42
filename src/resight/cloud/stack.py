"""The stack: everything of Resight's in one region of AWS, made, changed and removed by CloudFormation.

``plan_init`` and ``plan_down`` change nothing; ``init`` and ``down`` carry a plan out.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .. import __version__
from ..errors import ResightError, counted, listed, nearest
from .aws import SUMMARY, Aws, AwsError
from .resources import (
    Thing,
    existing,
    found_of,
    named_in_template,
    own_bucket,
    parameters_of,
    read_template,
    remove,
    template,
    wait_until,
)

log = logging.getLogger(__name__)

_BATCH, _SPOT = "batch.amazonaws.com", "spot.amazonaws.com"  # services that have a role of their own in the account
_LIVE = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")
_COSTS = (
    "Idle it costs what is stored in S3, as images and as logs, and nothing else: no instance runs while no job does.",
    "A job costs its instance, and the instance's volume, for as long as it runs: resight cloud launch says how much.",
)


@dataclass(frozen=True)
class Plan:
    """What ``init`` or ``down`` is about to do: create, update, remove or nothing, with kind and name of the things."""

    action: str
    lines: tuple[str, ...]
    parameters: Mapping[str, str]
    things: tuple[Thing, ...] = ()
    stop_jobs: bool = False

    def text(self) -> str:
        return "\n".join(self.lines)

    def json(self) -> dict[str, Any]:
        return asdict(self)


def plan_init(aws: Aws, parameters: Mapping[str, str] | None = None) -> Plan:
    """
    Args:
        parameters: of the template, by name; others stay as they are in the stack, or have the template's default.
            Without ``Vpc`` and ``Subnets`` it is the default network.

    Raises:
        ResightError: a parameter is unknown or wrong, there is no default network, an instance type has no NVIDIA GPU
            or is not offered, the bucket is not there or elsewhere, or a stack of that name is in the way.
    """
    known, given = read_template(template())["Parameters"], dict(parameters or {})
    for name, value in given.items():
        if name not in known:
            fix = f"{nearest(name, known)} There are {listed(known, 20)}.".strip()
            raise ResightError(f"the template has no parameter '{name}'", where="--set", fix=fix)
        if not _allowed(known[name], value):
            raise ResightError(f"'{value}' is not allowed", where=f"--set {name}", fix=known[name]["Description"])
    stack = aws.describe()
    if stack is not None:
        aws.outputs()  # is it whole, and Resight's?
    before = parameters_of(stack)
    values = {name: given.get(name, before.get(name, str(one.get("Default", "")))) for name, one in known.items()}
    if stack is None or {"Vpc", "Subnets"} & given.keys():
        _find_network(aws, values)
    if stack is None or {"InstanceTypes"} & given.keys():
        _check_types(aws, [name for name in values["InstanceTypes"].split(",") if name])
    if stack is None:
        values["ServiceRole"] = values["ServiceRole"] or _own_role(aws, _BATCH)
    own = own_bucket(aws)
    if stack is None and not values["Bucket"] and existing(aws, [("bucket", own)]):
        values["Bucket"] = own  # an earlier stack left it
    if values["Bucket"] and values["Bucket"] != before.get("Bucket"):
        region = aws.call("s3", "get_bucket_location", Bucket=values["Bucket"]).get("LocationConstraint") or "us-east-1"
        if region != aws.region:
            fix = f"A bucket in {aws.region}, or --region {region}."
            raise ResightError(f"the bucket is in {region}, not in {aws.region}", where=values["Bucket"], fix=fix)
    here = f"the stack '{aws.stack}' in {aws.region} of account {aws.account}"
    shown = [f"  {name} = {value or '(none)'}" for name, value in values.items()]
    if stack is None:
        things = tuple(named_in_template(aws, values))
        if taken := existing(aws, [(kind, name) for kind, name in things if kind != "bucket"]):
            fix = "Another --stack NAME; or resight cloud down, which tells what of it is Resight's, and removes that."
            names = listed((f"{kind} {name}" for kind, name in taken), 30)
            raise ResightError(f"there is already {names}", where=aws.stack, fix=fix)
        kept = [f"The bucket {own}, left by an earlier stack, is used again."] if values["Bucket"] == own else []
        lines = [f"Makes {here}:", *(f"  {kind} {name}" for kind, name in things), *kept]
        if missing := [service for service in (_BATCH, _SPOT) if not _own_role(aws, service)]:
            lines.append(
                f"  the account's role for {' and for '.join(missing)}, which stays: all that uses these needs it"
            )
        lines += ["With the parameters:", *shown]
        return Plan("create", (*lines, *_COSTS), values, things)
    changed = [
        f"  {name}: {before.get(name) or '(none)'} -> {value or '(none)'}"
        for name, value in values.items()
        if value != before.get(name)
    ]
    body = aws.call("cloudformation", "get_template", StackName=aws.stack, TemplateStage="Original")["TemplateBody"]
    if not isinstance(body, str) or read_template(body) != read_template(template()):
        changed.append(f"  the template: that of Resight {__version__}")
    if not changed:
        return Plan("nothing", (f"Changes nothing: {here} is as it should be.", *_COSTS), values)
    rest = "A job that runs goes on. Where instances change, new ones start for the next job."
    return Plan("update", (f"Changes {here}:", *changed, rest, *_COSTS), values)


def init(aws: Aws, plan: Plan) -> dict[str, str]:
    """Makes or changes the stack as planned, waits, and returns its outputs.

    Raises:
        ResightError: it failed: says which resource did and why, what is left and how to remove it.
    """
    if plan.action == "nothing":
        return aws.outputs()
    for service in (_BATCH, _SPOT):
        if plan.action == "create" and not _own_role(aws, service):  # its error: it is made meanwhile
            aws.found("iam", "create_service_linked_role", "InvalidInput|AlreadyExists", AWSServiceName=service)
    values = dict(plan.parameters)
    values["ServiceRole"] = values["ServiceRole"] or (_own_role(aws, _BATCH) if plan.action == "create" else "")
    before = parameters_of(aws.describe()) if plan.action == "update" else {}
    pairs = [
        {"ParameterKey": name}
        | ({"UsePreviousValue": True} if value == before.get(name) else {"ParameterValue": value})
        for name, value in values.items()
    ]
    tags = [{"Key": "project", "Value": plan.parameters["Project"]}, {"Key": "stack", "Value": aws.stack}]
    request = {"StackName": aws.stack, "TemplateBody": template(), "Parameters": pairs, "Tags": tags}
    request["Capabilities"] = ["CAPABILITY_NAMED_IAM"]
    if plan.action == "create":
        try:
            aws.once("cloudformation", "create_stack", aws.describe, **request)
        except AwsError as error:
            there = listed((f"{kind} {name}" for kind, name in existing(aws, list(plan.things))), 30)
            fix = f"{error.fix} Of what it would make there is by name: {there or 'nothing'}.".strip()
            raise AwsError(f"the stack was not made: {error.message}", where=error.where, fix=fix) from error
    else:
        try:
            aws.call("cloudformation", "update_stack", **request)
        except AwsError as error:  # the second: an update whose answer was lost
            if not re.search("No updates are to be performed|IN_PROGRESS", error.message):
                raise
    status = _wait(aws)
    if not re.fullmatch("(CREATE|UPDATE)_COMPLETE", status):
        why = "\n  ".join(["", *aws.failures()])
        if plan.action == "update":
            fix = "Change what it says, then resight cloud init again."
            raise AwsError(f"the stack could not be changed ({status}):{why}", where=aws.stack, fix=fix)
        own = [("bucket", own_bucket(aws))]
        left = listed((f"{kind} {name}" for kind, name in [*found_of(aws, aws.describe())[0], *existing(aws, own)]), 30)
        fix = f"Left are the failed stack and {left or 'nothing else'}. resight cloud down removes it; then init again."
        raise AwsError(f"the stack could not be made ({status}):{why}", where=aws.stack, fix=fix)
    return aws.outputs()


def plan_down(aws: Aws, *, stop_jobs: bool = False, delete_bucket: bool = False) -> Plan:
    """
    Args:
        stop_jobs: end the jobs that wait or run, which save their state; without it they are in the way.
        delete_bucket: with all that is in it. Never one that Resight did not make.

    Raises:
        ResightError: jobs are under way, or the bucket is not Resight's.
    """
    stack = aws.describe()
    if stack is not None and not str(stack.get("Description", SUMMARY)).startswith(SUMMARY):
        raise AwsError("is not one of Resight's", where=f"stack '{aws.stack}'", fix="Name another: --stack NAME.")
    values = parameters_of(stack)
    own, bucket = own_bucket(aws), values.get("Bucket") or own_bucket(aws)
    if delete_bucket and bucket != own:
        fix = "Without --delete-bucket all the rest is removed."
        raise ResightError(f"the bucket {bucket} was not made by Resight", where="--delete-bucket", fix=fix)
    here = f"the stack '{aws.stack}' in {aws.region} of account {aws.account}"
    things, others = found_of(aws, stack)
    jobs = _jobs(aws, [name for kind, name in things if kind == "job queue"], stop_jobs)
    lines = [f"  job {job['jobName']}, which is {job['status']}: it saves its state" for job in jobs]
    if definitions := _definitions(aws):
        lines.append(f"  {counted(len(definitions), 'job definition')}")
    whole = {"repository": " with all its images", "log group": " with all logs"}
    lines += [f"  {kind} {name}{whole.get(kind, '')}" for kind, name in things]
    there = existing(aws, [("bucket", bucket)])
    if there and delete_bucket:
        objects = aws.pages("s3", "list_objects_v2", "Contents", Bucket=bucket)
        size = f"{counted(len(objects), 'object')}, {sum(one['Size'] for one in objects) / 1e9:,.1f} GB"
        lines.append(f"  bucket {bucket} with all that is in it: {size}")
        things += there
    kept = [f"The bucket {bucket} is kept."] if there and not delete_bucket else []
    kept += [f"The {kind} {name} is of no stack of that name, and is left alone." for kind, name in others]
    if stack is None and not lines:
        return Plan("nothing", (f"Removes nothing: there is nothing of {here}.", *kept), values)
    return Plan("remove", (f"Removes {here}:", *lines, *kept), values, tuple(things), stop_jobs)


def down(aws: Aws, plan: Plan) -> None:
    """Removes what :func:`plan_down` planned, waits, and looks by name whether anything is left.

    Raises:
        ResightError: something is; says what, and why.
    """
    if plan.action == "nothing":
        return
    queues = [name for _, name in existing(aws, [one for one in plan.things if one[0] == "job queue"])]
    _jobs(aws, queues, plan.stop_jobs)
    for queue in queues:  # no job comes in any more
        aws.call("batch", "update_job_queue", jobQueue=queue, state="DISABLED")
    if jobs := _jobs(aws, queues):
        for job in jobs:
            log.info("Stopping %s", job["jobName"])
            aws.call("batch", "terminate_job", jobId=job["jobId"], reason="resight cloud down")
        wait_until(lambda: not _jobs(aws, queues), "the jobs have not ended")
    for arn in _definitions(aws):
        aws.call("batch", "deregister_job_definition", jobDefinition=arn)
    left = list(plan.things)
    for name in [
        name for kind, name in existing(aws, left) if kind == "repository"
    ]:  # one with images can be in the way
        images = aws.pages("ecr", "list_images", "imageIds", repositoryName=name)
        digests = sorted({one["imageDigest"] for one in images})
        for at in range(0, len(digests), 100):  # as many as one call takes
            ids = [{"imageDigest": digest} for digest in digests[at : at + 100]]
            aws.call("ecr", "batch_delete_image", repositoryName=name, imageIds=ids)
    for _ in range(2):  # what kept the stack from being deleted is removed after the first time
        if aws.describe() is not None:
            aws.call("cloudformation", "delete_stack", StackName=aws.stack)
            _wait(aws)
        for kind, name in reversed(existing(aws, left)):  # queues before their environments
            remove(aws, kind, name)
        if not (left := existing(aws, left)):
            break
    told = [f"{kind} {name}" for kind, name in left] + [f"job definition {arn}" for arn in _definitions(aws)]
    told += [f"instance {name}" for name in _instances(aws)]
    if aws.describe() is not None:
        told = [f"the stack ({why})" for why in aws.failures() or ["no reason is given"]] + told
    if told:
        fix = "Try again in a few minutes; what stays can be removed in the AWS console."
        raise AwsError(f"not everything is removed: {listed(told, 30)}", where=aws.stack, fix=fix)


def _allowed(parameter: Mapping[str, Any], value: str) -> bool:
    """Whether the template takes this value."""
    if parameter["Type"] != "Number":
        return re.fullmatch(parameter.get("AllowedPattern", ".*"), value) is not None
    least, most = parameter.get("MinValue", 0), parameter.get("MaxValue", math.inf)
    number = int(value) if re.fullmatch("[0-9]{1,9}", value) else -1
    return least <= number <= most and number in parameter.get("AllowedValues", (number,))


def _own_role(aws: Aws, service: str) -> str:
    """The ARN of the role that the account has for a service, "" where it has none yet."""
    found = aws.pages("iam", "list_roles", "Roles", PathPrefix=f"/aws-service-role/{service}/")
    return str(found[0]["Arn"]) if found else ""


def _jobs(aws: Aws, queues: list[str], allowed: bool = True) -> list[dict[str, Any]]:
    """The jobs of the queues that have not ended. Raises ResightError: there are some, and may not be."""
    places = [{"jobQueue": queue, "jobStatus": status} for queue in queues for status in _LIVE]
    jobs = [job for place in places for job in aws.pages("batch", "list_jobs", "jobSummaryList", **place)]
    if jobs and not allowed:
        fix = "Wait for them, or add --stop-jobs: they save their state, and go on in another stack."
        names = listed(job["jobName"] for job in jobs)
        raise ResightError(f"{counted(len(jobs), 'job')} under way: {names}", where=aws.stack, fix=fix)
    return jobs


def _definitions(aws: Aws) -> list[str]:
    """The job definitions that launches into this stack made, by their tags: another's name can begin the same."""
    found = aws.pages("batch", "describe_job_definitions", "jobDefinitions", status="ACTIVE")
    ours = [one for one in found if one["jobDefinitionName"].startswith(f"{aws.stack}-")]
    return [one["jobDefinitionArn"] for one in ours if one.get("tags", {}).get("stack") == aws.stack]


def _instances(aws: Aws) -> list[str]:
    """The stack's instances that still run, and cost."""
    filters = [
        {"Name": "tag:stack", "Values": [aws.stack]},
        {"Name": "tag:Name", "Values": [aws.stack]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
    ]
    found = aws.pages("ec2", "describe_instances", "Reservations", Filters=filters)
    return [one["InstanceId"] for reservation in found for one in reservation["Instances"]]


def _find_network(aws: Aws, values: dict[str, str]) -> None:
    """Completes and checks ``Vpc`` and ``Subnets``."""
    ids = [name for name in values["Subnets"].split(",") if name]
    if not values["Vpc"] and not ids:
        default = aws.call("ec2", "describe_vpcs", Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not default:
            fix = "Name one, with subnets that reach S3, ECR, ECS and CloudWatch Logs: --set Vpc=... --set Subnets=A,B"
            raise ResightError(f"there is no default VPC in {aws.region}", where="--set Vpc", fix=fix)
        values["Vpc"] = default[0]["VpcId"]
    wanted = {"SubnetIds": ids} if ids else {"Filters": [{"Name": "vpc-id", "Values": [values["Vpc"]]}]}
    found = aws.pages("ec2", "describe_subnets", "Subnets", **wanted)
    networks = {one["VpcId"] for one in found}
    values["Vpc"] = values["Vpc"] or next(iter(sorted(networks)), "")
    if not found or networks != {values["Vpc"]}:
        what = f"{listed(ids)} are of {listed(sorted(networks))}" if ids else "it has no subnets"
        raise ResightError(f"these are no subnets of {values['Vpc']}: {what}", where="--set Subnets")
    values["Subnets"] = ",".join(sorted(one["SubnetId"] for one in found))


def _check_types(aws: Aws, names: list[str]) -> None:
    # A filter leaves out what is not offered here, where to ask for it by its name would be an error.
    filters = [{"Name": "instance-type", "Values": names}]
    found = aws.pages("ec2", "describe_instance_types", "InstanceTypes", Filters=filters)
    offered = sorted(one["InstanceType"] for one in found)
    if missing := [name for name in names if name not in offered]:
        fix = f"Those that are: {listed(offered)}." if offered else "Choose another --region."
        raise ResightError(f"{missing[0]} is not offered in {aws.region}", where="--set InstanceTypes", fix=fix)


def _wait(aws: Aws) -> str:
    """Waits until CloudFormation is done with the stack, tells what it does, and returns the last status."""
    told = {event["EventId"] for event in aws.events()[1:]}
    status = ""

    def done() -> bool:
        nonlocal status
        stack = aws.describe()
        status = str(stack["StackStatus"]) if stack else "DELETE_COMPLETE"
        for event in reversed(aws.events() if stack else []):
            if event["EventId"] not in told:
                log.info("%s: %s", event["LogicalResourceId"], event["ResourceStatus"].lower().replace("_", " "))
                told.add(event["EventId"])
        return not status.endswith("IN_PROGRESS")

    wait_until(done, "the stack is not as it should be; CloudFormation in the AWS console shows what it waits for")
    return status
