"""Command-line options from a settings struct: names, defaults, help and ranges stand in the struct and nowhere else.

``extra`` of a field's ``msgspec.Meta`` may say:

- ``option``: another name than the field's own; empty leaves the field to recipes.
- ``argument``: it is given by its place, not by a name.
- ``unit``: ``ms``, ``s`` or ``MB``; the value is then written with a unit.
- ``metavar``: what stands for the value in the help.
- ``lone``: of a dictionary, the value of a name that stands alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from medfm_compress.cli.docstrings import attributes
from medfm_compress.cli.parse_units import parse_pairs, parse_value
from medfm_compress.runtime.constraints import Field, fields
from medfm_compress.runtime.errors import InputError

AUTO = "auto"  # stands for None of an optional choice
ALL = "all"  # stands for every choice of a list
_CONTINUES = ("of ", "that ", "to ", "for ", "in ", "at ")
METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
_UNITS = {"ms": "TIME", "s": "DURATION", "MB": "SIZE"}


class Setting(NamedTuple):
    """One option: a field of a struct, or of a struct within it.

    Attributes:
        path: names of the fields that lead to it.
        field: its annotation.
        default: that the struct, or the command, has for it; ``msgspec.NODEFAULT`` where it must be given.
        text: what the docstring says of it.
    """

    path: tuple[str, ...]
    field: Field
    default: Any
    text: str

    @property
    def parameter(self) -> str:
        """Its name as a Python parameter, unique within a command."""
        return "__".join(self.path)

    @property
    def option(self) -> str:
        """Its name on the command line, e.g. ``--batch-size``; upper case where it is given by its place."""
        name = str(self.field.extra.get("option", self._name)).replace("_", "-")
        return name.upper() if self.positional else f"--{name}"

    @property
    def _name(self) -> str:
        """The field's name without its unit."""
        unit = self.field.extra.get("unit", "")
        return self.path[-1].removesuffix(f"_{unit.lower()}") if unit else self.path[-1]

    @property
    def positional(self) -> bool:
        """Whether it is given by its place."""
        return bool(self.field.extra.get("argument"))

    @property
    def switch(self) -> bool:
        """Whether it is switched on and off."""
        return self.field.base is bool

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.positional or self.default is msgspec.NODEFAULT

    @property
    def choices(self) -> tuple[str, ...]:
        """What may be written, where it is one of a few words."""
        words = tuple(str(choice) for choice in self.field.choices if choice)
        if not words:
            return ()
        return (*words, ALL) if self.field.container else (AUTO, *words) if self.field.optional else words

    @property
    def metavar(self) -> str:
        """What stands for its value in the help."""
        name = self.field.extra.get("metavar") or _UNITS.get(self.field.extra.get("unit", ""))
        name = name or ("CHOICE" if self.choices else METAVARS[self.field.base])
        return f"NAME={name}" if self.field.container == "dict" else str(name)

    def help(self) -> str:
        """Its docstring, what is allowed and the default, as one line."""
        notes = [", ".join(self.choices) or self.field.allowed()]
        notes += ["may be repeated"] if self.field.container else []
        default = self._shown_default()
        notes += [f"default: {default}"] if default else []
        listed = "; ".join(note for note in notes if note)
        text = self.described()
        return f"{text.removesuffix('.')} ({listed})." if listed else text

    def described(self) -> str:
        """Its docstring as a sentence: ``licence: of the weights`` reads "Licence of the weights"."""
        name = self._name.replace("_", " ")
        text = f"{name} {self.text}" if self.text.startswith(_CONTINUES) else self.text
        return text[:1].upper() + text[1:]

    def _shown_default(self) -> str:
        if self.required or self.switch or self.field.container or self.default in (None, ""):
            return ""
        unit = self.field.extra.get("unit", "")
        if unit and not self.default:
            return ""
        return f"{self.default:g}{unit}" if isinstance(self.default, float) else str(self.default)

    def annotation(self) -> Any:
        """The type that Typer reads: text, which `parse` reads, so that every error is one sentence of ours."""
        if self.positional:
            return Annotated[str, typer.Argument(help=self.help(), metavar=self.option, show_default=False)]
        if self.switch:
            names = f"{self.option}/--no-{self.option.removeprefix('--')}" if self.default else self.option
            return Annotated[bool | None, typer.Option(names, help=self.help(), show_default=False)]
        info = typer.Option(
            self.option,
            help=self.help(),
            metavar=self.metavar,
            show_default=False,
            autocompletion=self._complete if self.choices else None,
        )
        kind = list[str] if self.field.container else str
        return Annotated[kind if self.required else kind | None, info]

    def _complete(self, incomplete: str) -> list[str]:
        return [word for word in self.choices if word.startswith(incomplete)]

    def parse(self, content: Any) -> Any:
        """The field's value from what was written.

        Raises:
            InputError: it is no such value, or one outside its range.
        """
        if self.switch:
            return content
        if self.field.container == "dict":
            pairs = parse_pairs(content, self.option, str(self.field.extra.get("lone", "")))
            return {name: self._parse_item(text, f"{self.option} {name}") for name, text in pairs.items()}
        if self.field.container == "tuple":
            every = ALL in content and self.field.choices
            words = map(str, self.field.choices) if every else dict.fromkeys(content)
            return tuple(self._parse_item(text, self.option) for text in words)
        if self.field.optional and self.field.choices and content == AUTO:
            return None
        return self._parse_item(content, self.option)

    def _parse_item(self, text: str, option: str) -> Any:
        value = parse_value(text, option, self.field.base, self.field.extra.get("unit", ""))
        if not self.field.accepts(value):
            shown = repr(text) if self.field.base is str else text
            raise InputError(f"{option} is {shown}; it must be {self.field.allowed()}")
        return value


def settings_of(kind: type[msgspec.Struct], defaults: Mapping[str, Any], skip: frozenset[str]) -> list[Setting]:
    """The options of a struct type, nested structs flattened.

    Args:
        kind: a struct type.
        defaults: dotted path of a field → a default of the command's own.
        skip: dotted paths of fields, or of whole structs, that the command leaves out.
    """
    return list(_walk(kind, None, (), defaults, skip))


def _walk(
    kind: type[msgspec.Struct],
    base: msgspec.Struct | None,
    path: tuple[str, ...],
    defaults: Mapping[str, Any],
    skip: frozenset[str],
) -> Iterator[Setting]:
    texts = attributes(kind)
    declared = {field.name: field for field in msgspec.structs.fields(kind)}
    for name, field in fields(kind).items():
        here = (*path, name)
        dotted = ".".join(here)
        if dotted in skip or field.extra.get("option") == "":
            continue
        default = getattr(base, name) if base is not None else _default(declared[name])
        if isinstance(field.base, type) and issubclass(field.base, msgspec.Struct):
            yield from _walk(field.base, default, here, defaults, skip)
        else:
            yield Setting(here, field, defaults.get(dotted, default), texts[name])


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def build(kind: type[msgspec.Struct], values: Mapping[tuple[str, ...], Any]) -> Any:
    """A struct from the values of some of its fields; whatever is not named keeps its default.

    Raises:
        InputError: the struct refuses a value, or two that do not go together.
    """
    return kind(**_arguments(kind, None, (), values))


def _arguments(
    kind: type[msgspec.Struct],
    base: msgspec.Struct | None,
    path: tuple[str, ...],
    values: Mapping[tuple[str, ...], Any],
) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        here = (*path, field.name)
        default = getattr(base, field.name) if base is not None else _default(field)
        if here in values:
            arguments[field.name] = values[here]
        elif isinstance(default, msgspec.Struct) and any(key[: len(here)] == here for key in values):
            arguments[field.name] = type(default)(**_arguments(type(default), default, here, values))
        elif default is not msgspec.NODEFAULT:
            arguments[field.name] = default
    return arguments
