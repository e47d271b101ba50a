"""Damage to YAML, JSON and CSV: values by type, keys, aliases, nesting, Unicode, numbers; and to the bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import yaml

from mutate_bytes import mutated

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, "", " ", "x", "\n", "../x", "/dev/zero", "\udcff", "ä" * 3, "a" * 5000, "9" * 5000, "1e400"),
    *(
        0,
        -1,
        1,
        2,
        2**31,
        2**63,
        2**64,
        10**30,
        -(10**30),
        0.5,
        -0.0,
        1e-320,
        1e300,
        -1e300,
        float("inf"),
        float("nan"),
    ),
    *([], {}, [[]], [None], {"": {}}, ["a"] * 300, [0] * 3, {"a": {"b": {"c": 1}}}),
)
_YAML = (
    *("&a [*a, *a]\n", "*unknown\n", "!!python/object/apply:os.system [ls]\n", "!!binary aGVsbG8=\n", "<<: {a: 1}\n"),
    *(
        "--- \n",
        "%YAML 9.9\n",
        "? [1, 2]\n: 3\n",
        "\t- x\n",
        "2026-01-01: 5\n",
        "0x1F: 0o17\n",
        "~: ~\n",
        "? |\n  x\n: y\n",
    ),
    *(
        "!!float .inf: 1\n",
        "a: !!timestamp 99999-99-99\n",
        "a: 1_000_000\n",
        "a: 1:30:00\n",
        "\ufeff",
        "\x85",
        "\u2028",
        "\0",
    ),
)
_BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
)


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in plain data, as the keys that lead there."""
    if at:
        yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*at, key))


def changed_value(document: Any, choose: random.Random) -> Any:
    """A copy with one value replaced, dropped, repeated, wrapped, or a key added or renamed."""
    places = list(leaves(document))
    if not places:
        return choose.choice(HOSTILE)
    at = choose.choice(places)
    changed = copy.deepcopy(document)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    action = choose.randrange(8)
    if action <= 3:
        inner[at[-1]] = choose.choice(HOSTILE)
    elif action == 4:
        del inner[at[-1]]
    elif action == 5:
        inner[at[-1]] = [inner[at[-1]]] * choose.choice((1, 2, 100))
    elif action == 6 and isinstance(inner, dict):
        inner[str(choose.choice(HOSTILE))[:40]] = inner.pop(at[-1]) if choose.random() < 0.5 else 1
    else:
        value = inner[at[-1]]
        inner[at[-1]] = value * choose.choice((-1, 2, 1000)) if isinstance(value, (int, float)) else str(value)
    return changed


def damage_yaml(whole: bytes, choose: random.Random) -> bytes:
    """A recipe or a policy."""
    action = choose.randrange(6)
    if action <= 2:
        document = changed_value(yaml.safe_load(whole), choose)
        if choose.random() < 0.3:
            document = changed_value(document, choose)
        try:
            return yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")
        except yaml.YAMLError:
            return json.dumps(document).encode("utf-8", "surrogatepass")
    if action == 3:
        lines = whole.decode().splitlines(keepends=True)
        lines.insert(choose.randrange(len(lines) + 1), choose.choice(_YAML))
        return "".join(lines).encode("utf-8", "surrogatepass")
    if action == 4:
        deep = choose.choice((50, 500, 5000))
        odd = (
            _BOMB,
            "[" * deep,
            "{a: " * deep,
            "- " * deep + "x",
            "a: &a\n  b: *a\n",
            "? " * deep,
            "",
            "5",
            "[]",
            '"x"',
        )
        return (choose.choice(odd) + ("\n" + whole.decode() if choose.random() < 0.3 else "")).encode()
    return mutated(whole, choose, ())


def damage_json(whole: bytes, choose: random.Random) -> bytes:
    """A report."""
    if choose.random() < 0.2:
        return mutated(whole, choose, ())
    document = json.loads(whole)
    for _ in range(choose.choice((1, 1, 2))):
        document = changed_value(document, choose)
    return json.dumps(document).encode("utf-8", "surrogatepass")


def damage_csv(whole: bytes, choose: random.Random) -> bytes:
    """The table of a study: cells, rows, columns, quoting, encodings."""
    action = choose.randrange(6)
    if action == 0:
        return mutated(whole, choose, ())
    rows = [line.split(",") for line in whole.decode().splitlines()]
    row = choose.choice(rows)
    cell = choose.randrange(len(row))
    if action <= 2:
        row[cell] = str(choose.choice((*HOSTILE, "label:x", "image", "train", "0.png", '"', '""', "=1+1", "/dev/zero")))
    elif action == 3:
        rows.insert(choose.randrange(len(rows) + 1), list(choose.choice(rows)))
    elif action == 4:
        del row[cell]
    else:
        row.insert(cell, choose.choice(row))
    text = choose.choice(("\n", "\n", "\r\n", "\r")).join(
        choose.choice((",", ",", ",", ";", "\t")).join(row) for row in rows
    )
    return text.encode(choose.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace")
