"""Shortages of the machine are told as such, with what to do, and not as a bug."""

import errno
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from resight.cli.app import app
from resight.cli.guard import close_with, explain, guard, show_json
from resight.datasets.summary import findings, table
from resight.errors import BAD, BUG, DONE, USAGE, Problem, ResightError, listed
from resight.io.progress import listen, meter

MEMORY = "smaller --batch or --size"
WORKERS = "--set data.workers=0"


class Killed(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def load_until_killed():
    list(DataLoader(Killed(), num_workers=1))


def allocate():
    torch.empty(2**50, dtype=torch.uint8)


@pytest.mark.parametrize(("work", "advice"), [(load_until_killed, WORKERS), (allocate, MEMORY)])
def test_what_torch_raises(work, advice, capfd):
    with pytest.raises(RuntimeError) as caught:
        work()
    assert advice in explain(caught.value)
    assert guard(work, []) == USAGE
    said = capfd.readouterr().err
    assert advice in said and "internal error" not in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryError(), MEMORY),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MEMORY),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:81] data. DefaultCPUAllocator: not enough memory: you"), MEMORY),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), MEMORY),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), MEMORY),
        (OSError(12, "Cannot allocate memory"), MEMORY),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"), WORKERS),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), WORKERS),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Cannot allocate"), WORKERS),
        (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), WORKERS),
        (OSError(24, "Too many open files", "a.tfrecord"), WORKERS),
        (OSError("AF_UNIX path too long"), "Set TMPDIR to a shorter one"),
    ],
)
def test_a_shortage_names_itself_and_the_way_out(error, advice):
    message = explain(error)
    assert advice in message
    assert str(error).splitlines()[0] in message if str(error) else "out of memory" in message
    assert "might be" not in message


@pytest.mark.parametrize(("package", "extra"), [("uvicorn", "[serve]"), ("onnxscript", "[onnx]"), ("torch", "")])
def test_a_package_that_is_missing_is_told_with_its_extra(package, extra):
    error = ModuleNotFoundError(f"No module named '{package}.sub'", name=f"{package}.sub")
    assert explain(error) == f"the package '{package}' is not installed\n  pip install 'resight{extra}'"


@pytest.mark.parametrize("error", [RuntimeError("size mismatch, m1: [2 x 3]"), ValueError("too many open files")])
def test_any_other_error_stays_a_bug(error, capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # of the report

    def work():
        raise error

    assert explain(error) is None
    assert guard(work, []) == BUG


# Streams and folders that are not as usual


def run_resight(*words, shell=""):
    """Exit code, stdout and stderr of ``resight`` under the shell's ``shell``, such as ``2>&-``."""
    command = f'exec "$0" -m resight "$@" {shell}'
    done = subprocess.run(["bash", "-c", command, sys.executable, *words], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("shell", ["2>&-", "2>&- >&- <&-", "2>/dev/full", "2>&1 | true; exit ${PIPESTATUS[0]}"])
def test_a_stderr_that_takes_nothing_changes_no_exit_code(shell):
    code, out, err = run_resight("runs", "nothing-here", shell=shell)
    assert code == USAGE and not out and "Traceback" not in err


@pytest.mark.parametrize(("shell", "expected"), [(">&-", DONE), ("2>&-", DONE), (">/dev/full", USAGE)])
def test_a_result_that_nobody_takes_is_no_bug(shell, expected):
    code, _, err = run_resight("--version", shell=shell)
    assert code == expected and "Traceback" not in err
    assert ("stdout: No space left on device" in err) == (expected == USAGE)


class Full(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_on_stdout_lets_the_work_go_on_and_is_said_once(monkeypatch, capfd):
    monkeypatch.setattr(sys, "stdout", Full())
    done = []

    def work():
        print("a result")
        print("another")
        done.append(True)
        return BAD

    assert guard(work, []) == BAD and done
    assert capfd.readouterr().err.count("No space left") == 1


NAME = "\x1b]0;pwned\x07\x1b[31mé\u202e\x9b1m🙂\udc80\nfake line: ok"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_text_of_the_datas_reaches_the_terminal_as_more_than_text(encoding, monkeypatch):
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding=encoding))
    lines = [*findings([Problem("warning", "odd", NAME, NAME)]), *table([("", NAME)]), listed([NAME])]

    def work():
        print("\n".join(lines))
        print("--")
        show_json({"name": NAME})

    assert guard(work, []) == DONE
    out = stream.getvalue().decode(encoding)
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out)
    assert not re.search("^fake line", out, re.MULTILINE)
    assert json.loads(out.partition("--")[2])["name"] == NAME


def test_errors_and_messages_are_escaped(capfd):
    def work():
        logging.getLogger("resight").warning("%s", "a\x1b[2Jb")
        raise ResightError("no \x1b]0;x\x07", where="a\nerror: b", fix="\u202e")

    listen()
    assert guard(work, []) == USAGE
    said = capfd.readouterr().err
    assert not {"\x1b", "\x07", "\u202e"} & set(said)
    assert "\nerror: b" not in said


def test_a_working_folder_that_is_gone(tmp_path):
    (tmp_path / "gone").mkdir()
    command = f'cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && exec "$0" -P -m resight data check {tmp_path}'
    done = subprocess.run(["bash", "-c", command, sys.executable], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "working folder" in done.stderr and "Traceback" not in done.stderr


# RESIGHT_LOG_STREAM


def speaking():
    """A verb with a message, progress and a closing message; then an error."""
    logging.getLogger("resight").info("a message")
    with meter("training", 2) as progress:
        progress.advance(2)
    close_with("it is done")
    raise ResightError("is damaged")


@pytest.mark.parametrize(
    ("stream", "out", "err"),
    [(None, "it is done\n", 3), ("", "it is done\n", 3), ("stderr", "it is done\n", 3), ("stdout", 4, "")],
)
def test_messages_go_to_the_stream_that_the_environment_names(stream, out, err, monkeypatch, capfd):
    monkeypatch.setattr("resight.io.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setenv("RESIGHT_LOG_STREAM", stream) if stream is not None else None
    listen(as_json=True)
    assert guard(speaking, []) == USAGE
    for said, expected in zip(capfd.readouterr(), (out, err), strict=True):
        if isinstance(expected, str):
            assert said == expected
            continue
        lines = [json.loads(line)["message"] for line in said.splitlines()]
        assert len(lines) == expected and lines[0] == "a message" and lines[-1] == "is damaged"
        assert ("it is done" in lines) == (expected == 4)


@pytest.mark.parametrize("level", [logging.INFO, logging.ERROR])  # as of --quiet, and of the processes beside the first
def test_the_closing_message_is_no_error_whatever_is_shown(level, monkeypatch, capfd):
    monkeypatch.setenv("RESIGHT_LOG_STREAM", "stdout")
    listen(as_json=True)
    logging.getLogger("resight").setLevel(level)
    close_with("it is done")
    said = json.loads(capfd.readouterr().out)
    assert (said["level"], said["message"]) == ("info", "it is done")


def test_as_text_they_go_there_too(monkeypatch, capfd):
    monkeypatch.setenv("RESIGHT_LOG_STREAM", "stdout")
    listen()
    assert guard(speaking, []) == USAGE
    out, err = capfd.readouterr()
    assert out.splitlines() == ["a message", "it is done", "error: is damaged"] and not err


@pytest.mark.parametrize("words", [["train", "--bogus"], ["train", "--steps", "x"], ["trian"]])
@pytest.mark.parametrize("form", [["--log-format", "json"], ["--log-format=json"]])
def test_a_line_of_json_tells_what_is_wrong_with_other_options(words, form, monkeypatch, capfd):
    monkeypatch.setenv("RESIGHT_LOG_STREAM", "stdout")
    for argv in ([*words, *form], [words[0], *form, *words[1:]]):
        with pytest.raises(SystemExit) as ended:
            app(argv)
        out, err = capfd.readouterr()
        assert ended.value.code == USAGE and not err
        assert json.loads(out)["level"] == "error"


def test_another_stream_is_refused_by_name(monkeypatch, capfd):
    monkeypatch.setenv("RESIGHT_LOG_STREAM", "syslog")
    with pytest.raises(SystemExit) as ended:
        app(["runs"])
    assert ended.value.code == USAGE
    assert "RESIGHT_LOG_STREAM: 'syslog' is neither stdout nor stderr" in capfd.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "moment",
    [
        "class Left:\n    def __del__(self): {now}\nLeft()",  # nothing can be raised there
        "exec('{now}')",  # Python's own exception for Ctrl-C would end it by the signal
    ],
)
def test_a_signal_ends_a_verb_wherever_it_comes(moment, number, code, tmp_path):
    moment = moment.format(now=f"import os; os.kill(os.getpid(), {number:d})")
    (tmp_path / "verb.py").write_text(
        f"import signal, sys, time\nfrom resight.cli.guard import guard\n"
        f"signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what runs the tests may ignore it
        f"def command():\n    exec({moment!r})\n    time.sleep(20)\nsys.exit(guard(command, []))"
    )
    done = subprocess.run([sys.executable, "-m", "verb"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stderr) == (code, f"error: {'interrupted' if code == 130 else 'terminated'}\n")
