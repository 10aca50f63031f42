"""The frame of the command line: how a function becomes a verb, and how every verb speaks and ends."""

from __future__ import annotations

import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from ..config.other_names import verb_here
from ..errors import ResightError, listed, nearest
from . import guard as console

F = TypeVar("F", bound=Callable[..., Any])

Force = Annotated[bool, typer.Option("--force", help="Overwrite files that Resight wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and exit.")]


def option(metavar: str | None, help: str, default: object = "", *names: str, **limits: float) -> Any:
    """An option; ``default`` is told where the parameter's own is None and something else follows from that."""
    told = f"{help} (default {default})." if default else f"{help}."
    return typer.Option(*names, metavar=metavar, help=told, **limits)  # type: ignore[arg-type]


def argument(metavar: str, help: str) -> Any:
    return typer.Argument(metavar=metavar, help=f"{help}.")


Out = Annotated[str, option("PATH", "Folder or file to write", "", "--out", "-o")]
PartOf = Annotated[str | None, option("I/N", "Do one of N parts, from 1/N to N/N; auto: that of an array of jobs")]
Merge = Annotated[str | None, option("DIR", "Join all parts in this folder, or at this s3:// address")]
NoLabels = Annotated[bool, typer.Option("--no-labels", help="Draw boxes without names and scores.")]


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
            message = f"unknown command '{word}'. {verb_here(word, ctx.command_path) or nearest(word, known)}".rstrip()
            raise ResightError(message, fix=f"{ctx.command_path} knows {listed(known, 20)}.")
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
    log_format: Annotated[Literal["text", "json"], option(None, "Form of the messages on stderr")] = "text",
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and every message.")] = False,
) -> None:
    """What every verb does first with the options that all of them have."""
    console.listen(quiet=quiet, debug=debug, as_json=log_format == "json")


def verb(
    group: typer.Typer, name: str, connect: Callable[..., AbstractContextManager[Any]] | None = None
) -> Callable[[F], F]:
    """Makes a function a verb, with the options that all verbs have and those of ``connect``, in whose block it runs
    if its first argument is what that gives."""

    def register(function: F) -> F:
        own, common, shared = _options_of(function), _options_of(_common), _options_of(connect) if connect else {}
        connects = own.pop("aws", None) is not None

        @functools.wraps(function)
        def run(**given: Any) -> Any:
            _common(**{key: given.pop(key) for key in common})
            told = {key: given.pop(key) for key in shared}
            with connect(**told) if connect and connects else nullcontext() as first:
                return function(*[first] * connects, **given)

        options = own | shared | common
        run.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {key: one.annotation for key, one in options.items()}
        group.command(name, cls=_Verb)(run)
        return function

    return register


def _options_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function by name, as options: no order matters."""
    found = inspect.signature(function, eval_str=True).parameters
    return {name: one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, one in found.items()}


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


def pairs_of(
    assignments: Sequence[str] | None, option: str, form: str = "OLD=NEW", empty: bool = False
) -> dict[str, str] | None:
    """Each ``OLD=NEW`` of an option; with ``empty`` the right side may be. Raises ResightError: a text is none, or says
    another thing of what was named before."""
    pairs: dict[str, str] = {}
    for text in assignments or ():
        old, equals, new = text.partition("=")
        if not (old and equals and (new or empty)):
            raise ResightError(f"'{text}' is not of the form {form}", where=option)
        if pairs.setdefault(old, new) != new:
            raise ResightError(f"'{old}={pairs[old]}' and '{text}' contradict each other", where=option)
    return pairs or None


def without(given: dict[str, Any], *names: str) -> dict[str, Any]:
    """The options of a verb but ``names``: those that its function takes under the same names."""
    return {name: value for name, value in given.items() if name not in names}
