"""YAML as people write it, read strictly: keys are text, and one that is given twice is refused, where the last won."""

from __future__ import annotations

from typing import Any

import yaml

from medfm_compress.runtime.constraints import join
from medfm_compress.runtime.errors import InputError, refusing

MAX_YAML_BYTES = 1 << 18
"""Of a file that people write; PyYAML takes seconds for as much."""
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OF_KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
_MOST_CHARACTERS = 100  # of a number


def load_yaml(data: bytes, source: str) -> Any:
    """The one document in ``data``, YAML or JSON, as dicts, lists and scalars.

    Raises:
        InputError: it is too long, is not YAML, names a key twice, or has a key that is no text; names ``source``.
    """
    if len(data) > MAX_YAML_BYTES:
        raise InputError(f"{source} has {len(data)} bytes; at most {MAX_YAML_BYTES} are read, make it shorter")
    # Beside errors of its own PyYAML raises whatever its constructors do: of dates, numbers and bytes that are none.
    with refusing(InputError, f"{source} is not YAML"):
        return yaml.load(data, Loader=_Strict)  # noqa: S506 (a SafeLoader)


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | float:
    """A number of few characters, since YAML's own notations, hexadecimal and base 60 among them, have no end.

    Raises:
        ConstructorError: it has more.
    """
    if len(node.value) > _MOST_CHARACTERS:
        line = node.start_mark.line + 1
        raise yaml.constructor.ConstructorError(
            None, None, f"the number in line {line} has more than {_MOST_CHARACTERS} characters; write a shorter one"
        )
    number: int | float = yaml.SafeLoader.yaml_constructors[node.tag](loader, node)
    return number


class _Strict(yaml.SafeLoader):
    yaml_constructors = yaml.SafeLoader.yaml_constructors | dict.fromkeys(_NUMBERS, _number)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct one mapping; raises ``ConstructorError`` for a repeated key, or one that YAML takes for no text."""
        lines: dict[str, list[int]] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):  # no other is hashable
                lines.setdefault(str(key.value), []).append(key.start_mark.line + 1)
                if key.tag not in _OF_KEYS:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value} in line {key.start_mark.line + 1} is no text; write it in quotes"
                    )
        twice = [
            f"key {key} is given twice, in lines {join(map(str, at), 'and')}" for key, at in lines.items() if at[1:]
        ]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, "; ".join(twice))
        return super().construct_mapping(node, deep=deep)
