"""What the README and the pages for beginners say is run, word for word; only the training is made short.

Commands train the smallest model, which is exported in half the time; the scripts train the default one.
"""

import random
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.sax.saxutils import escape

import pytest
from PIL import Image, ImageDraw
from typer.main import get_command
from typer.testing import CliRunner

import resight
from resight.cli.app import app

ROOT = Path(resight.__file__).parents[2]
PAGES = ("README.md", "docs/your-photographs.md", "docs/configuration.md", "docs/python.md")
TEXTS = [(ROOT / page).read_text(encoding="utf-8") for page in PAGES]
README = TEXTS[0]
SHORT = ["--steps", "2", "--batch", "2", "--size", "64,96", "--model", "test_efficientnet", "--start", "none"]
SHORT += ["--set", "model.heads=1"]
SHORT_KEYS = '"train.steps": 2, "train.batch_size": 2, "model.min_size": 64, "model.max_size": 96'
# CI installs and tests, the demo has its own test, and `make test-image` runs the image.
ELSEWHERE = ("pip install ", "make demo", "make test", "make image", "docker run ")
COLORS = {"stop": "red", "yield": "yellow"}


def code_lines(text):
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for line in re.findall(r"^ {4}\S.*$", outside, re.MULTILINE) if not line[4:].startswith("* ")]


def scripts(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def make_photos(folder, count, annotated=True):
    """Coloured signs on grey, as Pascal VOC."""
    folder.mkdir()
    draw_from = random.Random(1)
    for number in range(1, count + 1):
        picture = Image.effect_noise((128, 96), 40).convert("RGB")
        name = draw_from.choice(list(COLORS))
        x, y, side = draw_from.randint(0, 80), draw_from.randint(0, 50), draw_from.randint(24, 44)
        ImageDraw.Draw(picture).rectangle((x, y, x + side, y + side), fill=COLORS[name])
        picture.save(folder / f"{number}.jpg")
        if annotated:
            corners = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + side}</xmax><ymax>{y + side}</ymax>"
            (folder / f"{number}.xml").write_text(
                f"<annotation><filename>{number}.jpg</filename><size><width>128</width><height>96</height></size>"
                f"<object><name>{escape(name)}</name><bndbox>{corners}</bndbox></object></annotation>"
            )


def run(line):
    """One line of the README, in the current folder."""
    command, _, target = line.partition(" > ")
    command = command.split("  #")[0].strip()
    if command.startswith("python "):
        done = subprocess.run([sys.executable, *shlex.split(command)[1:]], capture_output=True, text=True, timeout=300)
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)
    words = command.split()
    assert words[0] == "resight", f"the README has a command that no test knows: {line}"
    if words[1] == "train" and "--show-config" not in words:
        words += SHORT
    result = CliRunner().invoke(app, words[1:])
    if target:
        Path(target).write_text(result.stdout)
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    make_photos(folder / "photos", 24)
    make_photos(folder / "new_photos", 2, annotated=False)
    return folder


def test_every_command_works_in_the_order_of_the_pages(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    lines = dict.fromkeys(line for text in TEXTS for line in code_lines(text) if not line.startswith(ELSEWHERE))
    assert len(lines) >= 10
    for line in lines:
        said = run(line)
        assert said.code == 0, f"{line}\n{said.out}\n{said.err}"
    assert {path.name for path in workplace.iterdir()} >= {"records", "look", "runs", "found", "model.onnx", "my.toml"}
    assert (workplace / "found" / "detections.json").is_file()
    # The Python of the pages works on what the commands have made: in one process, but for what trains.
    blocks = dict.fromkeys(block for text in TEXTS for block in scripts(text))
    guarded = [block for block in blocks if "__main__" in block]
    for script in ["\n".join(block for block in blocks if block not in guarded), *guarded]:
        (workplace / "script.py").write_text(script.replace('"train.max_minutes": 30', SHORT_KEYS))
        said = run("python script.py")
        assert said.code == 0, said.err
    assert (workplace / "more_records" / "dataset.json").is_file()
    assert (workplace / "runs" / "second" / "checkpoints" / "best.safetensors").is_file()


def test_the_two_commands_stand_under_one_heading_near_the_top():
    first = README.split("\n## ")[1]
    assert {"make demo", "make test"} <= set(re.findall(r"^ {4}(\S.*)$", first, re.MULTILINE))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= targets


def test_every_verb_and_option_that_a_page_names_exists():
    command = get_command(app)
    groups = {name: group.commands for name, group in command.commands.items() if hasattr(group, "commands")}
    verbs = {name: verb for name, verb in command.commands.items() if name not in groups}
    verbs |= {f"{group} {name}": verb for group, inner in groups.items() for name, verb in inner.items()}
    options = {option for verb in verbs.values() for parameter in verb.params for option in parameter.opts}
    for page in (*PAGES, *(f"docs/{name}.md" for name in ("data", "commands", "training", "formats", "limits"))):
        text = re.sub(
            r"(?s)(docker run|torchrun) .*? resight |(docker|aws|tensorboard) [^`]*", "", (ROOT / page).read_text()
        )
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
        assert named <= options | {"--help", "--version"}, page
        for words in re.findall(r"`resight ([a-z]+(?: [a-z]+)?)", text):
            assert {words, words.split()[0]} & {*verbs} or words in groups, (page, words)
