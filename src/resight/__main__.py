"""``resight``, and ``python -m resight``.

Nothing but the standard library is imported before Ctrl-C is taken care of: the imports take a second.
"""

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """The entry point of the console script."""
    _open_streams()
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a command in the background ignores Ctrl-C, and goes on doing so
        signal.signal(signal.SIGINT, _leave)
    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    trains = verb == "train" and not {"--dry-run", "--show-config"} & set(sys.argv)
    if trains:
        # A training saves its state at SIGTERM. One that comes too early waits until it can (training/train.py), and
        # one that comes too late changes nothing.
        signal.signal(signal.SIGTERM, lambda *_: None)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    from .cli.app import app

    signal.signal(signal.SIGINT, before)
    try:
        app()
    finally:
        if trains:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Python drops its own handlers a while before it ends
    raise AssertionError("the application exits by itself")


def _open_streams() -> None:
    """A stream that the shell has closed (``2>&-``) leads nowhere: else the next file that is opened would take its
    number, and get what libraries write to it."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _leave(*_: object) -> NoReturn:
    os.write(2, b"error: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
