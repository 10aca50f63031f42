from itertools import islice

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from resight.dialect import load_config, training_set
from resight.errors import ResightError
from resight.input.loader import load_batches, worker_count
from resight.input.sampler import BatchSampler
from resight.records.reader import open_records

CONFIG = load_config(None, {"model.min_size": 64, "model.max_size": 96})


@pytest.fixture(scope="module")
def data(shapes):
    split = open_records(shapes(broken=1, train=5)).splits["train"]
    return training_set(split, split.label_map.names, CONFIG), BatchSampler(42, split.sizes, 2)


def plain(item):
    """An example as values that can be compared."""
    if isinstance(item, ResightError):
        return str(item)
    target = item.target
    tensors = (item.image, target.boxes, target.labels, target.crowd)
    return item.record, target.seed, [(t.dtype, t.shape, t.tolist()) for t in tensors]


def first(data, workers, count=5):
    dataset, batches = data
    return [[plain(item) for item in batch] for batch in islice(load_batches(dataset, batches, workers), count)]


def test_the_number_of_workers_changes_nothing(data):
    here = first(data, 0)
    assert [len(batch) for batch in here] == [2] * 5
    # A record that cannot be used comes as its error, whole, from another process too.
    assert sum(isinstance(item, str) and ".tfrecord" in item for batch in here for item in batch) >= 1
    torch.rand(3)
    for workers in (1, 2):
        assert first(data, workers) == here


def test_without_workers_the_threads_are_as_before(data):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first(data, 0, 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("wanted", "device", "cores", "gpus", "count"),
    [
        (None, "cpu", 16, 0, 1),
        (None, "cuda", 16, 1, 8),
        (None, "cuda:1", 12, 2, 5),
        (None, "cuda", 4, 4, 1),
        (0, "cuda", 16, 1, 0),
        (12, "cuda", 4, 1, 12),
        (3, "cpu", 16, 0, 3),
    ],
)
def test_workers_follow_the_cores_of_each_gpu_unless_they_are_counted_out(
    monkeypatch, wanted, device, cores, gpus, count
):
    monkeypatch.setattr("resight.input.loader.core_count", lambda: cores)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert worker_count(wanted, torch.device(device)) == count


def test_what_a_gpu_copies_is_pinned_by_the_loader(data, monkeypatch):
    pinned, made = [], []
    monkeypatch.setattr("torch.Tensor.pin_memory", lambda self: pinned.append(self.shape) or self.clone())
    monkeypatch.setattr("resight.input.loader.DataLoader", lambda *_, **options: made.append(options) or [])
    dataset, batches = data
    for wanted in (False, True):
        list(load_batches(dataset, batches, 1, pinned=wanted))
    assert [options["pin_memory"] for options in made] == [False, True]
    batch = next(load_batches(dataset, batches, 0))
    again = pin_memory(batch)
    assert pinned == [item.image.shape for item in batch if not isinstance(item, ResightError)] != []
    assert [plain(item) for item in again] == [plain(item) for item in batch]
