from collections import Counter
from itertools import islice

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from resight.input.sampler import BatchSampler, repeat_factors


def sizes_of(portraits):
    return np.array([(64, 96) if portrait else (96, 64) for portrait in portraits], np.int64).reshape(-1, 2)


orders = st.tuples(
    st.integers(0, 2**40), st.integers(0, 1000), st.lists(st.booleans(), min_size=1, max_size=50), st.integers(1, 9)
)


@given(orders)
def test_an_epoch_holds_each_record_once_and_mixes_shapes_only_in_what_is_left_over(order):
    seed, epoch, portraits, batch_size = order
    sizes = sizes_of(portraits)
    batches = list(BatchSampler(seed, sizes, batch_size).epoch(epoch))
    assert Counter(item.record for batch in batches for item in batch) == Counter(range(len(portraits)))
    assert all(item.epoch == epoch and item.batch == n for n, batch in enumerate(batches) for item in batch)
    assert len(batches) == -(-len(portraits) // batch_size)
    assert sum(len(batch) < batch_size for batch in batches) <= 1
    # Of each shape fewer than a batch is left over: less than two batches together.
    assert sum(len({portraits[item.record] for item in batch}) > 1 for batch in batches) <= 1


@given(orders)
def test_the_order_is_a_pure_function(order):
    seed, epoch, portraits, batch_size = order
    sizes = sizes_of(portraits)
    first = list(BatchSampler(seed, sizes, batch_size).epoch(epoch))
    np.random.rand(3), torch.rand(3)
    assert list(BatchSampler(seed, sizes.copy(), batch_size).epoch(epoch)) == first


def test_seed_and_epoch_change_the_order():
    sizes = sizes_of([False] * 40)
    orders = {
        tuple(item.record for batch in list(BatchSampler(seed, sizes, 4).epoch(epoch)) for item in batch)
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


@given(orders, st.integers(0, 40))
def test_endless_batches_from_anywhere_are_the_rest_of_the_whole(order, start):
    seed, _, portraits, batch_size = order
    sizes = sizes_of(portraits)
    whole = BatchSampler(seed, sizes, batch_size)
    rest = BatchSampler(seed, sizes, batch_size, start)
    assert list(islice(rest, 7)) == list(islice(whole, start, start + 7))
    epoch = list(islice(whole, whole.per_epoch))
    assert epoch == list(BatchSampler(seed, sizes, batch_size).epoch(0))


@given(
    st.integers(0, 2**40),
    st.integers(0, 100),
    st.lists(st.integers(0, 30), min_size=1, max_size=12),
    st.integers(1, 14),
    st.integers(1, 6),
)
def test_a_window_of_shards_has_its_turn_at_a_time(seed, epoch, counts, window, batch_size):
    shards = np.repeat(np.arange(len(counts)), counts)
    sizes = sizes_of(np.random.default_rng(seed).random(len(shards)) < 0.3)
    batches = list(BatchSampler(seed, sizes, batch_size, shards=shards, window=window).epoch(epoch))
    assert Counter(item.record for batch in batches for item in batch) == Counter(range(len(shards)))
    assert len(batches) == -(-len(shards) // batch_size)
    assert sum(len(batch) < batch_size for batch in batches) <= 1
    if len(counts) <= window:
        assert batches == list(BatchSampler(seed, sizes, batch_size).epoch(epoch))
    # Shards that hold more than a batch follow one another: of those begun, no more than the window's are unfinished.
    if min(counts) > 2 * batch_size:
        order = [shards[item.record] for batch in batches for item in batch]
        first = {shard: order.index(shard) for shard in set(order)}
        last = {shard: len(order) - 1 - order[::-1].index(shard) for shard in set(order)}
        for at in range(len(order)):
            assert sum(first[shard] <= at <= last[shard] for shard in first) <= window + 1


def test_neighbouring_records_come_from_all_shards_of_the_window():
    shards = np.repeat(np.arange(40), 50)
    sampler = BatchSampler(1, sizes_of(np.zeros(len(shards), bool)), 10, shards=shards, window=8)
    batches = list(sampler.epoch(0))
    middle = batches[len(batches) // 4 : -len(batches) // 4]
    assert np.mean([len({shards[item.record] for item in batch}) for batch in middle]) > 4
    assert batches != list(sampler.epoch(1))


# Repeats

factors = st.lists(st.floats(1, 6), min_size=1, max_size=40).map(np.array)


@given(st.integers(0, 2**40), st.integers(0, 1000), factors, st.integers(1, 9))
def test_a_record_has_the_integers_next_to_its_factor_and_all_epochs_are_equally_long(seed, epoch, repeats, batch_size):
    sizes = sizes_of([False] * len(repeats))
    batches = list(BatchSampler(seed, sizes, batch_size, repeats=repeats).epoch(epoch))
    items = [item for batch in batches for item in batch]
    times = Counter(item.record for item in items)
    assert len(items) == round(repeats.sum())
    # Rounding the sum to whole places moves a factor by less than half a place.
    assert all(np.floor(factor - 0.51) <= times[n] <= np.ceil(factor + 0.51) for n, factor in enumerate(repeats))
    assert min(times[n] for n in range(len(repeats))) >= 1
    assert {(item.record, item.copy) for item in items} == {(n, copy) for n in times for copy in range(times[n])}
    assert BatchSampler(seed, sizes, batch_size, repeats=repeats).per_epoch == len(batches)


def test_over_many_epochs_a_record_is_seen_as_often_as_its_factor_says():
    repeats = np.array([1.0, 1.25, 2.5, 3.9, 1.0, 1.35])
    seen = Counter(
        item.record
        for epoch in range(2000)
        for batch in BatchSampler(3, sizes_of([False] * 6), 4, repeats=repeats).epoch(epoch)
        for item in batch
    )
    assert np.allclose([seen[n] / 2000 for n in range(6)], repeats, atol=0.05)


def test_factors_are_those_of_lvis():
    labels = [[0], [0, 0], [0, 1], [0], [1, 2, -1], [], [0], [0], [0], [0]]
    boxes = np.repeat(np.arange(10), [len(some) for some in labels]), np.array([one for some in labels for one in some])
    # On 8, 2 and 1 of 10 images: sqrt(.4 / .2) and sqrt(.4 / .1).
    expected = [1, 1, np.sqrt(2), 1, 2, 1, 1, 1, 1, 1]
    assert np.allclose(repeat_factors(*boxes, 10, 0.4), expected)
    assert (repeat_factors(*boxes, 10, 0.0) == 1).all()
    nothing = np.zeros(0, np.int64)
    assert (repeat_factors(nothing, nothing, 0, 0.4) == np.zeros(0)).all()
    assert (repeat_factors(nothing, nothing, 3, 0.4) == 1).all()
