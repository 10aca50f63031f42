import asyncio
import json
import shutil
from contextlib import asynccontextmanager

import pytest

from fixtures.stub_model import CODE
from resight.errors import ResightError
from resight.serving import versions
from resight.serving.request import Request, Route
from resight.serving.versions import Versions, find_versions
from resight.serving.worker import Task
from resight.serving.workers import Plan, Pool


@pytest.fixture
def signs(tmp_path):
    """A folder of numbered versions, and how one gets there: ``signs(2, "good")``."""

    def add(number, word="good"):
        (tmp_path / "signs" / str(number)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "signs" / str(number) / "model.onnx").write_text(word)

    add.path = str(tmp_path / "signs")
    return add


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(versions, "SECONDS_BETWEEN_LOOKS", 0.01)


@asynccontextmanager
async def served(model):
    pool = Pool(Task(str(model), "signs", code=CODE), Plan(1, 8, 60.0))
    found = Versions(str(model), pool)
    await found.start()
    watching = asyncio.create_task(found.watch())
    try:
        yield found
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await found.stop()


async def version_of(found, body=b"hello"):
    return json.loads((await found.current.submit(Request(Route("images"), body))).body)["version"]


async def reached(condition):
    while not condition():
        await asyncio.sleep(0.005)


def states(found):
    return {one.number: one.state for one in found.all()}


def test_numbered_folders_are_versions(signs, tmp_path):
    signs(1), signs(20)
    (tmp_path / "signs" / "7").write_text("no folder")
    (tmp_path / "signs" / "old").mkdir()
    (tmp_path / "signs" / "3" / "saved_model").mkdir(parents=True)
    root = tmp_path / "signs"
    assert find_versions(root) == {1: f"{root}/1/model.onnx", 20: f"{root}/20/model.onnx", 3: f"{root}/3"}
    assert find_versions(root / "1") == {1: f"{root}/1"}
    assert find_versions(root / "1" / "model.onnx") == {1: f"{root}/1/model.onnx"}
    assert find_versions("s3://bucket/signs") == {1: "s3://bucket/signs"}


def test_a_new_version_takes_over_and_the_old_one_answers_what_it_took_on(signs, meeting):
    signs(1)
    old, loading = meeting("old"), meeting("loading")

    async def run():
        async with served(signs.path) as found:
            running = asyncio.create_task(version_of(found, old.body))
            await asyncio.to_thread(old.begun)
            waiting = asyncio.create_task(version_of(found))
            signs(2, loading.body.decode())
            await asyncio.to_thread(loading.begun)
            assert states(found) == {1: "AVAILABLE", 2: "LOADING"} and found.current.task.version == 1
            await asyncio.to_thread(loading.end)
            await reached(lambda: found.current.task.version == 2)
            assert await version_of(found) == 2 and states(found) == {1: "UNLOADING", 2: "AVAILABLE"}
            await asyncio.to_thread(old.end)
            assert (await running, await waiting) == (1, 1)
            await reached(lambda: states(found) == {1: "END", 2: "AVAILABLE"})
            shutil.rmtree(f"{signs.path}/2")  # back to the one before
            await reached(lambda: found.current.task.version == 1)
            assert await version_of(found) == 1

    asyncio.run(run())


def test_one_that_cannot_be_loaded_is_told_and_tried_again_when_it_changes(signs, caplog):
    signs(1)

    async def run():
        async with served(signs.path) as found:
            signs(2, "bad")
            await reached(lambda: states(found).get(2) == "END")
            assert found.all()[1].error == versions.FAILED and await version_of(found) == 1
            assert "is damaged" in caplog.text  # and nobody else is told where
            attempts = caplog.text.count("version 2 cannot be loaded")
            signs(3, "killed")
            await reached(lambda: states(found).get(3) == "END")
            assert caplog.text.count("version 2 cannot be loaded") == attempts == 1
            signs(2, "good again")
            await reached(lambda: found.current.task.version == 2)
            shutil.rmtree(signs.path)  # as where a volume is gone
            found.reload()
            await reached(lambda: "version 2 cannot be loaded, 2 is served on" in caplog.text)
            assert await version_of(found) == 2

    asyncio.run(run())


def test_asked_to_it_loads_again_what_is_no_folder_of_versions(stub):
    async def run():
        async with served(stub) as found:
            before = found.current
            found.reload()
            await reached(lambda: found.current is not before)
            assert await version_of(found) == 1 and states(found) == {1: "AVAILABLE"}
            await reached(lambda: found.pools == [found.current])
            assert states(found) == {1: "AVAILABLE"}
            assert [one.state for one in found.all(draining=True)] == ["UNLOADING"]

    asyncio.run(run())


def test_a_file_system_that_is_away_is_told_once(signs, caplog, monkeypatch):
    signs(1)
    looks = []

    def away(model):
        looks.append(model)
        raise OSError(5, "Input/output error")

    async def run():
        async with served(signs.path) as found:
            monkeypatch.setattr(versions, "find_versions", away)
            await reached(lambda: len(looks) > 3)
            assert await version_of(found) == 1

    asyncio.run(run())
    assert caplog.text.count("what is loaded is served on: Input/output error") == 1


def test_the_first_one_must_be_loaded(signs):
    signs(1, "bad")

    async def run():
        async with served(signs.path):
            pass

    with pytest.raises(ResightError, match="is damaged"):
        asyncio.run(run())
