"""What is sent arrives as it was, and nobody waits."""

import torch

from resight.detection.transfers import in_one_copy, sent

VALUES = [torch.rand(2, 3), torch.tensor([7, 2**24 - 1]), torch.tensor([[True], [False]]), torch.zeros(0, 4)]


def test_tensors_of_any_kind_go_in_one_copy(pretended_cuda) -> None:
    for arrived, value in zip(in_one_copy(VALUES, torch.device("cpu")), VALUES, strict=True):
        assert arrived is value
    with pretended_cuda() as counts:
        there = in_one_copy(VALUES, torch.device("cuda"))
        assert {value.device.type for value in there} == {"cuda"} and (counts.pinned, counts.waited) == (1, 0)
        for arrived, value in zip(there, VALUES, strict=True):
            torch.testing.assert_close(arrived.cpu(), value, rtol=0, atol=0)


def test_a_copy_does_not_wait(pretended_cuda) -> None:
    with pretended_cuda() as counts:
        assert (sent(VALUES[0], torch.device("cuda", 0)).device.index, counts.pinned, counts.waited) == (0, 1, 0)
