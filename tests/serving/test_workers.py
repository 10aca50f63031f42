import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fixtures.stub_model import CODE
from resight.errors import ResightError
from resight.serving.request import Request, Route
from resight.serving.worker import Task
from resight.serving.workers import Plan, Pool, QueueFull

TESTS = Path(__file__).parents[1]


@pytest.fixture
def with_pool(stub):
    """Runs ``use(pool)`` with workers that have loaded the model; ``pool.replacements`` grows with each that ends."""

    def run(use, *, model=stub, workers=1, queue=8, seconds=60.0):
        async def inner():
            ended = []
            task = Task(str(model), "signs", code=CODE)
            pool = Pool(task, Plan(workers, queue, seconds, ("SECRET",)), lambda: ended.append(1))
            pool.replacements = ended
            try:
                await pool.start()
                return await use(pool)
            finally:
                await pool.stop()

        return asyncio.run(inner())

    return run


def asked(body):
    return Request(Route("images"), body.encode() if isinstance(body, str) else body)


async def told(pool, body):
    return json.loads((await pool.submit(asked(body))).body)


def in_thread(function):
    """Meets a worker without holding up the server's loop."""
    return asyncio.get_running_loop().run_in_executor(None, function)


def test_all_workers_answer_whole_and_see_their_own_environment(with_pool, meeting, monkeypatch):
    monkeypatch.setenv("SECRET", "open-sesame")
    first, second = meeting("first"), meeting("second")

    async def use(pool):
        answers = [pool.submit(asked(one.body)) for one in (first, second)]
        for one in (first, second):
            await in_thread(one.begun)  # both at once
        for one in (first, second):
            await in_thread(one.end)
        pids = {json.loads((await answer).body)["pid"] for answer in answers}
        assert len(pids) == 2 and os.getpid() not in pids
        large = os.urandom(3 << 20)
        return await told(pool, large), large

    answer, large = with_pool(use, workers=2)
    assert answer["digest"] == hashlib.sha256(large).hexdigest()
    assert "SECRET" not in answer["environment"] and answer["environment"]["OMP_NUM_THREADS"] == "1"


def test_one_that_is_killed_is_replaced_and_its_request_tried_once_more(with_pool, meeting, tmp_path):
    held = meeting()

    async def use(pool):
        idle = (await told(pool, "hello"))["pid"]
        os.kill(idle, signal.SIGKILL)
        busy = (await told(pool, "hello"))["pid"]
        answer = pool.submit(asked(held.body))
        await in_thread(held.begun)
        behind = pool.submit(asked("hello"))
        os.kill(busy, signal.SIGKILL)
        await in_thread(held.begun)  # before the other one
        assert not behind.done()
        await in_thread(held.end)
        last = json.loads((await answer).body)["pid"]
        assert len({idle, busy, last}) == 3 and json.loads((await behind).body)["pid"] == last
        assert len(pool.replacements) == 2
        dies = await pool.submit(asked("die"))
        assert dies.status == 503 and dies.headers["Retry-After"] and b"2 times" in dies.body
        assert await told(pool, "hello") and len(pool.replacements) == 4

    with_pool(use)


def test_one_that_hangs_is_replaced(with_pool):
    async def use(pool):
        answer = await pool.submit(asked("hang"))
        assert answer.status == 504
        assert await told(pool, "hello") and len(pool.replacements) == 1

    with_pool(use, seconds=0.3)


def test_one_whose_answer_cannot_be_read_is_replaced(with_pool, caplog):
    async def use(pool):
        answer = await pool.submit(asked("unreadable"))
        assert answer.status == 500 and "this is a bug" in caplog.text
        assert await told(pool, "hello") and len(pool.replacements) == 1

    with_pool(use)


def test_no_more_wait_than_may_and_who_leaves_makes_room(with_pool, meeting):
    held = meeting()

    async def use(pool):
        running = pool.submit(asked(held.body))
        await in_thread(held.begun)
        waiting = [pool.submit(asked("hello")) for _ in range(2)]
        with pytest.raises(QueueFull) as full:
            pool.submit(asked("hello"))
        assert full.value.after >= 1 and pool.waiting == 2
        waiting[0].cancel()
        await asyncio.sleep(0)
        assert pool.waiting == 1
        third = pool.submit(asked("hello"))
        drained = asyncio.create_task(pool.drain())
        await in_thread(held.end)
        await drained
        assert all(answer.done() for answer in (running, waiting[1], third))

    with_pool(use, queue=2)


def test_what_waits_when_all_is_stopped_is_answered(with_pool, meeting):
    held = meeting()

    async def use(pool):
        answers = [pool.submit(asked(held.body)), pool.submit(asked("hello"))]
        await in_thread(held.begun)
        await pool.stop()
        assert [answer.result().status for answer in answers] == [503, 503]

    with_pool(use)


@pytest.fixture
def slow_to_be_told(monkeypatch):
    """That a process has ended is known a while after it has."""
    waitpid = os.waitpid

    def wait(pid, options):
        if not options:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            time.sleep(0.2)
        return waitpid(pid, options)

    monkeypatch.setattr(os, "waitpid", wait)


@pytest.mark.parametrize(("word", "message"), [("bad", "is damaged"), ("killed", "with code -9; was there enough")])
def test_a_model_that_cannot_be_loaded(with_pool, slow_to_be_told, tmp_path, word, message):
    (tmp_path / "model").write_text(word)
    with pytest.raises(ResightError, match=message):
        with_pool(None, model=tmp_path / "model")


def test_the_others_serve_while_one_cannot_be_replaced(with_pool, tmp_path, meeting):
    model = tmp_path / "model"
    model.write_text("good")

    async def use(pool):
        model.write_text("bad")
        os.kill((await told(pool, "hello"))["pid"], signal.SIGKILL)
        assert [(await told(pool, "hello"))["version"] for _ in range(3)] == [1, 1, 1]
        while len(pool.workers) > 1:
            await asyncio.sleep(0)
        assert pool.ready

    with_pool(use, model=model, workers=2)


PARENT = """
import asyncio, sys
from fixtures.stub_model import CODE
from resight.serving.request import Request, Route
from resight.serving.worker import Task
from resight.serving.workers import Plan, Pool

async def main():
    pool = Pool(Task(sys.argv[1], "signs", code=CODE), Plan(2, 8, 60.0))
    await pool.start()
    pool.submit(Request(Route("images"), sys.argv[2].encode()))
    print(*(worker.process.pid for worker in pool.workers), flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def test_none_outlives_a_server_that_is_killed(stub, meeting):
    """Neither one that waits nor one that is at work."""
    held = meeting()
    paths = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(stub), held.body.decode()],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths},
    ) as parent:  # fmt: skip
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        held.begun()
        parent.kill()
    while any(is_running(pid) for pid in pids):
        pass


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
