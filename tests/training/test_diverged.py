import pytest
import torch

from resight.models.checkpoints import LAST, load_checkpoint
from resight.training.diverged import Diverged
from resight.training.train import train


def test_a_loss_that_is_not_finite_ends_with_the_batch_and_the_last_good_checkpoint(shapes, tiny, tmp_path):
    config = tiny(
        shapes(train=5), train__steps=9, train__learning_rate=1e30, train__warmup_steps=0, checkpoint__every_steps=1
    )
    with pytest.raises(Diverged, match="not finite at step 2") as caught:
        train(config, tmp_path)
    assert caught.value.exit_code == 1
    assert "train.learning_rate" in str(caught.value) and str(tmp_path / "diverged") in str(caught.value)
    assert len(list((tmp_path / "diverged").glob("record-*.png"))) in (1, 2)
    last = load_checkpoint(tmp_path / LAST)
    assert last.state["step"] == 1
    assert all(bool(torch.isfinite(value).all()) for value in last.tensors.values())
