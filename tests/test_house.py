"""The house: where modules lie, how long they are, and what tests them. `make lint` holds the order of the layers."""

from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src" / "resight"
MODULES = {path.relative_to(PACKAGE): path.read_text(encoding="utf-8").count("\n") for path in PACKAGE.rglob("*.py")}
MOST_LINES, LARGEST_SHARE = 450, 0.15

# Modules whose tests lie under another name. What is in no folder's `__init__.py` needs none.
TESTED_IN = {
    "_version.py": "test_wheel.py",
    "__main__.py": "cli/test_guard.py",
    "arguments.py": "cli/test_guard.py",
}


def test_modules_are_short_and_no_folder_is_large():
    assert {str(path): lines for path, lines in MODULES.items() if lines > MOST_LINES} == {}
    folders = {path.parent for path in MODULES if path.parent != Path()}
    shares = {
        str(folder): sum(lines for path, lines in MODULES.items() if path.parent == folder) / sum(MODULES.values())
        for folder in folders
    }
    assert {folder: share for folder, share in shares.items() if share >= LARGEST_SHARE} == {}


def test_every_module_has_its_test_file():
    alone = [path.as_posix() for path in MODULES if path.name != "__init__.py" and not test_file(path).is_file()]
    assert sorted(alone) == sorted(TESTED_IN)
    assert [name for name in TESTED_IN.values() if not (TESTS / name).is_file()] == []


def test_file(module: Path) -> Path:
    return TESTS / module.with_name(f"test_{module.name}")
