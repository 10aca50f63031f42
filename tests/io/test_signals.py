import signal
import threading

import pytest

from resight.io.signals import stop_on_signal


def test_a_signal_within_the_handling_of_another_waits_for_nothing(monkeypatch):
    def late(*_):
        raise AssertionError("it waits for ever")

    def again(self):
        monkeypatch.undo()
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGALRM, late)
    try:
        with stop_on_signal(announced=False) as stop:
            monkeypatch.setattr(threading.Condition, "notify_all", again)
            signal.alarm(5)
            signal.raise_signal(signal.SIGTERM)
            assert stop.is_set()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("number", "then"), [(signal.SIGINT, "Ctrl-C again"), (signal.SIGTERM, "Ctrl-C")])
def test_the_first_signal_is_answered_at_once(number, then, caplog):
    with stop_on_signal(announced=True) as stop:
        signal.raise_signal(number)
        assert stop.is_set()
        for thread in threading.enumerate():
            if thread.name == "signals":
                thread.join(5)
        assert f"stopping after this step and saving; press {then} to quit without saving" in caplog.text


def test_a_training_that_is_not_interrupted_says_nothing_of_it(caplog):
    with stop_on_signal(announced=True):
        pass
    for thread in threading.enumerate():
        if thread.name == "signals":
            thread.join(5)
    assert "stopping" not in caplog.text
