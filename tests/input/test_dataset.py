from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from resight.commands.show import training_view
from resight.dialect import load_config, training_set
from resight.errors import ResightError
from resight.fpn.config import FpnModelConfig
from resight.fpn.dialect import to_sample
from resight.input.dataset import (
    TrainingExample,
    network_boxes,
    repeat_threshold,
    training_batches,
)
from resight.input.sampler import SampleKey, repeat_factors
from resight.input.target import input_scale, input_size
from resight.io.images import decode
from resight.models.build import build_model
from resight.records.reader import open_records
from resight.tfod.dialect import prepare_plan
from resight.tfod.parts import tfod_resize

CONFIG = load_config(None, {"model.min_size": 64, "model.max_size": 96, "train.batch_size": 2})


@pytest.fixture(scope="module")
def split(shapes):
    return open_records(shapes(train=9, val=3)).splits["train"]


def test_an_example_depends_on_its_item_alone(split):
    data = training_set(split, split.label_map.names, CONFIG)
    items = [SampleKey(0, 0, 1), SampleKey(0, 0, 4), SampleKey(1, 0, 1), SampleKey(0, 0, 1)]
    examples = [data[item] for item in items]
    assert all(isinstance(example, TrainingExample) for example in examples)
    first, _, other_epoch, again = examples
    assert torch.equal(first.image, again.image) and torch.equal(first.target.boxes, again.target.boxes)
    assert first.target.seed == again.target.seed != other_epoch.target.seed
    assert not torch.equal(first.image.float().mean(), other_epoch.image.float().mean())


def test_images_of_a_batch_have_one_size(split):
    data = training_set(split, split.label_map.names, CONFIG)
    landscape = [n for n, (width, height) in enumerate(split.sizes) if width > height]
    sizes = [{data[SampleKey(0, batch, record)].image.shape for record in landscape} for batch in range(6)]
    assert all(len(found) == 1 for found in sizes)
    assert len(set.union(*sizes)) > 1  # and another batch another
    assert all(c == 3 and h <= 64 and w <= 96 for c, h, w in set.union(*sizes))


@pytest.mark.parametrize(
    ("given", "factors"), [([0.5, 0.5], (0.5, 0.5, 0.5)), ([[0.5, 0.5], [0.75, 0.75]], (0.5, 0.75, 0.75))]
)
def test_an_epoch_has_the_next_range_of_scales_and_later_ones_the_last(split, given, factors):
    config = load_config(None, {"model.min_size": 64, "model.max_size": 96, "augment.scale": given})
    data, record = training_set(split, split.label_map.names, config), split.summaries[0]
    whole = input_size(record.height, record.width, config.model)
    for epoch, factor in enumerate(factors):
        assert data[SampleKey(epoch, 0, 0)].image.shape[1:] == tuple(round(side * factor) for side in whole)


def test_a_record_that_cannot_be_used_comes_as_the_error(shapes):
    split = open_records(shapes(broken=1, train=3)).splits["train"]
    data = training_set(split, split.label_map.names, CONFIG)
    found = [data[SampleKey(0, 0, record)] for record in range(len(split))]
    (error,) = (item for item in found if isinstance(item, ResightError))
    assert split.shards[0] in error.where and "--on-bad skip" in error.fix and "on_bad_record=skip" in error.fix


def test_a_sample_leaves_out_what_training_cannot_use(split):
    from dataclasses import replace

    record = split[0]
    boxes = [[1, 2, 30, 40], [5, 5, 5, 9], [np.nan, 0, 9, 9], [-3, 50, 200, 300], [1, 1, 9, 9]]
    record = replace(
        record,
        boxes=np.array(boxes, np.float32),
        crowd=np.array([False, False, False, True, False]),
    )
    sample = to_sample(record, np.array([1, 0, 0, 0, -1]), decode(record.encoded))
    # Without area, not a number, and of no class of ours: gone. Outside: cut at the border.
    assert sample.boxes.tolist() == [[1, 2, 30, 40], [0, 50, 96, 64]]
    assert sample.labels.tolist() == [1, 0] and sample.crowd.tolist() == [False, True]
    assert sample.image.shape == (3, 64, 96) and sample.image.dtype == torch.uint8


def test_boxes_are_measured_at_the_size_of_the_network(split):
    sizes, centers = network_boxes(split, FpnModelConfig(min_size=128, max_size=192))
    boxes = np.concatenate([record.boxes for record in split.summaries]) * 2
    np.testing.assert_allclose(sizes, boxes[:, 2:] - boxes[:, :2], atol=1e-3)
    np.testing.assert_allclose(centers, (boxes[:, 2:] + boxes[:, :2]) / 2, atol=1e-3)


def test_the_view_of_training_is_that_of_the_first_epoch(split):
    order = [item for batch in islice(training_batches(split, CONFIG), 4) for item in batch]
    data = training_set(split, split.label_map.names, CONFIG)
    view = list(training_view(split, split.label_map.names, CONFIG, 4))
    for item, (file, image, boxes, names) in zip(order, view, strict=False):
        example = data[item]
        assert file == split.summaries[item.record].filename
        assert np.array_equal(image, example.image.permute(1, 2, 0).numpy())
        assert np.array_equal(boxes, example.target.boxes.numpy()) and len(names) == len(boxes)
    assert len(view) == 4


# TFOD's way


TFOD = {"model.name": "faster_rcnn_resnet50_v1", "model.min_size": 60, "model.max_size": 100}
FLIP = [{"name": "random_horizontal_flip", "options": {"probability": 1}}]


def test_without_operations_tfod_sees_the_whole_image_at_its_size(split):
    config = load_config(None, TFOD)
    data = training_set(split, split.label_map.names, config)
    for number, record in enumerate(split.summaries):
        example = data[SampleKey(0, 0, number)]
        original = torch.from_numpy(decode(split[number].encoded)).permute(2, 0, 1)
        height, width = config.model.fit_size(record.height, record.width)
        assert torch.equal(example.image, tfod_resize(original, (height, width)))
        assert example.image.dtype == torch.float32 and min(height, width) == 60
        factors = np.array([width / record.width, height / record.height] * 2)
        np.testing.assert_allclose(example.target.boxes, record.boxes * factors, atol=1e-4)
        assert example.target.labels.tolist() == split.labels(record).tolist()


def test_tfods_operations_come_before_its_resizing(split):
    plain, flipped, square = (
        training_set(split, split.label_map.names, load_config(None, {**TFOD, **more}))[SampleKey(0, 0, 1)]
        for more in (
            {},
            {"augment.operations": FLIP},
            {"augment.operations": [{"name": "random_square_crop_by_scale"}], "model.tfod": {"fixed_size": [60, 100]}},
        )
    )
    # The image begins at the left with a whole pixel and ends within one, so a flip before is not quite a flip after.
    assert (flipped.image - plain.image.flip(2)).abs().mean() < 8 < (flipped.image - plain.image).abs().mean()
    width = plain.image.shape[2]
    np.testing.assert_allclose(flipped.target.boxes[:, [2, 0]], width - plain.target.boxes[:, [0, 2]], atol=1e-4)
    assert square.image.shape == (3, 60, 100)
    assert (square.target.boxes[:, 2] <= 100).all() and (square.target.boxes[:, 3] <= 60).all()


COLOR = [{"name": "random_adjust_hue"}]


@pytest.mark.parametrize(("operations", "size", "as_it_is"), [(FLIP, 60, True), (COLOR, 60, False), (FLIP, 30, False)])
def test_what_the_model_resizes_is_handed_over_as_it_is_and_becomes_the_same(split, operations, size, as_it_is):
    config = load_config(None, {**TFOD, "model.min_size": size, "augment.operations": operations})
    model = build_model(config.model, 2)
    here, there = (training_set(split, ("red", "blue"), config, resized=resized) for resized in (True, False))
    for number in range(3):
        whole, example = here[SampleKey(0, 0, number)], there[SampleKey(0, 0, number)]
        assert whole.resized and example.resized == (not as_it_is)
        assert example.image.dtype == (torch.uint8 if as_it_is else torch.float32)
        assert torch.equal(model.resize(example.image) if as_it_is else example.image, whole.image)
        assert torch.equal(example.target.boxes, whole.target.boxes)
    plain = load_config(None, {"model.min_size": 64, "model.max_size": 96})
    assert training_set(split, ("red", "blue"), plain, resized=False)[SampleKey(0, 0, 0)].resized


def test_boxes_beyond_the_limit_are_cut_and_counted(split):
    config, looser = (load_config(None, {**TFOD, "model.tfod": {"max_boxes": most}}) for most in (1, 2))
    data = training_set(split, split.label_map.names, config)
    labels = [split.labels(record).tolist() for record in split.summaries]
    taken = [data[SampleKey(0, 0, number)].target.labels.tolist() for number in range(9)]
    assert taken == [given[:1] for given in labels]
    assert sum(map(len, labels)) - 9 == 4
    (note,) = prepare_plan(config, (), split)[1]
    assert note.startswith("4 boxes are cut off, beyond the first 1 ") and prepare_plan(looser, (), split)[1] == []


def test_tfod_trains_on_boxes_as_they_are_stored(split):
    from dataclasses import replace

    class Stored:
        label_map, pixels, where = split.label_map, split.pixels, split.where
        boxes = ((-9, 4, 50, 200), (5, 5, 5, 5), (7, 7, 7.2, 7.2))

        def __getitem__(self, number):
            no = np.zeros(3, bool)
            more = {"label_texts": ("red",) * 3, "label_ids": np.ones(3, int), "area": np.ones(3)}
            flags = dict.fromkeys(("difficult", "crowd", "occluded"), no)
            return replace(split[number], boxes=np.array(self.boxes, np.float32), **more, **flags)

        def labels(self, record):
            return split.labels(record)

    stored = Stored()
    data = training_set(stored, split.label_map.names, load_config(None, TFOD))
    example, record = data[SampleKey(0, 0, 0)], split.summaries[0]
    factors = np.array([example.image.shape[2] / record.width, example.image.shape[1] / record.height] * 2)
    np.testing.assert_allclose(example.target.boxes, np.array(stored.boxes) * factors, atol=1e-4)
    stored.boxes = ((5, 5, 9, 9), (9, 5, 5, 9), (1, 1, 2, 2))
    error = data[SampleKey(0, 0, 0)]
    assert isinstance(error, ResightError) and "ends before it begins" in str(error) and error.where == split.where(0)


def test_tfods_operations_are_refused_elsewhere(split):
    with pytest.raises(ResightError, match=r"augment.operations: TFOD's operations are not for tf_efficientnet_lite0"):
        training_set(split, split.label_map.names, load_config(None, {"augment.operations": FLIP}))


def test_the_view_of_tfods_training_can_be_drawn(split):
    config = load_config(None, {**TFOD, "augment.operations": [*FLIP, {"name": "random_adjust_hue"}]})
    for _, image, boxes, names in training_view(split, split.label_map.names, config, 3):
        assert image.dtype == np.uint8 and image.shape[2] == 3 and len(boxes) == len(names)


def test_with_tiles_training_sees_windows_of_large_images_at_the_size_of_a_tile(split):
    config = load_config(None, {"model.min_size": 64, "model.max_size": 96, "model.tile": 70, "augment.flip": 0,
                                "augment.color": 0, "augment.scale": [1, 1]})  # fmt: skip
    data = training_set(split, split.label_map.names, config)
    places = set()
    for number, record in enumerate(split.summaries):
        example, whole = data[SampleKey(0, 0, number)], torch.from_numpy(decode(split[number].encoded)).permute(2, 0, 1)
        rows, columns = min(record.height, 70), min(record.width, 70)
        assert input_scale(record.height, record.width, config.model) == (1, 1)  # so that pixels stay as they are
        (place,) = [
            (x, y)
            for x in range(record.width - columns + 1)
            for y in range(record.height - rows + 1)
            if torch.equal(example.image, whole[:, y : y + rows, x : x + columns])
        ]
        places.add(place)
        seen = example.target.boxes[~example.target.crowd].numpy() + np.tile(place, 2)
        fitting = (record.boxes[:, :2] >= place).all(1) & (record.boxes[:, 2:] <= np.add(place, (columns, rows))).all(1)
        assert fitting.any() and all(row in seen.tolist() for row in record.boxes[fitting].tolist())
    assert len(places) > 2
    views = {data[SampleKey(0, 0, 0, copy)].image.numpy().tobytes() for copy in range(4)}
    assert len(views) > 1  # the copies of a record differ
    assert training_batches(split, config).sizes.max() == 70


@pytest.mark.parametrize(
    ("options", "threshold"),
    [
        ({"data.repeat_threshold": 1.0}, 1.0),
        ({}, 0.5),
        ({"data.repeat_threshold": 0}, None),
        ({"model.name": "faster_rcnn_resnet50_v1"}, None),  # TFOD knows no repeats
        ({"model.name": "faster_rcnn_resnet50_v1", "data.repeat_threshold": 0.5}, 0.5),
    ],
)
def test_rare_classes_are_repeated_unless_it_is_off_or_the_model_is_tfods(split, options, threshold):
    batches = training_batches(split, load_config(None, {"train.batch_size": 2} | options))
    if threshold is None:
        assert batches.repeats is None and batches.per_epoch == -(-len(split) // 2)
    else:
        factors = repeat_factors(split.box_records, split.box_labels, len(split), threshold)
        np.testing.assert_array_equal(batches.repeats, factors)
        assert batches.places == round(factors.sum()) >= len(split)


@pytest.mark.parametrize(
    ("images", "threshold"),
    [
        ((9, 1), 0.5),
        ((6, 5), 0.0),  # neither is rare
        ((3, 1), 0.3),  # none is to be repeated for being on fewer than half of the images alone
        ((3, 3, 3), 0.0),
        ((2,), 0.0),
        ((), 0.0),
    ],
)
def test_what_is_rare_is_told_by_the_commonest_class(images, threshold):
    boxes = [(image, label) for label, count in enumerate(images) for image in range(count) for _ in range(2)]
    records, labels = np.array([*boxes, (0, -1)]).T

    class Split(SimpleNamespace):
        def __len__(self):
            return 10

    assert repeat_threshold(Split(box_records=records, box_labels=labels), load_config()) == threshold
