"""What is wrong with plain data that does not fit a struct, in the words of the file: key, value, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from medfm_compress.runtime.constraints import Field, fields, join
from medfm_compress.runtime.errors import in_one_line

_WORDS: Mapping[Any, str] = MappingProxyType(
    {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_OURS = ("Expected `", "Invalid enum value", "Object ")  # what msgspec says; the rest is a struct's own sentence
_KEY = re.compile(r"Object (contains unknown|missing required) field `([^`]*)`")


def explained(value: Any, kind: Any, message: str) -> str:
    """``message`` of msgspec about ``value``, which should have been a ``kind``; as it is where it says more."""
    text, _, path = message.partition(" - at `$")
    field, found = _at(value, Field(base=kind), path.rstrip("`"))
    where = path.rstrip("`").removeprefix(".")
    key = _KEY.match(text)
    if field is None or not text.startswith(_OURS):
        return message
    if key is not None and _is_struct(field.base):
        return _about_key(key, where or "the file", field.base)
    if key is not None or isinstance(found, _Missing) or not where:
        return message
    must = _allowed(field, found)
    return f"{where} is {_shown(found)}; it must be {must}" if must else message


class _Missing:
    """Stands for a value that the path does not lead to."""


def _at(value: Any, field: Field, path: str) -> tuple[Field | None, Any]:
    """The field at ``path``, and the value there."""
    for name, index in _STEP.findall(path):
        if index:
            item = int(index) if index.isdigit() else None
            inside = isinstance(value, list | tuple) and item is not None and item < len(value)
            value = value[item] if inside else _Missing()
            field = field._replace(container="", optional=False)
        elif _is_struct(field.base) and name in fields(field.base):
            field = fields(field.base)[name]
            value = value.get(name, _Missing()) if isinstance(value, dict) else _Missing()
        else:
            return None, value
    return field, value


def _about_key(key: re.Match[str], where: str, kind: type[msgspec.Struct]) -> str:
    names = list(fields(kind))
    if key[1].startswith("missing"):
        return f"{where} lacks the key {key[2]!r}; give it"
    return f"{where} has no key {key[2]!r}; its keys are {join(names, 'and')}"


def _allowed(field: Field, value: Any) -> str:
    """What is allowed in place of ``value``, in words; empty where only msgspec can say."""
    if field.container == "tuple":
        words = "a list"
    elif field.container == "dict":
        words = "a mapping of names to values"
    elif _is_struct(field.base):
        words = f"a section with the keys {join(list(fields(field.base)), 'and')}"
    elif field.choices:
        words = field.allowed()
    else:
        kind = "" if _is_of_kind(value, field.base) else _WORDS.get(field.base, "")
        words = ", ".join(filter(None, [kind, field.allowed()]))
    return f"{words}, or null" if words and field.optional else words


def _is_of_kind(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind) if kind in _WORDS else True


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, str) and len(value) < 100 else in_one_line(value)


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
