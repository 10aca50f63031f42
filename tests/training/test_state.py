import pytest

from resight.training.plan import make_plan
from resight.training.state import Pace, State


@pytest.fixture
def pace(shapes, tiny):
    """Of 100 steps of two images, five an epoch; three images are evaluated every epoch, so every 8 steps."""

    def of(**train):
        return Pace(make_plan(tiny(shapes(train=9, val=3), **{f"train__{key}": n for key, n in train.items()})))

    return of


def test_nothing_is_known_before_the_first_step(pace):
    assert pace(steps=100).left(0, 0) is None


def test_evaluations_and_saves_are_a_part_of_what_is_left(pace):
    own = pace(steps=100)
    own.took("step", 9.0, waited=7.0)  # for the loader to begin
    own.took("step", 2.0, waited=1.0)
    evaluations = -(-100 // own.interval)
    assert own.left(0, 0) == 100 * 2 + evaluations * own.evaluation_steps * 2
    own.took("evaluation", 5.0)
    own.took("save", 0.5)
    assert own.left(0, 0) == 100 * 2 + evaluations * (5 + 2 * 0.5) + 0.5
    assert own.left(100, 96) == 5 + 2 * 0.5 + 0.5  # the last one, at the end
    assert own.left(100, 96, evaluated=0.5) == 3 + 0.5
    assert own.left(100, 100) == 0.5


def test_a_training_of_minutes_ends_by_the_clock_and_an_evaluation(pace):
    own = pace(max_minutes=6)
    own.took("step", 2.0)
    own.took("evaluation", 10.0)
    assert own.left(30, 24, clock=100.0) == 260 + 10
    assert own.left(30, 24, clock=355.0, evaluated=0.2) == 8  # it is the last one
    assert own.left(30, 24, clock=400.0) == 0
    assert own.in_minutes(6) < 180


def test_without_validation_only_steps_are_left(shapes, tiny):
    own = Pace(make_plan(tiny(shapes(train=3), train__steps=10)))
    own.took("step", 2.0)
    assert (own.left(4, 0), own.interval) == (12, float("inf"))


def test_on_a_gpu_an_evaluation_waits_until_those_before_it_are_a_tenth_of_the_time(pace, monkeypatch):
    state = State(step=9)
    assert pace(steps=100).evaluation_is_due(state, 10.0, 9.0)  # a CPU counts steps
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    own = pace(steps=100, device="cuda")
    assert own.evaluation_is_due(state, 10.0, 0.0) and own.evaluation_is_due(state, 10.0, 1.0)
    assert not own.evaluation_is_due(state, 10.0, 1.1) and not own.evaluation_is_due(State(step=8), 10.0, 0.0)
    assert pace(steps=100, device="cuda", deterministic=True).evaluation_is_due(state, 10.0, 9.0)
    own.took("step", 1.0)
    own.took("evaluation", 5.0)  # as long as 5 steps: every 50 of them
    assert own.left(0, 0) == 100 + 2 * 5
