"""What ships beside the best candidate: the same network for CPUs that would compute the best one wrongly.

U8×S8 products without VNNI are summed in pairs in 16 bits, which saturate silently (``vpmaddubsw``). Weights of 7 bits
keep every pair below 2¹⁵, at the price of a coarser grid.
"""

from __future__ import annotations

import msgspec

from medfm_compress.compress.int8.judge import Judges
from medfm_compress.compress.int8.ladder import Builder, Group, Limits, Trial, objection, try_method

WHY = "beside it for CPUs without VNNI"


def reduced_range(best: Trial, group: Group, builder: Builder, judges: Judges, limits: Limits) -> list[Trial]:
    """The trial with 7-bit weights of the INT8 candidate that ships, judged like any other; none for a float one."""
    if best.method is None:
        return []
    trial = try_method(msgspec.structs.replace(best.method, reduced=True), group, builder, judges, limits)
    said = objection(trial, limits)
    trial.kept, trial.beside, trial.reason = not said, True, said or WHY
    return [trial]
