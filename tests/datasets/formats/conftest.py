"""What the tests of the formats share: small images on disk, and damage done to bytes."""

import pytest
from hypothesis import strategies as st
from PIL import Image

from resight.datasets.formats import Source, read_source
from resight.errors import ResightError


@pytest.fixture
def images(tmp_path):
    """``images("a/1.png", ...)`` writes 100 x 80 images below the test's folder."""

    def write(*names, size=(100, 80)):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, "gray").save(path)

    return write


@pytest.fixture
def put(tmp_path):
    """``put("a/b.txt", "text")`` writes a text file below the test's folder."""

    def write(name, text, encoding="utf-8"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return path

    return write


@pytest.fixture(scope="session")
def damage():
    """A strategy of functions that cut bytes off and change, insert and repeat some."""
    edit = st.tuples(st.integers(0, 3000), st.integers(0, 3), st.binary(min_size=1, max_size=4))

    def apply(edits, end):
        def to(data: bytes) -> bytes:
            for at, kind, new in edits:
                at = at % max(len(data), 1)
                middle = [new, b"", data[at : at + 9] * 2, new + data[at : at + len(new)]][kind]
                data = data[:at] + middle + data[at + len(new) :]
            return data[:end]

        return to

    return st.builds(apply, st.lists(edit, max_size=5), st.one_of(st.just(10**6), st.integers(0, 3000)))


@pytest.fixture(scope="session")
def survives():
    """Reads a source that may be damaged: whatever happens is our error or a source that can be used."""

    def read(path, format) -> Source | None:
        try:
            source = read_source(path, format)
        except ResightError as error:
            assert error.message and error.where
            return None
        for annotation in source.annotations:
            annotation.source_id.encode()
            for box in annotation.boxes:
                assert box.label.strip() and box.label.encode()
                assert all(isinstance(side, float) for side in box.xyxy)
        assert all(problem.message and problem.where for problem in source.problems)
        return source

    return read
