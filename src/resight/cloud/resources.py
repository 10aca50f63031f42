"""What the template makes, by name: what of it exists, and removing what is not left to CloudFormation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ..errors import counted, listed
from .aws import WHOLE, Aws, AwsError

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


def remove(aws: Aws, kind: str, name: str) -> None:
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


def empty_repository(aws: Aws, name: str) -> None:
    digests = sorted({one["imageDigest"] for one in aws.pages("ecr", "list_images", "imageIds", repositoryName=name)})
    for at in range(0, len(digests), 100):  # as many as one call takes
        images = [{"imageDigest": digest} for digest in digests[at : at + 100]]
        aws.call("ecr", "batch_delete_image", repositoryName=name, imageIds=images)


def delete_bucket(aws: Aws, name: str) -> None:
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
