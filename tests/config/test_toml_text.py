import pytest

from resight.config.toml_text import line_of, to_toml, toml_value
from resight.dialect import load_config
from resight.errors import ResightError

TEXT = """# a comment
[train]
steps = 3
lr = 0.1 # steps = 4
milestones = [
  [1, 0.1],
]
"quoted" = 1

[model.tfod]
pad = 3
[model]
tfod.crop_size = 0
name.sub = 1
[[augment.operations]]
name = "a"
[[augment.operations]]
name = "b"
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("train.steps", 3),
        ("train.lr", 4),
        ("train.milestones.0", 5),
        ("train.quoted", 8),
        ("train", 2),
        ("model.tfod.pad", 11),
        ("model.tfod.crop_size", 13),
        ("augment.operations", 15),
        ("augment.operations.0.name", 16),
        ("augment.operations.1", 17),
        ("augment.operations.1.name", 18),
        ("nowhere", 0),
        ("train.nothing", 2),
    ],
)
def test_the_line_of_a_key(key, line):
    assert line_of(TEXT, key.split(".")) == line


def test_lines_of_what_is_written_are_those_of_its_keys():
    lines = to_toml(load_config()).splitlines()
    for key in ("data.path", "train.batch_size", "model.min_size", "augment.flip", "checkpoint.keep"):
        found = line_of("\n".join(lines), key.split("."))
        assert lines[found - 1].startswith(f"{key.split('.')[1]} = ")


def test_a_value_is_written_as_toml_writes_it():
    assert [toml_value(value) for value in (True, None, (1, "a"), 0.5)] == ["true", "None", '[1, "a"]', "0.5"]


def test_what_is_wrong_is_named_with_its_line(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("[train]\n\nlr = 0.1\n")
    with pytest.raises(ResightError) as caught:
        load_config(file)
    assert caught.value.where == f"{file}:3"
    file.write_text('[train]\nlr = 0.1\nbatch_size = "x"\n[modle]\n')
    with pytest.raises(ResightError) as caught:
        load_config(file, {"train.sed": 1})
    said = caught.value.message
    for part in ("4 problems", "line 2: unknown key 'train.lr'", "line 3: train.batch_size", "line 4: unknown key"):
        assert part in said
    assert "\n  unknown key 'train.sed'" in said
