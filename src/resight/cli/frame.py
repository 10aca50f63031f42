"""The frame of the command line: how a function becomes a verb, and how every verb speaks and ends.

What a verb does is in ``cli``.
"""

from __future__ import annotations

import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from ..config.other_names import verb_here
from ..errors import ResightError, listed, nearest
from . import guard as console

F = TypeVar("F", bound=Callable[..., Any])


class ResightGroup(TyperGroup):
    """The application: every error becomes one message and an exit code, whoever calls it."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        argv = list(sys.argv[1:] if args is None else args)
        if argv in ([], ["data"], ["zoo"], ["cloud"]):
            argv.append("--help")
        extra["standalone_mode"] = False
        sys.exit(console.guard(lambda: super(ResightGroup, self).main(argv, "resight", **extra), argv))

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: name not in ("demo", "data"))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word, known = args[0], self.list_commands(ctx)
        if not word.startswith("-") and word not in known:
            raise ResightError(
                f"unknown command '{word}'. {verb_here(word, ctx.command_path) or nearest(word, known)}".rstrip(),
                fix=f"{ctx.command_path} knows {listed(known, 20)}.",
            )
        return super().resolve_command(ctx, args)


class _Verb(TyperCommand):
    """A verb: an empty word is a variable that a script forgot to set, and means nothing."""

    def invoke(self, ctx: Any) -> Any:
        for parameter in self.get_params(ctx):
            value = ctx.params.get(parameter.name)
            if value == "" or (isinstance(value, list | tuple) and "" in value):
                named = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
                raise ResightError("is empty", where=named)
        return super().invoke(ctx)


def _common(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only results, warnings and errors.")] = False,
    log_format: Annotated[
        str, typer.Option("--log-format", metavar="text|json", help="Form of the messages on stderr.")
    ] = "text",
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and every message.")] = False,
) -> None:
    """What every verb does first with the options that all of them have."""
    if log_format not in ("text", "json"):
        raise ResightError(f"'{log_format}' is neither text nor json", where="--log-format")
    console.listen(quiet=quiet, debug=debug, as_json=log_format == "json")


def verb(group: typer.Typer, name: str) -> Callable[[F], F]:
    """Makes a function a verb and gives it the options that all of them have."""

    def register(function: F) -> F:
        common = options_of(_common)

        @functools.wraps(function)
        def run(**options: Any) -> Any:
            _common(**{name: options.pop(name) for name in common})
            return function(**options)

        take_options(run, options_of(function) | common)
        group.command(name, cls=_Verb)(run)
        return function

    return register


def options_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function by name, as options: no order matters."""
    found = inspect.signature(function, eval_str=True).parameters
    return {name: one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, one in found.items()}


def take_options(run: Callable[..., Any], options: dict[str, inspect.Parameter]) -> None:
    """Makes typer see ``options`` as those of ``run``, which takes any."""
    run.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: one.annotation for name, one in options.items()}


def print_result(report: Any, as_json: bool) -> None:
    """The result of a verb on stdout, for people or for programs."""
    if as_json:
        console.show_json(report.json())
    else:
        console.show(report.text())


def wrote(path: str, command: str, remark: str = "") -> None:
    """What every verb ends with: what it wrote, and the next sensible command."""
    say(f"Wrote {path}")
    suggest(command, remark)


def suggest(command: str, remark: str = "") -> None:
    say(f"Next: resight {command}" + (f"  ({remark})" if remark else ""))


def say(text: str) -> None:
    """One message on stderr."""
    sys.stdout.flush()  # the result stands above the message also where both go to one file
    console.log.info("%s", text)


def quoted(path: object) -> str:
    """``path`` as a shell takes it."""
    return shlex.quote(str(path))


def names_of(text: str | None) -> tuple[str, ...]:
    """``A,B,C`` of --classes."""
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text and not names:
        raise ResightError(f"'{text}' names no class", where="--classes")
    return names


def pairs_of(
    assignments: Sequence[str] | None, option: str, form: str = "OLD=NEW", empty: bool = False
) -> dict[str, str] | None:
    """Each ``OLD=NEW`` of an option; with ``empty`` the right side may be."""
    pairs = {}
    for text in assignments or ():
        old, equals, new = text.partition("=")
        if not (old and equals and (new or empty)):
            raise ResightError(f"'{text}' is not of the form {form}", where=option)
        pairs[old] = new
    return pairs or None


def size_of(text: str) -> tuple[int, int]:
    """``MIN,MAX`` of --size."""
    try:
        short, long = (int(side) for side in text.split(","))
    except ValueError:
        raise ResightError(f"'{text}' is not of the form MIN,MAX, e.g. 600,1024", where="--size") from None
    return short, long
