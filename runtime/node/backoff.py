"""How long to wait before the next try.

After n failures: ``min(longest, first * 2**n)``, less up to a half that a hash of the key decides, so that many objects
or nodes do not come back at one moment, and the same failure always waits as long.
"""

from __future__ import annotations

import hashlib

from medfm_compress.runtime.node.config import RetryConfig

DAY_S = 86400.0
FEWEST_ATTEMPTS = 8


def wait_s(retry: RetryConfig, failures: int, key: str) -> float:
    """Seconds to wait after ``failures`` earlier failures of what ``key`` names."""
    longest = min(retry.longest_s, retry.first_s * 2.0 ** min(failures, 64))
    fraction = int.from_bytes(hashlib.sha256(f"{key}/{failures}".encode()).digest()[:4], "big") / 2**32
    return longest * (1 - fraction / 2)


def gives_up(retry: RetryConfig, first_attempt_at: float | None, now: float, attempts: int = FEWEST_ATTEMPTS) -> bool:
    """Whether what was first tried at ``first_attempt_at`` has been tried for long enough, and often enough.

    Time alone does not tell: the clock may have been put right in between, or the destination out of reach.
    """
    if first_attempt_at is None or attempts < FEWEST_ATTEMPTS:
        return False
    return now - first_attempt_at >= retry.give_up_days * DAY_S
