"""``--target`` of commands that take several: what to run, and the threads that all of it shares."""

from __future__ import annotations

from medfm_compress.bench.types.target import Target
from medfm_compress.runtime.errors import InputError


def split_targets(targets: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """Targets without their threads, and those threads; 1 where none names any.

    Raises:
        InputError: a target that is unknown, or different numbers of threads: rows would not be comparable.
    """
    threads = {Target.parse(target).threads for target in targets if target.count(":") == 3}
    if len(threads) > 1:
        named = " and ".join(map(str, sorted(threads)))
        raise InputError(f"--target names {named} threads; all rows of one run share their threads, give one number")
    for target in targets:
        Target.parse(target)
    return tuple(":".join(target.split(":")[:3]) for target in targets), threads.pop() if threads else 1
