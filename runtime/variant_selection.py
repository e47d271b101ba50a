"""Which variant of a bundle may run here, and for each other one the reason why not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest

import msgspec

from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import StoredVerdict, Variant
from medfm_compress.runtime.cpu import Cpu, missing_flags
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.sessions.devices import obstacle
from medfm_compress.runtime.sessions.protocol import Availability
from medfm_compress.runtime.sessions.table import is_available

UNVERIFIED = "unverified=True"
"""What messages advise, as `Engine` takes it; see `advising`."""
_CLAUSE = re.compile(r"(>=|<=|==|!=|>|<)\s*(\d{1,9}(?:\.\d{1,9}){0,9})", re.ASCII)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a choice depends on: the CPU, and how to ask for a backend on a device (only when a variant needs it)."""

    cpu: Cpu
    availability: Callable[[str, str], Availability] = is_available


def incompatibility(variant: Variant, machine: Machine) -> str:
    """Why ``variant`` cannot run on ``machine``, as a phrase; empty where it can."""
    return _machine_incompatibility(variant, machine.cpu) or _engine_incompatibility(variant, machine)


def _machine_incompatibility(variant: Variant, cpu: Cpu) -> str:
    """Why ``variant`` cannot run with ``cpu``, whatever is installed; empty where it can."""
    impossible = obstacle(variant.backend, variant.device, variant.precision)
    if impossible:
        return impossible
    missing = missing_flags(variant.instruction_set, cpu)
    return _in_words(missing, cpu) if missing else ""


def _engine_incompatibility(variant: Variant, machine: Machine) -> str:
    """Why the installed engine cannot run ``variant``; empty where it can."""
    available = machine.availability(variant.backend, variant.device)
    if not available.ok:
        return available.reason
    try:
        fits = version_satisfies(available.version, variant.engine_versions)
    except InputError as exc:
        return str(exc)
    return "" if fits else f"needs {variant.backend} {variant.engine_versions}; installed is {available.version}"


def _in_words(missing: tuple[str, ...], cpu: Cpu) -> str:
    lacking = [need for need in missing if not need.startswith("!")]
    if lacking or cpu.reason:
        return f"needs CPU instructions {', '.join(lacking or missing)}; {cpu.reason or f'which {cpu.model} lacks'}"
    return f"is laid out for a CPU without {', '.join(need[1:] for need in missing)}, which {cpu.model} has"


def verdict_incompatibility(bundle: Bundle, variant: Variant) -> str:
    """Why the gate's verdict keeps ``variant`` from being used; empty where it passed."""
    verdict = bundle.verdict(variant.name)
    if verdict is None:
        return f"no verdict cites this model; run the gate, or say that it may be used without ({UNVERIFIED})"
    if verdict.outcome != "pass":
        return f"the gate's verdict on it is {verdict.outcome}"
    unapproved = unsigned_verdict(bundle, verdict)
    if unapproved and bundle.standing and not bundle.standing.lenient:
        return f"its verdict does not count: {unapproved}; have an approver sign the bundle"
    return ""


@contextmanager
def advising(option: str) -> Iterator[None]:
    """Within, a refusal that advises `UNVERIFIED` names ``option`` in its place."""
    try:
        yield
    except BundleRefused as exc:
        raise BundleRefused(str(exc).replace(UNVERIFIED, option)) from exc


def unsigned_verdict(bundle: Bundle, verdict: StoredVerdict) -> str:
    """Why no trusted approver stands behind ``verdict``; empty where one does, or where no trust store was asked."""
    if bundle.standing is None:
        return ""
    return bundle.standing.unapproved(verdict.report_sha256, verdict.policy_sha256)


def incompatibilities(
    bundle: Bundle,
    machine: Machine,
    backend: str | None,
    unverified: bool,
    before_its_engine: Callable[[Variant], None] = lambda _: None,
) -> Iterator[tuple[Variant, str]]:
    """Each variant in the bundle's order with its obstacle, found lazily: engines are imported only when reached.

    ``before_its_engine`` is told of a variant that only its engine could still keep from running.
    """
    for variant in bundle.manifest.variants:
        if backend is not None and variant.backend != backend:
            yield variant, f"runs on {variant.backend}; asked for is {backend}"
        else:
            reason = "" if unverified else verdict_incompatibility(bundle, variant)
            reason = reason or _machine_incompatibility(variant, machine.cpu)
            if not reason:
                before_its_engine(variant)
            yield variant, reason or _engine_incompatibility(variant, machine)


def version_satisfies(version: str, specifier: str) -> bool:
    """Whether ``version`` meets every clause of ``specifier``, e.g. ``>=1.23,<2``; an empty one is met by any.

    Versions compare by their leading numbers; missing ones count as 0. (Ours and not `packaging`, which the tests hold
    it against: engines' versions are not all PEP 440, and importing it takes 20 ms of every start.)

    Raises:
        InputError: a clause that is not a comparison with a version.
    """
    return all(_meets(version, clause.strip()) for clause in specifier.split(",") if clause.strip())


def _meets(version: str, clause: str) -> bool:
    match = _CLAUSE.fullmatch(clause)
    if match is None:
        raise InputError(f"version clause {clause[:80]!r} is not one of >= <= == != > < and a version")
    order = _order(version, match[2])
    return {
        ">=": order >= 0,
        "<=": order <= 0,
        "==": order == 0,
        "!=": order != 0,
        ">": order > 0,
        "<": order < 0,
    }[match[1]]


def _order(a: str, b: str) -> int:
    """-1, 0 or 1 as version ``a`` is before, equal to or after ``b``."""
    for x, y in zip_longest(_numbers(a), _numbers(b), fillvalue=0):
        if x != y:
            return -1 if x < y else 1
    return 0


def _numbers(version: str) -> list[int]:
    leading = re.match(r"\d{1,9}(\.\d{1,9})*", version, re.ASCII)
    return [int(part) for part in leading[0].split(".")] if leading else []
