import shutil

import pytest

from resight.errors import ResightError
from resight.models.fingerprint import fingerprint


def test_a_model_is_known_again_wherever_it_lies(untrained, tmp_path, s3):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(untrained, run / "checkpoints" / "best.safetensors")
    known = fingerprint(untrained)
    assert fingerprint(run) == known == fingerprint(str(run / "checkpoints" / "best.safetensors"))
    (run / "report.html").write_text("changes nothing")
    assert fingerprint(run) == known
    address = s3.put(run / "checkpoints", "model")
    assert fingerprint(f"{address}/best.safetensors") == known
    (run / "checkpoints" / "best.safetensors").write_bytes(untrained.read_bytes() + b"\0")
    assert fingerprint(run) != known


@pytest.mark.parametrize(
    ("model", "other"), [("m.onnx", "m.onnx.data"), ("m.xml", "m.bin"), ("saved_model", "saved_model/variables/v")]
)
def test_all_files_of_an_export_count(tmp_path, model, other):
    (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
    if "." in model:
        (tmp_path / model).write_text("graph")
    seen = set()
    for text in ("1", "2"):
        (tmp_path / other).write_text(text)
        (tmp_path / "notes.txt").write_text(text)
        seen |= {fingerprint(tmp_path / model), fingerprint(tmp_path / model)}
    assert len(seen) == 2
    assert fingerprint(tmp_path / model, tmp_path / "notes.txt") != fingerprint(tmp_path / model)


def test_what_tfod_left_is_a_checkpoint_and_its_configuration(tmp_path):
    for name in ("ckpt-1.index", "ckpt-1.data-00000-of-00001", "ckpt-2.index", "ckpt-2.data-00000-of-00001"):
        (tmp_path / name).write_text(name)
    (tmp_path / "pipeline.config").write_text("model {}")
    known = fingerprint(tmp_path)
    assert fingerprint(tmp_path / "ckpt-2") == known == fingerprint(tmp_path / "ckpt-2.index")
    assert fingerprint(tmp_path / "ckpt-1") != known
    (tmp_path / "events.out").write_text("changes nothing")
    assert fingerprint(tmp_path) == known
    (tmp_path / "ckpt-2.data-00000-of-00001").write_text("other weights")
    assert fingerprint(tmp_path) != known


def test_no_model_is_told(tmp_path):
    with pytest.raises(ResightError, match="no such model"):
        fingerprint(tmp_path / "none")
