"""Shortages of the machine are told as such, with what to do, and not as a bug."""

import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from resight.console import BUG, USAGE, explain, guard

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
        (OSError(12, "Cannot allocate memory"), MEMORY),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"), WORKERS),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), WORKERS),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Cannot allocate"), WORKERS),
        (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), WORKERS),
        (OSError(24, "Too many open files", "a.tfrecord"), WORKERS),
    ],
)
def test_a_shortage_names_itself_and_the_way_out(error, advice):
    message = explain(error)
    assert advice in message
    assert str(error).splitlines()[0] in message if str(error) else "out of memory" in message
    assert "might be" not in message


@pytest.mark.parametrize("error", [RuntimeError("size mismatch, m1: [2 x 3]"), ValueError("too many open files")])
def test_any_other_error_stays_a_bug(error, capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # of the report

    def work():
        raise error

    assert explain(error) is None
    assert guard(work, []) == BUG
