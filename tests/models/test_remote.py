"""Models in an object store: what is fetched, and what is refused before."""

import pytest

from resight.errors import ResightError
from resight.io import object_store as storage
from resight.io.object_store import fetch
from resight.models.remote import fetch_model


def test_a_model_that_changes_in_the_store_is_fetched_anew(s3, untrained):
    address = f"s3://{s3.bucket}/model.safetensors"
    storage.write(address, untrained)
    assert fetch_model(address).read_bytes() == untrained.read_bytes()
    storage.write(address, b"other")
    assert fetch_model(address).read_bytes() == b"other"


def test_what_holds_no_model_is_refused_before_anything_is_fetched(s3, untrained, monkeypatch):
    for name in ("a/checkpoints/last-4.safetensors", "a/checkpoints/last", "b/.lock", "b/config.toml"):
        storage.write(f"s3://{s3.bucket}/runs/{name}", untrained)
    monkeypatch.setattr(storage, "download", None)
    for address in (f"s3://{s3.bucket}/runs", f"s3://{s3.bucket}/runs/b"):
        with pytest.raises(ResightError, match="holds no model") as caught:
            fetch_model(address)
        assert caught.value.where == address


@pytest.mark.parametrize("pointer", [b"\xff\xfe", b"../../other", b"", b"a" * 1000, b"a\x1b[31m"])
def test_a_pointer_that_is_no_name_is_refused(pointer, s3):
    run = f"s3://{s3.bucket}/damaged"
    storage.write(f"{run}/config.toml", b"")
    storage.write(f"{run}/checkpoints/best", pointer)
    with pytest.raises(ResightError, match="names no checkpoint") as caught:
        fetch_model(run)
    assert caught.value.where == f"{run}/checkpoints/best"


@pytest.mark.parametrize("noted", ["[]", "3", '{"a": 1}', "[" * 100_000, '{"\\ud800": "x"}'])
def test_damaged_notes_on_what_was_fetched_mean_that_nothing_was(noted, tmp_path):
    (tmp_path / ".etags.json").write_text(noted)
    fetch({}, tmp_path)
    assert (tmp_path / ".etags.json").read_text() == "{}"
