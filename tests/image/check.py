"""The contract of docs/container.md, held against an image: ``python check.py ENGINE IMAGE`` (``make test-image``).

Needs an engine, and with Buildah root; that is why pytest does not collect it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from engines import Buildah, Docker, Run, engine
from PIL import Image, ImageDraw
from safetensors.numpy import load_file

DATA, OUT = "/data", "/workspace"
TRAIN = (
    "train", "--data", f"{DATA}/records", "--out", f"{OUT}/runs/RUN", "--model", "test_efficientnet", "--start", "none",
    "--size", "64,96", "--batch", "2", "--resume", "--log-format", "json", "--set", "data.workers=1",
)  # fmt: skip
LAST = "checkpoints/last.safetensors"


class Check:
    """``folder`` holds what is mounted: ``data`` for reading, and a folder for each user that may write."""

    def __init__(self, box: Docker | Buildah, folder: Path) -> None:
        self.box, self.folder = box, folder

    def volume(self, uid: int) -> Path:
        place = self.folder / f"of-{uid}"
        if not place.exists():
            place.mkdir(mode=0o700)
            os.chown(place, uid, uid)
        return place

    def run(self, uid: int = 1000, **how: object) -> Run:
        mounts = {DATA: f"{self.folder / 'data'}:ro", OUT: str(self.volume(uid))}
        return Run(user=f"{uid}:{uid}", mounts=mounts, **how)  # type: ignore[arg-type]

    def ends(self, code: int, *arguments: str, run: Run | None = None) -> str:
        """Runs the image to its end and returns stdout."""
        process = self.box.start(run or self.run(), *arguments)
        out, err = process.communicate(timeout=600)
        assert process.returncode == code, f"exit code {process.returncode}, not {code}\n{out}\n{err}"
        return out

    def python(self, script: str, run: Run | None = None) -> str:
        return self.ends(0, "-c", script, run=run or self.run(entrypoint="python"))

    def train(self, name: str, steps: int, uid: int = 1000) -> tuple[str, ...]:
        return (*(word.replace("RUN", name) for word in TRAIN), "--steps", str(steps))


def the_image_says_what_it_is(check: Check) -> None:
    config = check.box.config
    assert config["User"] == "1000:1000"
    assert config["Entrypoint"] == ["resight"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == check.ends(0, "--version").split()[-1]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    commit = labels["org.opencontainers.image.revision"]
    assert f"RESIGHT_GIT_COMMIT={commit}" in config["Env"]


def nothing_is_left_of_its_making(check: Check) -> None:
    script = """
import importlib.util, os, pathlib, shutil
assert importlib.util.find_spec("pip") is None
assert not [name for name in ("gcc", "cc", "make", "pip", "pip3", "git") if shutil.which(name)]
for folder in "/var/lib/apt/lists /var/cache/apt /var/log /tmp /var/tmp /build /root/.cache /home".split():
    assert not [file for file in pathlib.Path(folder).rglob("*") if file.is_file() and file.stat().st_size], folder
import resight
module = pathlib.Path(resight.__file__)
assert module == pathlib.Path("/opt/resight/lib/python3.11/site-packages/resight/__init__.py"), module
assert list((module.parent / "__pycache__").glob("__init__.*.pyc"))
assert not os.access(module, os.W_OK)
"""
    check.python(script, Run(user="0:0", entrypoint="python"))  # who may look everywhere


def the_doctor_finds_everything_well(check: Check) -> None:
    assert "Everything works." in check.ends(0, "doctor")


def the_root_is_read_only_and_the_volume_is_not(check: Check) -> None:
    script = """
import getpass, os, tempfile
for place in ("/", "/tmp", "/opt/resight", "/etc"):
    try:
        tempfile.TemporaryFile(dir=place)
    except OSError:
        continue
    raise AssertionError(place)
tempfile.TemporaryFile(dir=".").close()
tempfile.TemporaryFile().close()
assert os.path.expanduser("~") == os.getcwd() == "/workspace"
assert getpass.getuser() == "resight"
assert (os.getuid(), os.getgid()) == UID
"""
    check.python(script.replace("UID", "(1000, 1000)"))
    check.python(script.replace("UID", "(4242, 4242)"), check.run(4242, entrypoint="python"))


def data_are_built_from_a_mounted_folder(check: Check) -> None:
    check.ends(0, "data", "build", f"{DATA}/photos", "--out", f"{OUT}/records")
    assert (check.volume(1000) / "records" / "dataset.json").is_file()
    (check.volume(1000) / "records").rename(check.folder / "data" / "records")


def a_training_speaks_lines_of_json_on_stdout(check: Check) -> None:
    lines = check.ends(0, *check.train("two", 2)).splitlines()
    assert len(lines) > 3
    for line in lines:
        assert {"time", "level", "message"} <= json.loads(line).keys(), line


def sigterm_saves_and_the_same_command_goes_on(check: Check) -> None:
    """An interrupted training ends with 75 and, started again, with the weights of one that never was."""
    steps = 24
    check.ends(0, *check.train("whole", steps))
    last = check.volume(1000) / "runs" / "parts" / LAST
    process = check.box.start(check.run(), *check.train("parts", steps))
    while not last.exists() and process.poll() is None:
        time.sleep(0.01)
    check.box.terminate(process)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, f"exit code {process.returncode}\n{out}\n{err}"
    interrupted = load_file(last)
    check.ends(0, *check.train("parts", steps))
    whole, parts = load_file(check.volume(1000) / "runs" / "whole" / LAST), load_file(last)
    assert whole.keys() == parts.keys()
    assert all((whole[name] == parts[name]).all() for name in whole)
    assert any((interrupted[name] != parts[name]).any() for name in parts), "was over before the signal came"


def sigterm_before_the_first_step_saves_too(check: Check) -> None:
    process = check.box.start(check.run(), *check.train("early", 24))
    time.sleep(0.7)
    check.box.terminate(process)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, f"exit code {process.returncode}\n{out}\n{err}"
    assert (check.volume(1000) / "runs" / "early" / LAST).is_file()


def files_are_of_the_user_that_ran_it(check: Check) -> None:
    check.ends(0, *check.train("other", 2), run=check.run(4242))  # a uid that has no name in the image
    for uid in (1000, 4242):
        files = [check.volume(uid), *check.volume(uid).rglob("*")]
        assert len(files) > 5
        assert {(file.lstat().st_uid, file.lstat().st_gid) for file in files} == {(uid, uid)}


def a_run_is_evaluated_and_exported(check: Check) -> None:
    run = f"{OUT}/runs/whole"
    check.ends(0, "evaluate", run, "--data", f"{DATA}/records")
    check.ends(0, "export", run, "--format", "onnx", "--out", f"{OUT}/model.onnx")
    check.ends(0, "predict", f"{OUT}/model.onnx", f"{DATA}/photos", "--out", f"{OUT}/found")


def a_server_serves_until_it_is_told_to_stop(check: Check) -> None:
    process = check.box.start(check.run(), "serve", f"{OUT}/model.onnx")
    lines = iter(process.stdout or ())
    assert any(line.startswith("Serving model, version 1, at http://127.0.0.1:8501 ") for line in lines)
    check.box.terminate(process)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, f"exit code {process.returncode}\n{out}\n{err}"


def errors_have_their_exit_codes(check: Check) -> None:
    check.ends(2, "train", "--data", f"{DATA}/nowhere", "--out", f"{OUT}/runs/none")
    check.ends(2, *check.train("two", 2), "--no-such-option")
    # An output that is not mounted cannot be written.
    check.ends(2, "train", "--data", f"{DATA}/records", "--out", "/out/run", "--steps", "1")


def it_writes_without_a_volume(check: Check) -> None:
    """In the container's own layer, where the root may be written; by whatever user."""
    for user in ("1000:1000", "4242:4242"):
        run = Run(user=user, read_only=False, entrypoint="python", mounts={DATA: f"{check.folder / 'data'}:ro"})
        check.python("import tempfile; tempfile.TemporaryFile(dir='.')", run)


CHECKS: list[Callable[[Check], None]] = [
    the_image_says_what_it_is,
    nothing_is_left_of_its_making,
    the_doctor_finds_everything_well,
    the_root_is_read_only_and_the_volume_is_not,
    data_are_built_from_a_mounted_folder,
    a_training_speaks_lines_of_json_on_stdout,
    sigterm_saves_and_the_same_command_goes_on,
    sigterm_before_the_first_step_saves_too,
    files_are_of_the_user_that_ran_it,
    a_run_is_evaluated_and_exported,
    a_server_serves_until_it_is_told_to_stop,
    errors_have_their_exit_codes,
    it_writes_without_a_volume,
]


def draw_photos(folder: Path, count: int = 16) -> None:
    """Squares on grey, and a table of them."""
    folder.mkdir()
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for number in range(count):
        picture = Image.effect_noise((96, 64), 40).convert("RGB")
        x, y = 5 * number % 60, 3 * number % 30
        ImageDraw.Draw(picture).rectangle((x, y, x + 25, y + 25), fill="red" if number % 2 else "blue")
        picture.save(folder / f"{number}.png")
        lines.append(f"{number}.png,96,64,{'red' if number % 2 else 'blue'},{x},{y},{x + 25},{y + 25}")
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")


def main(name: str, image: str) -> int:
    failed = 0
    box = engine(name, image)
    try:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            (Path(folder) / "data").mkdir()
            draw_photos(Path(folder) / "data" / "photos")
            check = Check(box, Path(folder))
            for one in CHECKS:
                began, said = time.monotonic(), "ok"
                try:
                    one(check)
                except (AssertionError, OSError, ValueError, KeyError, subprocess.SubprocessError):
                    failed, said = failed + 1, "FAILED"
                    traceback.print_exc()
                print(f"{said:<7} {one.__name__.replace('_', ' ')} ({time.monotonic() - began:.0f} s)", flush=True)
    finally:
        box.close()
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
