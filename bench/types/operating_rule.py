"""The rule that picks an operating point, read from text."""

from __future__ import annotations

import re

from medfm_compress.runtime.errors import InputError

_RULE = re.compile(r"(sensitivity|specificity)>=(0\.\d+|1(?:\.0+)?)")


def parse_rule(rule: str) -> tuple[str, float]:
    """Name of the rule, and the least value it asks for (0 for ``youden``).

    Raises:
        InputError: an unknown rule.
    """
    if rule == "youden":
        return rule, 0.0
    match = _RULE.fullmatch(rule.replace(" ", ""))
    if match is None or not float(match[2]) > 0:
        raise InputError(
            f"operating point rule {rule!r} is unknown; write youden, sensitivity>=0.95 or specificity>=0.90"
        )
    return match[1], float(match[2])
