import zipfile
from types import SimpleNamespace

import torch

from fixtures.runs import HALF, lines
from resight.models.checkpoints import BEST, LAST, load_checkpoint
from resight.training.checkpointer import Checkpointer
from resight.training.state import State
from resight.training.train import train


def test_older_checkpoints_are_kept_as_many_as_asked_for(shapes, tiny, tmp_path):
    train(tiny(shapes(train=3), train__steps=4, checkpoint__every_steps=1, checkpoint__keep=2), tmp_path)
    kept = sorted((tmp_path / "checkpoints").glob("step-*"))
    assert [load_checkpoint(path).state["step"] for path in kept] == [3, 4]


def test_saves_around_an_evaluation_do_not_put_off_those_by_the_clock(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    every = SimpleNamespace(every_steps=None, every_minutes=1, keep=0)
    plan = SimpleNamespace(config=SimpleNamespace(checkpoint=every))
    scaler = SimpleNamespace(state_dict=dict)
    learner = SimpleNamespace(scaler=scaler, distributed=SimpleNamespace(is_main=False))
    checkpointer = Checkpointer(tmp_path, plan, learner, lambda: None)
    now[0] += 61
    checkpointer.save(State())
    assert checkpointer.is_due(5)
    checkpointer.restart_clock()
    assert not checkpointer.is_due(6)


def test_a_loss_scale_goes_on_where_it_was(shapes, tiny, tmp_path, interrupt_after):
    config = tiny(shapes(train=3), train__steps=2, **HALF)
    train(config, tmp_path / "whole")
    interrupt_after(1)
    train(config, tmp_path / "parts")
    train(config, tmp_path / "parts", resume=True)
    whole, parts = (load_checkpoint(tmp_path / name / LAST).state["loss_scale"] for name in ("whole", "parts"))
    assert whole == parts and whole["scale"] > 0


def test_best_holds_the_averaged_weights_that_were_measured(whole):
    best, last = load_checkpoint(whole / BEST), load_checkpoint(whole / LAST)
    assert best.state["selected_on"] == "val" and best.card.score == last.card.score
    rows = {row["step"]: row["mAP"] for row in lines(whole) if row["split"] == "val"}
    assert best.state["best"] == rows[best.state["step"]] == max(rows.values()) == last.state["best"]
    assert best.weights().keys() == last.part("model").keys() and not best.part("optimizer")
    if best.state["step"] == 8:
        assert all(torch.equal(value, last.weights()[key]) for key, value in best.weights().items())


def test_nothing_in_a_run_folder_is_a_pickle(whole):
    for file in (file for file in whole.rglob("*") if file.is_file()):
        assert not zipfile.is_zipfile(file)  # what torch.save writes
        assert not file.read_bytes().startswith((b"\x80\x02", b"\x80\x04", b"\x80\x05"))
