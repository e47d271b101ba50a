"""Where each entry of a policy file stands, for tools that point at a line."""

from __future__ import annotations

import yaml

PolicyKey = tuple[str | int, ...]


def policy_lines(data: bytes) -> dict[PolicyKey, int]:
    """Path of every key and list entry, e.g. ``("budget", "p50_ms")`` → its line, 1 the first; empty for no YAML."""
    try:
        root = yaml.compose(data, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return {}
    lines: dict[PolicyKey, int] = {}
    _walk(root, (), lines)
    return lines


def nearest_line(key: PolicyKey, lines: dict[PolicyKey, int]) -> int | None:
    """Line of ``key``, or of the entry or section that it belongs to; None where the file has neither."""
    whole = (lines.get(key[:length]) for length in range(len(key), 0, -1))
    return next((line for line in whole if line is not None), None)


def _walk(node: yaml.Node | None, path: PolicyKey, lines: dict[PolicyKey, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[(*path, str(key.value))] = key.start_mark.line + 1
            _walk(value, (*path, str(key.value)), lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, entry in enumerate(node.value):
            lines[(*path, number)] = entry.start_mark.line + 1
            _walk(entry, (*path, number), lines)
