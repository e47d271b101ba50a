"""Read a policy: what must hold, written down and committed before the test split is touched.

A policy's identity is the sha256 of its file's bytes, comments and all. A key or a number that nobody can have meant is
refused, since a limit that silently does not bind is worse than none.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec.inspect import (
    Field,
    FloatType,
    IntType,
    LiteralType,
    NoneType,
    StructType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from medfm_compress.bench.types.metric import LOWER_IS_BETTER, REPORTED_ONLY, UNBOUNDED
from medfm_compress.bench.types.policy import MOST_WHOLE, NonInferiority, Policy
from medfm_compress.data.strict_yaml import MAX_YAML_BYTES, load_yaml
from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.schema_errors import unknown_keys
from medfm_compress.runtime.strict_json import convert


class LoadedPolicy(NamedTuple):
    """A policy and the hex sha256 of the file it came from."""

    policy: Policy
    sha256: str


def load_policy(path: str | Path) -> LoadedPolicy:
    """Read a policy from YAML or JSON.

    Raises:
        InputError: the file cannot be read, is neither, or has an unknown key or a value outside its range.
    """
    path = Path(path)
    try:
        data = read_regular(path, MAX_YAML_BYTES, "policy")
    except InputError as exc:
        raise InputError(f"{exc}; 'medfm-compress policy init policy.yaml' writes a starter") from None
    return parse_policy(data, source=f"policy {path}")


def parse_policy(data: bytes, *, source: str = "policy") -> LoadedPolicy:
    """Decode the bytes of a policy file, YAML or JSON; raises like :func:`load_policy`."""
    value = load_yaml(data, source)
    if not isinstance(value, dict):
        raise InputError(f"{source} must be a table of keys; 'medfm-compress policy init policy.yaml' writes a starter")
    # An empty section is what remains when every line of it is commented out.
    present = {key: entry for key, entry in value.items() if entry is not None}
    if unknown := unknown_keys(present, Policy):
        raise InputError(f"{source}: {unknown}")
    _check(present, type_info(Policy), source)
    policy = convert(present, Policy, source=source)
    _check_limits(policy, source)
    return LoadedPolicy(policy, hashlib.sha256(data).hexdigest())


def _check(value: Any, kind: Type, where: str) -> None:
    """Say what is allowed, in one sentence, where ``value`` cannot be a ``kind``; what else is wrong msgspec says."""
    if isinstance(kind, UnionType):
        kind = next(member for member in kind.types if not isinstance(member, NoneType))
    if value is None:
        raise InputError(f"{where} is empty; write a value, or leave the key out")
    if isinstance(kind, StructType) and isinstance(value, dict):
        _check_table(value, kind.fields, where)
    elif isinstance(kind, VarTupleType) and isinstance(value, list):
        for number, entry in enumerate(value, start=1):
            _check(entry, kind.item_type, f"{where}, entry {number}")
    elif isinstance(kind, LiteralType) and not any(value == c and type(value) is type(c) for c in kind.values):
        allowed = ", ".join(str(choice) for choice in kind.values if choice not in REPORTED_ONLY)
        raise InputError(f"{where} is {in_one_line(repr(value))}; it must be one of {allowed}")
    elif isinstance(kind, FloatType | IntType):
        _check_number(value, kind, where)


def _check_table(value: dict[Any, Any], fields: tuple[Field, ...], where: str) -> None:
    known = {field.encode_name: field for field in fields}
    for name, field in known.items():
        if name in value:
            _check(value[name], field.type, f"{where}: {name}")
        elif field.required:
            raise InputError(f"{where} lacks {name!r}; write it")


def _check_number(value: Any, kind: FloatType | IntType, where: str) -> None:
    whole = isinstance(kind, IntType)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        example = "20000000" if whole else "0.02"
        raise InputError(
            f"{where} is {in_one_line(repr(value))}; write a {'whole number' if whole else 'number'}, e.g. {example}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} is {value}; a limit must be finite, and one that shall not bind is left out")


def _check_limits(policy: Policy, source: str) -> None:
    """Refuse limits that always or never hold."""
    for section in ("budget", "fidelity"):
        for name, limit in msgspec.structs.asdict(getattr(policy, section)).items():
            if limit is not None and not 0 < limit <= MOST_WHOLE:
                raise InputError(f"{source}: {section}.{name} is {limit}; it must be above 0, and below 2^63")
    for name, limit in msgspec.structs.asdict(policy.explanations).items():
        if limit is not None and not 0 < limit <= 1:
            raise InputError(f"{source}: explanations.{name} is {limit}; it must be above 0 and at most 1")
    if policy.fidelity.min_agreement is not None and policy.fidelity.min_agreement > 1:
        raise InputError(f"{source}: fidelity.min_agreement is {policy.fidelity.min_agreement}; a share is at most 1")
    for entry in policy.non_inferiority:
        for name in ("teacher_floor", "bundle_floor"):
            _check_floor(entry, name, source)


def _check_floor(entry: NonInferiority, name: str, source: str) -> None:
    floor = getattr(entry, name)
    most = math.inf if entry.metric == "log_loss" or entry.metric in UNBOUNDED else 1.0
    if floor is not None and not 0 <= floor <= most:
        kind = "ceiling" if entry.metric in LOWER_IS_BETTER else "floor"
        allowed = "at least 0" if math.isinf(most) else "between 0 and 1"
        raise InputError(f"{source}: {name} of {entry.metric} is {floor}; this {kind} must be {allowed}")
