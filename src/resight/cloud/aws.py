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

from ..errors import ResightError, listed, nearest, redacted

STACK = "resight"  # the default name
SUMMARY = "Resight: "  # how the description of every stack of ours begins
WHOLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")  # how the status of such a stack ends
STACK_NAME = re.compile(r"[a-z](?:-?[a-z0-9]){1,29}")  # names of buckets, roles and repositories begin with it
_ATTEMPTS = 10  # of one call
PAUSE = 2.0  # seconds, growing, before a call that may not be repeated blindly is looked for or made again
_HOMES = {"pricing": "us-east-1"}  # services with an endpoint in few regions
_THROTTLED = re.compile(r"Throttl|TooManyRequests|RequestLimitExceeded|SlowDown|PriorRequestNotComplete|BandwidthLimit")
_PASSING = re.compile(r"Internal(Error|Failure|Server)|ServerException|Unavailable")
_ACTION = re.compile(r"not authorized to perform:? ([\w-]+:\w+)(?: on resource:? (\S+))?")
_S3_ACTIONS = {"HeadObject": "GetObject", "HeadBucket": "ListBucket", "ListObjectsV2": "ListBucket"}
_S3_ACTIONS |= {"DeleteObjects": "DeleteObject", "ListObjectVersions": "ListBucketVersions"}
_WHO = "They are looked for as by the AWS command line: --profile or AWS_PROFILE, AWS_ACCESS_KEY_ID, SSO, a role."
_REFUSED = ("the credentials are refused", _WHO)
# What an answer's code means, and what to do.
_MEANINGS = {
    "TooSkewed": ("this machine's clock is wrong", "Set its time."),
    "Expired": ("the credentials have expired", f"Sign in again. {_WHO}"),
    "Invalid(ClientToken|AccessKey|Token)|UnrecognizedClient|Signature|AuthFailure|AuthenticationToken": _REFUSED,
    "AccessDenied|UnauthorizedOperation|NotAuthorized|^403$|^Forbidden$": (
        "not allowed: {action}",
        "Whoever administers the account can allow {action}; docs/cloud.md lists what each command needs.",
    ),
    _THROTTLED.pattern: ("AWS answers that there are too many requests", "Try again later."),
    "LimitExceeded|QuotaExceeded|^TooManyBuckets$": (
        "a quota of the account is used up",
        "Service Quotas in the AWS console shows it, and takes the request to raise it.",
    ),
    "^OptInRequired|^SubscriptionRequired": (
        "the account does not have this service here",
        "Enable it, and the region, for the account, or choose another --region.",
    ),
    _PASSING.pattern: ("AWS fails", "Try again later."),
}


class AwsError(ResightError):
    """What AWS refuses or fails to do; ``code`` is its own name for it ("" where no answer came)."""

    code = ""
    unclear = False  # whether it may have been done all the same


class Aws:
    """Calls to one region of AWS, and the stack there.

    Args:
        profile: of the AWS configuration; None for the environment's.
        region: None for the profile's or the environment's.
        stack: name of the CloudFormation stack that holds Resight's resources.

    Raises:
        ResightError: boto3 is missing, there is no such profile or region, or no region is given.
    """

    def __init__(self, profile: str | None = None, region: str | None = None, stack: str = STACK) -> None:
        if not STACK_NAME.fullmatch(stack):
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
            profiles = boto3.Session().available_profiles if type(error).__name__ == "ProfileNotFound" else []
            hint = nearest(profile or "", profiles) or (f"There are {listed(profiles)}." if profiles else "")
            raise ResightError(str(error), where="AWS configuration", fix=hint) from error
        if not self.session.region_name:
            raise ResightError("no region is given", where="--region", fix="Or set AWS_REGION, e.g. to us-east-1.")
        self.region: str = self.session.region_name
        if self.region not in known:
            fix = f"{nearest(self.region, known)} If it is a new one: pip install --upgrade boto3".strip()
            raise ResightError(f"there is no AWS Batch in a region '{self.region}'", where="--region", fix=fix)
        self.profile, self.stack = profile, stack
        self.client = functools.cache(self._client)

    def call(self, service: str, action: str, attempts: int = _ATTEMPTS, /, **arguments: Any) -> dict[str, Any]:
        """One call that may be repeated: after throttling, failures of the service, lost connections.

        Raises:
            AwsError: says what is wrong, and names the missing permission.
        """
        return self._called(service, action, attempts, arguments)

    def once(
        self, service: str, action: str, find: Callable[[], dict[str, Any] | None], **arguments: Any
    ) -> dict[str, Any]:
        """One call that would make a second thing if it were repeated.

        Where it is unclear whether it was carried out, ``find`` looks for what it made, and gives an answer like the
        call's, or None: then it is made again.

        Raises:
            AwsError: as :meth:`call`.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._called(service, action, 1, arguments)
            except AwsError as error:
                if not (error.unclear or _THROTTLED.search(error.code)):
                    raise
                time.sleep(PAUSE * attempt)
                try:
                    found = find() if error.unclear else None
                except AwsError as lost:  # the first says more
                    raise error from lost
                if found is not None:
                    return found
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("every attempt returns or raises")

    def pages(self, service: str, action: str, key: str, **arguments: Any) -> list[Any]:
        """What all pages of an answer hold under ``key``. Raises AwsError as :meth:`call`."""
        client = self.client(service, _ATTEMPTS)
        if not client.can_paginate(action):
            return list(self.call(service, action, **arguments).get(key) or [])
        return self._told(
            service,
            action,
            lambda: [
                item for page in client.get_paginator(action).paginate(**arguments) for item in page.get(key) or []
            ],
        )

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
        """The number of the account."""
        return str(self.call("sts", "get_caller_identity")["Account"])

    def describe(self) -> dict[str, Any] | None:
        """The stack as CloudFormation describes it; None where there is none."""
        try:
            return dict(self.call("cloudformation", "describe_stacks", StackName=self.stack)["Stacks"][0])
        except AwsError as error:
            if error.code == "ValidationError" and "does not exist" in error.message:
                return None
            raise

    def outputs(self) -> dict[str, str]:
        """The stack's outputs.

        Raises:
            AwsError: there is no such stack here, or it is not whole; says what is the matter and what to do.
        """
        stack = self.describe()
        here = f"stack '{self.stack}' in {self.region}"
        if stack is None:
            others = [name for name in self.stacks() if name != self.stack]
            hint = f"There is {listed(others)}: --stack NAME." if others else "Is it the right --region and --profile?"
            raise AwsError("there is no such stack", where=here, fix=f"{hint} resight cloud init makes it.")
        status = str(stack["StackStatus"])
        if not status.endswith(WHOLE):
            if status.endswith("IN_PROGRESS") and not status.startswith("REVIEW"):
                raise AwsError(f"is being changed ({status})", where=here, fix="Try again in a few minutes.")
            why = "; ".join(self.failures()) or str(stack.get("StackStatusReason", ""))
            fix = "resight cloud down removes what is there; then resight cloud init makes it again."
            raise AwsError(f"is not whole ({status}): {why}".rstrip(": "), where=here, fix=fix)
        outputs = {one["OutputKey"]: str(one["OutputValue"]) for one in stack.get("Outputs") or []}
        if not str(stack.get("Description", "")).startswith(SUMMARY):
            raise AwsError("is not one of Resight's", where=here, fix="Name another: --stack NAME.")
        return outputs

    def stacks(self) -> list[str]:
        """The names of Resight's stacks in this region, as far as one may see them."""
        try:
            found = self.pages("cloudformation", "describe_stacks", "Stacks")
        except AwsError:
            return []
        return sorted(one["StackName"] for one in found if str(one.get("Description", "")).startswith(SUMMARY))

    def events(self) -> list[dict[str, Any]]:
        """What CloudFormation did to the stack, the latest first; nothing where there is no stack."""
        try:
            return self.pages("cloudformation", "describe_stack_events", "StackEvents", StackName=self.stack)
        except AwsError as error:
            if "does not exist" in error.message:
                return []
            raise

    def failures(self) -> list[str]:
        """Which resources of the stack failed in what CloudFormation did last, each with AWS's own reason."""
        failed: dict[str, str] = {}
        for event in self.events():
            name, status = event["LogicalResourceId"], event["ResourceStatus"]
            if name == self.stack and status in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"):
                break
            reason = str(event.get("ResourceStatusReason", ""))
            if status.endswith("FAILED") and "cancelled" not in reason:
                failed.setdefault(name, f"{name} ({event['ResourceType'].removeprefix('AWS::')}): {reason}")
        return list(failed.values())

    def _client(self, service: str, attempts: int) -> Any:
        from botocore.config import Config

        retries = {"mode": "standard", "total_max_attempts": attempts}
        config = Config(retries=retries, connect_timeout=10, read_timeout=60, user_agent_extra="resight")
        return self._told(
            service, "", lambda: self.session.client(service, _HOMES.get(service, self.region), config=config)
        )

    def _called(self, service: str, action: str, attempts: int, arguments: dict[str, Any]) -> dict[str, Any]:
        client = self.client(service, attempts)
        return self._told(service, action, lambda: dict(getattr(client, action)(**arguments)), attempts)

    def _told(self, service: str, action: str, run: Callable[[], Any], attempts: int = _ATTEMPTS) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        for attempt in range(1, attempts + 1):
            try:
                return run()
            except (BotoCoreError, ClientError, ResponseParserError, ValueError) as error:
                # A load balancer's page in place of an answer: the one failure that botocore does not repeat itself.
                if isinstance(error, ResponseParserError) and attempt < attempts:
                    time.sleep(PAUSE)
                    continue
                operation = self.client(service, attempts).meta.method_to_api_mapping[action] if action else "client"
                raise self._explained(error, service, operation) from error
        raise AssertionError("every attempt returns or raises")

    def _explained(self, error: Exception, service: str, operation: str) -> AwsError:
        """The error in words of ours."""
        where = f"{service} {operation} in {_HOMES.get(service, self.region)}"
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            code, message = (str(response.get("Error", {}).get(key) or "") for key in ("Code", "Message"))
            message = message.partition(" Encoded authorization failure")[0]
            named = _ACTION.search(message)
            prefix = self.client(service, _ATTEMPTS).meta.service_model.signing_name
            action = named[1] if named else f"{prefix}:{_S3_ACTIONS.get(operation, operation)}"
            kind = "TooSkewed" if re.search("Signature (expired|not yet)", message) else code
            meaning, fix = next((told for is_it, told in _MEANINGS.items() if re.search(is_it, kind)), ("", ""))
            said = f"{code}: {message}".strip(": ")
            text = f"{meaning} ({said})" if meaning else said
            told = AwsError(text.replace("{action}", action), where=where, fix=fix.replace("{action}", action))
            told.code, status = code, response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            told.unclear = not _THROTTLED.search(code) and (status >= 500 or bool(_PASSING.search(code)))
            return told
        name, text = type(error).__name__, redacted(" ".join(str(error).split())[:400])
        if "SSO" in name or name == "TokenRetrievalError" or name.startswith("Login"):
            profile = f" --profile {self.profile}" if self.profile else ""
            return AwsError(f"the sign-in has ended: {text}", where="AWS", fix=f"aws sso login{profile}")
        if "Credential" in name or name == "NoAuthTokenError":
            return AwsError(f"there are no credentials: {text}", where="AWS", fix=_WHO)
        if re.search("Connect|Timeout|SSL|HTTPClient|Streaming|ResponseParser|IncompleteRead", name):
            fix = f"Check the network, a proxy, AWS_ENDPOINT_URL, and whether {self.region} is the region you mean."
            told = AwsError(f"AWS does not answer: {text}", where=where, fix=fix)
            # Without a connection there was no request; in any other case it may have arrived.
            told.unclear = name not in ("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError")
            return told
        return AwsError(text, where=where)
