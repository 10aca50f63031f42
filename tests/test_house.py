"""The house: where modules lie, how long they are, and what tests them. `make lint` holds the order of the layers."""

from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src" / "resight"
LINES = {path.relative_to(PACKAGE): path.read_text(encoding="utf-8").count("\n") for path in PACKAGE.rglob("*.py")}

# A module has its test file under its own path; these are tested by what they are a part of.
ELSEWHERE = {
    "cli/test_app.py": "__main__ cli/configured cli/data cli/frame",
    "cli/test_guard.py": "errors",
    "cli/test_legacy_lisa_records.py": "tfod/build_lisa_records",
    "cli/test_legacy_train.py": "tfod/train",
    "cloud/test_walk.py": "cli/cloud",
    "commands/test_bench.py": "commands/bench_process",
    "commands/test_check.py": "datasets/summary",
    "commands/test_convert.py": "tfod/checkpoint/trained",
    "config/test_tree.py": "config/defaults config/loading fpn/config tfod/config",
    "detection/test_parity.py": "detection/stages",
    "evaluation/test_report.py": "tfod/metrics",
    "fpn/test_faster_rcnn.py": "detection/heads fpn/backbones",
    "commands/test_predictions.py": "inference/pictures",
    "input/test_dataset.py": "input/target",
    "test_wheel.py": "_version",
    "tfod/pipeline/test_config.py": "tfod/pipeline/fields tfod/pipeline/reading tfod/pipeline/translation",
    "tfod/test_onnx_export.py": "detection/onnx_graph",
    "tfod/test_zoo.py": "tfod/checkpoint/folder",
    "serving/test_app.py": "serving/metrics",
    "serving/test_routes.py": "serving/request",
    "training/test_distributed.py": "detection/processes",
    "training/test_plan.py": "fpn/dialect",
    "training/test_train.py": "arguments",
}


def test_every_module_has_its_test_file():
    alone = [
        path for path in LINES if path.stem != "__init__" and not (TESTS / path.parent / f"test_{path.name}").exists()
    ]
    assert sorted(path.with_suffix("").as_posix() for path in alone) == sorted(" ".join(ELSEWHERE.values()).split())
    assert [name for name in ELSEWHERE if not (TESTS / name).exists()] == []


def test_no_module_is_long_and_no_folder_is_large():
    assert {str(path): lines for path, lines in LINES.items() if lines > 450} == {}
    folders = {path.parent for path in LINES if path.parent != Path()}
    lines = {str(folder): sum(LINES[path] for path in LINES if path.parent == folder) for folder in folders}
    assert {folder: count for folder, count in lines.items() if count > 0.15 * sum(LINES.values())} == {}
