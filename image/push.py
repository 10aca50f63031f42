"""Pushes the image and prints the name to launch it by, digest and all: ``python push.py ENGINE IMAGE REPOSITORY``.

REPOSITORY is one of the Elastic Container Registry, which is logged in to with the AWS credentials of the environment
(``AWS_PROFILE``), or another that the engine is logged in to already.
"""

import base64
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

ECR = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def push(engine: str, image: str, repository: str) -> str:
    """``repository`` without a tag; ``image`` is pushed as its ``latest``. Returns ``repository@sha256:...``."""
    host = repository.partition("/")[0]
    name = f"{repository}:latest"
    if ecr := ECR.fullmatch(host):
        user, password = ecr_login(ecr[1], ecr[2])
        # By stdin: the arguments of a process can be seen by others.
        run([engine, "login", "--username", user, "--password-stdin", host], stdin=password)
        check_machine(engine, image)
    run([engine, "tag", image, name])
    if Path(engine).name == "docker":  # says the digest in its last lines
        return f"{repository}@{digest(run([engine, 'push', name]))}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "digest")
        run([engine, "push", "--digestfile", str(file), name])
        return f"{repository}@{digest(file.read_text())}"


def check_machine(engine: str, image: str) -> None:
    """An image built on another kind of machine would be found out on an instance that is paid for."""
    field = "{{.OCIv1.Architecture}}" if Path(engine).name == "buildah" else "{{.Architecture}}"
    machine = run([engine, "inspect", "--type", "image", "--format", field, image]).strip()
    if machine != "amd64":
        fail(f"{image} is for {machine}, the instances are amd64; make image BUILD='--platform linux/amd64'")


def ecr_login(account: str, region: str) -> tuple[str, str]:
    """User and password for the registry of an account, good for twelve hours."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        told = boto3.client("ecr", region_name=region).get_authorization_token(registryIds=[account])
    except (BotoCoreError, ClientError) as error:
        fail(f"cannot log in to the registry of {account} in {region}: {error}")
    user, _, password = base64.b64decode(told["authorizationData"][0]["authorizationToken"]).decode().partition(":")
    return user, password


def run(command: list[str], stdin: str | None = None) -> str:
    """Runs the engine, shows what it says, and returns it."""
    try:
        done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        fail(f"{command[0]} is not installed; ENGINE= names another, e.g. podman")
    sys.stderr.write(done.stdout)
    if done.returncode:
        fail(f"{command[0]} {command[1]} ended with code {done.returncode}")
    return done.stdout


def digest(text: str) -> str:
    if not (found := DIGEST.findall(text)):
        fail("pushed, but the engine did not say the digest")
    return found[-1]


def fail(problem: str) -> NoReturn:
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    if len(sys.argv) != 4 or not sys.argv[3]:
        fail(
            "which repository? make push REPOSITORY=123456789012.dkr.ecr.eu-west-1.amazonaws.com/resight\n"
            "  The outputs of the stack have it, as Repository."
        )
    if re.search(r"[:@][^/]*$", sys.argv[3]):
        fail(f"{sys.argv[3]}: name the repository without a tag; jobs take the image by its digest")
    print(push(*sys.argv[1:]))
