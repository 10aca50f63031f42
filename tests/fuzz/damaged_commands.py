"""Runs the commands on damaged inputs, a process each: exit code 0, 1 or 2 within 10 s and 1 GB over the same command
on good input, and no traceback.

    python tests/fuzz/damaged_commands.py [--cases 500] [--seed S] [--only WORDS]
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from mutations import damaged
from targets import all_targets

SECONDS, BYTES = 10.0, 1 << 30
# The input's place in the folder, and the command that reads it.
COMMANDS = {
    "coco json": ("annotations.json", "data check {folder} --format coco"),
    "voc xml": ("images/a.xml", "data check {folder} --format voc"),
    "yolo yaml": ("data.yaml", "data build {folder} -o {folder}-out --on-bad skip --force"),
    "lisa csv": ("allAnnotations.csv", "data build {folder} -o {folder}-out --force"),
    "cvat xml": ("annotations.xml", "data check {folder} --format cvat"),
    "train.tfrecord": ("records/train-00000-of-00001.tfrecord", "data check {folder}/records"),
    "dataset.json": ("records/dataset.json", "data check {folder}/records"),
    "config.toml": ("c.toml", "train {folder}/c.toml --show-config"),
    "pipeline.config": ("p.config", "train {folder}/p.config --show-config"),
    "metrics.jsonl": ("metrics.jsonl", "runs {folder}"),
    "a run's config.toml": ("config.toml", "runs {folder}"),
}


def command(words: str, folder: Path) -> tuple[int, float, int, str]:
    """Exit code, seconds, peak memory in bytes, and what it said."""
    argv = [sys.executable, "-m", "resight", *words.format(folder=folder).split()]
    with tempfile.TemporaryFile() as said:
        start = time.monotonic()
        process = subprocess.Popen(argv, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        return process.returncode, seconds, usage.ru_maxrss * 1024, said.read().decode("utf-8", "replace")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD")
    given = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        os.environ["RESIGHT_CACHE"] = name
        targets = {one.name: one for one in all_targets(Path(name))}
        chosen = {one: words for one, words in COMMANDS.items() if any(word in one for word in given.only)}
        for number, (kind, (file, words)) in enumerate(chosen.items()):
            target, folder = targets[kind], Path(tempfile.mkdtemp(dir=name))
            target.prepare(folder)
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(target.seeds[0])
            _, usual, memory, _ = command(words, folder)
            slowest, most, codes = 0.0, 0, dict.fromkeys((0, 1, 2), 0)
            count = given.cases // len(chosen) + (number < given.cases % len(chosen))
            for case in range(count):
                data = damaged(target.seeds, random.Random(f"{given.seed} {kind} {case}"))
                (folder / file).write_bytes(data)
                code, seconds, used, said = command(words, folder)
                codes[code] = codes.get(code, 0) + 1
                slowest, most = max(slowest, seconds - usual), max(most, used - memory)
                bad = code not in (0, 1, 2) or seconds > usual + SECONDS or used > memory + BYTES
                if bad or "Traceback" in said or "internal error" in said:
                    failures += 1
                    print(f"    case {case}: exit code {code}, {seconds:.1f} s, {used >> 20} MB: {said[-300:]}")
            told = f"{slowest:+.1f} s, {most / (1 << 20):+.0f} MB at most against good input"
            print(f"{kind:<22} {count:>4} cases, exit codes {codes}; {told}", flush=True)
    print(f"{given.cases} cases, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
