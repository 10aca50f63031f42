"""The stack: everything of Resight's in one region of AWS, made, changed and removed by CloudFormation.

``plan_init`` and ``plan_down`` change nothing; ``init`` and ``down`` carry a plan out.
"""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import yaml

from .. import __version__
from ..errors import ResightError, counted, listed, nearest
from .aws import Aws, AwsError

log = logging.getLogger(__name__)

POLL, PATIENCE = 5.0, 3600.0  # seconds between two looks at what AWS is doing; seconds after which it is given up
_ROLES = {"AWSServiceRoleForBatch": "batch.amazonaws.com", "AWSServiceRoleForEC2Spot": "spot.amazonaws.com"}
_LIVE = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")
_COSTS = (
    "Idle it costs what is stored in S3, as images and as logs, and nothing else: no instance runs while no job does.",
    "A job costs its instance, and the instance's volume, for as long as it runs: resight cloud launch says how much.",
)
# How each kind of thing is looked for: the call, and the argument that takes its name.
_LOOKS = {
    "job queue": ("batch", "describe_job_queues", "jobQueues[]"),
    "compute environment": ("batch", "describe_compute_environments", "computeEnvironments[]"),
    "launch template": ("ec2", "describe_launch_templates", "Filters launch-template-name"),
    "security group": ("ec2", "describe_security_groups", "Filters group-name"),
    "instance profile": ("iam", "get_instance_profile", "InstanceProfileName"),
    "role": ("iam", "get_role", "RoleName"),
    "repository": ("ecr", "describe_repositories", "repositoryNames[]"),
    "log group": ("logs", "describe_log_groups", "logGroupNamePrefix"),
    "rule": ("events", "describe_rule", "Name"),
    "topic": ("sns", "get_topic_attributes", "TopicArn"),
    "bucket": ("s3", "head_bucket", "Bucket"),
}


class _Yaml(yaml.SafeLoader):
    pass


def _function(loader: Any, name: str, node: Any) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return f"${{{node.value}}}" if name == "Ref" else node.value if name == "Sub" else {name: node.value}
    many = isinstance(node, yaml.SequenceNode)
    return {name: loader.construct_sequence(node, True) if many else loader.construct_mapping(node, True)}


_Yaml.add_multi_constructor("!", _function)


@dataclass(frozen=True)
class Plan:
    """What ``init`` or ``down`` is about to do. ``action`` is create, update, remove or nothing."""

    action: str
    lines: tuple[str, ...]
    parameters: Mapping[str, str]
    delete_bucket: bool = False

    def text(self) -> str:
        return "\n".join(self.lines)

    def json(self) -> dict[str, Any]:
        return asdict(self)


def template() -> str:
    """The CloudFormation template: for a review, or to be deployed by another tool."""
    return files(__package__).joinpath("template.yaml").read_text("utf-8")


@functools.cache
def read_template(text: str) -> dict[str, Any]:
    """A template as it is written: ``!Ref X`` and ``!Sub`` are text with ``${X}``, other functions ``{NAME: ...}``."""
    return dict(yaml.load(text, _Yaml))


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
        if not re.fullmatch(known[name].get("AllowedPattern", ".*"), value):
            raise ResightError(f"'{value}' is not allowed", where=f"--set {name}", fix=known[name]["Description"])
    stack = aws.describe()
    if stack is not None:
        aws.outputs()  # is it whole, and Resight's?
    before = _parameters(stack)
    values = {name: given.get(name, before.get(name, str(one.get("Default", "")))) for name, one in known.items()}
    if stack is None or {"Vpc", "Subnets"} & given.keys():
        _find_network(aws, values)
    if stack is None or {"InstanceTypes"} & given.keys():
        _check_types(aws, [name for name in values["InstanceTypes"].split(",") if name])
    own = _own_bucket(aws)
    if stack is None and not values["Bucket"] and _exists(aws, "bucket", own):
        values["Bucket"] = own  # an earlier stack left it
    if values["Bucket"] and values["Bucket"] != before.get("Bucket"):
        region = aws.call("s3", "get_bucket_location", Bucket=values["Bucket"]).get("LocationConstraint") or "us-east-1"
        if region != aws.region:
            fix = f"A bucket in {aws.region}, or --region {region}."
            raise ResightError(f"the bucket is in {region}, not in {aws.region}", where=values["Bucket"], fix=fix)
    here = f"the stack '{aws.stack}' in {aws.region} of account {aws.account}"
    shown = [f"  {name} = {value or '(none)'}" for name, value in values.items()]
    if stack is None:
        made = [f"  {kind} {name}" for kind, name in _named(aws, values)]
        kept = [f"The bucket {own}, left by an earlier stack, is used again."] if values["Bucket"] == own else []
        lines = [f"Makes {here}:", *made, *kept, "with the parameters:", *shown, *_COSTS]
        return Plan("create", tuple(lines), values)
    changed = [
        f"  {name}: {before.get(name) or '(none)'} -> {value or '(none)'}"
        for name, value in values.items()
        if value != before.get(name)
    ]
    body = aws.call("cloudformation", "get_template", StackName=aws.stack, TemplateStage="Original")["TemplateBody"]
    if str(body).strip() != template().strip():
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
    for role, service in _ROLES.items():  # the account's; everything that uses Batch and Spot shares them
        if aws.found("iam", "get_role", "NoSuchEntity", RoleName=role) is None:
            made = "InvalidInput|AlreadyExists"  # meanwhile
            aws.found("iam", "create_service_linked_role", made, AWSServiceName=service)
    before = _parameters(aws.describe()) if plan.action == "update" else {}
    pairs = [
        {"ParameterKey": name}
        | ({"UsePreviousValue": True} if value == before.get(name) else {"ParameterValue": value})
        for name, value in plan.parameters.items()
    ]
    tags = [{"Key": "project", "Value": plan.parameters["Project"]}, {"Key": "stack", "Value": aws.stack}]
    request = {"StackName": aws.stack, "TemplateBody": template(), "Parameters": pairs, "Tags": tags}
    request["Capabilities"] = ["CAPABILITY_NAMED_IAM"]
    if plan.action == "create":
        aws.once("cloudformation", "create_stack", aws.describe, **request)
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
        left = listed((f"{kind} {name}" for kind, name in left_over(aws, plan.parameters, bucket=True)), 30)
        fix = (
            f"Left are the failed stack and {left or 'nothing else'}. resight cloud down removes them; then init again."
        )
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
    if stack is not None and not str(stack.get("Description", "Resight: ")).startswith("Resight: "):
        raise AwsError("is not one of Resight's", where=f"stack '{aws.stack}'", fix="Name another: --stack NAME.")
    values = _parameters(stack)
    own, bucket = _own_bucket(aws), values.get("Bucket") or _own_bucket(aws)
    if delete_bucket and bucket != own:
        fix = "Without --delete-bucket all the rest is removed."
        raise ResightError(f"the bucket {bucket} was not made by Resight", where="--delete-bucket", fix=fix)
    jobs, left = _jobs(aws), left_over(aws, values, bucket=delete_bucket)
    if jobs and not stop_jobs:
        fix = "Wait for them, or add --stop-jobs: they save their state, and go on in another stack."
        names = listed(job["jobName"] for job in jobs)
        raise ResightError(f"{counted(len(jobs), 'job')} under way: {names}", where=aws.stack, fix=fix)
    here = f"the stack '{aws.stack}' in {aws.region} of account {aws.account}"
    definitions = _definitions(aws)
    kept = "" if delete_bucket or not _exists(aws, "bucket", bucket) else f"The bucket {bucket} is kept."
    if stack is None and not left and not definitions:
        return Plan("nothing", tuple(filter(None, (f"Removes nothing: there is nothing of {here}.", kept))), values)
    lines = [f"Removes {here}:"]
    lines += [f"  job {job['jobName']}, which is {job['status']}: it saves its state" for job in jobs]
    lines += [f"  {counted(len(definitions), 'job definition')}"] * bool(definitions)
    for kind, name in left:
        whole = {"repository": " with all its images", "log group": " with all logs"}.get(kind, "")
        if kind == "bucket":
            objects = aws.pages("s3", "list_objects_v2", "Contents", Bucket=name)
            size = sum(one["Size"] for one in objects) / 1e9
            whole = f" with all that is in it: {counted(len(objects), 'object')}, {size:,.1f} GB"
        lines.append(f"  {kind} {name}{whole}")
    return Plan("remove", (*lines, *filter(None, [kept])), values, delete_bucket)


def down(aws: Aws, plan: Plan) -> None:
    """Removes what :func:`plan_down` planned, waits, and looks by name whether anything is left.

    Raises:
        ResightError: something is; says what, and why.
    """
    if plan.action == "nothing":
        return
    for queue in _queues(aws):  # no job comes in any more
        aws.call("batch", "update_job_queue", jobQueue=queue, state="DISABLED")
    if jobs := _jobs(aws):
        for job in jobs:
            log.info("Stopping %s", job["jobName"])
            aws.call("batch", "terminate_job", jobId=job["jobId"], reason="resight cloud down")
        _until(lambda: not _jobs(aws), "the jobs have not ended")
    for arn in _definitions(aws):
        aws.call("batch", "deregister_job_definition", jobDefinition=arn)
    left: Any = None
    for _ in range(3):  # what kept the stack from being deleted is removed after the first time
        if aws.describe() is not None:
            aws.call("cloudformation", "delete_stack", StackName=aws.stack)
            _wait(aws)
        left = left_over(aws, plan.parameters)
        for kind, name in left:
            _remove(aws, kind, name)
        if not left:
            break
    if plan.delete_bucket and _exists(aws, "bucket", _own_bucket(aws)):
        _delete_bucket(aws, _own_bucket(aws))
    left = [f"{kind} {name}" for kind, name in left]
    left += [f"job definition {arn}" for arn in _definitions(aws)] + [f"instance {name}" for name in _instances(aws)]
    if aws.describe() is not None:
        left = [f"the stack ({why})" for why in aws.failures() or ["no reason is given"]] + left
    if left:
        fix = "Try again in a few minutes; what stays can be removed in the AWS console."
        raise AwsError(f"not everything is removed: {listed(left, 30)}", where=aws.stack, fix=fix)


def _parameters(stack: Mapping[str, Any] | None) -> dict[str, str]:
    return {one["ParameterKey"]: one["ParameterValue"] for one in (stack or {}).get("Parameters", ())}


def left_over(aws: Aws, parameters: Mapping[str, str], *, bucket: bool = False) -> list[tuple[str, str]]:
    """Kind and name of all that the stack makes, and that exists; of the bucket too if wanted."""
    return [
        (kind, name)
        for kind, name in _named(aws, {**parameters, "Bucket": "" if bucket else "not asked for"})
        if _exists(aws, kind, name)
    ]


def _named(aws: Aws, parameters: Mapping[str, str]) -> list[tuple[str, str]]:
    """Kind and name of what the template makes with these parameters, as far as it has a name."""
    told = read_template(template())
    known = {name: str(one.get("Default", "")) for name, one in told["Parameters"].items()} | dict(parameters)
    known |= {"AWS::StackName": aws.stack, "AWS::AccountId": aws.account, "AWS::Region": aws.region}

    def expanded(text: str) -> str:
        return re.sub(r"\$\{([\w:]+)\}", lambda found: known.get(found[1], found[0]), text)

    made = []
    for one in told["Resources"].values():
        sides = told["Conditions"].get(one.get("Condition"), {}).get("Equals", ())
        names = [text for key, text in one["Properties"].items() if re.fullmatch(r"(?!Display)\w*Name", key)]
        if names and len({expanded(side) for side in sides}) < 2:
            kind = re.sub("(?<=[a-z])(?=[A-Z])", " ", one["Type"].rpartition(":")[2]).lower()
            made.append((kind, expanded(names[0])))
    return made


def _own_bucket(aws: Aws) -> str:
    return next(name for kind, name in _named(aws, {"Bucket": ""}) if kind == "bucket")


def _exists(aws: Aws, kind: str, name: str) -> bool:
    service, action, argument = _LOOKS[kind]
    if kind == "topic":
        name = f"arn:{aws.session.get_partition_for_region(aws.region)}:sns:{aws.region}:{aws.account}:{name}"
    wanted: dict[str, Any] = {argument.removesuffix("[]"): [name] if argument.endswith("[]") else name}
    if argument.startswith("Filters"):
        wanted = {"Filters": [{"Name": argument.split()[1], "Values": [name]}]}
    answer = aws.found(service, action, "NotFound|NoSuchEntity|^404$", **wanted) or {}
    many = [value for value in answer.values() if isinstance(value, list)]
    if not many:
        return bool(answer)
    return any(one.get("logGroupName", name) == name and one.get("status") != "DELETED" for one in many[0])


def _remove(aws: Aws, kind: str, name: str) -> None:
    """What CloudFormation can leave, where it was made outside of it or its deletion failed; others are told only."""
    if kind in ("job queue", "compute environment"):
        one, many = kind.title().replace(" ", ""), kind.replace(" ", "_")
        key = one[0].lower() + one[1:]

        def settled() -> bool:
            found = aws.call("batch", f"describe_{many}s", **{f"{key}s": [name]})[f"{key}s"]
            return all(one.get("status") not in ("CREATING", "UPDATING", "DELETING") for one in found)

        for action, more in (("update", {"state": "DISABLED"}), ("delete", {})):
            _until(settled, f"the {kind} {name} is being changed")
            if _exists(aws, kind, name):
                aws.call("batch", f"{action}_{many}", **{key: name}, **more)
        _until(lambda: not _exists(aws, kind, name), f"the {kind} {name} is still there")
    elif kind == "log group":
        aws.found("logs", "delete_log_group", "NotFound", logGroupName=name)
    elif kind == "repository":
        aws.found("ecr", "delete_repository", "NotFound", repositoryName=name, force=True)


def _delete_bucket(aws: Aws, name: str) -> None:
    listing = {"Bucket": name}
    for key in ("Versions", "DeleteMarkers"):
        found = aws.pages("s3", "list_object_versions", key, **listing)
        for at in range(0, len(found), 1000):  # as many as one call takes
            objects = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in found[at : at + 1000]]
            answer = aws.call("s3", "delete_objects", Bucket=name, Delete={"Objects": objects, "Quiet": True})
            if errors := answer.get("Errors"):
                why = f"{errors[0].get('Key')}: {errors[0].get('Message')}"
                raise AwsError(f"{counted(len(errors), 'object')} cannot be deleted: {why}", where=f"s3://{name}")
    aws.found("s3", "delete_bucket", "NoSuchBucket", Bucket=name)


def _queues(aws: Aws) -> list[str]:
    return [name for kind, name in _named(aws, {}) if kind == "job queue" and _exists(aws, kind, name)]


def _jobs(aws: Aws) -> list[dict[str, Any]]:
    """The jobs of the stack's queues that have not ended."""
    places = [{"jobQueue": queue, "jobStatus": status} for queue in _queues(aws) for status in _LIVE]
    return [job for place in places for job in aws.pages("batch", "list_jobs", "jobSummaryList", **place)]


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

    _until(done, "the stack is not as it should be; CloudFormation in the AWS console shows what it waits for")
    return status


def _until(done: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > until:
            raise AwsError(f"{otherwise}, after an hour", fix="The same command goes on from there.")
        time.sleep(POLL)
