"""The stack: everything of Resight's in one region of AWS, made, changed and removed by CloudFormation."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

import yaml

from .._version import __version__
from ..errors import ResightError, counted, listed, nearest
from .aws import WHOLE, Aws, AwsError
from .instances import offered_types
from .jobs import LIVE

log = logging.getLogger(__name__)

Thing = tuple[str, str]  # kind and name
T = TypeVar("T")

POLL, PATIENCE = 5.0, 3600.0  # seconds between two looks at what AWS is doing; seconds after which it is given up
_MISSING = "NotFound|NoSuchEntity|^404$"
# By kind: the call that looks for a thing, the argument that takes its name or a list of names, and the names of the
# stack's things, each after the template's own name for the thing.
_KINDS = {
    "bucket": ("s3", "head_bucket", "Bucket", "RunsBucket={stack}-{account}-{region}"),
    "repository": ("ecr", "describe_repositories", "repositoryNames", "Repository={stack}"),
    "log group": ("logs", "describe_log_streams", "logGroupName", "LogGroup={stack}"),
    "role": ("iam", "get_role", "RoleName", "TrainingRole={stack}-{region}-job InstanceRole={stack}-{region}-instance"),
    "instance profile": ("iam", "get_instance_profile", "InstanceProfileName", "Profile={stack}-{region}-instance"),
    "security group": ("ec2", "describe_security_groups", "group-name", "Firewall={stack}"),
    "launch template": ("ec2", "describe_launch_templates", "LaunchTemplateNames", "LaunchTemplate={stack}"),
    "compute environment": (
        *("batch", "describe_compute_environments", "computeEnvironments"),
        "SpotEnvironment={stack}-spot OnDemandEnvironment={stack}-on-demand",
    ),
    "job queue": (
        *("batch", "describe_job_queues", "jobQueues"),
        "SpotQueue={stack}-spot OnDemandQueue={stack}-on-demand",
    ),
    "topic": ("sns", "get_topic_attributes", "TopicArn", "Topic=arn:{partition}:sns:{region}:{account}:{stack}"),
    "rule": (
        *("events", "describe_rule", "Name"),
        "DoneRule={stack}-done LimitRule={stack}-limit FailedRule={stack}-failed BlockedRule={stack}-blocked",
    ),
}
_OF_BATCH = ("job queue", "compute environment")
# Parameters that put a thing of the user's in the place of one that the template makes.
_INSTEAD = {"RunsBucket": "Bucket", "TrainingRole": "JobRole", "Firewall": "SecurityGroup"}
_INSTEAD |= {"InstanceRole": "InstanceProfile", "Profile": "InstanceProfile"}
_BATCH, _SPOT = "batch.amazonaws.com", "spot.amazonaws.com"  # services that have a role of their own in the account
_COSTS = (
    "When idle, you pay only for what is stored: S3, images and logs; no instance runs while no job does.",
    "A job costs its instance, and the instance's volume, for as long as it runs: resight cloud launch says how much.",
)


@dataclass(frozen=True)
class Plan:
    """What ``init`` or ``down`` is about to do: create, update, remove or nothing; with or to what."""

    action: str
    lines: tuple[str, ...]
    parameters: Mapping[str, str]
    roles: tuple[str, ...] = ()  # services whose role the account lacks
    things: tuple[Thing, ...] = ()
    bucket: str = ""  # to be deleted
    stop_jobs: bool = False

    def text(self) -> str:
        return "\n".join(self.lines)


def template() -> str:
    """The CloudFormation template: for a review, or to be deployed by another tool."""
    return files(__package__).joinpath("template.yaml").read_text("utf-8")


def plan_init(aws: Aws, parameters: Mapping[str, str] | None = None) -> Plan:
    """What :func:`init` would make or change.

    Args:
        parameters: of the template, by name; others stay as they are in the stack, or have the template's default.
            Without ``Vpc`` and ``Subnets`` it is the default network.

    Raises:
        ResightError: a parameter is unknown or wrong, there is no default network, an instance type is not offered, the
            bucket is not there or elsewhere, or a stack of that name is in the way.
    """
    given = dict(parameters or {})
    # The part that has no tags of CloudFormation's, which no other reader of YAML knows.
    known = yaml.safe_load(template().partition("\nConditions:")[0])["Parameters"]
    for name, value in given.items():
        if name not in known:
            fix = f"{nearest(name, known)} There are {listed(known, 20)}.".strip()
            raise ResightError(f"the template has no parameter '{name}'", where="--set", fix=fix)
        if not re.fullmatch(known[name].get("AllowedPattern", ".*"), value):
            raise ResightError(f"'{value}' is not allowed", where=f"--set {name}", fix=known[name]["Description"])
    stack = aws.describe()
    if stack is not None:
        aws.outputs()  # is it whole?
    before = parameters_of(stack)
    values = {name: given.get(name, before.get(name, str(one.get("Default", "")))) for name, one in known.items()}
    if stack is None or {"Vpc", "Subnets"} & given.keys():
        _find_network(aws, values)
    if stack is None or "InstanceTypes" in given:
        _check_types(aws, values["InstanceTypes"].split(","))
    own, left = named(aws, {})["RunsBucket"], ""
    if stack is None and not values["Bucket"] and existing(aws, [own]):
        values["Bucket"], left = own[1], f"The bucket {own[1]}, left by an earlier stack, is used again."
    if values["Bucket"] and values["Bucket"] != before.get("Bucket"):
        region = aws.call("s3", "get_bucket_location", Bucket=values["Bucket"]).get("LocationConstraint") or "us-east-1"
        if region != aws.region:
            fix = f"A bucket in {aws.region}, or --region {region}."
            raise ResightError(f"the bucket is in {region}, not in {aws.region}", where=values["Bucket"], fix=fix)
    if stack is None:
        return _plan_create(aws, values, left)
    other = {name: value for name, value in values.items() if value != before.get(name)}
    changed = [f"  {name}: {before.get(name) or '(none)'} -> {value or '(none)'}" for name, value in other.items()]
    body = aws.call("cloudformation", "get_template", StackName=aws.stack, TemplateStage="Original")["TemplateBody"]
    if body != template():
        changed.append(f"  the template: that of Resight {__version__}")
    if not changed:
        return Plan("nothing", (f"Changes nothing: the {_here(aws)} is as it should be.", *_COSTS), values)
    rest = "A running job continues. Where instances change, new ones start for the next job."
    return Plan("update", (f"Changes the {_here(aws)}:", *changed, rest, *_COSTS), values)


def _plan_create(aws: Aws, values: dict[str, str], left: str) -> Plan:
    things = named(aws, values).values()
    if taken := existing(aws, [one for one in things if one[0] != "bucket"]):
        fix = "Another --stack NAME; or resight cloud down, which removes what of it is Resight's."
        raise ResightError(f"there is already {names_of(taken)}", where=aws.stack, fix=fix)
    lines = [f"Makes the {_here(aws)}:", *(f"  {names_of([one])}" for one in things), *filter(None, [left])]
    missing = tuple(service for service in (_BATCH, _SPOT) if not _own_role(aws, service))
    if missing:
        for_services = " and for ".join(missing)
        lines.append(f"  the account's role for {for_services}, which is kept: other services share it")
    lines += ["With the parameters:", *(f"  {name} = {value or '(none)'}" for name, value in values.items())]
    return Plan("create", (*lines, *_COSTS), values, missing)


def init(aws: Aws, plan: Plan) -> dict[str, str]:
    """Makes or changes the stack as planned, waits, and returns its outputs. Raises ResightError: it failed: says which
    resource did and why, what is left and how to remove it."""
    if plan.action == "nothing":
        return aws.outputs()
    values = dict(plan.parameters)
    for service in plan.roles:  # the error: it is made meanwhile
        aws.found("iam", "create_service_linked_role", "InvalidInput|AlreadyExists", AWSServiceName=service)
    if plan.action == "create":
        values["ServiceRole"] = values["ServiceRole"] or _own_role(aws, _BATCH)
    request = {
        "StackName": aws.stack,
        "TemplateBody": template(),
        "Parameters": [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()],
        "Tags": [{"Key": "project", "Value": values["Project"]}, {"Key": "stack", "Value": aws.stack}],
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
    }
    try:
        if plan.action == "create":
            aws.once("cloudformation", "create_stack", aws.describe, **request)
        else:
            aws.call("cloudformation", "update_stack", **request)
    except AwsError as error:
        # Nothing to do, or an update that goes on, the answer to which was lost.
        if not re.search("No updates are to be performed|_IN_PROGRESS state", error.message):
            if plan.action == "create":
                there = names_of(existing(aws, named(aws, values).values())) or "nothing"
                error.fix = f"{error.fix} These resources already exist: {there}.".strip()
            raise
    status = _settled(aws)
    if re.fullmatch("(CREATE|UPDATE)_COMPLETE", status):
        return aws.outputs()
    fix = "Change what it says, then resight cloud init again."
    if plan.action == "create":
        left = names_of(made(aws, aws.describe())) or "nothing else"
        fix = f"The failed stack and {left} remain. Run resight cloud down, then init again."
    done, why = "made" if plan.action == "create" else "changed", "\n  ".join(["", *aws.failures()])
    raise AwsError(f"the stack could not be {done} ({status}):{why}", where=aws.stack, fix=fix)


def plan_down(aws: Aws, *, stop_jobs: bool = False, delete_bucket: bool = False) -> Plan:
    """What :func:`down` would remove. Raises ResightError: jobs are under way, which ``stop_jobs`` ends when they have
    saved their state; or the bucket is to be deleted, and is not Resight's."""
    stack = aws.describe()
    values, own = parameters_of(stack), named(aws, {})["RunsBucket"][1]
    bucket = values.get("Bucket") or own
    if delete_bucket and bucket != own:
        fix = "Without --delete-bucket all the rest is removed."
        raise ResightError(f"the bucket {bucket} was not made by Resight", where="--delete-bucket", fix=fix)
    things = [one for one in made(aws, stack) if one[0] != "bucket"]
    jobs = _jobs(aws, things, stop_jobs)
    lines = [f"  job {job['jobName']}, which is {job['status']}: it saves its state" for job in jobs]
    if definitions := _definitions(aws):
        lines.append(f"  {counted(len(definitions), 'job definition')}")
    lines += [f"  {names_of([one])}" for one in things]
    there = bool(existing(aws, [("bucket", bucket)]))
    if there and delete_bucket:
        objects = aws.pages("s3", "list_objects_v2", "Contents", Bucket=bucket)
        size = f"{counted(len(objects), 'object')}, {sum(one['Size'] for one in objects) / 1e9:,.1f} GB"
        lines.append(f"  bucket {bucket} with all that is in it: {size}")
    kept = [f"The bucket {bucket} is kept."] if there and not delete_bucket else []
    if stack is None and not lines:
        return Plan("nothing", (f"Removes nothing: there is nothing of the {_here(aws)}.", *kept), values)
    lines = [f"Removes the {_here(aws)}, with all images and logs:", *lines, *kept]
    gone = bucket if there and delete_bucket else ""
    return Plan("remove", tuple(lines), values, things=tuple(things), bucket=gone, stop_jobs=stop_jobs)


def down(aws: Aws, plan: Plan) -> None:
    """Removes what :func:`plan_down` planned, waits, and looks by name whether anything is left. Raises ResightError:
    something is; says what, and why."""
    if plan.action == "nothing":
        return
    _jobs(aws, plan.things, plan.stop_jobs)
    for queue in [name for kind, name in plan.things if kind == "job queue"]:  # no job comes in any more
        aws.call("batch", "update_job_queue", jobQueue=queue, state="DISABLED")
    for job in _jobs(aws, plan.things):
        log.info("Stopping %s", job["jobName"])
        aws.call("batch", "terminate_job", jobId=job["jobId"], reason="resight cloud down")
    wait_until(lambda: not _jobs(aws, plan.things), "the jobs have not ended")
    for arn in _definitions(aws):
        aws.call("batch", "deregister_job_definition", jobDefinition=arn)
    left = list(plan.things)
    for name in [name for kind, name in left if kind == "repository"]:
        _empty_repository(aws, name)  # with images it can be in the way
    for _ in range(2):  # what kept the stack from being deleted is removed after the first time
        if aws.describe() is not None:
            aws.call("cloudformation", "delete_stack", StackName=aws.stack)
            _settled(aws)
        for kind, name in reversed(left):  # queues before their environments
            _remove(aws, kind, name)
        if not (left := existing(aws, left)):
            break
    if plan.bucket:
        _delete_bucket(aws, plan.bucket)
    told = names_of([*left, *existing(aws, [("bucket", plan.bucket)] if plan.bucket else [])])
    if aws.describe() is not None:
        why = "; ".join(aws.failures()) or "no reason is given"
        told = f"the stack ({why}){', ' * bool(told)}{told}"
    if told:
        fix = "Try again in a few minutes; what stays can be removed in the AWS console."
        raise AwsError(f"not everything is removed: {told}", where=aws.stack, fix=fix)


def _here(aws: Aws) -> str:
    return f"{aws.here} of account {aws.account}"


def _own_role(aws: Aws, service: str) -> str:
    """The ARN of the role that the account has for a service, "" where it has none yet."""
    found = aws.pages("iam", "list_roles", "Roles", PathPrefix=f"/aws-service-role/{service}/")
    return str(found[0]["Arn"]) if found else ""


def _jobs(aws: Aws, things: Sequence[Thing], allowed: bool = True) -> list[dict[str, Any]]:
    """The jobs of the queues that have not ended. Raises ResightError: there are some, and may not be."""
    queues = [name for kind, name in things if kind == "job queue"]
    ours = [{"name": "JOB_NAME", "values": [f"{aws.stack}-*"]}]
    pages = [aws.pages("batch", "list_jobs", "jobSummaryList", jobQueue=queue, filters=ours) for queue in queues]
    jobs = [job for page in pages for job in page if job["status"] in LIVE]
    if jobs and not allowed:
        fix = "Wait for them, or add --stop-jobs: they save their state, and continue in another stack."
        names = listed(job["jobName"] for job in jobs)
        raise ResightError(f"{counted(len(jobs), 'job')} under way: {names}", where=aws.stack, fix=fix)
    return jobs


def _definitions(aws: Aws) -> list[str]:
    """The job definitions that launches into this stack made, by their tags: another's name can begin the same."""
    found = aws.pages("batch", "describe_job_definitions", "jobDefinitions", status="ACTIVE")
    ours = [one for one in found if one["jobDefinitionName"].startswith(f"{aws.stack}-")]
    return [one["jobDefinitionArn"] for one in ours if one.get("tags", {}).get("stack") == aws.stack]


def _find_network(aws: Aws, values: dict[str, str]) -> None:
    """Completes and checks ``Vpc`` and ``Subnets``."""
    vpc, ids = values["Vpc"], [name for name in values["Subnets"].split(",") if name]
    known = {"Name": "vpc-id", "Values": [vpc]} if vpc else {"Name": "default-for-az", "Values": ["true"]}
    found = aws.pages("ec2", "describe_subnets", "Subnets", **({"SubnetIds": ids} if ids else {"Filters": [known]}))
    if not vpc and not found:
        fix = "Name one, with subnets that reach S3, ECR, ECS and CloudWatch Logs: --set Vpc=... --set Subnets=A,B"
        raise ResightError(f"there is no default VPC in {aws.region}", where="--set Vpc", fix=fix)
    networks = sorted({one["VpcId"] for one in found})
    if networks != [vpc or networks[0]]:
        what = f"{listed(ids)} are of {listed(networks)}" if ids else "it has no subnets"
        raise ResightError(f"these are not subnets of {vpc or networks[0]}: {what}", where="--set Subnets")
    values |= {"Vpc": networks[0], "Subnets": ",".join(sorted(one["SubnetId"] for one in found))}


def _check_types(aws: Aws, names: list[str]) -> None:
    offered = sorted(offered_types(aws, names, 0.0))
    if missing := [name for name in names if name not in offered]:
        fix = f"Those that are: {listed(offered)}." if offered else "Choose another --region."
        raise ResightError(f"{missing[0]} is not offered in {aws.region}", where="--set InstanceTypes", fix=fix)


def _settled(aws: Aws) -> str:
    """The status of the stack when CloudFormation is done with it."""
    log.info("CloudFormation works on the %s: that takes some minutes.", aws.here)

    def status() -> str:
        now = str((aws.describe() or {}).get("StackStatus", "DELETE_COMPLETE"))
        return "" if now.endswith("IN_PROGRESS") else now

    return wait_until(status, "the stack is not as it should be; the AWS console shows what CloudFormation waits for")


def parameters_of(stack: Mapping[str, Any] | None) -> dict[str, str]:
    return {one["ParameterKey"]: one["ParameterValue"] for one in (stack or {}).get("Parameters", ())}


def named(aws: Aws, parameters: Mapping[str, str]) -> dict[str, Thing]:
    """What the template makes with these parameters, by what it calls the things."""
    known = {"stack": aws.stack, "account": aws.account, "region": aws.region}
    known["partition"] = aws.session.get_partition_for_region(aws.region)
    pairs = [(kind, *pair.split("=")) for kind, (*_, pairs) in _KINDS.items() for pair in pairs.split()]
    made = {logical: (kind, name.format(**known)) for kind, logical, name in pairs}
    return {logical: made[logical] for logical in made if not parameters.get(_INSTEAD.get(logical, ""))}


def made(aws: Aws, stack: Mapping[str, Any] | None) -> list[Thing]:
    """What the stack made, and still exists."""
    things = named(aws, parameters_of(stack))
    alive = set(things)
    if stack is None:  # It can be deleted without its resources. What could still cost is told by its tags.
        names = [name for kind, name in things.values() if kind == "compute environment"]
        found = aws.call("batch", "describe_compute_environments", computeEnvironments=names)["computeEnvironments"]
        ours = any(one["computeResources"].get("tags", {}).get("stack") == aws.stack for one in found)
        alive = {logical for logical, (kind, _) in things.items() if kind in _OF_BATCH and ours}
    elif not stack["StackStatus"].endswith(WHOLE):  # another's name, that was to be taken, can be why
        found = aws.pages("cloudformation", "list_stack_resources", "StackResourceSummaries", StackName=aws.stack)
        gone = ("CREATE_FAILED", "DELETE_COMPLETE")
        alive = {one["LogicalResourceId"] for one in found if one["ResourceStatus"] not in gone}
    return existing(aws, [thing for logical, thing in things.items() if logical in alive])


def existing(aws: Aws, things: Iterable[Thing]) -> list[Thing]:
    """Those of the things that exist."""

    def exists(kind: str, name: str) -> bool:
        service, action, argument, _ = _KINDS[kind]
        asked: dict[str, Any] = {argument: [name] if argument.endswith("s") else name}
        if argument == "group-name":  # another network can have one of that name
            asked = {"Filters": [{"Name": key, "Values": [name]} for key in (argument, "tag:stack")]}
        answer = aws.found(service, action, _MISSING, **asked)
        if answer is None or service not in ("batch", "ec2"):
            return answer is not None
        lists = [value for value in answer.values() if isinstance(value, list)]  # empty where there is none
        return any(one.get("status") != "DELETED" for some in lists for one in some)

    return [one for one in things if exists(*one)]


def names_of(things: Iterable[Thing]) -> str:
    return listed((f"{kind} {name.rpartition(':')[2]}" for kind, name in things), 30)


def _remove(aws: Aws, kind: str, name: str) -> None:
    """Removes what CloudFormation may leave and would cost; the rest is told only."""
    if kind == "log group":
        aws.found("logs", "delete_log_group", _MISSING, logGroupName=name)
    if kind not in _OF_BATCH:
        return
    _, look, several, _ = _KINDS[kind]
    action, argument = kind.replace(" ", "_"), several.removesuffix("s")

    def status() -> str:
        found = aws.call("batch", look, **{several: [name]})[several]
        return str(found[0].get("status", "VALID")) if found else "DELETED"

    for verb, more in (("update", {"state": "DISABLED"}), ("delete", {})):
        wait_until(lambda: status() not in ("CREATING", "UPDATING"), f"the {kind} {name} is being changed")
        if status() not in ("DELETING", "DELETED"):
            aws.call("batch", f"{verb}_{action}", **{argument: name}, **more)
    wait_until(lambda: status() != "DELETING", f"the {kind} {name} is still there")


def _empty_repository(aws: Aws, name: str) -> None:
    digests = sorted({one["imageDigest"] for one in aws.pages("ecr", "list_images", "imageIds", repositoryName=name)})
    for at in range(0, len(digests), 100):  # as many as one call takes
        images = [{"imageDigest": digest} for digest in digests[at : at + 100]]
        aws.call("ecr", "batch_delete_image", repositoryName=name, imageIds=images)


def _delete_bucket(aws: Aws, name: str) -> None:
    """Deletes a bucket with all that is in it."""
    for key in ("Versions", "DeleteMarkers"):
        found = aws.pages("s3", "list_object_versions", key, Bucket=name)
        for at in range(0, len(found), 1000):  # as many as one call takes
            objects = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in found[at : at + 1000]]
            answer = aws.call("s3", "delete_objects", Bucket=name, Delete={"Objects": objects, "Quiet": True})
            if errors := answer.get("Errors"):
                why = f"{errors[0].get('Key')}: {errors[0].get('Message')}"
                raise AwsError(f"{counted(len(errors), 'object')} cannot be deleted: {why}", where=f"s3://{name}")
    aws.found("s3", "delete_bucket", "NoSuchBucket", Bucket=name)


def wait_until(look: Callable[[], T], otherwise: str) -> T:
    """Looks until it sees something, which it returns."""
    until = time.monotonic() + PATIENCE
    while not (seen := look()):
        if time.monotonic() > until:
            raise AwsError(f"{otherwise}, after an hour", fix="Run the same command again to continue.")
        time.sleep(POLL)
    return seen
