"""JSON Schema (2020-12) of a recipe, for editors that complete and check YAML; its keys are the structs'."""

from __future__ import annotations

from typing import Any

import msgspec

from medfm_compress.cli.docstrings import attributes, summary
from medfm_compress.recipe import Recipe
from medfm_compress.runtime.constraints import fields

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """The schema, as plain data."""
    _, shapes = msgspec.json.schema_components([Recipe], ref_template="#/$defs/{name}")
    kinds = {kind.__name__: kind for kind in sections()}
    described = {name: _described(kinds[name], shape) for name, shape in shapes.items()}
    return {"$schema": DIALECT, **described.pop("Recipe"), "$defs": described}


def sections(kind: type[msgspec.Struct] = Recipe) -> tuple[type[msgspec.Struct], ...]:
    """The struct types of a recipe, in the order in which they are met, once for every type."""
    met = [kind]
    for field in fields(kind).values():
        if isinstance(field.base, type) and issubclass(field.base, msgspec.Struct):
            met += sections(field.base)
    return tuple(dict.fromkeys(met))


def _described(kind: type[msgspec.Struct], shape: dict[str, Any]) -> dict[str, Any]:
    texts = attributes(kind)
    properties = {key: {"description": texts[key], **_only(value)} for key, value in shape["properties"].items()}
    return {**shape, "description": summary(kind), "properties": properties}


def _only(value: dict[str, Any]) -> dict[str, Any]:
    """A key's own shape: no null where leaving the key out says the same."""
    kept = {word: entry for word, entry in value.items() if not (word == "default" and entry is None)}
    kinds = [entry for entry in kept.pop("anyOf", []) if entry != {"type": "null"}]
    return kept | (kinds[0] if kinds else {})
