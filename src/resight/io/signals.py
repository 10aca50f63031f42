"""SIGINT and SIGTERM while a training runs: what they ask of it, and how its processes leave them to it."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signal(*, announced: bool) -> Iterator[threading.Event]:
    """An event that SIGTERM and the first Ctrl-C set; the log says so at once where it is ``announced``. A second
    Ctrl-C ends at once."""
    stop, asked = threading.Event(), list[int]()

    def ask(number: int, _: object) -> None:
        asked.append(number)
        if len(asked) == 1:
            stop.set()  # once only: a signal that comes within this would wait for its lock for ever
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def announce() -> None:  # in a thread of its own: a handler may have interrupted another message
        stop.wait()
        if asked:
            _announce(asked[0])

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    if announced:
        threading.Thread(target=announce, name="signals", daemon=True).start()
    try:
        with _handled_by(ask):
            yield stop
    finally:
        stop.set()


def join_forwarding_signals(thread: threading.Thread) -> None:
    """Waits for ``thread``, which starts child processes: they get SIGTERM for the first signal, and are killed at a
    Ctrl-C after that, which raises KeyboardInterrupt."""
    asked, told = list[int](), set[int | None]()
    with _handled_by(lambda number, _: asked.append(number)):
        while thread.is_alive():
            thread.join(0.1)
            if asked and not told:
                told.add(None)  # the user, once
                _announce(asked[0])
            for child in multiprocessing.active_children() if asked else ():  # also those only now started
                if signal.SIGINT in asked[1:]:
                    child.kill()
                elif child.pid not in told:
                    child.terminate()
                    told.add(child.pid)
    if signal.SIGINT in asked[1:]:
        raise KeyboardInterrupt


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes that are started within begin with Ctrl-C and SIGTERM blocked, as this thread is then: one that comes
    while they import would end them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """For a worker, whose parent decides when it ends, and needs it until then: a Ctrl-C reaches the whole group, and
    so does the SIGTERM of many a supervisor."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _announce(number: int) -> None:
    again = " again" if number == signal.SIGINT else ""
    log.warning("stopping after this step and saving; press Ctrl-C%s to quit without saving", again)


@contextmanager
def _handled_by(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Signals go to ``handler``, also those that waited while the program was loaded; afterwards as before."""
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
