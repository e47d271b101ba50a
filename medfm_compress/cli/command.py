"""`command`: a function that takes settings structs becomes a command whose options are their fields."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
import typer

from medfm_compress.cli import console
from medfm_compress.cli.docstrings import summary
from medfm_compress.cli.options import METAVARS, Setting, build, settings_of
from medfm_compress.cli.ready_file import asking_with_a_file
from medfm_compress.runtime.constraints import read_annotation
from medfm_compress.runtime.errors import InputError

Command = Callable[..., Any]
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_OUTPUT = {
    "json": (bool, typer.Option("--json", help="Print one JSON document.")),
    "quiet": (bool, typer.Option("--quiet", "-q", help="No lines of progress.")),
    "verbose": (bool, typer.Option("--verbose", "-v", help="Progress with the time, and what libraries log.")),
}


def command(defaults: Mapping[str, Any] = _NOTHING, skip: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """Make a function a command.

    A parameter whose annotation is a ``msgspec.Struct`` becomes options, one a field, and receives the struct that is
    built of them; the others are Typer's. Every command also gets ``--json``, ``--quiet`` and ``--verbose``.

    Args:
        defaults: dotted path of a field → a default of this command's own.
        skip: dotted paths of fields that this command has no option for.
    """

    def decorate(function: Command) -> Command:
        signature = inspect.signature(function, eval_str=True)
        hints = {name: parameter.annotation for name, parameter in signature.parameters.items()}
        structs = {name: kind for name, kind in hints.items() if _is_struct(kind)}
        settings = {name: settings_of(kind, defaults, frozenset(skip)) for name, kind in structs.items()}

        @functools.wraps(function)
        def run(**arguments: Any) -> Any:
            shown = {name: arguments.pop(name) for name in _OUTPUT}
            with console.output(**shown):
                for name, kind in structs.items():
                    arguments[name] = _struct(kind, settings[name], arguments, defaults)
                return _ending_by_exception(function, arguments)

        parameters = _parameters(function, hints, settings)
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = summary(function)
        return run

    return decorate


def _ending_by_exception(function: Command, arguments: Mapping[str, Any]) -> Any:
    """Typer would end with exit code 1 where the pipe to another process breaks, and so do libraries that exit."""
    try:
        return asking_with_a_file(function, arguments)
    except BrokenPipeError as exc:
        raise RuntimeError("a process that this one talks to went away") from exc
    except SystemExit as exc:
        raise RuntimeError(f"a library ended the process with {exc.code!r}") from exc


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _parameters(
    function: Command, hints: Mapping[str, Any], settings: Mapping[str, list[Setting]]
) -> list[inspect.Parameter]:
    """What Typer reads: arguments first, then the function's own options, then those of the structs."""
    arguments: list[inspect.Parameter] = []
    own: list[inspect.Parameter] = []
    options: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in settings:
            made = _parameter(name, _with_metavar(hints[name]), parameter.default)
            (arguments if _is_argument(hints[name]) else own).append(made)
        for setting in settings.get(name, ()):
            made = _parameter(setting.parameter, setting.annotation(), ... if setting.required else None)
            (arguments if setting.positional else options).append(made)
    output = [_parameter(name, Annotated[kind, info], False) for name, (kind, info) in _OUTPUT.items()]
    return [*arguments, *own, *options, *output]


def _with_metavar(annotation: Any) -> Any:
    """A hand-written option shows its type in the same words as one that is made of a field."""
    kind, info = annotation.__origin__, copy.copy(annotation.__metadata__[0])
    field = read_annotation(kind)
    if info.metavar is None and field.base in METAVARS:
        info.metavar = METAVARS[field.base]
    return Annotated[kind, info]


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    plain = inspect.Parameter.empty if default is ... else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=plain)


def _is_argument(annotation: Any) -> bool:
    return any(isinstance(part, typer.models.ArgumentInfo) for part in getattr(annotation, "__metadata__", ()))


def _struct(
    kind: type[msgspec.Struct], settings: list[Setting], arguments: dict[str, Any], defaults: Mapping[str, Any]
) -> Any:
    """The struct, from what was written; its options leave ``arguments``."""
    values = {tuple(path.split(".")): value for path, value in defaults.items()}
    for setting in settings:
        value = arguments.pop(setting.parameter)
        if value not in (None, []):
            values[setting.path] = setting.parse(value)
    try:
        return build(kind, values)
    except InputError as exc:
        raise type(exc)(_with_options(str(exc), settings)) from None


def _with_options(message: str, settings: list[Setting]) -> str:
    """A struct names its fields; at the command line an option is named where the message begins with its field."""
    first, _, rest = message.partition(" ")
    named = {setting.path[-1]: setting.option for setting in settings}
    return f"{named[first]} {rest}" if first in named else message
