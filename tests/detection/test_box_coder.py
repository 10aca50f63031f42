"""Box deltas against torchvision's."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder

from resight.detection import box_coder


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_deltas_are_torchvisions_and_decode_to_the_box(boxes_of, seed: int, n: int) -> None:
    boxes, references = boxes_of(n, seed), boxes_of(n, seed + 1)
    weights = (10.0, 10.0, 5.0, 5.0)
    theirs = BoxCoder(weights)
    deltas = box_coder.encode(boxes, references, weights)
    torch.testing.assert_close(deltas, theirs.encode_single(boxes, references), atol=1e-4, rtol=1e-5)
    # Beyond the clamp of the log-size a box cannot come back.
    usual = (deltas[:, 2:].abs() / 5 < box_coder.MAX_LOG_SCALE).all(1)
    torch.testing.assert_close(box_coder.decode(deltas, references, weights)[usual], boxes[usual], atol=1e-2, rtol=1e-4)
    wild = deltas * 30
    torch.testing.assert_close(
        box_coder.decode(wild, references, weights), theirs.decode_single(wild, references), atol=1e-2, rtol=1e-5
    )
