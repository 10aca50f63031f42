"""What is going on in the cloud: the state of runs and their logs; how one is stopped, and how it is fetched."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..data import storage
from ..data.storage import is_remote
from ..errors import ResightError, counted, escaped, listed
from ..files import parse_json
from ..progress import duration
from ..training.run_record import RunRecord, price_of, read_run_record
from .aws import Aws, AwsError

log = logging.getLogger(__name__)

State = dict[str, Any]
QUEUES = {False: "SpotQueue", True: "OnDemandQueue"}  # outputs of the stack, by Launch.on_demand
WAITING = ("SUBMITTED", "PENDING", "RUNNABLE")  # states of a job that has no instance yet
LIVE = (*WAITING, "STARTING", "RUNNING")
PATIENCE = 600.0  # seconds after which it is looked into why a job does not start
EVERY = 5.0  # seconds between two looks at a job or its log
STOPPING = 300.0  # seconds that a job may take to save and end; the stop timeout of its container is 110
_CAUSES = (
    "Common causes: no Spot capacity (launch --on-demand, or another --instance), a vCPU quota that is too small, "
    "subnets without a way to ECS, ECR and CloudWatch, a compute environment that is not VALID."
)


def run_address(outputs: dict[str, str], run: str) -> str:
    """The address of a run that is named by it, or by its name below the stack's prefix of runs."""
    return run.rstrip("/") if is_remote(run) else outputs["Runs"] + run.strip("/")


def find_run(outputs: dict[str, str], run: str) -> tuple[str, RunRecord]:
    """The address and the record of a run that was launched.

    Raises:
        ResightError: there is none.
    """
    address = run_address(outputs, run)
    found = read_run_record(address)
    if found is None or found[0].launch is None:
        what = "was not launched by resight cloud" if found else "there is no such run"
        raise ResightError(what, where=address, fix="resight cloud status lists the runs that Batch knows.")
    return address, found[0]


def find_job(aws: Aws, outputs: dict[str, str], record: RunRecord) -> State | None:
    """The last job of a run as Batch describes it; None where it knows none (it forgets after a week or more)."""
    if not (record.launch and record.launch.jobs):
        return None
    return next(iter(jobs_named(aws, outputs[QUEUES[record.launch.on_demand]], record.launch.jobs[-1].name)), None)


def jobs_named(aws: Aws, queue: str, name: str) -> list[State]:
    """The jobs of a queue as Batch describes them, the newest first; ``name`` may end with an asterisk."""
    filters = [{"name": "JOB_NAME", "values": [name]}]
    ids = [one["jobId"] for one in aws.pages("batch", "list_jobs", "jobSummaryList", jobQueue=queue, filters=filters)]
    parts = [ids[at : at + 100] for at in range(0, len(ids), 100)]  # as many as one call takes
    jobs = [job for part in parts for job in aws.call("batch", "describe_jobs", jobs=part)["jobs"]]
    return sorted(jobs, key=lambda job: int(job.get("createdAt", 0)), reverse=True)


def status(aws: Aws, run: str | None = None) -> list[State]:
    """The state of a run, or of all runs that Batch knows in the stack's queues, the latest first.

    Hours and dollars are of all attempts, the one under way counted up to now.

    Raises:
        ResightError: there is no such run, or AWS refuses.
    """
    outputs = aws.outputs()
    if run is not None:
        address, record = find_run(outputs, run)
        return [_state(aws, outputs, address, record, find_job(aws, outputs, record))]
    jobs = [job for queue in QUEUES.values() for job in jobs_named(aws, outputs[queue], f"{aws.stack}-*")]
    latest: dict[str, State] = {}
    for job in sorted(jobs, key=lambda job: int(job.get("createdAt", 0)), reverse=True):
        if address := job.get("tags", {}).get("run"):
            latest.setdefault(address, job)
    states = []
    for address, job in latest.items():
        try:
            states.append(_state(aws, outputs, address, find_run(outputs, address)[1], job))
        except ResightError as error:  # removed or damaged by somebody; its job is told all the same
            states.append({"run": address, "status": job["status"], "reason": str(error), "job": job["jobName"]})
    return states


def _state(aws: Aws, outputs: dict[str, str], run: str, record: RunRecord, job: State | None) -> State:
    launch, last = record.launch, record.attempts[-1] if record.attempts else None
    assert launch is not None
    queue = outputs[QUEUES[launch.on_demand]]
    name, status = launch.jobs[-1].name if launch.jobs else "", job["status"] if job else "UNKNOWN"
    more = 0.0
    if status == "RUNNING" and last and last.ended is None:
        more = max((datetime.now(UTC) - last.started).total_seconds() - last.seconds, 0.0) / 3600
    price = last.usd_per_hour if last else price_of(record, None)
    hours, usd = record.hours + more, None if price is None else (record.usd or 0.0) + more * price
    progress = _progress(aws, outputs, name) if status == "RUNNING" else {}
    tree = json.loads(record.text())
    limits = tree["launch"]["limits"]
    return {
        "run": run,
        "status": status,
        "ended": last.ended if last and status not in LIVE else None,
        "reason": _why(aws, queue, launch.instance, launch.on_demand, job)
        if job
        else "Batch knows no job of it (any more)",
        "job": name,
        "job_id": job["jobId"] if job else None,
        "queue": queue.rpartition("/")[2],
        "attempts": tree["attempts"],
        "exit_codes": [one["container"].get("exitCode") for one in (job or {}).get("attempts", ())],
        "steps": last.step if last else 0,
        "total_steps": total if isinstance(total := progress.get("total"), int) else None,
        "progress": progress.get("message"),
        "metrics": _metrics(run),
        "hours": hours,
        "usd": usd,
        "hours_left": None if limits["hours"] is None else max(limits["hours"] - hours, 0.0),
        "usd_left": None if limits["usd"] is None else max(limits["usd"] - (usd or 0.0), 0.0),
        "interruptions": record.interruptions,
        "lost_steps": record.lost_steps,
    }


def status_text(state: State) -> str:
    """A state as lines for people."""
    lines = [f"{state['run']}  {state['status']}" + (f", {state['ended']}" if state.get("ended") else "")]
    if state.get("reason"):
        lines.append(f"why       {state['reason']}")
    lines.append(f"job       {state['job'] or 'none'}")
    if "steps" not in state:
        return "\n".join(lines)
    for one in state["attempts"]:
        how = one["ended"] or ("running" if one is state["attempts"][-1] and state["status"] == "RUNNING" else "killed")
        code = "" if one["exit_code"] is None else f", exit code {one['exit_code']}"
        lines.append(
            f"attempt   {one['number']}: {how}{code}, steps {one['from_step']:,} to {one['step']:,} in "
            f"{duration(one['seconds'])}" + (f" on {one['instance_type']}" if one["instance_type"] else "")
        )
    if state["exit_codes"]:
        lines.append(
            f"Batch     {counted(len(state['exit_codes']), 'attempt')}, exit codes {listed(state['exit_codes'])}"
        )
    total = f" of {state['total_steps']:,}" if state["total_steps"] else ""
    scores = "".join(f", {key} {value:.3f}" for key, value in state["metrics"].items())
    spent = f"{state['hours']:.2f} h" + ("" if state["usd"] is None else f", ${state['usd']:.2f}")
    left = [f"{state['hours_left']:.2f} h"] * (state["hours_left"] is not None)
    left += [f"${state['usd_left']:.2f}"] * (state["usd_left"] is not None)
    lines += [
        f"training  step {state['steps']:,}{total}{scores}" + (f"; {state['progress']}" if state["progress"] else ""),
        f"spent     {spent}; left: {' and '.join(left) or 'no limit'}",
        f"spot      {counted(state['interruptions'], 'interruption')}, {counted(state['lost_steps'], 'lost step')}",
    ]
    return "\n".join(lines)


def _why(aws: Aws, queue: str, kind: str, on_demand: bool, job: State) -> str:
    """Batch's own reason for the state of a job, and what else can be found out about one that does not start."""
    reasons = [str(job.get("statusReason") or "")]
    if job["status"] not in WAITING:
        return reasons[0]
    queues = aws.call("batch", "describe_job_queues", jobQueues=[queue])["jobQueues"]
    names = [one["computeEnvironment"] for found in queues for one in found["computeEnvironmentOrder"]]
    options = {"computeEnvironments": names or ["none"]}
    for one in queues + aws.pages("batch", "describe_compute_environments", "computeEnvironments", **options):
        if one.get("status") not in (None, "VALID") or one.get("state") == "DISABLED":
            name = one.get("jobQueueName") or one.get("computeEnvironmentName")
            reasons.append(f"{name} is {one['status']}, {one['state']}: {one.get('statusReason')}.")
    if time.time() - job.get("createdAt", 0) / 1000 > PATIENCE:
        reasons += [*_quotas(aws, kind, on_demand, job), _CAUSES]
    return " ".join(filter(None, reasons))


def _quotas(aws: Aws, kind: str, on_demand: bool, job: State) -> list[str]:
    """The quotas of the account that are too small for a job on the instance type ``kind``, as far as they can be
    read."""
    family = "G and VT" if kind.startswith("g") else f"(P|.*{kind[:2].upper()}.*)"
    pattern = f"Running On-Demand {family} instances" if on_demand else f"All {family} Spot Instance Requests"
    needs = [float(one["value"]) for one in job["container"].get("resourceRequirements", ()) if one["type"] == "VCPU"]
    with suppress(AwsError):  # it takes a permission that nothing else needs
        return [
            f"The quota '{one['QuotaName']}' is {one['Value']:g} vCPUs, and the job needs {needs[0]:g}."
            for one in aws.pages("service-quotas", "list_service_quotas", "Quotas", ServiceCode="ec2")
            if needs and re.fullmatch(pattern, one["QuotaName"]) and one["Value"] < needs[0]
        ]
    return []


def _metrics(run: str) -> dict[str, float]:
    """AP of the last evaluation, as far as it has been copied."""
    found = storage.read_if_there(storage.join(run, "metrics.jsonl"))
    for line in reversed(found[0].decode("utf-8", "replace").splitlines() if found else ()):
        with suppress(ResightError):
            row = parse_json(line)
            if isinstance(row, dict) and row.get("split") != "train":
                return {key: row[key] for key in ("mAP", "AP50") if isinstance(row.get(key), int | float)}
    return {}


def _progress(aws: Aws, outputs: dict[str, str], job: str) -> State:
    """What the training last said of its progress."""
    with suppress(AwsError):
        for stream in reversed(_streams(aws, outputs, job)):
            end = {"logGroupName": outputs["LogGroup"], "logStreamName": stream, "startFromHead": False, "limit": 100}
            for event in reversed(aws.call("logs", "get_log_events", **end)["events"]):
                if (line := _line(event["message"])).get("progress") == "training":
                    return line
    return {}


def _line(text: str) -> State:
    """A line of the log; what is no JSON is a message."""
    with suppress(ResightError):
        if isinstance(line := parse_json(text), dict) and isinstance(line.get("message"), str):
            return line
    return {"message": text}


def _streams(aws: Aws, outputs: dict[str, str], job: str) -> list[str]:
    """The streams of a job's log, one an attempt, the first one first."""
    prefix = {"logGroupName": outputs["LogGroup"], "logStreamNamePrefix": f"{job}/"}
    found = aws.pages("logs", "describe_log_streams", "logStreams", **prefix)
    return [one["logStreamName"] for one in sorted(found, key=lambda one: int(one.get("creationTime", 0)))]


def logs(aws: Aws, run: str, follow: bool = False) -> Iterator[str]:
    """The messages of a run, of all its jobs and attempts; with ``follow`` until its job ends.

    Raises:
        ResightError: there is no such run, or no log: says what state its job is in.
    """
    outputs = aws.outputs()
    address, record = find_run(outputs, run)
    jobs = [job.name for job in record.launch.jobs] if record.launch else []
    tokens: dict[str, str] = {}
    while True:
        job = find_job(aws, outputs, record)
        waits = job is not None and job["status"] in LIVE
        try:
            for stream in [stream for name in jobs for stream in _streams(aws, outputs, name)]:
                yield from _events(aws, outputs["LogGroup"], stream, tokens)
        except AwsError as error:
            if not (follow and waits and (error.unclear or "Throttl" in error.code)):
                raise
            log.warning("%s", error.message)
        if not (follow and waits):
            break
        time.sleep(EVERY)
    if not tokens:
        state = f"its job is {job['status']}" if job else "Batch knows no job of it"
        raise ResightError(f"has no log yet: {state}", where=address, fix=f"resight cloud status {address} says why.")


def _events(aws: Aws, group: str, stream: str, tokens: dict[str, str]) -> Iterator[str]:
    while True:
        more = {"nextToken": tokens[stream]} if stream in tokens else {}
        page = aws.call("logs", "get_log_events", logGroupName=group, logStreamName=stream, startFromHead=True, **more)
        yield from (escaped(_line(event["message"])["message"]) for event in page["events"])
        before, tokens[stream] = tokens.get(stream), page["nextForwardToken"]
        if tokens[stream] == before:  # so the end is told
            return


def plan_stop(aws: Aws, run: str) -> str:
    """What :func:`stop` would do."""
    outputs = aws.outputs()
    address, record = find_run(outputs, run)
    job = find_job(aws, outputs, record)
    if not job or job["status"] not in LIVE:
        return f"nothing: no job of {address} is under way"
    return (
        f"end job {job['jobName']} of {address}, which is {job['status']}; a training that runs saves its state first"
    )


def stop(aws: Aws, run: str) -> State:
    """Ends the job of a run, which saves first, and waits for it; where none runs, nothing is done. Returns the state.

    Raises:
        ResightError: there is no such run, or it has not ended after ``STOPPING`` seconds.
    """
    outputs = aws.outputs()
    address, record = find_run(outputs, run)
    job, until = find_job(aws, outputs, record), time.monotonic() + STOPPING
    if job and job["status"] in LIVE:
        aws.call("batch", "terminate_job", jobId=job["jobId"], reason="resight cloud stop")
    while (job := find_job(aws, outputs, record)) and job["status"] in LIVE:
        if time.monotonic() > until:
            fix = f"It has been told to; resight cloud status {address} says when it has."
            raise ResightError(f"is still {job['status']} after {duration(STOPPING)}", where=address, fix=fix)
        time.sleep(EVERY)
    return _state(aws, outputs, *find_run(outputs, address), job)


def fetch(aws: Aws, run: str, out: str | None = None) -> Path:
    """Copies a run into the folder ``out`` (default ``runs/NAME``). Raises ResightError as
    :func:`resight.models.remote.fetch_run`."""
    from ..models.remote import fetch_run

    address = run_address(aws.outputs(), run)
    folder = Path(out or Path("runs") / address.rpartition("/")[2])
    fetch_run(address, folder)
    return folder
