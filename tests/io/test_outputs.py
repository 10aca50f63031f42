import os
import subprocess
import sys
from pathlib import Path

import pytest

import resight
from resight.errors import ResightError
from resight.io.outputs import atomic_file, atomic_folder, beside, check_file, check_output, clear_partials, is_partial


def ours(path):
    return path.suffix == ".ours"


def test_a_folder_appears_when_it_is_whole(tmp_path):
    out = tmp_path / "a" / "out"
    with atomic_folder(out, False, ours) as folder:
        (folder / "x.ours").write_text("new")
        assert not out.exists()
    assert (out / "x.ours").read_text() == "new"
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, ResightError("no")])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    out = tmp_path / "out"
    with atomic_folder(out, False, ours) as folder:
        (folder / "x.ours").write_text("old")
    with pytest.raises(error if isinstance(error, type) else type(error)), atomic_folder(out, True, ours) as folder:
        (folder / "y.ours").write_text("new")
        raise error
    assert os.listdir(tmp_path) == ["out"] and os.listdir(out) == ["x.ours"]


def test_force_replaces_only_what_is_ours(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with atomic_folder(out, False, ours) as folder:  # an empty folder is as good as none
        (folder / "old.ours").write_text("")
    with pytest.raises(ResightError, match="already holds something"), atomic_folder(out, False, ours):
        raise AssertionError("the work must not begin")
    with atomic_folder(out, True, ours) as folder:
        (folder / "new.ours").write_text("")
    assert os.listdir(out) == ["new.ours"]
    (out / "photo.jpg").write_text("not ours")
    with pytest.raises(ResightError, match=r"did not write, and is not replaced: photo\.jpg"):
        check_output(out, True, ours)
    assert sorted(os.listdir(out)) == ["new.ours", "photo.jpg"]


def test_a_link_stays_and_its_folder_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with atomic_folder(tmp_path / "link", False, ours) as folder:
        (folder / "x.ours").write_text("")
    assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path / "there") == ["x.ours"]


def test_what_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResightError) as caught, atomic_folder(out, True, ours):
            pass
        assert str(tmp_path / "file") in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("check", [check_output, check_file])
def test_a_place_that_takes_no_file_is_refused_before_the_work(check):
    for out in ("/proc/out", "/proc/new/out"):  # not even root makes a file there
        with pytest.raises(ResightError, match=r"cannot (be written to|make its folder)") as error:
            check(out, False, ours)
        assert error.value.where in ("/proc", out)


def test_an_error_of_the_disk_names_the_file_as_the_user_knows_it(tmp_path):
    with pytest.raises(ResightError) as caught, atomic_folder(tmp_path / "out", False, ours) as folder:
        raise OSError(28, "No space left on device", str(folder / "x.ours"))
    assert str(caught.value) == f"{tmp_path / 'out' / 'x.ours'}: cannot be written: No space left on device"
    assert os.listdir(tmp_path) == []


def test_a_file_is_replaced_only_when_asked(tmp_path):
    check_file(tmp_path / "new" / "a.onnx", False)
    assert (tmp_path / "new").is_dir()
    (tmp_path / "a.onnx").write_text("")
    with pytest.raises(ResightError, match="exists already"):
        check_file(tmp_path / "a.onnx", False)
    check_file(tmp_path / "a.onnx", True)
    (tmp_path / "a.ours").write_text("")
    check_file(tmp_path / "a.ours", True, ours)
    check_file(tmp_path / "b.onnx", True, ours)
    with pytest.raises(ResightError, match="was not written by Resight, and is not replaced"):
        check_file(tmp_path / "a.onnx", True, ours)
    with pytest.raises(ResightError, match="exists already"):
        check_file(tmp_path / "a.ours", False, ours)
    with pytest.raises(ResightError, match="is a folder"):
        check_file(tmp_path / "new", True)
    with pytest.raises(ResightError, match="cannot make its folder"):
        check_file(tmp_path / "a.onnx" / "b.onnx", False)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ResightError("no"), OSError(28, "No space left on device")])
def test_a_file_is_whole_or_what_it_was(tmp_path, error):
    out = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with atomic_file(out) as partial:
            partial.write_text(text)
        assert os.listdir(out.parent) == ["file"] and out.read_text() == text
    with pytest.raises((KeyboardInterrupt, ResightError)), atomic_file(out) as partial:
        partial.write_text("half")
        raise error
    assert os.listdir(out.parent) == ["file"] and out.read_text() == "second"
    with pytest.raises(ResightError, match="cannot be written"), atomic_file(out / "below"):
        pass


def test_of_two_folders_made_at_the_same_time_the_first_stays_whole(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ResightError, match="by another process"), atomic_folder(out, False, ours) as second:
        (second / "b.ours").write_text("second")
        with atomic_folder(out, False, ours) as first:
            (first / "a.ours").write_text("first")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(out) == ["a.ours"]


def test_force_does_not_replace_what_came_in_the_meantime_and_is_not_ours(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ResightError, match="did not write"), atomic_folder(out, True, ours) as folder:
        (folder / "a.ours").write_text("")
        out.mkdir()
        (out / "photo.jpg").write_text("")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(out) == ["photo.jpg"]


WRITER = """
import sys, time
from pathlib import Path
from resight.io.outputs import atomic_file, atomic_folder

write = atomic_file if sys.argv[1] == "file" else lambda out: atomic_folder(out, True, lambda path: True)
with write(Path(sys.argv[2])) as partial:
    (partial if sys.argv[1] == "file" else partial / "a").write_text("half")
    (partial.parent / ".tmpAbCdEf").write_text("of a library") if sys.argv[1] == "file" else None
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_goes_with_the_next_and_a_living_ones_stays(tmp_path, kind):
    out = tmp_path / "out"
    command = [sys.executable, "-c", WRITER, kind, str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(resight.__file__).parent.parent)}
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(2)]
    try:
        assert all(writer.stdout.readline() for writer in writers)
        writers[0].kill()
        writers[0].wait()
        assert len([name for name in os.listdir(tmp_path) if is_partial(name)]) == 2
        if kind == "file":
            with atomic_file(out) as partial:
                partial.write_text("whole")
        else:
            with atomic_folder(out, True, lambda path: True) as folder:
                (folder / "a").write_text("whole")
        assert len([name for name in os.listdir(tmp_path) if is_partial(name)]) == 1
        clear_partials(tmp_path)
        assert len(os.listdir(tmp_path)) == 2
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    clear_partials(tmp_path)
    assert os.listdir(tmp_path) == ["out"]


def test_the_only_copy_of_what_was_being_replaced_is_kept(tmp_path):
    (tmp_path / ".out.partial-12345678.replaced").mkdir()
    clear_partials(tmp_path)
    assert os.listdir(tmp_path) == [".out.partial-12345678.replaced"]
    (tmp_path / "out").mkdir()
    clear_partials(tmp_path)
    assert os.listdir(tmp_path) == ["out"]


def test_files_and_folders_have_the_modes_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "folder", False, ours) as folder, atomic_file(folder / "file") as partial:
            os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("folder", "folder/file")] == ["0o750", "0o640"]


@pytest.mark.parametrize(
    "source", ["set", "set/labels.csv", "set/annotations/all.json", "set/images", "set/train/images"]
)
def test_what_is_made_of_a_data_set_lies_beside_it_and_never_in_it(tmp_path, monkeypatch, source):
    for file in ("set/labels.csv", "set/annotations/all.json", "set/images/1.jpg", "set/train/images/1.jpg"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    assert beside(source) == "records"
    assert beside("records") == "new_records"
    monkeypatch.chdir(tmp_path / "set" / "images")
    assert beside(tmp_path / source) == str(tmp_path / "records")


def test_where_nothing_can_be_written_beside_it_lies_here(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.chdir(tmp_path)
    assert beside("/somewhere/else/photos") == "records"
    monkeypatch.setenv("HOME", "/home/me")
    assert beside(".").endswith("home/me/records")  # here is in the data set itself
