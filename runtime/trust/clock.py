"""The time that a key's expiry is held against, on a device whose clock may be wrong.

A clock that was reset (1970) must not make an expired key good again, and must not stop a device that has no clock. So
the time is the latest of the clock and every date that was certainly reached: when this file was written, when the keys
and revocations of the trust store were entered, what the program that embeds the runtime remembers, and the dates of
the signatures that hold. A clock that runs ahead makes keys expire too early, and nothing else.

Times are ISO 8601 in UTC to the second, ``2026-11-28T12:00:00Z``: as text they sort by time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import date

from medfm_compress.runtime.errors import InputError, quoted

WRITTEN = "2026-11-28T00:00:00Z"
"""When this file was: no clock that shows an earlier time is right."""
_TIME = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ", re.ASCII)
_LAST = "9999-12-31T23:59:59Z"


def clock_now() -> str:
    """What the system's clock shows."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time()))
    except (ValueError, OverflowError, OSError):  # a year that has more than four digits
        return _LAST


def latest(*, clock: str, dates: Iterable[str]) -> str:
    """The time that it is at least: the latest of ``clock`` and of ``dates`` that were certainly reached."""
    return max(clock, WRITTEN, *dates)


def years_later(time: str, years: int) -> str:
    """``time``, a number of years on; of the 29th of February the 28th."""
    return f"{int(time[:4]) + years:04}{time[4:]}".replace("-02-29T", "-02-28T")


def check_time(text: str, what: str) -> str:
    """``text`` as a time, where a day alone means its end.

    Raises:
        InputError: it is no time in the one form that sorts.
    """
    whole = f"{text}T23:59:59Z" if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) else text
    if not is_time(whole):
        raise InputError(f"{what} is {quoted(text)}; give a day or a time in UTC, e.g. 2028-12-31")
    return whole


def is_time(text: str) -> bool:
    """Whether ``text`` is a time to the second, of a day that exists."""
    try:
        date.fromisoformat(text[:10])
    except ValueError:  # e.g. the 30th of February
        return False
    return _TIME.fullmatch(text) is not None
