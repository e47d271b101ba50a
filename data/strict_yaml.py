"""YAML as people write it, read strictly: a key that is given twice is refused instead of the last one winning."""

from __future__ import annotations

from typing import Any

import yaml

from medfm_compress.runtime.constraints import join
from medfm_compress.runtime.errors import InputError, refusing


def load_yaml(data: bytes, source: str) -> Any:
    """The one document in ``data``, YAML or JSON, as dicts, lists and scalars.

    Raises:
        InputError: it is not YAML, or names a key twice; names ``source``.
    """
    # Beside errors of its own PyYAML raises whatever its constructors do: of dates, numbers and bytes that are none.
    with refusing(InputError, f"{source} is not YAML"):
        return yaml.load(data, Loader=_Strict)  # noqa: S506 (a SafeLoader)


class _Strict(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct one mapping; raises ``ConstructorError`` for a repeated key."""
        lines: dict[str, list[int]] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):  # no other is hashable
                lines.setdefault(str(key.value), []).append(key.start_mark.line + 1)
        twice = [
            f"key {key} is given twice, in lines {join(map(str, at), 'and')}" for key, at in lines.items() if at[1:]
        ]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, "; ".join(twice))
        return super().construct_mapping(node, deep=deep)
