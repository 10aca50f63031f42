import fnmatch
import functools
import itertools
import json
import random
import re
import socket
import struct
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from werkzeug.test import create_environ, run_wsgi_app

_numbers = itertools.count()


@functools.cache
def _loader(path):
    import botocore.loaders

    return botocore.loaders.create_loader(path)


@functools.cache
def _imitation():
    """The imitation of AWS, to be called in this process; ``s3_server`` serves the same account."""
    from moto.server import DomainDispatcherApplication, create_backend_app

    return DomainDispatcherApplication(create_backend_app)


@functools.cache
def _template_loader():
    """What the imitation of CloudFormation reads templates with, in C."""
    import yaml
    from moto.cloudformation.utils import yaml_tag_constructor

    class Loader(yaml.CLoader):
        pass

    Loader.add_multi_constructor("", yaml_tag_constructor)
    return Loader


@pytest.fixture(scope="session")
def direct(s3_server):
    """``direct("iam")``: boto3's client for the imitation of AWS itself, which no fault meets and nobody counts."""
    import boto3

    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    client = functools.cache(boto3.Session(**keys).client)

    def get(service):
        return client(service, endpoint_url=f"http://{s3_server}")

    settings = json.dumps({"batch": {"use_docker": False}}).encode()
    urllib.request.urlopen(f"http://{s3_server}/moto-api/config", settings).read()
    return get


@pytest.fixture
def aws(s3_server, direct, permissions, tmp_path, monkeypatch):
    """A :class:`Gate` to an imitation of AWS, with credentials, and a name for a stack that no other test uses.

    The account is the same for all tests of a process: what a test makes has its stack's name in its own.
    """
    import os

    import botocore.retries.standard

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    gate = Gate(_imitation())
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gate.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # with another test's credentials
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("yaml.Loader", _template_loader())  # the imitation's
    monkeypatch.setattr("botocore.session.create_loader", _loader)  # the descriptions of services are read once
    # Repeated as often, without the pauses.
    monkeypatch.setattr(botocore.retries.standard.ExponentialBackoff, "delay_amount", lambda *_: 0.0)
    monkeypatch.setattr("resight.cloud.aws.PAUSE", 0.0)
    monkeypatch.setattr("resight.cloud.stack.POLL", 0.0)
    monkeypatch.setattr("resight.cloud.jobs.SETTLED", 0.0)
    yield gate
    gate.shutdown()
    gate.server_close()
    missing = {call for call in gate.ours if not (permissions(call, "stack") or permissions(call, "launch"))}
    assert missing == set(), "docs/cloud.md does not say that these are needed"


@pytest.fixture(scope="session")
def permissions():
    """``permissions("batch:SubmitJob", "launch")``: whether docs/cloud.md says that one of its policies allows that.

    The policies are "stack", for init and down, and "launch", for the other commands.
    """
    text = (Path(__file__).parents[2] / "docs" / "cloud.md").read_text()
    found = re.findall(r"```json\n(.*?)```", text.partition("### Permissions")[2], re.DOTALL)
    policies = dict(zip(("stack", "launch"), map(json.loads, found), strict=False))

    def allowed(call, policy):
        statements = [one["Action"] for one in policies[policy]["Statement"]]
        actions = [action for some in statements for action in ([some] if isinstance(some, str) else some)]
        return any(fnmatch.fnmatchcase(call, action) for action in actions)

    return allowed


class Gate(ThreadingHTTPServer):
    """Passes calls on to the imitation of AWS, and notes each as ``service:Action``, the permission it needs.

    Attributes:
        calls: what was passed on or answered here, in order.
        ours: which of them were Resight's, and not the test's own.
        keys: the access keys that they were signed with.
        faults: the share of calls that fail, in the ways of ``KINDS``.
        refuse: what is answered to calls whose permission matches the pattern: ``{pattern: (code, message)}``.
        lose: patterns of calls that are carried out once while their answer is lost; each is used up.
        then: what is called when a call that matches was carried out: ``{pattern: function}``.
    """

    daemon_threads = True
    request_queue_size = 64
    KINDS = ("throttled", "unavailable", "internal", "dropped", "lost", "answered badly")

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), _Pass)
        self.target, self.faults, self.refuse, self.lose, self.then = target, 0.0, {}, [], {}
        self.calls, self.ours, self.injected, self.draw = [], set(), [], random.Random(1)
        self.keys = []
        self.stack = f"test{next(_numbers)}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def count(self, pattern):
        """How many calls match."""
        return sum(bool(re.fullmatch(pattern, call)) for call in self.calls)

    def fault(self, call):
        for pattern in self.lose:
            if re.fullmatch(pattern, call):
                self.lose.remove(pattern)
                return "lost"
        if self.draw.random() >= self.faults:
            return ""
        self.injected.append((self.KINDS[len(self.injected) % len(self.KINDS)], call))
        return self.injected[-1][0]

    def handle_error(self, *_):
        pass  # a client that gave up


class _Pass(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are written separately: the second would wait for an answer

    def log_message(self, *_):
        pass

    def _pass(self):
        gate = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        scope = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/", self.headers.get("Authorization", ""))
        service = scope[1] if scope else "unsigned"
        call = f"{service}:{_action(service, self.command, self.path, self.headers, body)}"
        gate.calls.append(call)
        gate.keys += re.findall(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
        if re.search("resight|object_store", self.headers.get("User-Agent", "")):
            gate.ours.add(call)
        for pattern, (code, message) in gate.refuse.items():
            if re.fullmatch(pattern, call):
                status = 403 if re.search("Denied|Unauthorized|Expired|Invalid", code) else 400
                return self._answer(*_error(service, status, code, message))
        fault = gate.fault(call)
        if fault == "throttled":
            codes = {"ec2": "RequestLimitExceeded", "batch": "TooManyRequestsException", "s3": "SlowDown"}
            status = {"batch": 429, "s3": 503, "ec2": 503}.get(service, 400)
            return self._answer(*_error(service, status, codes.get(service, "ThrottlingException"), "Rate exceeded"))
        if fault == "unavailable":
            return self._answer(*_error(service, 503, "ServiceUnavailable", "Try again."))
        if fault == "internal":
            return self._answer(500, b"<!doctype html>\n<html><p>of a load balancer</html>")
        if fault == "dropped":
            return self._reset()
        # By calling the imitation itself: half the time of another request.
        url = f"http://{self.headers['Host']}"
        environ = create_environ(self.path, url, method=self.command, headers=list(self.headers.items()), data=body)
        answer, status, headers = run_wsgi_app(gate.target, environ, buffered=True)
        data, status = b"".join(answer), int(status.partition(" ")[0])
        for function in [function for pattern, function in gate.then.items() if re.fullmatch(pattern, call)]:
            function()
        if fault == "lost":  # carried out, and nobody hears of it
            return self._reset()
        if fault == "answered badly":
            return self._answer(*_error(service, 500, "InternalFailure", "Carried out, and then it failed."))
        self._answer(status, data, list(headers))

    def _reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _answer(self, status, data, headers=()):
        self.send_response_only(status)
        own = {"connection", "transfer-encoding", "content-length"}
        for name, value in headers:
            if name.lower() not in own or (self.command == "HEAD" and name.lower() == "content-length"):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass


@functools.cache
def _paths():
    """Batch is told by its addresses what to do."""
    import botocore.session

    model = botocore.session.get_session().get_service_model("batch")
    operations = (model.operation_model(name) for name in model.operation_names)
    return {(one.http["method"], one.http["requestUri"].partition("{")[0]): one.name for one in operations}


def _action(service, method, path, headers, body):
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    if target := headers.get("X-Amz-Target"):
        return target.rpartition(".")[2]
    if service == "batch":
        return next(
            (name for (verb, start), name in _paths().items() if verb == method and parts.path == start), "Tags"
        )
    if service == "s3":
        of_bucket = parts.path.count("/") == 1 or (parts.path.endswith("/") and parts.path.count("/") == 2)
        if "versions" in query:
            return "ListBucketVersions"
        if "location" in query:
            return "GetBucketLocation"
        if "delete" in query or method == "DELETE":
            return "DeleteBucket" if of_bucket and method == "DELETE" else "DeleteObject"
        if method == "PUT":
            return "CreateBucket" if of_bucket else "PutObject"
        return "ListBucket" if of_bucket else "GetObject" if method in ("GET", "HEAD") else "PutObject"
    return (parse_qs(body.decode("utf-8", "replace")).get("Action") or ["?"])[0]


def _error(service, status, code, message):
    """An error as the service's protocol writes it."""
    if service == "batch":
        return status, json.dumps({"message": message}).encode(), [("x-amzn-errortype", code)]
    if service in ("ecr", "logs", "events", "pricing", "servicequotas"):
        headers = [("Content-Type", "application/x-amz-json-1.1")]
        return status, json.dumps({"__type": code, "message": message}).encode(), headers
    error = f"<Code>{code}</Code><Message>{message}</Message>"
    if service == "s3":
        return status, f"<Error>{error}</Error>".encode(), []
    if service == "ec2":
        return status, f"<Response><Errors><Error>{error}</Error></Errors></Response>".encode(), []
    return status, f"<ErrorResponse><Error><Type>Sender</Type>{error}</Error></ErrorResponse>".encode(), []


@pytest.fixture(scope="session")
def infrastructure(s3_server, shapes):
    """What jobs need of a stack, without the time that CloudFormation takes: its outputs, with an image in its
    repository and records in its bucket."""
    import boto3

    # Of its own: boto3's default session would keep what other tests have changed.
    session = boto3.Session("testing", "testing", region_name="us-east-1")

    def client(service):
        return session.client(service, endpoint_url=f"http://{s3_server}")

    name = "jobs"
    s3, batch, ecr = client("s3"), client("batch"), client("ecr")
    s3.create_bucket(Bucket=f"{name}-runs")
    for file in shapes(train=4).iterdir():
        s3.upload_file(str(file), f"{name}-runs", f"data/records/{file.name}")
    ecr.create_repository(repositoryName=name)
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": {"digest": f"sha256:{'a1' * 32}"}})
    ecr.put_image(repositoryName=name, imageTag="0.1.0", imageManifest=manifest)
    client("logs").create_log_group(logGroupName=name)
    role = client("iam").create_role(RoleName=f"{name}-job", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    queues = {}
    for key in ("SpotQueue", "OnDemandQueue"):
        options = {"computeEnvironmentName": f"{name}-{key}", "type": "UNMANAGED", "serviceRole": role}
        order = [
            {"order": 1, "computeEnvironment": batch.create_compute_environment(**options)["computeEnvironmentArn"]}
        ]
        options = {"jobQueueName": f"{name}-{key}", "priority": 1, "state": "ENABLED", "computeEnvironmentOrder": order}
        queues[key] = batch.create_job_queue(**options)["jobQueueArn"]
    outputs = {
        "Project": "resight",
        "Bucket": f"{name}-runs",
        "Runs": f"s3://{name}-runs/runs/",
        "Data": f"s3://{name}-runs/data/",
        "Repository": f"123456789012.dkr.ecr.us-east-1.amazonaws.com/{name}",
        "LogGroup": name,
        "JobRole": role,
        "InstanceTypes": "g4dn.xlarge,g5.xlarge,g5.12xlarge",
        "Topic": client("sns").create_topic(Name=name)["TopicArn"],
        **queues,
    }
    template = {
        "Description": "Resight: a stand-in",
        "Resources": {"Group": {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": f"{name}-stand-in"}}},
        "Outputs": {key: {"Value": value} for key, value in outputs.items()},
    }
    client("cloudformation").create_stack(StackName=name, TemplateBody=json.dumps(template))
    return outputs


@pytest.fixture
def deployed(aws, infrastructure, monkeypatch):
    """The gate to the ``infrastructure``, with its ``outputs``, and ``out`` for the address of a run. Of its jobs,
    ``jobs()``, those of this test, each stays RUNNABLE until its ``status`` is set, or it is terminated."""
    from moto.batch.models import Job, batch_backends
    from moto.batch_simple.models import BatchSimpleBackend
    from moto.logs.responses import LogsResponse
    from moto.moto_api import state_manager

    def begin(backend, include_start_attempt, job):
        backend.backend._jobs[job.job_id] = job
        job.status = "RUNNABLE"

    def terminate(job, reason):
        job.status, job.job_stopped_reason = "FAILED", reason

    monkeypatch.setattr(BatchSimpleBackend, "_mark_job_as_finished", begin)
    monkeypatch.setattr(Job, "terminate", terminate)
    state_manager.set_transition("batch::job", {"progression": "manual", "times": 10**9})
    filter_log_events = LogsResponse.filter_log_events

    def filtered(response):  # moto looks at no prefix
        answer, prefix = json.loads(filter_log_events(response)), response._get_param("logStreamNamePrefix")
        answer["events"] = [one for one in answer["events"] if one["logStreamName"].startswith(prefix)]
        return json.dumps(answer)

    monkeypatch.setattr(LogsResponse, "filter_log_events", filtered)
    backend, test = batch_backends["123456789012"]["us-east-1"], aws.stack
    aws.stack, aws.outputs, aws.out = "jobs", infrastructure, f"{infrastructure['Runs']}{test}"
    aws.records = f"{infrastructure['Data']}records"
    aws.jobs = lambda: [job for job in backend._jobs.values() if f"-{test}" in job.job_name]
    aws.definitions = lambda: [one for one in backend._job_definitions.values() if f"-{test}" in one.name]
    yield aws
    state_manager.unset_transition("batch::job")
    for job in aws.jobs():  # other tests see none of it
        job.job_queue.jobs[:] = []
        del backend._jobs[job.job_id]
    for one in aws.definitions():
        del backend._job_definitions[one.arn]


class PriceList(dict):
    """Products as ``{type: (USD per hour, attributes)}``; ``requests`` are the filters that were asked with."""

    def __init__(self, products):
        super().__init__(products)
        self.requests = []

    def find(self, filters):
        self.requests.append(filters)
        return [self.product(name) for name in self if name in filters["instanceType"].split(",")]

    def product(self, name):
        usd, attributes = self[name]
        price = {"unit": "Hrs", "pricePerUnit": {"USD": f"{usd:.10f}"}}
        product = {"attributes": {"instanceType": name, **attributes}}
        return json.dumps({"product": product, "terms": {"OnDemand": {"A.B": {"priceDimensions": {"A.B.C": price}}}}})


@pytest.fixture
def prices(monkeypatch):
    """The :class:`PriceList`, which the imitation of AWS lacks."""

    class Answer(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = products.find({one["Field"]: one["Value"] for one in asked["Filters"]})
            data = json.dumps({"FormatVersion": "aws_v1", "PriceList": found}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    small = {"vcpu": "4", "memory": "16 GiB", "gpu": "1"}
    large = {"vcpu": "48", "memory": "192 GiB", "gpu": "4"}
    products = PriceList({"g4dn.xlarge": (0.526, small), "g5.xlarge": (1.006, small), "g5.12xlarge": (5.672, large)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", f"http://127.0.0.1:{server.server_port}")
    yield products
    server.shutdown()
    server.server_close()
