"""What a field of a settings struct may hold, read from its annotation; and the check of a value against it.

``msgspec`` checks ``Meta`` and ``Literal`` where it decodes. `check` does it for a struct that code constructs, so that
a bound stands once: in the annotation, from which the command line, the documentation and the JSON schema read it too.
"""

from __future__ import annotations

import math
import numbers
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

import msgspec

from medfm_compress.runtime.errors import InputError

_NO_META = msgspec.Meta()


class Field(NamedTuple):
    """An annotation, taken apart.

    Attributes:
        base: the type of the value, or of an item of a tuple or the values of a dictionary.
        container: ``tuple``, ``dict`` or empty.
        optional: whether None is allowed.
        choices: of a ``Literal``; empty where it is none.
        meta: bounds of the value or of every item; ``extra`` has what the command line needs.
        tagged: where the value is one of several structs that a tag tells apart: tag → struct.
    """

    base: Any
    container: Literal["", "tuple", "dict"] = ""
    optional: bool = False
    choices: tuple[str | int, ...] = ()
    meta: msgspec.Meta = _NO_META
    tagged: Mapping[Any, type[msgspec.Struct]] = types.MappingProxyType({})

    @property
    def extra(self) -> Mapping[str, Any]:
        """Unit, option name and the like; see `medfm_compress.cli.options`."""
        return self.meta.extra or {}

    @property
    def example(self) -> str:
        """A value that is allowed, as text; empty where none is declared."""
        return str(self.meta.examples[0]) if self.meta.examples else ""

    def allowed(self) -> str:
        """In words what the value must be; empty where its type alone says it."""
        if self.choices:
            return join((str(choice) for choice in self.choices if choice != ""), "or")
        low, high = self.meta.ge, self.meta.le
        if low is not None and high is not None:
            text = f"{_number(low)} to {_number(high)}"
        else:
            bounds = {"at least": low, "above": self.meta.gt, "at most": high, "below": self.meta.lt}
            text = " and ".join(f"{word} {_number(bound)}" for word, bound in bounds.items() if bound is not None)
        return f"{text}, e.g. {self.example}" if text and self.example else text

    def accepts(self, value: Any) -> bool:
        """Whether one value, or one item, is within the bounds; NaN and infinity are within none."""
        if self.choices:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)  # True is no 1
        low, above, high, below = self.meta.ge, self.meta.gt, self.meta.le, self.meta.lt
        return (
            not _is_infinite(value)
            and (low is None or value >= low)
            and (above is None or value > above)
            and (high is None or value <= high)
            and (below is None or value < below)
        )


def _number(value: float) -> str:
    """Without an exponent for what people write without one."""
    return str(int(value)) if value == int(value) else f"{value:g}"


def _is_infinite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isinf(value)


def join(words: typing.Iterable[str], last: str) -> str:
    """``a, b or c``, with ``last`` before the last word."""
    *first, end = words
    return f"{', '.join(first)} {last} {end}" if first else end


@cache
def fields(kind: type[msgspec.Struct]) -> Mapping[str, Field]:
    """The fields of a struct type, in its order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return types.MappingProxyType({name: read_annotation(hints[name]) for name in kind.__struct_fields__})


def read_annotation(annotation: Any) -> Field:
    """Take an annotation apart: ``Annotated``, ``X | None``, ``Literal``, ``tuple[X, ...]`` and ``dict[str, X]``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner = read_annotation(arguments[0])
        return inner._replace(meta=next((part for part in arguments[1:] if isinstance(part, msgspec.Meta)), inner.meta))
    if origin in (typing.Union, types.UnionType):
        kinds = [part for part in arguments if part not in (types.NoneType, msgspec.UnsetType)]
        several = Field(base=object, tagged=_by_tag(kinds))  # several kinds bound nothing
        field = read_annotation(kinds[0]) if len(kinds) == 1 else several
        return field._replace(optional=len(kinds) < len(arguments))
    if origin is Literal:
        return Field(base=str, choices=arguments)
    if origin in (tuple, list):
        return read_annotation(arguments[0])._replace(container="tuple")
    if origin is dict:
        return read_annotation(arguments[1])._replace(container="dict")
    return Field(base=annotation)


def _by_tag(kinds: list[Any]) -> Mapping[Any, type[msgspec.Struct]]:
    structs = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    tags = {kind.__struct_config__.tag: kind for kind in structs}
    return types.MappingProxyType({} if None in tags else tags)


def check(value: msgspec.Struct, error: type[InputError] = InputError) -> None:
    """Check every field of a struct against its annotation; for its ``__post_init__``.

    Raises:
        InputError: a value outside its range or its choices, with its name, what it is and what is allowed.
    """
    for name, field in fields(type(value)).items():
        content = getattr(value, name)
        if field.allowed():
            for item in _items(content, field):
                check_value(name, item, field, error)


def check_value(name: str, value: Any, field: Field, error: type[InputError] = InputError) -> None:
    """Check one value; raises `InputError` like `check`."""
    if not field.accepts(value):
        kind = "a finite number, " if _is_infinite(value) else ""
        raise error(f"{name} is {value!r}; it must be {kind}{field.allowed()}")


def _items(content: Any, field: Field) -> typing.Iterable[Any]:
    if content is None and field.optional:
        return ()
    if field.container == "dict":
        return typing.cast("dict[str, Any]", content).values()
    return typing.cast("tuple[Any, ...]", content) if field.container else (content,)
