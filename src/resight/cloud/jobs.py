"""What is going on in the cloud: the state of runs and their logs; how one is stopped, and how it is fetched."""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ResightError, escaped
from ..io import object_store as storage
from ..io.files import parse_json
from ..io.object_store import is_remote
from ..io.progress import duration
from ..training.run_record import Launch, RunRecord, read_run_record
from .aws import Aws, AwsError

log = logging.getLogger(__name__)

QUEUES = {False: "SpotQueue", True: "OnDemandQueue"}  # outputs of the stack, by Launch.on_demand
WAITING = ("SUBMITTED", "PENDING", "RUNNABLE")  # states of a job that has no instance yet
LIVE = (*WAITING, "STARTING", "RUNNING")
SETTLED = 90.0  # seconds after which Batch lists every job that was submitted
EVERY = 5.0  # seconds between two looks at a job or its log
LATE = 60_000  # ms by which a line of one instance may come later than one of another
STOPPING = 300.0  # seconds that a job may take to save and end; the stop timeout of its container is 110


@dataclass(frozen=True)
class State:
    """How a run stands."""

    run: str
    status: str  # of its last job, in Batch's words; UNKNOWN where Batch knows none
    reason: str  # Batch's own for that, and what else is known of it
    record: RunRecord | None = None  # run.json, an attempt under way counted up to now; None where it cannot be read
    metrics: Mapping[str, float] = field(default_factory=dict)  # mAP and AP50 of its last evaluation

    def json(self) -> dict[str, Any]:
        told = parse_json(self.record.text()) if self.record else {}
        return told | {"run": self.run, "status": self.status, "reason": self.reason, "metrics": dict(self.metrics)}

    def text(self) -> str:
        lines = [f"{self.run}  {self.status}", f"why       {self.reason}" if self.reason else ""]
        if self.record and self.record.launch:
            step = self.record.attempts[-1].step if self.record.attempts else 0
            scores = "".join(f", {key} {value:.3f}" for key, value in self.metrics.items())
            lines += [f"job       {job.name}" for job in self.record.launch.jobs[-1:]]
            lines += [f"training  step {step:,}{scores}", self.record.summary()]
        return "\n".join(filter(None, lines))


def run_address(outputs: dict[str, str], run: str) -> str:
    """The address of a run that is named by it, or by its name below the stack's prefix of runs."""
    return run.rstrip("/") if is_remote(run) else outputs["Runs"] + run.strip("/")


def find_run(outputs: dict[str, str], run: str) -> tuple[str, RunRecord, Launch]:
    """The address and the record of a run that was launched, and its launch. Raises ResightError: there is none."""
    address = run_address(outputs, run)
    record = (read_run_record(address) or (None,))[0]
    if record is None or record.launch is None:
        what = "was not launched by resight cloud" if record else "there is no such run"
        raise ResightError(what, where=address, fix="resight cloud status lists the runs that Batch knows.")
    return address, record, record.launch


def find_job(aws: Aws, outputs: dict[str, str], launch: Launch) -> dict[str, Any] | None:
    """The last job of a run as Batch describes it; None where it knows none (it forgets after a week or more).

    One submitted a moment ago is waited for, since Batch lists it late. Of two, where a submission was repeated after
    an unclear answer, it is the one that has not ended. Raises ResightError: the run is another stack's.
    """
    if not launch.jobs:
        return None
    if (launch.stack, launch.region) != (aws.stack, aws.region):
        look = ("cloudformation", "describe_stacks", "ValidationError")
        if launch.region == aws.region and not aws.found(*look, StackName=launch.stack):
            return None  # its stack has gone, and its jobs before it
        fix = f"--stack {launch.stack} --region {launch.region}"
        raise ResightError(f"its job is one of the stack '{launch.stack}' in {launch.region}", where="--stack", fix=fix)
    last = launch.jobs[-1]
    while not (found := jobs_named(aws, outputs[QUEUES[launch.on_demand]], last.name)):
        if (datetime.now(UTC) - last.time).total_seconds() >= SETTLED:
            return None
        log.info("Batch does not know the job %s yet; looking again", last.name)
        time.sleep(EVERY)
    return max(found, key=_latest)


def _latest(job: Mapping[str, Any]) -> tuple[bool, int]:
    """Greatest of the job that counts: the one that has not ended, else the newest."""
    return job["status"] in LIVE, int(job.get("createdAt", 0))


def jobs_named(aws: Aws, queue: str, name: str) -> list[dict[str, Any]]:
    """The jobs of a queue as Batch describes them; ``name`` may end with an asterisk."""
    filters = [{"name": "JOB_NAME", "values": [name]}]
    ids = [one["jobId"] for one in aws.pages("batch", "list_jobs", "jobSummaryList", jobQueue=queue, filters=filters)]
    parts = [ids[at : at + 100] for at in range(0, len(ids), 100)]  # as many as one call takes
    return [job for part in parts for job in aws.call("batch", "describe_jobs", jobs=part)["jobs"]]


def status(aws: Aws, run: str | None = None) -> list[State]:
    """The state of a run, or of all runs that Batch knows in the stack's queues, the latest first. Raises ResightError:
    there is no such run, or AWS refuses."""
    outputs = aws.outputs()
    if run is not None:
        address, record, launch = find_run(outputs, run)
        return [_state(aws, address, record, launch, find_job(aws, outputs, launch))]
    jobs = [job for queue in QUEUES.values() for job in jobs_named(aws, outputs[queue], f"{aws.stack}-*")]
    latest = {}  # of each run
    for job in sorted(jobs, key=_latest):
        if address := job.get("tags", {}).get("run"):
            latest[address] = job
    states = []
    for address, job in reversed(latest.items()):
        try:
            states.append(_state(aws, *find_run(outputs, address), job))
        except ResightError as error:  # removed or damaged by somebody; its job is told all the same
            states.append(State(address, job["status"], f"job {job['jobName']}; {error}"))
    return states


def _state(aws: Aws, address: str, record: RunRecord, launch: Launch, job: Mapping[str, Any] | None) -> State:
    if job is None:
        return State(address, "UNKNOWN", "Batch knows no job of it (any more)", record, _metrics(address))
    if job["status"] == "RUNNING" and record.attempts and record.attempts[-1].ended is None:
        *before, last = record.attempts
        passed = (datetime.now(UTC) - last.started).total_seconds()
        record = replace(record, attempts=(*before, replace(last, seconds=max(last.seconds, passed))))
    container = job.get("container", {})
    code = f"exit code {container['exitCode']}" if container.get("exitCode") is not None else ""
    reasons = [job.get("statusReason"), container.get("reason"), code]
    if job["status"] in WAITING:
        reasons += _quotas(aws, launch.instance, launch.on_demand, container)
    return State(address, job["status"], "; ".join(filter(None, reasons)), record, _metrics(address))


def _quotas(aws: Aws, instance: str, on_demand: bool, container: Mapping[str, Any]) -> list[str]:
    """The quotas of the account that are too small for a job on that type, as far as they can be read."""
    family = "G and VT" if instance.startswith("g") else f"(P|.*{instance[:2].upper()}.*)"
    wanted = f"Running On-Demand {family} instances" if on_demand else f"All {family} Spot Instance Requests"
    asked = {one["type"]: float(one["value"]) for one in container.get("resourceRequirements", ())}
    needs = asked.get("VCPU", 0.0)
    with suppress(AwsError):  # it takes a permission that nothing else needs
        return [
            f"the quota '{one['QuotaName']}' is {one['Value']:g} vCPUs, and the job needs {needs:g}"
            for one in aws.pages("service-quotas", "list_service_quotas", "Quotas", ServiceCode="ec2")
            if re.fullmatch(wanted, one["QuotaName"]) and one["Value"] < needs
        ]
    return []


def _metrics(run: str) -> dict[str, float]:
    """AP of the last evaluation, as far as it has been copied."""
    found = storage.read_if_there(storage.join(run, "metrics.jsonl"))
    for line in reversed(found[0].decode("utf-8", "replace").splitlines() if found else ()):
        with suppress(ResightError):  # half a line
            row = parse_json(line)
            if isinstance(row, dict) and row.get("split") != "train":
                return {key: row[key] for key in ("mAP", "AP50") if isinstance(row.get(key), int | float)}
    return {}


def _message(event: str) -> str:
    """What a line of the log says; what is no JSON is a message."""
    with suppress(ResightError):
        if isinstance(line := parse_json(event), dict) and isinstance(line.get("message"), str):
            return escaped(line["message"])
    return escaped(event)


def logs(aws: Aws, run: str, follow: bool = False) -> Iterator[str]:
    """The messages of a run, of all its jobs and attempts; with ``follow`` until its job ends. Raises ResightError:
    there is no such run, or no log: says what state its job is in."""
    outputs = aws.outputs()
    address, _, launch = find_run(outputs, run)
    told, latest, live = set[str](), 0, True
    while live:
        job = find_job(aws, outputs, launch)  # before its log is read, so that none of its last lines is missed
        live = follow and job is not None and job["status"] in LIVE
        where = {"logGroupName": outputs["LogGroup"], "startTime": max(latest - LATE, 0)}
        prefixes = [{"logStreamNamePrefix": f"{one.name}/"} for one in launch.jobs]
        found = [aws.pages("logs", "filter_log_events", "events", **where, **one) for one in prefixes]
        for event in itertools.chain(*found):
            if event["eventId"] not in told:
                told.add(event["eventId"])
                latest = max(latest, event["timestamp"])
                yield _message(event["message"])
        if live:
            time.sleep(EVERY)
    if not told:
        state = f"its job is {job['status']}" if job else "Batch knows no job of it"
        raise ResightError(f"has no log yet: {state}", where=address, fix=f"resight cloud status {address} says why.")


def plan_stop(aws: Aws, run: str) -> str:
    """What :func:`stop` would do."""
    outputs = aws.outputs()
    address, _, launch = find_run(outputs, run)
    job = find_job(aws, outputs, launch)
    if not job or job["status"] not in LIVE:
        return f"nothing: no job of {address} is under way"
    name, status = job["jobName"], job["status"]
    return f"end job {name} of {address}, which is {status}; a training that runs saves its state first"


def stop(aws: Aws, run: str) -> State:
    """Ends the job of a run, which saves first, and waits for it; where none runs, nothing is done. Returns the state.
    Raises ResightError: there is no such run, or it has not ended after ``STOPPING`` seconds."""
    outputs = aws.outputs()
    address, _, launch = find_run(outputs, run)
    job, until = find_job(aws, outputs, launch), time.monotonic() + STOPPING
    if job and job["status"] in LIVE:
        aws.call("batch", "terminate_job", jobId=job["jobId"], reason="resight cloud stop")
    while (job := find_job(aws, outputs, launch)) and job["status"] in LIVE:
        if time.monotonic() > until:
            fix = f"It has been told to; resight cloud status {address} says when it has."
            raise ResightError(f"is still {job['status']} after {duration(STOPPING)}", where=address, fix=fix)
        time.sleep(EVERY)
    return _state(aws, *find_run(outputs, address), job)


def fetch(aws: Aws, run: str, out: str | None = None) -> Path:
    """Copies a run into the folder ``out`` (default ``runs/NAME``), as :func:`resight.models.remote.fetch_run` does."""
    from ..models.remote import fetch_run

    address = run_address(aws.outputs(), run)
    folder = Path(out or Path("runs") / address.rpartition("/")[2])
    fetch_run(address, folder)
    return folder
