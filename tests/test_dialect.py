"""The two dialects behind one contract."""

import re
import subprocess
import sys
from pathlib import Path

import resight

PACKAGE = Path(resight.__file__).parent
# What asks which dialect a model is of: by a flag, by the class of a model or of its configuration, by a name.
QUESTION = re.compile(
    r"is_tfod|\btfod is (not )?None|\.dialect (==|!=) [\"']|\.dialect in\b"
    r"|isinstance\([^)]*\b(Tfod\w+|Fpn\w+|FPN\w+|FasterRCNN)\b"
    r"|(model|config)\.name (==|!=|in|not in) |\bname (in|not in) (TFOD_MODELS|TORCHVISION|SPECS)"
)

BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("resight.tfod"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
from pathlib import Path
import resight

records, run = Path(sys.argv[1]), Path(sys.argv[2])
small = {"model.min_size": 64, "model.max_size": 96, "model.start": "none", "model.name": "test_efficientnet"}
small["model.heads"] = 1
training = {"train.steps": 2, "train.batch_size": 2, "train.device": "cpu", "data.workers": 0}
config = resight.load_config(None, {**small, **training, "data.path": str(records)})
resight.train(config, out=run)
assert resight.evaluate(run).metrics["num_images"]
resight.load(run)
report = resight.export(run, "onnx", run.with_suffix(".onnx"))
assert report.ok, report.text()
print([name for name in sys.modules if name.startswith("resight.tfod")])
"""


def test_only_the_dialects_know_which_one_a_model_is_of():
    asked = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in ("fpn", "tfod", "dialect.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if QUESTION.search(line)
    ]
    assert asked == []


def test_the_fpn_dialect_needs_nothing_of_tfods(shapes, tmp_path):
    records = shapes(train=4, val=2, test=2)
    command = [sys.executable, "-c", BLOCKED, str(records), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr[-2000:]
