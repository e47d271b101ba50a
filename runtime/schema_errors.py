"""What is wrong with plain data that does not fit a struct, in the words of the file: key, value, what is allowed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from medfm_compress.runtime.constraints import Field, fields, join
from medfm_compress.runtime.errors import in_one_line

_WORDS: Mapping[Any, str] = MappingProxyType(
    {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN = "Object contains unknown field"
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
# What msgspec says of a value; the rest is a struct's own sentence.
_OURS = ("Expected `", "Invalid enum value", "Invalid value")
_MOST_KEYS = 20  # named in one sentence


def explained(value: Any, kind: Any, message: str) -> str:
    """``message`` of msgspec about ``value``, which should have been a ``kind``; as it is where it says more.

    Where a key is unknown, every unknown key of ``value`` is named, and not only the first.
    """
    text, _, path = message.partition(" - at `$")
    if text.startswith(_UNKNOWN):
        return unknown_keys(value, kind) or message
    field, found = _at(value, Field(base=kind), path.rstrip("`"))
    where = path.rstrip("`").removeprefix(".")
    missing = _MISSING.match(text)
    if field is not None and missing is not None and (_is_struct(field.base) or field.tagged):
        tags = f", {_tags(field)}" if field.tagged and missing[1] == _tag_field(field) else ""
        return f"{where or 'the file'} lacks the key {missing[1]!r}; give it{tags}"
    if field is None or not text.startswith(_OURS) or isinstance(found, _Missing) or not where:
        return message
    must = _allowed(field, found)
    return f"{where} is {_shown(found)}; it must be {must}" if must else message


def unknown_keys(value: Any, kind: type[msgspec.Struct]) -> str:
    """Names every key of ``value`` that a ``kind`` does not have, and those that it has; empty where there is none."""
    return "; ".join(itertools.islice(_unknown(value, Field(base=kind), ""), _MOST_KEYS))


def _unknown(value: Any, field: Field, where: str) -> Iterator[str]:
    """A sentence for every section of ``value`` that has such keys."""
    inside = field._replace(container="", optional=False)
    if field.container == "tuple" and isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _unknown(item, inside, f"{where}[{number}]")
    if not isinstance(value, dict):
        return
    if field.container == "dict":
        for name, item in value.items():
            yield from _unknown(item, inside, f"{where}.{name}")
        return
    kind = _struct_of(field, value)
    if field.container or kind is None:
        return
    known = [*fields(kind), *filter(None, [kind.__struct_config__.tag_field])]
    if kind.__struct_config__.forbid_unknown_fields and (extra := [key for key in value if key not in known]):
        yield _about_unknown(extra, where.removeprefix(".") or "the file", known)
    for name, inner in fields(kind).items():
        if name in value:
            yield from _unknown(value[name], inner, f"{where}.{name}")


def _about_unknown(extra: list[Any], where: str, known: list[str]) -> str:
    names = [repr(in_one_line(key)) for key in extra[:_MOST_KEYS]]
    more = f" and {len(extra) - _MOST_KEYS} more" if len(extra) > _MOST_KEYS else ""
    listed = f"{', '.join(names)}{more}" if more else join(names, "or")
    return f"{in_one_line(where)} has no key {listed}; its keys are {join(known, 'and')}"


def _struct_of(field: Field, value: Any) -> type[msgspec.Struct] | None:
    """What ``value`` should be: the field's struct, or that of a tagged union which its tag names."""
    if not field.tagged or not isinstance(value, dict):
        return field.base if _is_struct(field.base) else None
    return next((kind for tag, kind in field.tagged.items() if value.get(_tag_field(field)) == tag), None)


def _tags(field: Field) -> str:
    return join(map(str, field.tagged), "or")


def _tag_field(field: Field) -> str:
    return next((kind.__struct_config__.tag_field or "" for kind in field.tagged.values()), "")


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
        elif field.tagged and name == _tag_field(field):
            field = Field(base=str, choices=tuple(field.tagged))
            value = value.get(name, _Missing()) if isinstance(value, dict) else _Missing()
        elif (kind := _struct_of(field, value)) is not None and name in fields(kind):
            field = fields(kind)[name]
            value = value.get(name, _Missing()) if isinstance(value, dict) else _Missing()
        else:
            return None, value
    return field, value


def _allowed(field: Field, value: Any) -> str:
    """What is allowed in place of ``value``, in words; empty where only msgspec can say."""
    if field.container == "tuple":
        words = "a list"
    elif field.container == "dict":
        words = "a mapping of names to values"
    elif _is_struct(field.base):
        words = f"a section with the keys {join(list(fields(field.base)), 'and')}"
    elif field.tagged:
        words = f"a section with the {_tag_field(field)} {_tags(field)}"
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
