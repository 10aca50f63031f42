"""The processes that run one version of a model, and the queue before them."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import pickle
import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ResightError, counted
from .request import Request, Response
from .worker import SIZE, Loaded, Task, packed

log = logging.getLogger(__name__)

TRIES = 2  # of a request whose worker dies
LOAD_SECONDS = 900.0  # until a worker that has not loaded the model is given up
LONGEST_PAUSE = 30.0  # seconds between two attempts to replace a worker
ON_GPU = 2  # workers, so that one reads an image while the other looks at one
# Numbers of threads that libraries read when they are loaded.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


class Died(Exception):
    """A worker ended while it was needed."""


class QueueFull(Exception):
    """As many requests wait as may; ``after`` is in how many seconds there will be room."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after


@dataclass(eq=False)
class Job:
    """A request on its way. ``answer`` may be cancelled by who waits for it."""

    request: Request
    answer: asyncio.Future[Response]
    tries: int = 0


class Worker:
    """One process, from the server's side."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process, self._reader, self._writer = process, reader, writer
        self.ended = asyncio.ensure_future(process.wait())
        self.loaded: Loaded | None = None

    @classmethod
    async def start(cls, task: Task, hidden: tuple[str, ...] = ()) -> Worker:
        """A process that has loaded the model; it does not see the variables ``hidden`` of the environment. Raises
        ResightError: it cannot load it."""
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as undo:
            undo.callback(ours.close)
            code = f"import sys; sys.path[:] = {sys.path!r}; from resight.serving.worker import main; "
            code += f"main({theirs.fileno()}, {os.getpid()})"
            environment = {key: value for key, value in os.environ.items() if key not in hidden}
            environment |= dict.fromkeys(THREADS, str(task.threads))
            # In a session of its own: a Ctrl-C is for the server, which ends its workers when it needs them no more.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, pass_fds=[theirs.fileno()], env=environment, start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            undo.pop_all()
        worker = cls(process, *await asyncio.open_connection(sock=ours))
        try:
            await worker._load(task)
        except BaseException:
            await worker.end()
            raise
        return worker

    async def _load(self, task: Task) -> None:
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                answer = await self._ask(task)
        except TimeoutError:
            raise ResightError(f"is not loaded after {LOAD_SECONDS:.0f} seconds", where=task.model) from None
        except Died:
            code = await self.exit_code()
            killed = "; was there enough memory?" if code == -9 else ""
            raise ResightError(f"the process that loads it ended with code {code}{killed}", where=task.model) from None
        if isinstance(answer, str):
            raise ResightError(answer)
        self.loaded = answer

    async def answer(self, request: Request) -> Response:
        """Raises Died."""
        return await self._ask(request)

    async def _ask(self, message: object) -> Any:
        try:
            self._writer.write(packed(message))
            await self._writer.drain()
            size = await self._reader.readexactly(SIZE)
            return pickle.loads(await self._reader.readexactly(int.from_bytes(size)))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Died from error

    async def exit_code(self) -> int:
        """Of one that has broken off: most often it has ended. That takes a moment to be known, and ending it meanwhile
        would take its exit code away from who waits for it."""
        await asyncio.wait([self.ended], timeout=1)
        return await self.end()

    async def end(self) -> int:
        """Ends it at once, as it holds nothing that could be lost, and returns its exit code."""
        self._writer.close()
        with suppress(ProcessLookupError):
            self.process.kill()
        return await self.ended


@dataclass(frozen=True)
class Plan:
    """How many do the work, and how much they take on.

    Args:
        workers: processes.
        queue: requests that wait for one.
        seconds: a worker may take for a request; it is replaced if it takes longer.
        hidden: variables of the environment that are not for them.
    """

    workers: int
    queue: int
    seconds: float
    hidden: tuple[str, ...] = ()


class Pool:
    """Workers of one version of a model. A request that finds none free waits; one whose worker dies is tried once
    more, before all that wait. ``replaced`` is called for each worker that ended."""

    def __init__(self, task: Task, plan: Plan, replaced: Callable[[], None] = lambda: None) -> None:
        self.task, self.plan, self._replaced = task, plan, replaced
        self.loaded: Loaded | None = None
        self.workers: set[Worker] = set()  # that have loaded the model
        self.running = 0
        self._waiting: deque[Job] = deque()
        self._free: deque[asyncio.Future[Job]] = deque()  # of workers that wait for a job
        self._open: set[Job] = set()
        self._attendants: list[asyncio.Task[None]] = []
        self._seconds = 0.0  # of a worker on a request, of late

    async def start(self) -> None:
        """Returns when all have loaded the model. Raises ResightError: the first one cannot."""
        first = await Worker.start(self.task, self.plan.hidden)
        self.loaded = first.loaded
        count = min(self.plan.workers, ON_GPU) if first.loaded and first.loaded.on_gpu else self.plan.workers
        ready = [asyncio.Event() for _ in range(count)]
        self._attendants = [
            asyncio.create_task(self._attend(first if number == 0 else None, ready[number])) for number in range(count)
        ]
        await asyncio.gather(*(event.wait() for event in ready))

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def ready(self) -> bool:
        return bool(self.workers)

    def check_room(self) -> None:
        """Raises QueueFull."""
        if len(self._waiting) >= self.plan.queue:
            raise QueueFull(max(1, math.ceil(self._seconds * len(self._waiting) / max(len(self.workers), 1))))

    def submit(self, request: Request) -> asyncio.Future[Response]:
        """The answer to come; cancelling it takes the request out of the queue. Raises QueueFull."""
        self.check_room()
        job = Job(request, asyncio.get_running_loop().create_future())
        self._open.add(job)
        job.answer.add_done_callback(lambda _: self._forget(job))
        self._hand_over(job)
        return job.answer

    def _forget(self, job: Job) -> None:
        self._open.discard(job)
        with suppress(ValueError):
            self._waiting.remove(job)

    def _hand_over(self, job: Job) -> None:
        while self._free:
            if not (free := self._free.popleft()).done():
                free.set_result(job)
                return
        if job.tries:
            self._waiting.appendleft(job)
        else:
            self._waiting.append(job)

    async def _attend(self, worker: Worker | None, ready: asyncio.Event) -> None:
        """Keeps one worker at work, and replaces it when it ends."""
        pause = 0.0
        while True:
            try:
                worker = worker or await Worker.start(self.task, self.plan.hidden)
            except (ResightError, OSError) as error:
                pause = min(max(2 * pause, 1.0), LONGEST_PAUSE)
                log.error("a worker cannot be started, next attempt in %.0f s: %s", pause, error)
                ready.set()  # the others serve
                await asyncio.sleep(pause)
                continue
            pause = 0.0
            self.workers.add(worker)
            ready.set()
            try:
                why = await self._work(worker)
            except Exception:
                log.exception("this is a bug of Resight")
                why = "gave no answer that can be read"
            finally:
                self.workers.discard(worker)
                await asyncio.shield(worker.end())
            self._replaced()
            log.warning("worker %d %s and is replaced", worker.process.pid, why)
            worker = None

    async def _work(self, worker: Worker) -> str:
        """Gives ``worker`` one job after another; returns why it is of no more use."""
        while job := await self._next(worker):
            job.tries += 1
            self.running += 1
            begin = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(self.plan.seconds):
                    answer = await worker.answer(job.request)
            except TimeoutError:
                _finish(job, Response.error(504, f"the model took more than {self.plan.seconds:g} seconds"))
                return f"took more than {self.plan.seconds:g} seconds for a request"
            except Died:
                code = await worker.exit_code()
                if job.answer.done():
                    pass
                elif job.tries < TRIES:
                    self._hand_over(job)
                else:
                    error = f"the process that worked on it ended, {counted(job.tries, 'time')}"
                    _finish(job, Response.error(503, error, {"Retry-After": "1"}))
                return f"ended with code {code} during a request"
            except Exception as error:
                _finish(job, Response.error(500, f"internal error: {type(error).__name__}"))
                raise
            finally:
                self.running -= 1
            seconds = asyncio.get_running_loop().time() - begin
            self._seconds = 0.9 * self._seconds + 0.1 * seconds if self._seconds else seconds
            _finish(job, answer)
        return f"ended with code {await worker.ended}"

    async def _next(self, worker: Worker) -> Job | None:
        """The next job; None where the worker ends before there is one."""
        if worker.ended.done():
            return None
        if self._waiting:
            return self._waiting.popleft()
        free: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self._free.append(free)
        either: set[asyncio.Future[Any]] = {free, worker.ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not worker.ended.done():
            return free.result()
        if free.done():
            self._hand_over(free.result())
        else:
            self._free.remove(free)
        return None

    async def drain(self) -> None:
        """Returns when every request has its answer."""
        while self._open:
            await asyncio.wait({job.answer for job in self._open})

    async def stop(self) -> None:
        """Ends all workers at once."""
        for attendant in self._attendants:
            attendant.cancel()
        await asyncio.gather(*self._attendants, return_exceptions=True)
        for job in list(self._open):
            _finish(job, Response.error(503, "the server stops", {"Retry-After": "1"}))

    def of_version(self, version: int, model: str) -> Pool:
        """A pool alike of another version."""
        return Pool(replace(self.task, version=version, model=model), self.plan, self._replaced)


def _finish(job: Job, answer: Response) -> None:
    if not job.answer.done():
        job.answer.set_result(answer)
