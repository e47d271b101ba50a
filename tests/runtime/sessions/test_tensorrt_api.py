"""The table of TensorRT's versions against the names that their bindings really have, and a build by the real ones.

``tensorrt_names.jsonl`` was written by ``experiments/gpu/tensorrt_names.py`` from the bindings of each version.
"""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path

import pytest

from medfm_compress.runtime.sessions import tensorrt, tensorrt_build
from medfm_compress.runtime.sessions.tensorrt_api import APIS, Api

NAMES = {
    ".".join(entry["version"].split(".")[:2])
    if entry["version"].startswith("8.")
    else entry["version"].split(".")[0]: (entry["names"])
    for entry in map(json.loads, Path(__file__).with_name("tensorrt_names.jsonl").read_text().splitlines())
}
BEHIND = {
    "precision": "typed_layers",
    "set_output_type": "typed_layers",
    "node_name": "named_errors",
    "node_operator": "named_errors",
}
"""Name that some version lacks → the field of `Api` that must be set where it is used."""


def used():
    """Attributes that the adapter's code reads from anything."""
    trees = [ast.parse(inspect.getsource(module)) for module in (tensorrt, tensorrt_build)]
    return {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def everything(names):
    return {member for members in names.values() for member in members}


def test_the_names_of_three_versions_are_there():
    assert sorted(NAMES) == ["10", "11", "8.6"] and set(NAMES) < set(APIS)


@pytest.mark.parametrize("version", sorted(NAMES))
def test_flags_and_precisions_exist_in_the_version(version):
    api, names = APIS[version], NAMES[version]
    assert set(api.creation_flags) <= set(names["NetworkDefinitionCreationFlag"])
    flags = {flag for needed in api.builder_flags.values() for flag in needed}
    assert flags | {"TF32"} <= set(names["BuilderFlag"])
    assert api.typed_layers == ("set_output_type" in names["ILayer"] and "STRONGLY_TYPED" not in
                                names["NetworkDefinitionCreationFlag"])  # fmt: skip
    assert api.named_errors == ("node_name" in names["ParserError"])
    if version != "11":  # there a network is strongly typed whatever its flags
        assert bool(api.creation_flags)


@pytest.mark.parametrize("version", sorted(NAMES))
def test_every_name_that_the_adapter_uses_exists_or_stands_behind_a_field(version):
    here = everything(NAMES[version])
    foreign = {name for name in used() if any(name in everything(names) for names in NAMES.values())} - here
    assert "execute_async_v3" in here and "build_serialized_network" in here
    for name in foreign:
        assert name in BEHIND and not getattr(APIS[version], BEHIND[name])


def test_every_field_of_the_table_is_read():
    assert set(BEHIND.values()) | {"creation_flags", "builder_flags"} == set(Api.__struct_fields__) <= used()
