"""What of the Dockerfile can be held against the checkout without building it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")


def instructions(name):
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)


def test_nothing_but_what_is_copied_is_sent_to_the_engine():
    sources = {word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]}
    assert sources >= {"pyproject.toml", "dist/resight-*.whl"}
    assert "*" in IGNORED
    assert {line[1:] for line in IGNORED if line.startswith("!")} == {
        source.split("/resight-")[0] for source in sources
    }
    assert all((ROOT / source).exists() for source in sources if not source.startswith("dist/"))


def test_it_begins_with_debian_and_names_no_other_host():
    stages = {line.split(" AS ")[-1] for line in instructions("FROM") if " AS " in line}
    assert {line.split(" AS ")[0] for line in instructions("FROM")} <= {"debian:bookworm-slim", *stages}
    assert "://" not in DOCKERFILE
    assert 'TORCH_INDEX=""' in instructions("ARG") and "EXTRAS=s3,onnx,serve" in instructions("ARG")


def test_the_last_stage_runs_resight_as_a_user():
    last = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER 1000:1000$", last, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["resight"\]$', last, re.MULTILINE)
    assert not re.search(r"\bpip\b|build-essential|\bgcc\b", last)
    # The source comes after everything that is installed for it.
    assert last.index("COPY --from=dependencies") < last.index("COPY --from=application")


def test_a_server_is_asked_for_its_health():
    (check,) = instructions("HEALTHCHECK")
    assert check.endswith(' CMD ["/opt/resight/bin/python3", "-m", "resight.serving.health"]')


def test_the_commit_is_that_of_this_build():
    """A command between the arguments and what uses them keeps Buildah from an earlier build's."""
    assert re.search(r"^ARG GIT_COMMIT.*^RUN .*^ENV RESIGHT_GIT_COMMIT", DOCKERFILE, re.MULTILINE | re.DOTALL)
