import re

import boto3
import pytest
from moto.batch.models import batch_backends
from moto.cloudformation.models import Event, cloudformation_backends

from resight.cli.app import app
from resight.cloud import stack
from resight.cloud.aws import Aws, AwsError
from resight.errors import ResightError

ACCOUNT = "123456789012"


@pytest.fixture
def here(aws):
    return Aws(stack=aws.stack)


@pytest.fixture
def made(aws, here):
    stack.init(here, stack.plan_init(here))
    aws.calls.clear()
    return here


@pytest.fixture(autouse=True)
def documented(aws, permissions):
    yield
    assert {call for call in aws.ours if not permissions(call, "stack")} == set()


def names(aws, direct):
    """What the account has of this stack's, asked without Resight."""
    asked = [
        ("batch", "describe_job_queues", "jobQueues", "jobQueueName", ""),
        ("batch", "describe_compute_environments", "computeEnvironments", "computeEnvironmentName", " environment"),
        ("ecr", "describe_repositories", "repositories", "repositoryName", " repository"),
        ("logs", "describe_log_groups", "logGroups", "logGroupName", " logs"),
        ("ec2", "describe_launch_templates", "LaunchTemplates", "LaunchTemplateName", " launch template"),
        ("ec2", "describe_security_groups", "SecurityGroups", "GroupName", " firewall"),
        ("iam", "list_roles", "Roles", "RoleName", " role"),
        ("iam", "list_instance_profiles", "InstanceProfiles", "InstanceProfileName", " profile"),
        ("sns", "list_topics", "Topics", "TopicArn", " topic"),
        ("events", "list_rules", "Rules", "Name", " rule"),
        ("s3", "list_buckets", "Buckets", "Name", " bucket"),
    ]
    found = []
    for service, action, key, name, kind in asked:
        pages = direct(service).get_paginator(action).paginate()
        found += [one[name].rpartition(":")[2] + kind for page in pages for one in page[key]]
    return sorted(name for name in found if name.split()[0] == aws.stack or name.startswith(f"{aws.stack}-"))


def everything(name):
    made = [f"{name}-spot", f"{name}-on-demand", f"{name}-spot environment", f"{name}-on-demand environment"]
    made += [f"{name} {kind}" for kind in ("repository", "logs", "launch template", "firewall", "topic")]
    made += [f"{name}-us-east-1-{kind}" for kind in ("job role", "instance role", "instance profile")]
    made += [f"{name}-{kind} rule" for kind in ("done", "limit", "failed", "blocked")]
    return sorted([*made, f"{name}-123456789012-us-east-1 bucket"])


def test_made_and_removed(aws, here, direct):
    plan = stack.plan_init(here)
    assert plan.action == "create" and names(aws, direct) == [] and aws.count("cloudformation:(Create|Update).*") == 0
    for name in everything(aws.stack):
        assert name.split()[0] in plan.text()
    assert "no instance runs while no job does" in plan.text()
    outputs = stack.init(here, plan)
    assert names(aws, direct) == everything(aws.stack)
    assert outputs["Runs"] == f"s3://{aws.stack}-123456789012-us-east-1/runs/"
    plan = stack.plan_down(here)
    assert names(aws, direct) == everything(aws.stack)
    for name in everything(aws.stack):
        assert name.split()[0] in plan.text()
    assert f"The bucket {outputs['Bucket']} is kept." in plan.lines
    stack.down(here, plan)
    assert names(aws, direct) == [f"{aws.stack}-123456789012-us-east-1 bucket"]
    assert here.describe() is None
    assert aws.calls.index("batch:DeleteJobQueue") < aws.calls.index("batch:DeleteComputeEnvironment")


def test_the_accounts_own_roles_are_made_once(aws, here, direct):
    """A role's path is its service's; the imitation makes names of its own."""
    for service in ("batch", "spot"):
        for role in direct("iam").list_roles(PathPrefix=f"/aws-service-role/{service}.amazonaws.com/")["Roles"]:
            direct("iam").delete_role(RoleName=role["RoleName"])
    plan = stack.plan_init(here)
    line = "  the account's role for batch.amazonaws.com and for spot.amazonaws.com, which is kept: "
    assert any(one.startswith(line) for one in plan.lines)
    stack.init(here, plan)
    assert aws.count("iam:CreateServiceLinkedRole") == 2
    assert stack.plan_init(here).action == "nothing"
    (role,) = direct("iam").list_roles(PathPrefix="/aws-service-role/batch.amazonaws.com/")["Roles"]
    environments = direct("batch").describe_compute_environments(computeEnvironments=[f"{aws.stack}-spot"])
    assert environments["computeEnvironments"][0]["serviceRole"] == role["Arn"]
    other = Aws(stack=f"{aws.stack}-2")
    stack.init(other, stack.plan_init(other))
    assert aws.count("iam:CreateServiceLinkedRole") == 2


def test_twice_is_once(aws, made, direct):
    before = names(aws, direct)
    plan = stack.plan_init(made)
    assert plan.action == "nothing" and plan.text().startswith(f"Changes nothing: the stack '{aws.stack}'")
    assert stack.init(made, plan)["LogGroup"] == aws.stack
    assert aws.count("cloudformation:(Create|Update|Delete).*") == 0 and names(aws, direct) == before
    stack.down(made, stack.plan_down(made))
    aws.calls.clear()
    plan = stack.plan_down(made)
    assert plan.action == "nothing" and "is kept" in plan.text()
    stack.down(made, plan)
    assert not [call for call in aws.calls if not re.match(r"\w+:(Describe|Get|List)", call)]


def test_parameters_and_the_template_change_and_the_rest_stays(aws, here, monkeypatch, direct):
    stack.init(here, stack.plan_init(here, {"LogRetentionDays": "7", "MaxVcpus": "8"}))
    plan = stack.plan_init(here, {"LogRetentionDays": "90"})
    assert plan.action == "update" and "  LogRetentionDays: 7 -> 90" in plan.lines and "MaxVcpus" not in plan.text()
    assert plan.parameters["MaxVcpus"] == "8"
    stack.init(here, plan)
    parameters = direct("cloudformation").describe_stacks(StackName=aws.stack)["Stacks"][0]["Parameters"]
    found = {one["ParameterKey"]: one["ParameterValue"] for one in parameters}
    assert found["LogRetentionDays"] == "90" and found["MaxVcpus"] == "8" and found["Vpc"] == plan.parameters["Vpc"]
    assert stack.plan_init(here).action == "nothing"
    text = stack.template().replace("A training is done", "A training has ended well")
    monkeypatch.setattr(stack, "template", lambda: text)
    assert "  the template: that of Resight" in stack.plan_init(here).text()


def test_parameters_that_cannot_be(aws, here, direct):
    for parameters, told in (
        ({"InstanceTyps": "g5.xlarge"}, r"--set: the template has no parameter 'InstanceTyps'\n.*'InstanceTypes'"),
        ({"InstanceTypes": "m5.large"}, r"--set InstanceTypes: 'm5.large' is not allowed\n .*NVIDIA"),
        ({"InstanceTypes": "g5g.xlarge"}, "'g5g.xlarge' is not allowed"),  # ARM
        ({"InstanceTypes": "p3.2xlarge"}, "'p3.2xlarge' is not allowed"),  # not in the image
        ({"InstanceTypes": "g5.xlarge,g5.3xlarge"}, r"g5.3xlarge is not offered in us-east-1\n.*g5.xlarge"),
        ({"RunsPrefix": "runs"}, "'runs' is not allowed"),
        ({"RunsPrefix": ""}, "'' is not allowed"),
        ({"DataPrefix": "*"}, "'\\*' is not allowed"),
        ({"Bucket": "no-such-bucket-here"}, "NoSuchBucket"),
        ({"Subnets": "subnet-12345678"}, "subnet-12345678"),
        ({"Vpc": "vpc-12345678"}, "it has no subnets"),
    ):
        with pytest.raises(ResightError, match=told):
            stack.plan_init(here, parameters)
    assert names(aws, direct) == []


def test_the_command_takes_parameters_that_are_empty(aws, capsys):
    with pytest.raises(SystemExit) as end:
        app(["cloud", "init", "--stack", aws.stack, "--set", "DataPrefix=", "--set", "MaxVcpus=16", "--dry-run"])
    told = capsys.readouterr()
    assert end.value.code == 0 and "DataPrefix = (none)" in told.out and "MaxVcpus = 16" in told.out
    with pytest.raises(SystemExit) as end:
        app(["cloud", "init", "--stack", aws.stack, "--set", "MaxVcpus"])
    assert end.value.code == 2 and "--set: 'MaxVcpus' is not of the form NAME=VALUE" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        app(["cloud", "init", "--stack", aws.stack])
    assert end.value.code == 2 and "--yes" in capsys.readouterr().err
    assert aws.count("cloudformation:CreateStack") == 0


def test_networks(aws):
    ec2 = boto3.client("ec2", region_name="eu-north-1")
    default = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    theirs = ec2.describe_subnets()["Subnets"]
    north = Aws(stack=aws.stack, region="eu-north-1")
    assert stack.plan_init(north).parameters["Vpc"] == default
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    assert stack.plan_init(north, {"Subnets": subnet}).parameters["Vpc"] == vpc
    assert stack.plan_init(north, {"Vpc": vpc}).parameters["Subnets"] == subnet
    with pytest.raises(ResightError, match=rf"not subnets of {default}: {subnet} are of {vpc}"):
        stack.plan_init(north, {"Vpc": default, "Subnets": subnet})
    for one in theirs:
        ec2.delete_subnet(SubnetId=one["SubnetId"])
    ec2.delete_vpc(VpcId=default)
    with pytest.raises(ResightError, match="no default VPC in eu-north-1"):
        stack.plan_init(north)


def test_a_bucket_of_somebody_elses(aws, here, direct):
    elsewhere, theirs = f"{aws.stack}-elsewhere", f"{aws.stack}-theirs"
    s3 = direct("s3")
    s3.create_bucket(Bucket=elsewhere, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    with pytest.raises(ResightError, match=f"{elsewhere}: the bucket is in eu-west-1, not in us-east-1"):
        stack.plan_init(here, {"Bucket": elsewhere})
    s3.create_bucket(Bucket=theirs)
    s3.put_object(Bucket=theirs, Key="runs/first/run.json", Body=b"{}")
    outputs = stack.init(here, stack.plan_init(here, {"Bucket": theirs, "DataBucket": elsewhere, "DataPrefix": ""}))
    assert outputs["Runs"] == f"s3://{theirs}/runs/" and outputs["Data"] == f"s3://{elsewhere}/"
    assert f"{aws.stack}-123456789012-us-east-1 bucket" not in names(aws, direct)
    with pytest.raises(ResightError, match=f"the bucket {theirs} was not made by Resight"):
        stack.plan_down(here, delete_bucket=True)
    stack.down(here, stack.plan_down(here))
    assert s3.head_object(Bucket=theirs, Key="runs/first/run.json")


def test_a_bucket_is_kept_used_again_and_deleted_only_when_told(aws, made, direct):
    s3, bucket = direct("s3"), f"{aws.stack}-123456789012-us-east-1"
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for number in range(3):
        s3.put_object(Bucket=bucket, Key="runs/first/run.json", Body=b"1" * number)
    s3.put_object(Bucket=bucket, Key="data/gone", Body=b"")
    s3.delete_object(Bucket=bucket, Key="data/gone")
    stack.down(made, stack.plan_down(made))
    plan = stack.plan_init(made)
    assert plan.parameters["Bucket"] == bucket and f"The bucket {bucket}, left by an earlier stack" in plan.text()
    assert stack.init(made, plan)["Bucket"] == bucket
    assert stack.plan_init(made).action == "nothing"
    plan = stack.plan_down(made, delete_bucket=True)
    assert f"  bucket {bucket} with all that is in it: 1 object, 0.0 GB" in plan.lines
    stack.down(made, plan)
    assert names(aws, direct) == []
    assert stack.plan_down(made, delete_bucket=True).action == "nothing"


def of_the_imitation(name):
    """Its stacks of that name."""
    return [one for one in cloudformation_backends[ACCOUNT]["us-east-1"].stacks.values() if one.name == name]


def fail(aws, status, reason="Instance type g9.xlarge is not supported", resource="SpotEnvironment"):
    """Lets CloudFormation have failed, as the imitation never does."""
    (one,) = of_the_imitation(aws.stack)
    kind = "DELETE" if status.startswith("DELETE") else "CREATE"
    about = (one.stack_id, aws.stack, resource, "", "AWS::Batch::ComputeEnvironment")
    one.events.append(Event(*about, f"{kind}_FAILED", reason, None))
    one.status = status


def test_a_stack_that_could_not_be_made(aws, here, direct):
    aws.then["cloudformation:CreateStack"] = lambda: fail(aws, "ROLLBACK_COMPLETE")
    with pytest.raises(AwsError) as error:
        stack.init(here, stack.plan_init(here))
    told = str(error.value)
    assert "could not be made (ROLLBACK_COMPLETE)" in told and "resight cloud down" in told
    assert "SpotEnvironment (Batch::ComputeEnvironment): Instance type g9.xlarge is not supported" in told
    assert f"bucket {aws.stack}-123456789012-us-east-1" in told and f"job queue {aws.stack}-spot" in told
    with pytest.raises(AwsError, match=r"not whole \(ROLLBACK_COMPLETE\): SpotEnv.*g9(?s:.)*resight cloud down"):
        stack.plan_init(here)
    aws.then.clear()
    stack.down(here, stack.plan_down(here))
    stack.init(here, stack.plan_init(here))
    assert names(aws, direct) == everything(aws.stack)


def test_a_stack_half_deleted(aws, made, direct):
    aws.refuse = {"cloudformation:DeleteStack": ("AccessDenied", "Access Denied")}
    with pytest.raises(AwsError, match="not allowed: cloudformation:DeleteStack"):
        stack.down(made, stack.plan_down(made))
    aws.refuse = {}
    direct("iam").delete_role_policy(RoleName=f"{aws.stack}-us-east-1-job", PolicyName="training")
    direct("batch").delete_job_queue(jobQueue=f"{aws.stack}-spot")
    fail(aws, "DELETE_FAILED", "resource has a dependent object", "Firewall")
    with pytest.raises(AwsError, match=r"not whole \(DELETE_FAILED\): Firewall .*dependent object"):
        made.outputs()
    plan = stack.plan_down(made)
    assert plan.action == "remove" and f"  job queue {aws.stack}-on-demand" in plan.lines
    stack.down(made, plan)
    assert names(aws, direct) == [f"{aws.stack}-123456789012-us-east-1 bucket"]


def test_a_name_that_is_taken(aws, here, direct):
    plan = stack.plan_init(here)
    direct("ecr").create_repository(repositoryName=aws.stack)
    with pytest.raises(ResightError, match=rf"{aws.stack}: there is already repository {aws.stack}\n.*--stack"):
        stack.plan_init(here)
    with pytest.raises(AwsError, match="already exists") as error:
        stack.init(here, plan)
    assert f"already exist: bucket {aws.stack}-123456789012-us-east-1, repository {aws.stack}." in str(error.value)
    for one in of_the_imitation(aws.stack):  # it keeps a stack that it cannot describe
        del cloudformation_backends[ACCOUNT]["us-east-1"].stacks[one.stack_id]


def test_what_failed_and_what_is_left_is_told(aws, made):
    aws.then["cloudformation:UpdateStack"] = lambda: fail(aws, "UPDATE_ROLLBACK_COMPLETE", "no", "LogGroup")
    with pytest.raises(AwsError, match=r"could not be changed \(UPDATE_ROLLBACK_COMPLETE\):\n  LogGroup .*: no\n"):
        stack.init(made, stack.plan_init(made, {"LogRetentionDays": "90"}))
    plan = stack.plan_down(made)
    original = made.call

    def call(service, action, **arguments):  # CloudFormation fails to delete anything
        if action == "delete_stack":
            return fail(aws, "DELETE_FAILED", "it is in use", "Firewall")
        return original(service, action, **arguments)

    made.call = call
    with pytest.raises(AwsError, match=r"not everything is removed: the stack (?s:.)*in use") as error:
        stack.down(made, plan)
    assert f"security group {aws.stack}" in str(error.value) and "job queue" not in str(error.value)


def test_what_only_has_the_name_is_left_alone(aws, here, direct):
    direct("ecr").create_repository(repositoryName=aws.stack)
    direct("logs").create_log_group(logGroupName=aws.stack)
    plan = stack.plan_down(here)
    assert plan.action == "nothing"
    stack.down(here, plan)
    assert names(aws, direct) == [f"{aws.stack} logs", f"{aws.stack} repository"]


def test_what_a_stack_that_is_gone_left_and_could_cost_is_removed(aws, made, direct):
    direct("cloudformation").delete_stack(StackName=aws.stack)
    assert f"{aws.stack}-spot environment" in names(aws, direct)  # the imitation leaves them
    plan = stack.plan_down(made)
    assert plan.action == "remove" and f"  compute environment {aws.stack}-spot" in plan.lines
    stack.down(made, plan)
    assert not [name for name in names(aws, direct) if "spot" in name or "demand" in name]


def test_jobs_are_in_the_way_until_they_are_told_to_stop(aws, made, direct):
    batch = direct("batch")
    container = {"image": "x", "vcpus": 4, "memory": 1000, "command": ["resight"]}
    for name, tags in (
        (f"{aws.stack}-first", {"stack": aws.stack}),
        (f"{aws.stack}-2-first", {"stack": f"{aws.stack}-2"}),
    ):
        batch.register_job_definition(
            jobDefinitionName=name, type="container", containerProperties=container, tags=tags
        )
    queue = f"{aws.stack}-spot"
    job = batch.submit_job(jobName=f"{aws.stack}-first", jobQueue=queue, jobDefinition=f"{aws.stack}-first")["jobId"]
    fake = batch_backends[ACCOUNT]["us-east-1"]._jobs[job]
    fake.status = "RUNNING"
    with pytest.raises(ResightError, match=f"1 job under way: {aws.stack}-first\n.*--stop-jobs"):
        stack.plan_down(made)
    fake.status = "SUCCEEDED"
    plan = stack.plan_down(made)
    fake.status = "RUNNING"  # begun after the plan was shown
    with pytest.raises(ResightError, match="1 job under way"):
        stack.down(made, plan)
    assert direct("batch").describe_job_queues(jobQueues=[queue])["jobQueues"][0]["state"] == "ENABLED"
    aws.then["batch:TerminateJob"] = lambda: setattr(fake, "status", "FAILED")
    plan = stack.plan_down(made, stop_jobs=True)
    assert f"  job {aws.stack}-first, which is RUNNING: it saves its state" in plan.lines
    assert "  1 job definition" in plan.lines
    stack.down(made, plan)
    assert aws.count("batch:TerminateJob") == 1 and aws.count("batch:DeregisterJobDefinition") == 1
    left = batch.describe_job_definitions(status="ACTIVE")["jobDefinitions"]
    assert [one["jobDefinitionName"] for one in left] == [f"{aws.stack}-2-first"]


def test_a_stack_of_another_kind_is_left_alone(aws, here, direct):
    body = "{Description: A cluster, Resources: {One: {Type: 'AWS::ECS::Cluster'}}}"
    direct("cloudformation").create_stack(StackName=aws.stack, TemplateBody=body)
    for plan in (stack.plan_init, stack.plan_down):
        with pytest.raises(AwsError, match="is not one of Resight's"):
            plan(here)


def test_faults(aws, here, direct):
    aws.faults = 0.2
    stack.init(here, stack.plan_init(here))
    aws.faults = 0
    assert names(aws, direct) == everything(aws.stack) and len(of_the_imitation(aws.stack)) == 1
    aws.faults = 0.2
    stack.init(here, stack.plan_init(here, {"LogRetentionDays": "7"}))
    stack.down(here, stack.plan_down(here, delete_bucket=True))
    aws.faults = 0
    assert names(aws, direct) == [] and {kind for kind, _ in aws.injected} == set(aws.KINDS)


def test_answers_that_are_lost(aws, here, direct):
    aws.lose = ["cloudformation:CreateStack", "cloudformation:DeleteStack", "batch:DeleteJobQueue"]
    stack.init(here, stack.plan_init(here))
    assert aws.count("cloudformation:CreateStack") == 1 and names(aws, direct) == everything(aws.stack)
    stack.down(here, stack.plan_down(here, delete_bucket=True))
    assert names(aws, direct) == [] and not aws.lose
