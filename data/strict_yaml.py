"""YAML as people write it, read strictly: keys are text, and one that is given twice is refused, where the last won."""

from __future__ import annotations

import re
from typing import Any

import yaml

from medfm_compress.runtime.constraints import join
from medfm_compress.runtime.errors import InputError, refusing

MAX_YAML_BYTES = 1 << 18
"""Of a file that people write; PyYAML takes seconds for as much."""
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OF_KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
_MOST_CHARACTERS = 100  # of a number
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*|[1-9][0-9]{0,2}(_[0-9]{3})+)?(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_EXPONENT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
_NOT_FINITE = (".inf", ".nan")


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
    """A decimal number of few characters, thousands apart by ``_``: YAML 1.1 reads ``010`` as 8, ``1:30`` as 90.

    Raises:
        ConstructorError: it has more characters, or is written otherwise.
    """
    text, line = node.value, node.start_mark.line + 1
    if len(text) > _MOST_CHARACTERS:
        problem = f"the number in line {line} has more than {_MOST_CHARACTERS} characters; write a shorter one"
        raise yaml.constructor.ConstructorError(None, None, problem)
    if _DECIMAL.fullmatch(text):
        return float(text) if node.tag.endswith("float") else int(text)
    if text.lstrip("+-").lower() in _NOT_FINITE:  # the limits of each key refuse it in words
        return float(text.replace(".", ""))
    problem = f"{text} in line {line} is read in several ways; write a decimal number, or text in quotes"
    raise yaml.constructor.ConstructorError(None, None, problem)


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


# YAML 1.2 takes 1e-3 for a number, and YAML 1.1 for text.
_Strict.add_implicit_resolver(_NUMBERS[1], _EXPONENT, list("+-.0123456789"))
