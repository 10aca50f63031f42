"""What the template makes, by kind and name: what of it there is, and removing what CloudFormation leaves."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import yaml

from ..errors import counted
from .aws import WHOLE, Aws, AwsError

Thing = tuple[str, str]  # kind and name

POLL, PATIENCE = 5.0, 3600.0  # seconds between two looks at what AWS is doing; seconds after which it is given up
_MISSING = "NotFound|NoSuchEntity|^404$"
# How things of a kind are looked for: the call, the argument that takes a name or a list of them, and where in the
# answer their names are.
_LOOKS = {
    "job queue": ("batch", "describe_job_queues", "jobQueues", "jobQueueName"),
    "compute environment": ("batch", "describe_compute_environments", "computeEnvironments", "computeEnvironmentName"),
    "launch template": ("ec2", "describe_launch_templates", "launch-template-name", "LaunchTemplateName"),
    "security group": ("ec2", "describe_security_groups", "group-name", "GroupName"),
    "log group": ("logs", "describe_log_groups", "logGroupNamePrefix", "logGroupName"),
    "rule": ("events", "list_rules", "NamePrefix", "Name"),
    "instance profile": ("iam", "get_instance_profile", "InstanceProfileName", ""),
    "role": ("iam", "get_role", "RoleName", ""),
    "repository": ("ecr", "describe_repositories", "repositoryNames", "repositoryName"),
    "topic": ("sns", "get_topic_attributes", "TopicArn", ""),
    "bucket": ("s3", "head_bucket", "Bucket", ""),
}


class _Yaml(yaml.SafeLoader):
    pass


def _function(loader: Any, name: str, node: Any) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return f"${{{node.value}}}" if name == "Ref" else node.value if name == "Sub" else {name: node.value}
    many = isinstance(node, yaml.SequenceNode)
    return {name: loader.construct_sequence(node, True) if many else loader.construct_mapping(node, True)}


_Yaml.add_multi_constructor("!", _function)


def template() -> str:
    """The CloudFormation template: for a review, or to be deployed by another tool."""
    return files(__package__).joinpath("template.yaml").read_text("utf-8")


@functools.cache
def read_template(text: str) -> dict[str, Any]:
    """A template as it is written: ``!Ref X`` and ``!Sub`` are text with ``${X}``, other functions ``{NAME: ...}``."""
    return dict(yaml.load(text, _Yaml))


def parameters_of(stack: Mapping[str, Any] | None) -> dict[str, str]:
    return {one["ParameterKey"]: one["ParameterValue"] for one in (stack or {}).get("Parameters", ())}


def named_in_template(aws: Aws, parameters: Mapping[str, str]) -> dict[Thing, str]:
    """Kind and name of what the template makes with these parameters, as far as it has a name; and its logical name."""
    told = read_template(template())
    known = {name: str(one.get("Default", "")) for name, one in told["Parameters"].items()} | dict(parameters)
    known |= {"AWS::StackName": aws.stack, "AWS::AccountId": aws.account, "AWS::Region": aws.region}

    def expanded(text: str) -> str:
        return re.sub(r"\$\{([\w:]+)\}", lambda found: known.get(found[1], found[0]), text)

    made = {}
    for logical, one in told["Resources"].items():
        sides = told["Conditions"].get(one.get("Condition"), {}).get("Equals", ())
        names = [text for key, text in one["Properties"].items() if re.fullmatch(r"(?!Display)\w*Name", key)]
        if names and len({expanded(side) for side in sides}) < 2:
            kind = re.sub("(?<=[a-z])(?=[A-Z])", " ", one["Type"].rpartition(":")[2]).lower()
            made[kind, expanded(names[0])] = logical
    return made


def own_bucket(aws: Aws) -> str:
    return next(name for kind, name in named_in_template(aws, {"Bucket": ""}) if kind == "bucket")


def found_of(aws: Aws, stack: Mapping[str, Any] | None) -> tuple[list[Thing], list[Thing]]:
    """What exists of all that the template names, but for the bucket: the stack's, and what only has such a name."""
    named = named_in_template(aws, {**parameters_of(stack), "Bucket": "any"})
    there, alive = existing(aws, list(named)), set(named.values())
    if stack is None or not stack["StackStatus"].endswith(WHOLE):  # a name that was taken can be why it failed
        made = aws.found("cloudformation", "list_stack_resources", "ValidationError", StackName=aws.stack) or {}
        dead = ("CREATE_FAILED", "DELETE_COMPLETE", "DELETE_SKIPPED")
        listing = [one for one in made.get("StackResourceSummaries", ()) if one["ResourceStatus"] not in dead]
        alive = {one.get("LogicalResourceId", "") for one in listing}
    # Of a stack that is gone, what could still cost is known by its tags.
    environments = {name: "" for kind, name in there if kind == "compute environment"}
    if environments:
        asked = aws.call("batch", "describe_compute_environments", computeEnvironments=list(environments))
        for one in asked["computeEnvironments"]:
            environments[one["computeEnvironmentName"]] = one["computeResources"].get("tags", {}).get("stack", "")
    ours = {name for name, stack in environments.items() if stack == aws.stack}
    mine = [
        one
        for one in there
        if named[one] in alive or (one[0] in ("job queue", "compute environment") and one[1] in ours)
    ]
    return mine, [one for one in there if one not in mine]


def existing(aws: Aws, things: list[Thing]) -> list[Thing]:
    """Those of the things that exist."""
    found = set()
    for kind in dict(things):
        names = [name for one, name in things if one == kind]
        service, action, argument, key = _LOOKS[kind]
        topics = f"arn:{aws.session.get_partition_for_region(aws.region)}:sns:{aws.region}:{aws.account}:"
        if not key:
            full = {name: topics + name if kind == "topic" else name for name in names}
            found |= {(kind, one) for one in names if aws.found(service, action, _MISSING, **{argument: full[one]})}
            continue
        wanted: Any = names if argument.endswith("s") else aws.stack
        if argument.endswith("-name"):
            mark = {"Name": "tag:stack", "Values": [aws.stack]}  # another network can have one of that name
            argument, wanted = "Filters", [{"Name": argument, "Values": names}, mark]
        answer = aws.found(service, action, _MISSING, **{argument: wanted}) or {}
        many = [one for value in answer.values() if isinstance(value, list) for one in value]
        found |= {(kind, one[key]) for one in many if one.get("status") != "DELETED"}
    return [one for one in things if one in found]


def remove(aws: Aws, kind: str, name: str) -> None:
    """What CloudFormation leaves where it was told to, or where its deletion failed; others are told only."""
    if kind in ("job queue", "compute environment"):
        action, key = kind.replace(" ", "_"), "jobQueue" if kind == "job queue" else "computeEnvironment"

        def status() -> str:
            found = aws.call("batch", f"describe_{action}s", **{f"{key}s": [name]})[f"{key}s"]
            return str(found[0].get("status", "VALID")) if found else "DELETED"

        for verb, more in (("update", {"state": "DISABLED"}), ("delete", {})):
            wait_until(lambda: status() not in ("CREATING", "UPDATING"), f"the {kind} {name} is being changed")
            if status() not in ("DELETING", "DELETED"):
                aws.call("batch", f"{verb}_{action}", **{key: name}, **more)
        wait_until(lambda: status() != "DELETING", f"the {kind} {name} is still there")
    elif kind == "log group":
        aws.found("logs", "delete_log_group", "NotFound", logGroupName=name)
    elif kind == "repository":
        aws.found("ecr", "delete_repository", "NotFound", repositoryName=name, force=True)
    elif kind == "bucket":
        _delete_bucket(aws, name)


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


def wait_until(done: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > until:
            raise AwsError(f"{otherwise}, after an hour", fix="The same command goes on from there.")
        time.sleep(POLL)
