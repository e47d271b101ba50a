"""YAML as people write it, read strictly: a key that is given twice is refused instead of the last one winning."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml

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
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))  # no other is hashable
        twice = sorted(key for key, count in keys.items() if count > 1)
        if twice:
            problem = f"key {', '.join(twice)} is given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep=deep)
