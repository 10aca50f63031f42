import pytest

from resight.config import load_config

TINY = {
    "model.name": "test_efficientnet",
    "model.min_size": 64,
    "model.max_size": 96,
    "model.start": "none",
    "train.batch_size": 2,
    "train.device": "cpu",
    "data.workers": 0,
}


@pytest.fixture(scope="session")
def tiny():
    """A configuration that trains on the records at ``data`` within seconds, with any keys changed."""

    def settings(data, **changes):
        return load_config(
            None, TINY | {"data.path": str(data)} | {k.replace("__", "."): v for k, v in changes.items()}
        )

    return settings
