import socket
import sys

import boto3
import pytest

from resight.cloud.aws import Aws, AwsError
from resight.errors import ResightError

DENIED = (
    "User: arn:aws:iam::123456789012:user/ann is not authorized to perform: {0} on resource: "
    "arn:aws:batch:us-east-1:123456789012:job-queue/x because no identity-based policy allows the {0} action"
)


@pytest.fixture
def here(aws):
    return Aws(stack=aws.stack)


def test_calls_and_pages(aws, here):
    logs = boto3.client("logs")
    names = [f"/{aws.stack}/{number:02}" for number in range(60)]
    for name in names:
        logs.create_log_group(logGroupName=name)
    assert here.account == "123456789012"
    found = here.pages("logs", "describe_log_groups", "logGroups", logGroupNamePrefix=f"/{aws.stack}/")
    assert sorted(one["logGroupName"] for one in found) == names
    assert here.found("ecr", "describe_repositories", "NotFound", repositoryNames=["none"]) is None


def test_a_call_survives_every_kind_of_fault(aws, here):
    aws.faults = 0.4
    for _ in range(8):
        here.call("batch", "describe_job_queues")
        here.call("ec2", "describe_vpcs")
        here.call("logs", "describe_log_groups")
        here.call("sns", "list_topics")
        here.call("s3", "list_buckets")
    assert {kind for kind, _ in aws.injected} == set(aws.KINDS)
    assert {call.partition(":")[0] for _, call in aws.injected} == {"batch", "ec2", "logs", "sns", "s3"}


@pytest.mark.parametrize("fault", ["lost", "answered badly"])
def test_what_may_not_be_repeated_is_looked_for_first(aws, here, fault):
    looked = []

    def find():
        looked.append(fault)
        topics = here.pages("sns", "list_topics", "Topics")
        return next((one for one in topics if one["TopicArn"].endswith(make["Name"])), None)

    make = {"Name": f"{aws.stack}-topic"}
    aws.lose = ["sns:CreateTopic"] if fault == "lost" else []
    if fault == "answered badly":
        aws.fault = lambda call: fault if call == "sns:CreateTopic" else ""
    answer = here.once("sns", "create_topic", find, **make)
    assert answer["TopicArn"].endswith(make["Name"]) and looked == [fault]
    assert aws.count("sns:CreateTopic") == 1


def test_what_was_certainly_not_done_is_made_again(aws, here):
    kinds = iter(["throttled", "throttled"])
    aws.fault = lambda call: next(kinds, "")
    never = here.once("sns", "create_topic", lambda: pytest.fail("it was not made"), Name=f"{aws.stack}-topic")
    assert never["TopicArn"] and aws.count("sns:CreateTopic") == 3


@pytest.mark.parametrize(
    ("code", "message", "told"),
    [
        ("AccessDeniedException", DENIED.format("batch:DescribeJobQueues"), r"not allowed: batch:DescribeJobQueues "),
        ("AccessDeniedException", "no", r"not allowed: batch:DescribeJobQueues \(.*can allow batch:DescribeJobQueues"),
        ("ExpiredTokenException", "The security token is expired", "credentials have expired"),
        ("UnrecognizedClientException", "The security token is invalid.", "credentials are refused"),
        ("InvalidSignatureException", "Signature does not match", "credentials are refused"),
        ("RequestTimeTooSkewed", "The difference between the request time and the current time", "RequestTimeTooSkew"),
        ("SignatureDoesNotMatch", "Signature expired: 20200101T000000Z is now earlier than", "clock is wrong"),
        ("ServiceQuotaExceededException", "50 compute environments", "a quota .* 50 compute environments"),
        ("TooManyRequestsException", "Rate exceeded", "too many requests"),
        ("ClientException", "vCPU is not a number", "^[^(]*ClientException: vCPU is not a number"),
    ],
)
def test_errors_in_words(aws, here, code, message, told):
    aws.refuse = {"batch:.*": (code, message)}
    with pytest.raises(AwsError, match=f"(?s){told}") as error:
        here.call("batch", "describe_job_queues")
    assert error.value.code == code and error.value.exit_code == 2
    assert "DescribeJobQueues in us-east-1" in str(error.value)


def test_the_action_of_another_is_named(aws, here):
    aws.refuse = {"cloudformation:.*": ("AccessDenied", DENIED.format("iam:PassRole"))}
    with pytest.raises(AwsError, match=r"not allowed: iam:PassRole(?s:.)*can allow iam:PassRole"):
        here.call("cloudformation", "describe_stacks")
    aws.refuse = {"s3:.*": ("AccessDenied", "Access Denied")}
    with pytest.raises(AwsError, match="not allowed: s3:ListBucket "):
        here.call("s3", "list_objects_v2", Bucket="some-bucket")


def test_no_credentials(aws, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AwsError, match=r"there are no credentials(?s:.)*AWS_PROFILE"):
        Aws().call("batch", "describe_job_queues")
    assert aws.calls == []


def test_a_sign_in_that_has_ended(aws, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "aws-config").write_text(
        "[profile work]\nsso_session = one\nsso_account_id = 123456789012\nsso_role_name = dev\n"
        "[sso-session one]\nsso_region = us-east-1\nsso_start_url = https://example.awsapps.com/start\n"
    )
    with pytest.raises(AwsError, match=r"the credentials have expired(?s:.)*aws sso login --profile work"):
        Aws(profile="work").call("batch", "describe_job_queues")


def test_profiles_and_regions(aws, tmp_path, monkeypatch):
    (tmp_path / "aws-config").write_text("[profile staging]\nregion = eu-west-1\n")
    assert Aws(profile="staging", region="us-west-2").region == "us-west-2"
    with pytest.raises(ResightError, match=r"AWS configuration: .*stagng"):
        Aws(profile="stagng")
    with pytest.raises(ResightError, match=r"no AWS Batch in a region 'us-eats-1'(?s:.)*Did you mean 'us-east-1'"):
        Aws(region="us-eats-1")
    assert Aws(region="us-gov-west-1").region == "us-gov-west-1"
    with pytest.raises(ResightError, match="--stack: 'Resight_1' cannot"):
        Aws(stack="Resight_1")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")  # as the AWS command line reads it
    assert Aws().region == "eu-central-1"
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert Aws(profile="staging").region == "eu-west-1"
    with pytest.raises(ResightError, match="--region: no region is given"):
        Aws()


def test_an_endpoint_that_nobody_answers(aws, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(AwsError, match=r"does not answer(?s:.)*AWS_ENDPOINT_URL"):
        Aws().call("batch", "describe_job_queues")


def test_what_is_not_installed_and_what_is_no_address(aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(AwsError, match="nonsense"):
        Aws().call("batch", "describe_job_queues")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ResightError, match=r"needs the package boto3\n  pip install 'resight\[cloud\]'"):
        Aws()


def test_no_stack_of_that_name(aws, here):
    with pytest.raises(AwsError, match=f"stack '{aws.stack}' in us-east-1: there is no such stack") as error:
        here.outputs()
    assert "resight cloud init" in str(error.value)
    template = "{Description: 'Another stack', Resources: {One: {Type: 'AWS::ECS::Cluster'}}}"
    boto3.client("cloudformation").create_stack(StackName=aws.stack, TemplateBody=template)
    with pytest.raises(AwsError, match="is not one of Resight's"):
        here.outputs()
