"""How the command line speaks: results on stdout, messages on stderr (or where RESIGHT_LOG_STREAM says), one message an
error, exit codes."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from itertools import pairwise
from typing import Any, NoReturn, TextIO, cast

from .._version import __version__
from ..config.other_names import option_here
from ..errors import DONE, INTERRUPTED, TERMINATED, USAGE, ResightError, escaped, exit_code_of, explained, nearest
from ..io.progress import listen, speaks_json
from ..io.terminal import fitted, message_stream

log = logging.getLogger("resight")


class _Output:
    """stdout or stderr whose reader may leave early, as ``head`` does, or was never there, whose disk may be full, and
    whose encoding may lack a letter: a verb goes on and ends as it would without.

    ``lost`` is why the rest of what was written is lost; "" where nobody wanted it.
    """

    def __init__(self, stream: TextIO | None, safe: bool) -> None:
        self.stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        self.safe, self.lost = safe, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        shown = escaped(text) if self.safe else text
        with self._going_on():
            try:
                self.stream.write(shown)
            except UnicodeEncodeError:  # as JSON writes it, so that JSON stays what it is
                self.stream.write(re.sub("[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], shown))
        return len(text)

    def flush(self) -> None:
        with self._going_on():
            self.stream.flush()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # a stream that is closed is a ValueError
            if not isinstance(error, BrokenPipeError | ValueError):
                self.lost = error.strerror or str(error)
            # What is still in the buffer goes nowhere, also when Python flushes it at its end.
            with suppress(OSError, ValueError), open(os.devnull, "w", encoding="utf-8") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())


def show(text: str) -> None:
    """A result for people, on stdout."""
    print(fitted(text, sys.stdout))


def close_with(text: str) -> None:
    """The closing message of a verb that leaves its result elsewhere: on stdout, and among JSON lines there as one."""
    if speaks_json() and message_stream() is sys.stdout:
        log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, "%s", (text,), None))  # also with --quiet
    else:
        show(text)


def show_json(value: Any) -> None:
    """A result for programs: one JSON document on stdout."""
    print(value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, default=str))


def show_result(as_json: bool, value: Callable[[], Any], text: Callable[[], str]) -> None:
    """The result of a verb on stdout, for programs or for people."""
    if as_json:
        show_json(value())
    else:
        show(text())


def guard(command: Callable[[], Any], argv: Sequence[str]) -> int:
    """Runs ``command`` and returns the exit code; whatever it raises becomes one message on stderr."""
    handlers, propagate, level = log.handlers, log.propagate, log.level
    try:
        # What rich writes is ours and in colour: help, and on stderr the bars.
        stdout, stderr = _Output(sys.stdout, safe="--help" not in argv), _Output(sys.stderr, safe=False)
        with (
            _signals(),
            warnings.catch_warnings(),
            redirect_stdout(cast(TextIO, stdout)),
            redirect_stderr(cast(TextIO, stderr)),
        ):
            code = _run(command, argv)
            stdout.flush()
            if stdout.lost:  # a full disk
                _complain(f"stdout: {stdout.lost}", argv)
                code = code or USAGE
            stderr.flush()
            return code
    finally:
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)


@contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end a verb so that what it was writing vanishes; a training has its own way."""
    default: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    of_main = threading.current_thread() is threading.main_thread()
    taken = [number for number, usual in default.items() if of_main and signal.getsignal(number) is usual]
    unraisable = sys.unraisablehook
    try:
        for number in taken:
            signal.signal(number, _end)
        if taken:
            sys.unraisablehook = _send_again
        yield
    finally:
        sys.unraisablehook = unraisable
        for number in taken:
            signal.signal(number, default[number])


class _Interrupted(KeyboardInterrupt):
    """Where Python's own has passed through an ``exec``, as in imports, Python ends by the signal and not with 130."""


def _end(number: int, _: object) -> NoReturn:
    if number == signal.SIGINT:
        raise _Interrupted
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would end the clearing away
    raise SystemExit(TERMINATED)


def _send_again(lost: Any) -> None:
    """For a signal that came in what cannot raise, a finalizer or a callback of an import: Python would show its
    exception, and go on."""
    if lost.exc_type is _Interrupted:
        number = signal.SIGINT
    elif lost.exc_type is SystemExit and lost.exc_value.code == TERMINATED:
        number = signal.SIGTERM
        signal.signal(number, _end)
    else:
        sys.__unraisablehook__(lost)
        return
    again = threading.Timer(0.01, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def _run(command: Callable[[], Any], argv: Sequence[str]) -> int:
    try:
        _check_working_folder()
        code = command()
    except (KeyboardInterrupt, SystemExit) as stop:
        code = exit_code_of(stop)
    except Exception as error:
        if "--debug" in argv:
            traceback.print_exc()
        _complain(explain(error) or _report(error, argv), argv)
        return exit_code_of(error)
    if code in (INTERRUPTED, TERMINATED):
        _complain("interrupted" if code == INTERRUPTED else "terminated", argv)
    return code if isinstance(code, int) else DONE


def _check_working_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:  # libraries end the process over it when they are loaded
        fix = "Change to another folder, and name files from there."
        raise ResightError("the working folder is not there any more", fix=fix) from error


def explain(error: Exception) -> str | None:
    """The message for an error that is not our bug, else None."""
    return _usage(error) if hasattr(error, "format_message") else explained(error)  # the option parser's


def _usage(error: Any) -> str:
    message = error.format_message().rstrip(".").replace("Value error, ", "")
    if wrong := re.search("'([^']*)' is not one of (.*)", message):
        known = re.findall("'([^']*)'", wrong[2])
        message = f"{message}. {nearest(wrong[1], known)}".rstrip(". ")
    context = getattr(error, "ctx", None)
    verb = context.command_path if context else "resight"
    option = getattr(error, "option_name", None)
    if option and context and hasattr(error, "possibilities"):
        known = [name for param in context.command.params for name in param.opts if param.param_type_name == "option"]
        hint = option_here(option, context.info_name) or nearest(option, known)
        message = f"unknown option '{option}'. {hint}".rstrip()
    return f"{message}\n  {verb} --help lists what there is."


def _report(error: Exception, argv: Sequence[str]) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    text = f"resight {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
    text += f"command line: {list(argv)}\nfolder: {os.environ.get('PWD', '?')}\n\n"
    text += "".join(traceback.format_exception(error))
    head = f"internal error: {type(error).__name__}: {error}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"resight-{stamp}-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError:
        return f"{head}\n{text}"
    return (
        f"{head}\n  This is a bug of Resight, not yours. Full report: {file.name};\n"
        "  please report it with that file. --debug shows the traceback here."
    )


def _complain(message: str, argv: Sequence[str]) -> None:
    if ("--log-format", "json") in pairwise(argv) or "--log-format=json" in argv:
        with suppress(ResightError):
            listen(as_json=True)  # what is wrong may be another option: then nothing has read this one
    if speaks_json():
        log.error("%s", message)
    else:
        print(fitted(f"error: {escaped(message)}", message_stream()), file=message_stream())
