"""The parts that TFOD computes in its own way, each worked by hand or beside plain loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resight.detection import matcher
from resight.detection.anchors import grid_anchors
from resight.tfod import parts as tfod_parts
from resight.tfod.config import TfodConfig, TfodModelConfig
from resight.tfod.parts import PlainSelection, Proposals, StaticSelection


def boxes_of(count: int, seed: int, side: float = 60) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * side
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * side / 2 + 1], 1)


def drawn_by(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_anchors_lie_on_the_corner_of_their_cell():
    config = TfodConfig(anchor_scales=(0.25, 1.0), anchor_ratios=(0.5, 2.0))
    anchors = grid_anchors(tfod_parts.cell_anchors(config), (2, 3), config.anchor_stride)
    assert anchors.shape == (2 * 3 * 4, 4)
    width, height = 64 * math.sqrt(0.5), 64 / math.sqrt(0.5)
    torch.testing.assert_close(anchors[0], torch.tensor([-width / 2, -height / 2, width / 2, height / 2]))
    # The scale goes round fastest, then the ratio, then x, then y.
    torch.testing.assert_close(anchors[1], anchors[0] * 4)
    torch.testing.assert_close(anchors[2], torch.tensor([-height / 2, -width / 2, height / 2, width / 2]))
    torch.testing.assert_close(anchors[4:8], anchors[:4] + torch.tensor([16.0, 0, 16, 0]))
    torch.testing.assert_close(anchors[12:16], anchors[:4] + torch.tensor([0.0, 16, 0, 16]))


def test_the_anchors_reported_are_the_anchors_used():
    config = TfodConfig(anchor_base=(64, 128), anchor_ratios=(0.5, 3.0), anchor_stride=(8, 16), anchor_offset=(4, 8))
    anchors = tfod_parts.cell_anchors(config) - torch.tensor([8.0, 4, 8, 4])
    cells = tfod_parts.anchor_settings(config).cell_anchors(0)
    # The report rounds to whole pixels.
    assert (anchors - cells).abs().max() <= 0.5


def test_codes_worked_by_hand():
    box, reference = torch.tensor([[10.0, 20, 50, 40]]), torch.tensor([[0.0, 10, 20, 50]])
    deltas = tfod_parts.encode(box, reference)
    expected = torch.tensor([[0.0, 10 * 20 / 20, 5 * math.log(20 / 40), 5 * math.log(40 / 20)]])
    torch.testing.assert_close(deltas, expected)
    torch.testing.assert_close(tfod_parts.decode(deltas, reference), box)
    # Nothing holds a size back.
    wide = tfod_parts.decode(torch.tensor([[0.0, 0, 0, 50]]), reference)
    torch.testing.assert_close(wide[0, 2] - wide[0, 0], torch.tensor(20 * math.exp(10)))


def test_an_empty_box_has_codes():
    point = torch.tensor([[5.0, 5, 5, 5]])
    assert tfod_parts.encode(point, torch.tensor([[0.0, 0, 10, 10]])).isfinite().all()
    assert tfod_parts.encode(point, torch.zeros(1, 4)).isfinite().all()


@given(st.integers(0, 10**6), st.integers(0, 6), st.integers(0, 40))
def test_matches_are_those_of_plain_loops(seed, objects, anchors):
    # Coarse, so that equal overlaps occur.
    overlap = (torch.rand(objects, anchors, generator=drawn_by(seed)) * 8).round() / 8
    expected = []
    for anchor in range(anchors):
        column = [float(overlap[number, anchor]) for number in range(objects)]
        best = max(column, default=0.0)
        expected.append(column.index(best) if best >= 0.7 else -1 if best < 0.3 else -2)
    claims: dict[int, int] = {}
    for number in range(objects if anchors else 0):
        row = overlap[number].tolist()
        claims.setdefault(row.index(max(row)), number)
    for anchor, number in claims.items():
        expected[anchor] = number
    assert tfod_parts.match_anchors(overlap).tolist() == expected


WINDOWS = torch.tensor([[25.0, 20, 25, 20]])  # 20 pixels high
BOXES = torch.tensor([[-8.0, 2, 8, 12], [30, 30, 40, 40], [-9, -9, -1, -2], [4, 4, 9, 9], [-9, 2, 8, 12]])
SCORES = torch.tensor([0.9, 0.8, 0.7, 0.1, 0.85])


def test_proposals_are_clipped_after_suppression():
    config = TfodConfig(proposals=5)
    found = PlainSelection().propose(BOXES[None], SCORES[None], config, WINDOWS)
    # The second and third are empty once clipped, the last is suppressed by the first.
    assert found.count.tolist() == [2] and found.valid.tolist() == [[True, True, False, False, False]]
    assert found.boxes[0].tolist() == [[0, 2, 8, 12], [4, 4, 9, 9], [0] * 4, [0] * 4, [0] * 4]
    torch.testing.assert_close(found.scores[0], torch.tensor([0.9, 0.1, 0, 0, 0]))


def test_with_static_shapes_proposals_repeat_the_worst_box():
    found = StaticSelection().propose(BOXES[None], SCORES[None], TfodConfig(proposals=6), WINDOWS)
    # A box left of and above the image is never chosen, so four candidates give three; two of them are not empty.
    assert found.count.tolist() == [2]
    assert found.scores[0].tolist() == pytest.approx([0.9, 0.1, -1, -1, -1, -1])
    torch.testing.assert_close(found.boxes[0, :2], torch.tensor([[0.0, 2, 8, 12], [4, 4, 9, 9]]))
    torch.testing.assert_close(found.boxes[0, 2], torch.tensor([25.0, 20, 25, 20]))
    torch.testing.assert_close(found.boxes[0, 3:], torch.tensor([[4.0, 4, 9, 9]]).expand(3, 4))


def test_with_static_shapes_and_a_threshold_the_worst_box_is_none():
    # TFOD moves a box that the threshold leaves out to -1, which is empty once clipped.
    found = StaticSelection().propose(BOXES[None], SCORES[None], TfodConfig(proposals=6, rpn_score=0.1), WINDOWS)
    assert found.count.tolist() == [1] and found.scores[0].tolist() == pytest.approx([0.9, -1, -1, -1, -1, -1])
    torch.testing.assert_close(found.boxes[0, 0], torch.tensor([0.0, 2, 8, 12]))
    assert found.boxes[0, 2:].tolist() == [[0.0] * 4] * 4


@pytest.mark.parametrize("selection", [PlainSelection(), StaticSelection()])
def test_of_no_anchor_there_are_no_proposals(selection):
    found = selection.propose(torch.zeros(1, 0, 4), torch.zeros(1, 0), TfodConfig(proposals=3), WINDOWS)
    assert found.count.tolist() == [0] and found.boxes[0].tolist() == [[0.0] * 4] * 3


@pytest.mark.parametrize("selection", [PlainSelection(), StaticSelection()])
def test_the_share_of_positives_is_of_single_precision(selection):
    # As a double .35 x 20 is 7; as the float of a pipeline.config .35 is a little less.
    positive, allowed = torch.arange(200) < 100, torch.ones(200, dtype=torch.bool)
    (drawn,) = selection.draw(positive[None], allowed[None], 20, 0.35, [drawn_by(1)])
    assert int(drawn.sum()) == 20 and int((drawn & positive).sum()) == 6


@pytest.mark.parametrize("selection", [PlainSelection(), StaticSelection()])
def test_a_minibatch_keeps_to_its_limits(selection):
    positive, allowed = torch.arange(200) < 60, torch.arange(200) % 5 > 0
    first, again, other = selection.draw(
        positive.expand(3, -1), allowed.expand(3, -1), 64, 0.25, [drawn_by(seed) for seed in (1, 1, 2)]
    )
    assert int(first.sum()) == 64 and int((first & positive).sum()) == 16 and not (first & ~allowed).any()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def counts(positives: int, negatives: int, forbidden: int, size: int, seed: int) -> tuple[int, int, int]:
    total = positives + negatives + forbidden
    kind = torch.tensor([0] * positives + [1] * negatives + [2] * forbidden)
    order = torch.randperm(total, generator=drawn_by(seed))
    drawn = tfod_parts.draw_in_order(kind == 0, kind < 2, size, 0.25, order)
    found = [int((drawn & (kind == number)).sum()) for number in range(3)]
    return found[0], found[1], found[2]


@given(st.integers(0, 10**6))
def test_static_minibatches_without_enough_negatives(seed):
    # Where all are allowed, positives take the places. (One more or less where an entry stands first in the order.)
    positives, negatives, _ = counts(80, 20, 0, 64, seed)
    assert positives + negatives in (63, 64) and negatives in (19, 20)
    # Where some are forbidden, the places fall together on one entry.
    found = counts(100, 11, 100, 64, seed)
    assert 26 <= sum(found) <= 28 and found[0] in (16, 17)
    # Where too few are allowed, forbidden ones make up for it.
    positives, negatives, forbidden = counts(4, 10, 100, 64, seed)
    assert positives + negatives + forbidden in (63, 64) and forbidden in (49, 50)


def test_what_is_taken():
    proposals = Proposals(torch.arange(20.0).view(1, 5, 4), torch.arange(5.0)[None], torch.tensor([4]))
    drawn = torch.tensor([[False, True, False, True, False]])
    plain = PlainSelection().take(proposals, drawn, 4)
    assert plain.count.tolist() == [2] and plain.scores.tolist() == [[1, 3, 0, 0]]
    static = StaticSelection().take(proposals, drawn, 4)
    assert static.count.tolist() == [4] and static.scores.tolist() == [[1, 3, 0, 0]]
    assert static.boxes[0, 2].tolist() == proposals.boxes[0, 0].tolist() and plain.boxes[0, 2].tolist() == [0] * 4


def crop_by_loops(features, boxes, size, outside):
    height, width = features.shape[2:]
    result = torch.zeros(len(boxes), features.shape[1], size, size, dtype=features.dtype)

    def pixel(y, x):
        return features[0, :, y, x] if 0 <= y < height and 0 <= x < width else 0

    for n, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for i in range(size):
            for j in range(size):
                y = (y1 + i * (y2 - y1) / (size - 1)) * (height - 1)
                x = (x1 + j * (x2 - x1) / (size - 1)) * (width - 1)
                if outside and not (0 <= y <= height - 1 and 0 <= x <= width - 1):
                    continue
                top, left = math.floor(y), math.floor(x)
                for row, wy in ((top, 1 - y + top), (top + 1, y - top)):
                    for column, wx in ((left, 1 - x + left), (left + 1, x - left)):
                        result[n, :, i, j] += wy * wx * pixel(row, column)
    return result


@pytest.mark.parametrize("border", [tfod_parts.native_border, tfod_parts.matmul_border])
def test_crops_are_those_of_plain_loops(border):
    features = torch.randn(1, 3, 6, 5, dtype=torch.float64, generator=drawn_by(0), requires_grad=True)
    boxes = boxes_of(8, 3, 0.6).double().clamp(0, 1)
    boxes[0] = torch.tensor([0.0, 0, 1, 1])
    boxes[1] = torch.tensor([-0.2, 0.3, 0.5, 1.3])
    boxes[2] = 0
    image = torch.zeros(8, dtype=torch.int64)
    found = tfod_parts.crop_and_resize(features, boxes, image, 4, border)
    expected = crop_by_loops(features, boxes, 4, border is tfod_parts.native_border)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, dtype=torch.float64, generator=drawn_by(1))
    gradients = [torch.autograd.grad((crops * weight).sum(), features) for crops in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_each_crop_is_of_its_own_image():
    features = torch.arange(3.0)[:, None, None, None].expand(3, 1, 4, 4)
    boxes = torch.tensor([[0.1, 0.1, 0.9, 0.9]]).expand(4, 4)
    crops = tfod_parts.crop_and_resize(features, boxes, torch.tensor([2, 0, 1, 2]), 2, tfod_parts.native_border)
    torch.testing.assert_close(crops[:, 0, 0, 0], torch.tensor([2.0, 0, 1, 2]))


def test_a_sample_beyond_the_border():
    features = torch.ones(1, 1, 4, 4)
    box = torch.tensor([[0.0, 0.0, 1.0000001, 1.0]])
    image = torch.zeros(1, dtype=torch.int64)
    native = tfod_parts.crop_and_resize(features, box, image, 3, tfod_parts.native_border)
    matmul = tfod_parts.crop_and_resize(features, box, image, 3, tfod_parts.matmul_border)
    assert (native[0, 0, :, 2] == 0).all() and (native[0, 0, :, :2] == 1).all()
    torch.testing.assert_close(matmul, torch.ones(1, 1, 3, 3))


def test_an_overlap_with_nothing_is_nothing():
    assert tfod_parts.iou(torch.zeros(1, 4), torch.zeros(2, 4)).tolist() == [[0, 0]]
    assert (matcher.match(tfod_parts.iou(torch.zeros(0, 4), torch.zeros(2, 4)), 0.5, 0.5, False) == -1).all()


def model_config(**options) -> TfodModelConfig:
    return TfodModelConfig(name="faster_rcnn_resnet50_v1", **options)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((500, 500), (800, 800)),
        ((300, 900), (444, 1333)),  # the long side decides
        ((800, 1333), (800, 1333)),
        ((1, 4000), (1, 1333)),  # never without pixels
    ],
)
def test_the_sides_keep_their_proportion(size, expected):
    assert model_config().fit_size(*size) == expected


def test_a_half_goes_to_the_even_number():
    assert model_config(min_size=2, max_size=40).fit_size(4, 5) == (2, 2)
    assert model_config(min_size=2, max_size=40).fit_size(4, 7) == (2, 4)


def test_a_fixed_size_is_the_size():
    fixed = model_config(tfod={"fixed_size": (320, 200)})
    assert fixed.fit_size(99, 1000) == fixed.fit_size(7, 7) == (320, 200)


def test_new_pixels_begin_at_the_corner_of_the_old():
    image = torch.tensor([[[0.0, 10.0], [40.0, 50.0]]])
    found = tfod_parts.tfod_resize(image, (4, 4))
    # Steps of half a pixel from the first; beyond the last one nothing changes any more.
    across = torch.tensor([0.0, 5, 10, 10])
    torch.testing.assert_close(found[0], across + torch.tensor([0.0, 20, 40, 40])[:, None])


def test_an_image_of_the_right_size_stays_as_it_is():
    image = torch.arange(12, dtype=torch.uint8).view(3, 2, 2)
    found = tfod_parts.tfod_resize(image, (2, 2))
    assert found.dtype == torch.float32 and torch.equal(found, image.float())


def test_shrinking_takes_single_pixels():
    image = torch.arange(8.0).view(1, 1, 8).expand(3, 4, 8)
    torch.testing.assert_close(tfod_parts.tfod_resize(image, (1, 2)), torch.tensor([0.0, 4]).expand(3, 1, 2))
