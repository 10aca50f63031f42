"""The template's guards: each is looked for in the template as it is, and missed where it is taken out."""

import base64
import functools
import json
import re
from email import message_from_string
from pathlib import Path

import pytest
import yaml

from resight.cloud.aws import Aws
from resight.cloud.stack import named
from resight.cloud.stack import template as template_text


class _Yaml(yaml.SafeLoader):
    pass


def _function(loader, name, node):
    if isinstance(node, yaml.ScalarNode):
        return f"${{{node.value}}}" if name == "Ref" else node.value if name == "Sub" else {name: node.value}
    many = isinstance(node, yaml.SequenceNode)
    return {name: loader.construct_sequence(node, True) if many else loader.construct_mapping(node, True)}


_Yaml.add_multi_constructor("!", _function)


@functools.cache
def read_template(text):
    """A template as it is written: ``!Ref X`` and ``!Sub`` are text with ``${X}``, other functions ``{NAME: ...}``."""
    return yaml.load(text, _Yaml)


def names(resource):
    """The names that a resource gets."""
    return [text for key, text in resource["Properties"].items() if re.fullmatch(r"(?!Display)\w*Name", key)]


def of(template, kind):
    return [one for one in template["Resources"].values() if one["Type"] == f"AWS::{kind}"]


def properties(template, kind):
    return [one["Properties"] for one in of(template, kind)]


def statements(template, role):
    (policy,) = template["Resources"][role]["Properties"]["Policies"]
    return policy["PolicyDocument"]["Statement"]


def listed(value):
    return value if isinstance(value, list) else [value]


def plain_http_is_denied(template):
    for kind, action in (("S3::BucketPolicy", "s3:*"), ("SNS::TopicPolicy", "sns:Publish")):
        (policy,) = properties(template, kind)
        assert any(
            one["Effect"] == "Deny" and one["Principal"] == "*" and one["Action"] == action
            for one in policy["PolicyDocument"]["Statement"]
            if one.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
        )
    (policy,) = properties(template, "S3::BucketPolicy")
    bucket = "${AWS::StackName}-${AWS::AccountId}-${AWS::Region}"
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert [one.partition(":s3:::")[2] for one in statement["Resource"]] == [bucket, f"{bucket}/*"]
    assert properties(template, "S3::Bucket")[0]["BucketName"] == bucket


def nothing_is_public(template):
    (bucket,) = properties(template, "S3::Bucket")
    names = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    assert all(bucket["PublicAccessBlockConfiguration"][name] is True for name in names)
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    allowed = [one for kind in ("S3::BucketPolicy", "SNS::TopicPolicy") for one in properties(template, kind)]
    for policy in allowed:
        for one in policy["PolicyDocument"]["Statement"]:
            assert one["Effect"] == "Deny" or one["Principal"] == {"Service": "events.amazonaws.com"}


def storage_is_encrypted(template):
    (bucket,) = properties(template, "S3::Bucket")
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] in ("AES256", "aws:kms")
    for launch in properties(template, "EC2::LaunchTemplate"):
        for device in launch["LaunchTemplateData"]["BlockDeviceMappings"]:
            assert device["Ebs"]["Encrypted"] is True and device["Ebs"]["DeleteOnTermination"] is True


def only_imds_v2(template):
    (launch,) = properties(template, "EC2::LaunchTemplate")
    options = launch["LaunchTemplateData"]["MetadataOptions"]
    assert options == {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 2}


def no_port_is_open(template):
    (group,) = properties(template, "EC2::SecurityGroup")
    assert "SecurityGroupIngress" not in group and not of(template, "EC2::SecurityGroupIngress")
    assert {(one["FromPort"], one["ToPort"]) for one in group["SecurityGroupEgress"]} == {(443, 443)}
    (launch,) = properties(template, "EC2::LaunchTemplate")
    assert not {"KeyName", "NetworkInterfaces", "ImageId"} & launch["LaunchTemplateData"].keys()


def the_job_role_reads_and_writes_its_prefixes_alone(template):
    prefixes = {"ReadData": "${DataPrefix}*", "ReadAndWriteRuns": "${RunsPrefix}*"}
    found = {}
    for one in statements(template, "TrainingRole"):
        assert one["Effect"] == "Allow" and "*" not in "".join(listed(one["Action"]))
        found[one["Sid"]] = set(listed(one["Action"]))
        if one["Sid"] in prefixes:
            assert (
                one["Resource"]["Sub"][0].endswith("}/" + prefixes[one["Sid"]])
                if isinstance(one["Resource"], dict)
                else False
            )
        elif one["Sid"].startswith("List"):
            prefix = prefixes["ReadData" if one["Sid"] == "ListData" else "ReadAndWriteRuns"]
            assert one["Condition"] == {"StringLikeIfExists": {"s3:prefix": prefix}}
        else:
            assert one["Resource"] == {"GetAtt": "LogGroup.Arn"}
    assert found == {
        "ReadData": {"s3:GetObject"},
        "ReadAndWriteRuns": {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"},
        "ListData": {"s3:ListBucket"},
        "ListRuns": {"s3:ListBucket"},
        "WriteLogs": {"logs:CreateLogStream", "logs:PutLogEvents"},
    }
    assert template["Parameters"]["RunsPrefix"]["AllowedPattern"] == "([A-Za-z0-9_.=-]+/)+"  # no wildcard, not empty


def the_instance_role_is_an_agents(template):
    for one in statements(template, "InstanceRole"):
        actions = listed(one["Action"])
        assert all(re.fullmatch(r"(ecs|ecr|logs):\w+", action) for action in actions)
        if one["Resource"] == "*":
            assert set(actions) == {"ecs:DiscoverPollEndpoint", "ecr:GetAuthorizationToken"}
        if any(action.startswith("logs") for action in actions):
            assert one["Resource"] == {"GetAtt": "LogGroup.Arn"}


def roles_are_bounded_where_that_is_asked_for(template):
    roles = properties(template, "IAM::Role")
    bounded = {"If": ["HasBoundary", "${PermissionsBoundary}", "${AWS::NoValue}"]}
    assert len(roles) == 2 and all(one["PermissionsBoundary"] == bounded for one in roles)
    trusted = {}
    for one in roles:
        (statement,) = one["AssumeRolePolicyDocument"]["Statement"]
        trusted[one["RoleName"].rpartition("-")[2]] = (statement["Principal"]["Service"], statement.get("Condition"))
    job = ("ecs-tasks.amazonaws.com", {"StringEquals": {"aws:SourceAccount": "${AWS::AccountId}"}})
    assert trusted == {"job": job, "instance": ("ec2.${AWS::URLSuffix}", None)}


def nothing_runs_while_no_job_does(template):
    environments = properties(template, "Batch::ComputeEnvironment")
    assert {one["ComputeResources"]["Type"] for one in environments} == {"SPOT", "EC2"}
    for one in environments:
        wanted = one["ComputeResources"]
        assert wanted["MinvCpus"] == 0 and "DesiredvCpus" not in wanted and wanted["MaxvCpus"] == "${MaxVcpus}"
        assert wanted["Ec2Configuration"] == [{"ImageType": "ECS_AL2023_NVIDIA"}]
        assert one["UpdatePolicy"]["TerminateJobsOnUpdate"] is False
    spot = next(one["ComputeResources"] for one in environments if one["ComputeResources"]["Type"] == "SPOT")
    assert spot["AllocationStrategy"] == "SPOT_PRICE_CAPACITY_OPTIMIZED" and spot["BidPercentage"] == 100


def a_job_that_cannot_start_is_cancelled(template):
    queues = properties(template, "Batch::JobQueue")
    assert len(queues) == 2
    for queue in queues:
        limits = {one["Reason"]: one for one in queue["JobStateTimeLimitActions"]}
        assert all(one["Action"] == "CANCEL" and one["State"] == "RUNNABLE" for one in limits.values())
        assert limits["CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY"]["MaxTimeSeconds"] <= 86_400
        assert limits["MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT"]["MaxTimeSeconds"] == 600
        assert limits["MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE"]["MaxTimeSeconds"] == 600


def a_job_has_time_to_save(template):
    (launch,) = properties(template, "EC2::LaunchTemplate")
    text = launch["LaunchTemplateData"]["UserData"]["Base64"]
    (part,) = message_from_string(text).get_payload()
    assert part.get_content_type() == "text/x-shellscript" and part.get_payload().startswith("#!/bin/bash\n")
    for setting in ("ECS_CONTAINER_STOP_TIMEOUT=110s", "ECS_ENABLE_SPOT_INSTANCE_DRAINING=true"):
        assert f"\necho {setting} >> /etc/ecs/ecs.config\n" in part.get_payload()
    assert len(base64.b64encode(text.encode())) < 16_384


def everything_is_named_and_tagged(template):
    untagged = {"S3::BucketPolicy", "SNS::TopicPolicy", "IAM::InstanceProfile", "Events::Rule"}  # they take none
    wanted = {"project": "${Project}", "stack": "${AWS::StackName}"}
    for one in template["Resources"].values():
        kind = one["Type"].removeprefix("AWS::")
        given = one["Properties"]
        assert kind.endswith("Policy") or names(one)[0].startswith("${AWS::StackName}")
        if kind not in untagged:
            tags = given.get("Tags") or given["TagSpecifications"][0]["Tags"]
            tags = tags if isinstance(tags, dict) else {tag["Key"]: tag["Value"] for tag in tags}
            assert tags == wanted
    for one in properties(template, "Batch::ComputeEnvironment"):
        assert one["ComputeResources"]["Tags"].items() >= wanted.items()  # of instances
    (launch,) = properties(template, "EC2::LaunchTemplate")
    (volumes,) = launch["LaunchTemplateData"]["TagSpecifications"]
    assert volumes["ResourceType"] == "volume"


def logs_end_and_the_bucket_stays(template):
    (group,) = properties(template, "Logs::LogGroup")
    assert group["RetentionInDays"] == "${LogRetentionDays}"
    (bucket,) = of(template, "S3::Bucket")
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    (rule,) = bucket["Properties"]["LifecycleConfiguration"]["Rules"]
    assert rule["Status"] == "Enabled" and rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 7
    (repository,) = properties(template, "ECR::Repository")
    assert repository["EmptyOnDelete"] is True and repository["ImageScanningConfiguration"] == {"ScanOnPush": True}
    json.loads(repository["LifecyclePolicy"]["LifecyclePolicyText"])


def notices_are_of_these_queues_and_say_what_happened(template):
    rules = {one["Name"].rpartition("-")[2]: one for one in properties(template, "Events::Rule")}
    words = {"done": "is done", "limit": "over its limit", "failed": "has failed", "blocked": "does not start"}
    assert rules.keys() == words.keys()
    for name, rule in rules.items():
        assert rule["EventPattern"]["source"] == ["aws.batch"]
        assert rule["EventPattern"]["detail"]["jobQueue"] == ["${SpotQueue}", "${OnDemandQueue}"]
        (target,) = rule["Targets"]
        told = json.loads(target["InputTransformer"]["InputTemplate"])  # a text, and one that stays one
        assert words[name] in told and target["Arn"] == "${Topic}"
        used = set(re.findall(r"<(\w+)>", told))
        assert used == target["InputTransformer"]["InputPathsMap"].keys()


STATE, BLOCKED, LATE = "Batch Job State Change", "Batch Job Queue Blocked", "Job attempt duration exceeded timeout"


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ((STATE, {"status": "SUCCEEDED", "container": {"exitCode": 0}}), ["done"]),
        ((STATE, {"status": "FAILED", "container": {"exitCode": 1}, "statusReason": "Essential container"}), ["limit"]),
        ((STATE, {"status": "FAILED", "container": {"exitCode": 137}, "statusReason": LATE}), ["limit"]),
        ((STATE, {"status": "FAILED", "container": {}, "statusReason": LATE}), ["limit"]),
        ((STATE, {"status": "FAILED", "container": {"exitCode": 75}, "statusReason": "Essential"}), ["failed"]),
        ((STATE, {"status": "FAILED", "container": {"exitCode": 2}}), ["failed"]),
        ((STATE, {"status": "FAILED", "container": {}, "statusReason": "Canceled by JobStateTimeLimit"}), ["failed"]),
        ((STATE, {"status": "RUNNING", "container": {}}), []),
        ((STATE, {"status": "RUNNABLE", "attempts": [{"container": {"exitCode": 75}}]}), []),
        ((BLOCKED, {"status": "RUNNABLE", "statusReason": "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY"}), ["blocked"]),
    ],
)
def test_every_event_is_told_once(event, told):
    from moto.events.models import EventPattern

    kind, detail = event
    rules = properties(read_template(template_text()), "Events::Rule")
    for queue, expected in (("${SpotQueue}", told), ("another", [])):
        whole = {"source": "aws.batch", "detail-type": kind, "detail": detail | {"jobQueue": queue}}
        matching = [one for one in rules if EventPattern.load(json.dumps(one["EventPattern"])).matches_event(whole)]
        assert [one["Name"].rpartition("-")[2] for one in matching] == expected


GUARDS = [
    plain_http_is_denied,
    nothing_is_public,
    storage_is_encrypted,
    only_imds_v2,
    no_port_is_open,
    the_job_role_reads_and_writes_its_prefixes_alone,
    the_instance_role_is_an_agents,
    roles_are_bounded_where_that_is_asked_for,
    nothing_runs_while_no_job_does,
    a_job_that_cannot_start_is_cancelled,
    a_job_has_time_to_save,
    everything_is_named_and_tagged,
    logs_end_and_the_bucket_stays,
    notices_are_of_these_queues_and_say_what_happened,
]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_guards(guard):
    guard(read_template(template_text()))


@pytest.mark.parametrize(
    ("old", "new", "guard"),
    [
        ('"aws:SecureTransport": "false"', '"aws:SecureTransport": "true"', plain_http_is_denied),
        ("/*\"\n            Condition: {Bool", "\"\n            Condition: {Bool", plain_http_is_denied),
        ("BlockPublicPolicy: true", "BlockPublicPolicy: false", nothing_is_public),
        ("Principal: {Service: events.amazonaws.com}", 'Principal: "*"', nothing_is_public),
        ("Encrypted: true", "Encrypted: false", storage_is_encrypted),
        ("HttpTokens: required", "HttpTokens: optional", only_imds_v2),
        ("SecurityGroupEgress:", "SecurityGroupIngress:", no_port_is_open),
        ("${To}/${RunsPrefix}*", "${To}/*", the_job_role_reads_and_writes_its_prefixes_alone),
        ("Action: s3:GetObject", "Action: s3:*", the_job_role_reads_and_writes_its_prefixes_alone),
        ("s3:DeleteObject,", "s3:DeleteObject, s3:PutBucketPolicy,", the_job_role_reads_and_writes_its_prefixes_alone),
        ('"([A-Za-z0-9_.=-]+/)+"', '".*"', the_job_role_reads_and_writes_its_prefixes_alone),
        ("ecr:BatchGetImage,", "ecr:BatchGetImage, ecr:PutImage, s3:GetObject,", the_instance_role_is_an_agents),
        ("[ecs:DiscoverPollEndpoint,", "[ecs:DiscoverPollEndpoint, ecs:RunTask,", the_instance_role_is_an_agents),
        ("[HasBoundary, !Ref PermissionsBoundary,", "[HasBoundary, x,", roles_are_bounded_where_that_is_asked_for),
        ("MinvCpus: 0", "MinvCpus: 4", nothing_runs_while_no_job_does),
        ("MaxTimeSeconds: 86400", "MaxTimeSeconds: 864000", a_job_that_cannot_start_is_cancelled),
        ("STOP_TIMEOUT=110s", "STOP_TIMEOUT=30s", a_job_has_time_to_save),
        ("DRAINING=true", "DRAINING=false", a_job_has_time_to_save),
        ("  Content-Type: multipart/mixed;", "  Content-Type: text/plain;", a_job_has_time_to_save),
        ("Name: !Sub \"${AWS::StackName}-done\"", "Name: done", everything_is_named_and_tagged),
        ("Tags: {project: !Ref Project,", "Tags: {projekt: !Ref Project,", everything_is_named_and_tagged),
        ("DeletionPolicy: Retain", "DeletionPolicy: Delete", logs_end_and_the_bucket_stays),
        ("EmptyOnDelete: true", "EmptyOnDelete: false", logs_end_and_the_bucket_stays),
        ("detail: {status: [SUCCEEDED], jobQueue: [!Ref SpotQueue,", "detail: {status: [SUCCEEDED], jobQueue: [",
         notices_are_of_these_queues_and_say_what_happened),
        ('"Resight: the training <job> is done.', '"Resight: the training <name> is done.',
         notices_are_of_these_queues_and_say_what_happened),
    ],
)  # fmt: skip
def test_a_guard_that_is_taken_out_is_missed(old, new, guard):
    text = template_text()
    assert old in text
    with pytest.raises((AssertionError, ValueError)):
        guard(read_template(text.replace(old, new, 1)))


def test_instance_types_have_gpus_that_the_image_supports():
    pattern = read_template(template_text())["Parameters"]["InstanceTypes"]["AllowedPattern"]
    several = "g6.12xlarge,g6e.48xlarge"
    for good in ("g5.xlarge", "g4dn.metal", several, "p4de.24xlarge", "p6-b200.48xlarge"):
        assert re.fullmatch(pattern, good)
    other = ("m5.large", "g4ad.xlarge", "g5g.xlarge", "p3.2xlarge", "g3.4xlarge", "g5", "")
    for bad in (*other, "g5.xlarge, g6.xlarge", ",g5.xlarge", "g5.xlarge,", "g5.xlargeg6.xlarge"):
        assert not re.fullmatch(pattern, bad)


def test_it_is_clean_and_within_the_limits_of_a_template():
    from cfnlint.api import lint

    assert len(template_text().encode()) <= 51_200  # what CloudFormation takes without a bucket
    assert lint(template_text(), regions=["us-east-1"]) == []


def test_no_secret_is_in_it():
    assert not re.search(r"(?i)password|secret|api.?key|AKIA", template_text())


def test_the_page_tells_every_parameter_and_every_name():
    text = (Path(__file__).parents[2] / "docs" / "cloud.md").read_text()
    template = read_template(template_text())
    table = text.partition("### Parameters")[2].partition("### What it costs")[0]
    for name, one in template["Parameters"].items():
        (row,) = [line for line in table.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1]]
        assert not one.get("Default") or str(one["Default"]) in row
    for one in template["Resources"].values():
        for name in names(one) if one["Type"] != "AWS::Events::Rule" else []:
            known = {"AWS::StackName": "STACK", "AWS::AccountId": "ACCOUNT", "AWS::Region": "REGION"}
            told = re.sub(r"\$\{([\w:]+)\}", lambda found, known=known: known[found[1]], name)
            assert f"`{told}`" in text


def test_what_is_looked_for_by_name_is_what_it_makes(aws):
    resources = read_template(template_text())["Resources"]
    known = {"AWS::StackName": aws.stack, "AWS::AccountId": "123456789012", "AWS::Region": "us-east-1"}
    made = {
        logical: re.sub(r"\$\{([\w:]+)\}", lambda found: known[found[1]], names(one)[0])
        for logical, one in resources.items()
        if names(one)
    }
    here = Aws(stack=aws.stack)
    assert {logical: name.rpartition(":")[2] for logical, (_, name) in named(here, {}).items()} == made
    for parameter in read_template(template_text())["Parameters"]:
        conditional = {
            logical for logical, one in resources.items() if one.get("Condition") == f"Makes{parameter}" and names(one)
        }
        assert made.keys() - named(here, {parameter: "given"}).keys() == conditional
