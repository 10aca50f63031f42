import boto3
import pytest

from resight.cloud import stack
from resight.cloud.aws import Aws


@pytest.fixture
def here(aws):
    return Aws(stack=aws.stack)


@pytest.fixture
def made(aws, here):
    stack.init(here, stack.plan_init(here))
    aws.calls.clear()
    return here


def names(aws):
    """What the account has of this stack's, asked without Resight."""
    client = {name: boto3.client(name) for name in ("batch", "ecr", "logs", "ec2", "iam", "sns", "events", "s3")}
    found = [one["jobQueueName"] for one in client["batch"].describe_job_queues()["jobQueues"]]
    environments = client["batch"].describe_compute_environments()["computeEnvironments"]
    found += [f"{one['computeEnvironmentName']} environment" for one in environments]
    found += [f"{one['repositoryName']} repository" for one in client["ecr"].describe_repositories()["repositories"]]
    found += [f"{one['logGroupName']} logs" for one in client["logs"].describe_log_groups()["logGroups"]]
    templates = client["ec2"].describe_launch_templates()["LaunchTemplates"]
    found += [f"{one['LaunchTemplateName']} launch template" for one in templates]
    found += [f"{one['GroupName']} firewall" for one in client["ec2"].describe_security_groups()["SecurityGroups"]]
    found += [f"{one['RoleName']} role" for one in client["iam"].list_roles()["Roles"]]
    found += [
        f"{one['InstanceProfileName']} profile" for one in client["iam"].list_instance_profiles()["InstanceProfiles"]
    ]
    found += [f"{one['TopicArn'].rpartition(':')[2]} topic" for one in client["sns"].list_topics()["Topics"]]
    found += [f"{one['Name']} rule" for one in client["events"].list_rules()["Rules"]]
    found += [f"{one['Name']} bucket" for one in client["s3"].list_buckets()["Buckets"]]
    return sorted(name for name in found if name.split()[0] == aws.stack or name.startswith(f"{aws.stack}-"))


def everything(name):
    made = [f"{name}-spot", f"{name}-on-demand", f"{name}-spot environment", f"{name}-on-demand environment"]
    made += [f"{name} {kind}" for kind in ("repository", "logs", "launch template", "firewall", "topic")]
    made += [f"{name}-us-east-1-{kind}" for kind in ("job role", "instance role", "instance profile")]
    made += [f"{name}-{kind} rule" for kind in ("done", "limit", "failed", "blocked")]
    return sorted([*made, f"{name}-123456789012-us-east-1 bucket"])


def test_made_and_removed(aws, here):
    plan = stack.plan_init(here)
    assert plan.action == "create" and names(aws) == [] and aws.count("cloudformation:(Create|Update).*") == 0
    for name in everything(aws.stack):
        assert name.split()[0] in plan.text()
    assert "no instance runs while no job does" in plan.text()
    outputs = stack.init(here, plan)
    assert names(aws) == everything(aws.stack)
    assert outputs["Runs"] == f"s3://{aws.stack}-123456789012-us-east-1/runs/"
    plan = stack.plan_down(here)
    assert names(aws) == everything(aws.stack)
    for name in everything(aws.stack):
        assert name.split()[0] in plan.text()
    assert f"The bucket {outputs['Bucket']} is kept." in plan.lines
    stack.down(here, plan)
    assert names(aws) == [f"{aws.stack}-123456789012-us-east-1 bucket"]
    assert here.describe() is None
