"""The rule that picks an operating point, read from text."""

from __future__ import annotations

import re

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import FALSE_ALARM_RULE

FALSE_ALARMS = "false-alarm-rate"
DEFAULT_FALSE_ALARMS = f"{FALSE_ALARMS}<=0.05"
_RULE = re.compile(r"(sensitivity|specificity)>=(0\.[0-9]+|1(?:\.0+)?)")


def parse_rule(rule: str) -> tuple[str, float]:
    """Name of the rule, and the value that it asks for (0 for ``youden``).

    Raises:
        InputError: an unknown rule.
    """
    if rule == "youden":
        return rule, 0.0
    written = rule.replace(" ", "")
    match = _RULE.fullmatch(written) or FALSE_ALARM_RULE.fullmatch(written)
    if match is None or not float(match[2]) > 0:
        raise InputError(
            f"operating point rule {rule!r} is unknown; write youden, sensitivity>=0.95, specificity>=0.90 or "
            "false-alarm-rate<=0.05"
        )
    return match[1], float(match[2])


def needs_positives(rule: str) -> bool:
    """Whether ``rule`` looks at cases with the finding; raises as `parse_rule`."""
    return parse_rule(rule)[0] != FALSE_ALARMS
