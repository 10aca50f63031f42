import asyncio
import json
from pathlib import Path

from fixtures.stub_model import CODE
from resight.serving.request import Request, Route
from resight.serving.worker import Task
from resight.serving.workers import Worker


def test_it_answers_after_a_bug_and_to_no_signal(stub, capfd):
    async def run():
        worker = await Worker.start(Task(str(stub), "signs", 3, code=CODE, json=True))
        try:
            assert Path(f"/proc/{worker.process.pid}/oom_score_adj").read_text() == "500\n"
            worker.process.terminate()  # of a supervisor that signals all processes: the server decides
            bug = await worker.answer(Request(Route("images"), b"raise"))
            return bug, await worker.answer(Request(Route("predict"), b"hello"))
        finally:
            await worker.end()

    bug, answer = asyncio.run(run())
    assert (bug.status, json.loads(bug.body)) == (500, {"error": "internal error: ZeroDivisionError"})
    told = json.loads(answer.body)
    assert (told["version"], told["kind"]) == (3, "predict")
    line = json.loads(capfd.readouterr().err.splitlines()[0])
    assert line["level"] == "error" and "this is a bug" in line["message"] and "ZeroDivisionError" in line["traceback"]


def test_on_a_gpu_it_ends_after_an_error(tmp_path):
    (tmp_path / "model").write_text("gpu")

    async def run():
        worker = await Worker.start(Task(str(tmp_path / "model"), "signs", code=CODE))
        bug = await worker.answer(Request(Route("images"), b"raise"))
        code = await worker.ended
        await worker.end()
        return bug.status, worker.loaded.on_gpu, code

    assert asyncio.run(run()) == (500, True, 1)
