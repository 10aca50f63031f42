"""What needs no worker, and whatever is sent to one, has an answer."""

from resight.serving.answer import describe
from resight.serving.request import Route


def test_what_is_asked_of_no_model_is_answered():
    assert describe(Route("live"), "signs", []).status
