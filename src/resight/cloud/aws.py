"""Calls to AWS: one person's way to one region, repeated where that is safe, with errors in the user's words.

Credentials and region are looked for as by the AWS command line; ``AWS_ENDPOINT_URL`` is honoured.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable
from typing import Any

from ..errors import ResightError, nearest

SUMMARY = "Resight: "  # how the description of every stack of ours begins
WHOLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")  # how the status of such a stack ends
# Names of buckets, roles and repositories begin with it.
_STACK_NAME = re.compile(r"(?=.{2,30}$)(?!sg-)[a-z](?:-?[a-z0-9])+")
_ATTEMPTS = 10  # of one call
PAUSE = 2.0  # seconds, growing, before a call that may not be repeated blindly is looked for or made again
_HOMES = {"pricing": "us-east-1"}  # services with an endpoint in few regions
_THROTTLED = "Throttl|TooManyRequests|RequestLimitExceeded|SlowDown|PriorRequestNotComplete|BandwidthLimit"
_FAILED = "Internal(Error|Failure|Server)|ServerException|Unavailable"
_SILENT = "Connect|Timeout|SSL|HTTPClient|Streaming|ResponseParser|IncompleteRead"
_UNSENT = ("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError")  # there was no request
_ACTION = re.compile(r"not authorized to perform:? ([\w-]+:\w+)")
_S3_ACTIONS = {"HeadObject": "GetObject", "HeadBucket": "ListBucket", "ListObjectsV2": "ListBucket"}
_WHO = "They are looked for as by the AWS command line: --profile or AWS_PROFILE, AWS_ACCESS_KEY_ID, SSO, a role."
# What the code of an answer, or the name of an exception of botocore's, means, and what to do.
_MEANINGS = {
    "Expired|SSO|TokenRetrieval|Login": ("the credentials have expired", "Sign in again: aws sso login{profile}"),
    "Credential|NoAuthToken": ("there are no credentials", _WHO),
    "InvalidClientToken|InvalidAccessKey|InvalidToken|UnrecognizedClient|Signature|AuthFailure": (
        "the credentials are refused, or this machine's clock is wrong",
        _WHO,
    ),
    "AccessDenied|UnauthorizedOperation|NotAuthorized|^403$|^Forbidden$": (
        "not allowed: {action}",
        "Whoever administers the account can allow {action}; docs/cloud.md lists what each command needs.",
    ),
    _THROTTLED: ("AWS answers that there are too many requests", "Try again later."),
    "LimitExceeded|QuotaExceeded|^TooManyBuckets$": (
        "a quota of the account is used up",
        "Service Quotas in the AWS console shows it, and takes the request to raise it.",
    ),
    _FAILED: ("AWS fails", "Try again later."),
    _SILENT: (
        "AWS does not answer",
        "Check the network, a proxy, AWS_ENDPOINT_URL, and whether {region} is the region you mean.",
    ),
}


class AwsError(ResightError):
    """What AWS refuses or fails to do; ``code`` is its own name for it, or botocore's where no answer came."""

    code = ""
    unclear = False  # whether it may have been done all the same


class Outputs(dict[str, str]):
    """The outputs of a stack; that one is missing is an AwsError."""

    def __missing__(self, name: str) -> str:
        fix = "It is not of this version's template: resight cloud init, or template for a tool of your own, brings it."
        raise AwsError(f"the stack has no output '{name}'", where="--stack", fix=fix)


class Aws:
    """Calls to one region of AWS, and the stack there.

    Args:
        profile: of the AWS configuration; None for the environment's.
        region: None for the profile's or the environment's.
        stack: name of the CloudFormation stack that holds Resight's resources.

    Raises:
        ResightError: boto3 is missing, there is no such profile or region, or no region is given.
    """

    def __init__(self, profile: str | None = None, region: str | None = None, stack: str = "resight") -> None:
        if not _STACK_NAME.fullmatch(stack):
            fix = "Lower-case letters, digits and single hyphens, 2 to 30, a letter first."
            raise ResightError(f"'{stack}' cannot be the name of a stack", where="--stack", fix=fix)
        try:
            import boto3
            from botocore.exceptions import BotoCoreError
        except ImportError as error:
            fix = "pip install 'resight[cloud]'"
            raise ResightError(f"resight cloud needs the package {error.name}", fix=fix) from error
        try:
            # AWS_REGION is what the AWS command line reads first, and boto3 does not.
            self.session = boto3.Session(profile_name=profile, region_name=region or os.environ.get("AWS_REGION"))
            partitions = self.session.get_available_partitions()
            known = [name for one in partitions for name in self.session.get_available_regions("batch", one)]
        except BotoCoreError as error:
            raise ResightError(str(error), where="AWS configuration") from error
        self.region: str = self.session.region_name or ""
        if not self.region:
            raise ResightError("no region is given", where="--region", fix="Or set AWS_REGION, e.g. to us-east-1.")
        if self.region not in known:
            fix = f"{nearest(self.region, known)} If it is a new one: pip install --upgrade boto3".strip()
            raise ResightError(f"there is no AWS Batch in a region '{self.region}'", where="--region", fix=fix)
        self.profile, self.stack, self.here = profile, stack, f"stack '{stack}' in {self.region}"
        self._client = functools.cache(self._new_client)

    def call(self, service: str, action: str, attempts: int = _ATTEMPTS, /, **arguments: Any) -> dict[str, Any]:
        """One call that may be repeated: after throttling, failures of the service, lost connections. Raises AwsError:
        says what is wrong, and names the missing permission."""
        return self._tried(service, action, attempts, lambda client: dict(getattr(client, action)(**arguments)))

    def once(
        self, service: str, action: str, find: Callable[[], dict[str, Any] | None], **arguments: Any
    ) -> dict[str, Any]:
        """One :meth:`call` that would make a second thing if it were repeated: where it is unclear whether it was
        carried out, ``find`` looks for what it made, and gives an answer like the call's, or None: then it is made
        again."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self.call(service, action, 1, **arguments)
            except AwsError as error:
                if not (error.unclear or re.search(_THROTTLED, error.code)):
                    raise
                time.sleep(PAUSE * attempt)
                if error.unclear and (found := find()) is not None:
                    return found
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("every attempt returns or raises")

    def pages(self, service: str, action: str, key: str, **arguments: Any) -> list[Any]:
        """What all pages of an answer hold under ``key``. Raises AwsError as :meth:`call`."""

        def read(client: Any) -> list[Any]:
            pages = client.get_paginator(action).paginate(**arguments)
            return [item for page in pages for item in page.get(key) or []]

        return list(self._tried(service, action, _ATTEMPTS, read))

    def found(self, service: str, action: str, missing: str, **arguments: Any) -> dict[str, Any] | None:
        """``call``, or None where the error's code matches ``missing``."""
        try:
            return self.call(service, action, **arguments)
        except AwsError as error:
            if re.search(missing, error.code):
                return None
            raise

    @functools.cached_property
    def account(self) -> str:
        return str(self.call("sts", "get_caller_identity")["Account"])

    def describe(self) -> dict[str, Any] | None:
        """The stack as CloudFormation describes it; None where there is none. Raises AwsError: it is not Resight's."""
        answer = self.found("cloudformation", "describe_stacks", "ValidationError", StackName=self.stack)
        stack = answer["Stacks"][0] if answer else None
        if stack and not str(stack.get("Description", SUMMARY)).startswith(SUMMARY):
            raise AwsError("is not one of Resight's", where=self.here, fix="Name another: --stack NAME.")
        return stack

    def outputs(self) -> dict[str, str]:
        """The stack's outputs. Raises AwsError: there is no such stack here, or it is not whole."""
        stack = self.describe()
        if stack is None:
            fix = "Is it the right --region, --profile and --stack? resight cloud init makes it."
            raise AwsError("there is no such stack", where=self.here, fix=fix)
        status = str(stack["StackStatus"])
        if status.endswith("IN_PROGRESS") and not status.startswith("REVIEW"):
            raise AwsError(f"is being changed ({status})", where=self.here, fix="Try again in a few minutes.")
        if not status.endswith(WHOLE):
            why = "; ".join(self.failures())
            fix = "resight cloud down removes what is there; then resight cloud init makes it again."
            raise AwsError(f"is not whole ({status}): {why}".rstrip(": "), where=self.here, fix=fix)
        return Outputs({one["OutputKey"]: str(one["OutputValue"]) for one in stack.get("Outputs") or []})

    def failures(self) -> list[str]:
        """Which resources of the stack failed in what CloudFormation did last, each with AWS's own reason."""
        failed: dict[str, str] = {}
        for event in self.pages("cloudformation", "describe_stack_events", "StackEvents", StackName=self.stack):
            name, status = event["LogicalResourceId"], event["ResourceStatus"]
            if name == self.stack and status in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"):
                break
            reason = str(event.get("ResourceStatusReason", ""))
            if status.endswith("FAILED") and "cancelled" not in reason:
                failed.setdefault(name, f"{name} ({event['ResourceType'].removeprefix('AWS::')}): {reason}")
        return list(failed.values())

    def _new_client(self, service: str, attempts: int) -> Any:
        from botocore.config import Config

        retries = {"mode": "standard", "total_max_attempts": attempts}
        config = Config(retries=retries, connect_timeout=10, read_timeout=60, user_agent_extra="resight")
        return self.session.client(service, _HOMES.get(service, self.region), config=config)

    def _tried(self, service: str, action: str, attempts: int, run: Callable[[Any], Any]) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        for attempt in range(1, attempts + 1):
            try:
                return run(self._client(service, attempts))
            except (BotoCoreError, ClientError, ResponseParserError, ValueError) as error:
                # A load balancer's page in place of an answer: the one failure that botocore does not repeat itself.
                if not isinstance(error, ResponseParserError) or attempt == attempts:
                    raise self._explained(error, service, action.title().replace("_", "")) from error
                time.sleep(PAUSE)
        raise AssertionError("every attempt returns or raises")

    def _explained(self, error: Exception, service: str, operation: str) -> AwsError:
        response = getattr(error, "response", None)
        answer = response if isinstance(response, dict) else {}
        told = answer.get("Error", {"Code": type(error).__name__, "Message": str(error)})
        code, said = (str(told.get(key) or "") for key in ("Code", "Message"))
        said = " ".join(said.partition(" Encoded authorization failure")[0].split())
        named = _ACTION.search(said)
        known = {
            "action": named[1] if named else f"{service.replace('-', '')}:{_S3_ACTIONS.get(operation, operation)}",
            "profile": f" --profile {self.profile}" if self.profile else "",
            "region": self.region,
        }
        meaning, fix = next((text for kind, text in _MEANINGS.items() if re.search(kind, code)), ("", ""))
        text = f"{meaning.format(**known)} ({code}: {said})" if meaning else f"{code}: {said}"
        where = f"{service} {operation} in {_HOMES.get(service, self.region)}"
        explained = AwsError(text, where=where, fix=fix.format(**known))
        explained.code = code
        if code not in _UNSENT and not re.search(_THROTTLED, code):
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            explained.unclear = status >= 500 or bool(re.search(f"{_FAILED}|{_SILENT}", code))
        return explained
