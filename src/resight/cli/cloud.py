"""The verbs of ``resight cloud``, each a thin call of a function of ``resight.cloud``."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ResightError
from . import guard as console
from .frame import DryRun, Json, ResightGroup, argument, option, pairs_of, quoted, say, suggest, verb, wrote

if TYPE_CHECKING:
    from ..cloud.aws import Aws
else:
    Aws = Any  # a name for the signatures; what it is, is imported with boto3

cloud_app = typer.Typer(
    cls=ResightGroup,
    help="Trainings on AWS Batch, within limits of hours and dollars. Start with `resight cloud init`; docs/cloud.md "
    "walks through all of it.",
)

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
Run = Annotated[str, argument("RUN", "The address of a run, or its name below the stack's runs")]


@contextmanager
def _connection(
    profile: Annotated[str | None, option("NAME", "Profile of the AWS configuration", "AWS_PROFILE")] = None,
    region: Annotated[str | None, option("REGION", "Region of the stack", "that of the profile")] = None,
    stack: Annotated[str, option("NAME", "Name of the CloudFormation stack")] = "resight",
) -> Iterator[Aws]:
    """The options that all of these verbs have. Addresses in S3, which the environment decides, are opened by the
    same."""
    from ..cloud.aws import Aws

    aws, before = Aws(profile, region, stack), dict(os.environ)
    if aws.profile:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):  # they come before it
            os.environ.pop(key, None)
        os.environ["AWS_PROFILE"] = aws.profile
    os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = aws.region
    try:
        yield aws
    finally:
        os.environ.clear()
        os.environ.update(before)


_verb = functools.partial(verb, cloud_app, connect=_connection)


def _agreed(plan: str, dry_run: bool, yes: bool) -> bool:
    """Shows a plan, and says whether it is carried out."""
    console.show(plan)
    if dry_run:
        return False
    if not yes and not sys.stdin.isatty():
        raise ResightError("there is no terminal to ask on", where="--yes", fix="Add --yes to continue without asking.")
    return yes or bool(typer.confirm("Go on?", abort=True, err=True))


def _next(aws: Aws, words: str, remark: str = "") -> None:
    """The next sensible command, for the same stack."""
    given = {"--profile": aws.profile, "--region": aws.region, "--stack": aws.stack if aws.stack != "resight" else ""}
    suggest(f"cloud {words}" + "".join(f" {name} {quoted(value)}" for name, value in given.items() if value), remark)


@_verb("template")
def template() -> None:
    """Prints the CloudFormation template that init deploys, for a review or for another tool."""
    from ..cloud import stack

    print(stack.template(), end="")


@_verb("init")
def init(
    aws: Aws,
    set: Annotated[list[str] | None, option("NAME=VALUE", "A parameter of the template; repeatable")] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Creates or updates the stack: bucket, image repository, queues, roles, logs. When idle, only storage costs."""
    from ..cloud import stack

    plan = stack.plan_init(aws, pairs_of(set, "--set", "NAME=VALUE", empty=True))
    if _agreed(plan.text(), dry_run, yes):
        outputs = stack.init(aws, plan)
        console.show("\n".join(f"{name:<14}{value}" for name, value in sorted(outputs.items())))
        say(f"Copy records to {outputs['Data']}, and the image: make image push REPOSITORY={outputs['Repository']}")
        limits = "--max-hours N --max-cost USD"
        _next(aws, f"launch CONFIG --data {outputs['Data']}RECORDS --out {outputs['Runs']}NAME {limits}")


@_verb("launch")
def launch(
    aws: Aws,
    config: Annotated[str | None, argument("CONFIG", "A TOML file or a pipeline.config: local path or s3://")] = None,
    *,
    out: Annotated[str | None, option("S3", "Address of the run", "that of --again", "--out", "-o")] = None,
    data: Annotated[str | None, option("S3", "Address of the records folder")] = None,
    max_hours: Annotated[float | None, option("N", "Hours of training, over all attempts")] = None,
    max_cost: Annotated[float | None, option("USD", "US dollars of training, over all attempts")] = None,
    instance: Annotated[str | None, option("TYPE", "Type whose size the job asks for", "the cheapest")] = None,
    on_demand: Annotated[bool, typer.Option("--on-demand", help="Use On-Demand instead of Spot.")] = False,
    price: Annotated[float | None, option("USD", "Price of an hour", "AWS's, on demand")] = None,
    image: Annotated[str | None, option("IMAGE", "REPOSITORY@sha256:...", "the stack's newest")] = None,
    notify: Annotated[str | None, option("EMAIL", "Who gets mails about the stack's jobs")] = None,
    again: Annotated[str | None, option("RUN", "A run whose launch is repeated, instead of CONFIG")] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Trains on AWS within --max-hours and --max-cost; continues a run that ended at a limit or failed."""
    from ..cloud import launch as launches

    asked = launches.Request(config, data, out, max_hours, max_cost, instance, on_demand, price, image, notify, again)
    plan = launches.plan_launch(aws, asked)
    if _agreed(plan.text(), dry_run, yes):
        record = launches.launch(aws, plan)
        say(f"Wrote {record.run}")
        _next(aws, f"status {quoted(record.run)}")


@_verb("status")
def status(
    aws: Aws,
    run: Annotated[str | None, argument("RUN", "A run (default: all runs known to Batch)")] = None,
    json: Json = False,
) -> None:
    """Shows job, attempts, steps, AP, hours, dollars, and why a job does not start."""
    from ..cloud import jobs

    states = jobs.status(aws, run)
    told = "\n\n".join(state.text() for state in states) or "Batch knows no run of this stack."
    console.show_result(json, lambda: states[0].json() if run else [state.json() for state in states], lambda: told)
    for state in states[:1]:
        _next(aws, f"{'logs --follow' if state.status in jobs.LIVE else 'fetch'} {quoted(state.run)}")


@_verb("logs")
def logs(
    aws: Aws, run: Run, follow: Annotated[bool, typer.Option("--follow", "-f", help="Stream until it ends.")] = False
) -> None:
    """Prints what the attempts of a run have said."""
    from ..cloud import jobs

    for line in jobs.logs(aws, run, follow):
        print(line, flush=follow)
    _next(aws, f"status {quoted(run)}")


@_verb("stop")
def stop(aws: Aws, run: Run, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Ends the job of a run, which saves its state first, and waits for it."""
    from ..cloud import jobs

    if _agreed(jobs.plan_stop(aws, run), dry_run, yes):
        console.show(jobs.stop(aws, run).text())
        _next(aws, f"launch --again {quoted(run)}", "continues it")


@_verb("fetch")
def fetch(
    aws: Aws,
    run: Run,
    out: Annotated[str | None, option("PATH", "Folder to write", "runs/NAME", "--out", "-o")] = None,
) -> None:
    """Copies a run here, for evaluate, predict and train --resume. An incomplete download is resumed."""
    from ..cloud import jobs

    folder = jobs.fetch(aws, run, out)
    wrote(str(folder), f"evaluate {quoted(folder)}")


@_verb("down")
def down(
    aws: Aws,
    stop_jobs: Annotated[bool, typer.Option("--stop-jobs", help="End jobs that wait or run.")] = False,
    delete_bucket: Annotated[bool, typer.Option("--delete-bucket", help="The bucket with all runs, too.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Removes all that init and launch made, and verifies that it is gone. The bucket is kept."""
    from ..cloud import stack

    plan = stack.plan_down(aws, stop_jobs=stop_jobs, delete_bucket=delete_bucket)
    if _agreed(plan.text(), dry_run, yes):
        stack.down(aws, plan)
        say("Nothing of it is left." if delete_bucket else "Nothing of it is left but the bucket.")
