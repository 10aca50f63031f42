"""The user's files: only regular ones, only so long, parsed within bounds."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import resight
from resight.errors import ResightError, shown
from resight.io.files import (
    check_regular,
    open_file,
    parse_json,
    parse_toml,
    read_file,
    read_json,
    read_text,
    read_yaml,
)


@pytest.fixture(params=["device", "fifo", "link to a device", "link loop", "dangling link", "socket", "folder"])
def odd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "odd"
    if request.param == "device":
        return Path("/dev/zero")
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "link to a device":
        path.symlink_to("/dev/zero")
    elif request.param == "link loop":
        path.symlink_to(tmp_path / "other")
        (tmp_path / "other").symlink_to(path)
    elif request.param == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif request.param == "socket":
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("odd")
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("read", [open_file, read_file, read_text, read_json, read_yaml, check_regular])
def test_what_is_no_regular_file_is_refused_by_name_and_never_waited_for(
    odd: Path, read: Callable[[Path], object]
) -> None:
    with pytest.raises(ResightError, match="cannot be read") as caught:
        read(odd)
    assert str(odd) in caught.value.where


def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_file(tmp_path / "link") == b"abc"


def test_a_file_that_becomes_a_pipe_between_the_looks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    found = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(os, "stat", lambda *_: found)
    with pytest.raises(ResightError, match="named pipe"):
        read_file(path)


def test_no_more_is_read_than_a_file_of_its_kind_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcd")
    assert read_file(path, 4) == b"abcd"
    with pytest.raises(ResightError, match="too large"):
        read_file(path, 3)
    os.truncate(path, 1 << 40)  # terabytes of nothing, none of which are read
    for read in (read_file, read_text, read_json, read_yaml):
        with pytest.raises(ResightError, match=r"too large|not text"):
            read(path)


def test_a_file_of_the_kernels_is_read_although_it_states_no_size() -> None:
    assert b"\n" in read_file("/proc/self/status")
    with pytest.raises(ResightError, match="too large"):
        read_file("/proc/self/status", 10)


def test_text_without_its_mark_in_two_encodings(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "file").write_text("für", encoding=encoding)
        assert read_text(tmp_path / "file") == "für"
    (tmp_path / "file").write_bytes("für".encode("latin-1"))
    with pytest.raises(ResightError) as caught:
        read_text(tmp_path / "file")
    assert "byte 1" in caught.value.where and caught.value.fix


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "{", '{"a": 1,}', b"\xff"])
def test_json_that_is_none_is_named(text: str | bytes) -> None:
    with pytest.raises(ResightError, match="is not valid JSON"):
        parse_json(text, "file.json")


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * 300_000) + " = 1",
        "x = {" + '"\\""."b" . ' * 30_000 + "'c'.d = 1}",
        "x = " + "[" * 10_000,
        "x = " + "[" * 200 + "]" * 200,
        ".".join("a" * 500) + " = 1",
        f"[{'.'.join('a' * 500)}]",
    ],
)
def test_toml_that_is_nested_too_deeply_is_named(text: str) -> None:
    with pytest.raises(ResightError, match=r"nested|not valid TOML"):
        parse_toml(text, "file.toml")


def bomb(link: str) -> str:
    """Ten lines, each of which holds the one before ten times."""
    lines = ["a0: &a0 {x: 1}" if link == "<<" else "a0: &a0 [x]"]
    for number in range(1, 10):
        inside = ", ".join([f"*a{number - 1}"] * 10)
        lines.append(
            f"a{number}: &a{number} {{<<: [{inside}]}}" if link == "<<" else f"a{number}: &a{number} [{inside}]"
        )
    return "\n".join([*lines, "names: *a9"])


@pytest.mark.parametrize(
    "text",
    [bomb("list"), bomb("<<"), "names: &a [*a]", "names: &a {<<: *a}", "[" * 100_000, "- " * 100_000,
     f"a: &a {'x' * 100_000}\nnames: [{', '.join(['*a'] * 1000)}]", "a: " + "x" * (2 << 20)],
)  # fmt: skip
def test_yaml_that_stands_for_too_much_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ResightError) as caught:
        read_yaml(tmp_path / "data.yaml")
    assert "data.yaml" in caught.value.where


@pytest.mark.parametrize("text", ["a: 2001-99-99", "a: !!int ''", "? [a]\n: b\n? {}", "a: !!timestamp x", "a: !!bool 3",
                                  "a: !!python/object/apply:os.system [ls]", "a: [", "a: *b", "!!set [a]"])  # fmt: skip
def test_yaml_that_cannot_be_constructed_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ResightError, match="not valid YAML"):
        read_yaml(tmp_path / "data.yaml")


def test_yaml_with_aliases_and_merge_keys_as_people_use_them(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("base: &base {nc: 2}\nmore: {<<: *base, names: [a, b]}\n")
    assert read_yaml(tmp_path / "data.yaml")["more"] == {"nc": 2, "names": ["a", "b"]}
    (tmp_path / "data.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "data.yaml") is None


def test_a_value_in_a_message_is_cut_before_it_is_written_out() -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value, value]
    for odd in (value, "x" * 10_000_000, 1 << 100_000, {"a": value}, list(range(10_000_000))):
        assert len(shown(odd)) <= 60
    assert (shown("ab"), shown(None), shown([1, 2])) == ("'ab'", "None", "[1, 2]")


# What opens, or parses, a file without the bounds of `files`: and where that is no file of the user's.
UNBOUNDED = re.compile(
    r"""(?<![\w.])open\((?!.*"[wa]b?")|\.read_text\(|(?<!image)\.read_bytes\(|json\.loads?\(|tomllib\.|yaml\.\w*load"""
    r"""|Image\.open\((?!(file|stream),?)|np\.(load|fromfile)\((?!file)|torch\.load\(|pickle\."""
)
OF_LIBRARIES = re.compile(r"safe_open\(|InferenceSession\(|onnx\.load\(|= Session\(")  # open it by its name
NOT_THE_USERS = {
    "io/files.py": "the one place",
    "cli/guard.py": "/dev/null",
    "inference/tensorflow_session.py": "/dev/null",
    "exporting/saved_model.py": "what it has just written",
    "models/checkpoints.py": "what it has just written, to sync it",
    "fpn/backbones.py": "the weights of a package",
    "cloud/stack.py": "the package's own template",
    "reporting/page.py": "the package's own templates",
    "serving/app.py": "the package's own page",
    "serving/health.py": "the kernel's",
    "io/cores.py": "the kernel's",
    "serving/worker.py": "messages between its own processes",
    "serving/workers.py": "messages between its own processes",
    "commands/bench.py": "the kernel's, and answers of its own processes",
    "commands/bench_process.py": "the kernel's, and questions of its own parent",
    "io/images.py": "annotations' images, which are no files",
}


def test_no_other_module_opens_files_by_itself() -> None:
    package = Path(resight.__file__).parent
    sources = {path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    stray = [
        f"{name}: {line.strip()}"
        for name, text in sources.items()
        for line in text.splitlines()
        if (name not in NOT_THE_USERS and UNBOUNDED.search(line))
        or (OF_LIBRARIES.search(line) and "check_regular(" not in text)
    ]
    assert not stray


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("see http://user:pass@host:1/a, or s3://bucket/a@2x.jpg", "see http://***@host:1/a, or s3://bucket/a@2x.jpg"),
        ("https://token@host", "https://***@host"),
        ("'http:/u:p/a@ss@host'", "'http:/***@host'"),
        ("a@b.c: s3://bucket/a:b@c", "a@b.c: s3://bucket/a:b@c"),
    ],
)
def test_no_message_tells_a_password_in_an_address(text: str, told: str) -> None:
    assert str(ResightError(text)) == told


def test_a_file_of_the_kernel_that_cannot_be_read_is_refused_by_name() -> None:
    with pytest.raises(ResightError, match="cannot be read") as caught:
        open_file("/proc/self/mem")
    assert caught.value.where == "/proc/self/mem"
