"""The image is pushed by an engine that a script stands in for, and named by its digest."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

PUSH = Path(__file__).parents[2] / "image" / "push.py"
DIGEST = "sha256:" + "0123456789abcdef" * 4
ENGINE = """#!/bin/sh
echo "$@" >> CALLS
if [ "$1" = inspect ]; then echo "${MACHINE:-amd64}"; fi
if [ "$1" = login ]; then cat >> CALLS; echo >> CALLS; fi
if [ "$1" = push ] && [ "$2" = --digestfile ]; then printf DIGEST > "$3"; fi
if [ "$1" = push ] && [ NAME = docker ]; then echo "latest: digest: DIGEST size: 1234"; fi
exit CODE
"""


@pytest.fixture
def engine(tmp_path):
    """``engine(name)``: the path of an engine that notes how it is called, in ``calls``."""

    def make(name, code=0):
        file = tmp_path / name
        script = ENGINE.replace("CALLS", str(tmp_path / "calls")).replace("DIGEST", DIGEST)
        file.write_text(script.replace("NAME", name).replace("CODE", str(code)))
        file.chmod(0o755)
        return str(file)

    return make


def push(*arguments, **environment):
    command = [sys.executable, str(PUSH), *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ["docker", "podman", "buildah"])
def test_the_name_with_the_digest_is_printed_and_nothing_else(engine, name):
    done = push(engine(name), "resight", "localhost:5000/team/resight")
    assert (done.returncode, done.stdout) == (0, f"localhost:5000/team/resight@{DIGEST}\n")


def test_the_password_of_ecr_goes_in_by_stdin(engine, s3, tmp_path):
    repository = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/resight"
    done = push(engine("docker"), "resight", repository)
    assert (done.returncode, done.stdout) == (0, f"{repository}@{DIGEST}\n")
    login, password, _, tag, sent = (tmp_path / "calls").read_text().splitlines()
    assert login == f"login --username AWS --password-stdin {repository.partition('/')[0]}"
    assert password and password not in login
    assert (tag, sent) == (f"tag resight {repository}:latest", f"push {repository}:latest")


def test_no_credentials_are_an_error_of_one_line(engine, tmp_path):
    nothing = {
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = push(engine("docker"), "resight", "123456789012.dkr.ecr.eu-west-1.amazonaws.com/resight", **nothing)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot log in") and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["docker", "buildah"])
def test_an_image_of_another_machine_is_not_pushed_for_instances(engine, s3, name, tmp_path):
    done = push(engine(name), "resight", "123456789012.dkr.ecr.eu-west-1.amazonaws.com/resight", MACHINE="arm64")
    assert done.returncode == 2 and "is for arm64" in done.stderr and "--platform linux/amd64" in done.stderr
    assert "push" not in (tmp_path / "calls").read_text()


@pytest.mark.parametrize("repository", ["", "here/resight:tag", f"here/resight@{DIGEST}"])
def test_a_repository_has_no_tag(engine, repository, tmp_path):
    done = push(engine("docker"), "resight", repository)
    assert (done.returncode, done.stdout) == (2, "")
    assert "epository" in done.stderr
    assert not (tmp_path / "calls").exists()


def test_an_engine_that_fails_or_is_not_there(engine, tmp_path):
    done = push(engine("podman", code=125), "resight", "localhost:5000/resight")
    assert (done.returncode, done.stdout) == (2, "")
    assert "ended with code 125" in done.stderr
    done = push(str(tmp_path / "nothing"), "resight", "localhost:5000/resight")
    assert done.returncode == 2 and "not installed" in done.stderr


def test_an_engine_that_says_no_digest():
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PUSH))["digest"]("pushed")
    assert ended.value.code == 2
