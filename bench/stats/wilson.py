"""Wilson's score interval of one proportion, honest at 0 and 1 too.

With x successes of n, p̂ = x/n and z the normal quantile::

    (p̂ + z²/2n ± z sqrt(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n)

Source: Wilson, JASA 22 (1927) 209–212.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from medfm_compress.bench.types.interval import Interval
from medfm_compress.runtime.errors import InputError


def wilson(successes: float, total: float, level: float = 0.95) -> Interval:
    """Wilson's score interval of ``successes / total``.

    Raises:
        InputError: ``total`` is not positive, or ``successes`` is not in [0, total].
    """
    if not 0 <= successes <= total or total <= 0:
        raise InputError(f"{successes} successes of {total} is no proportion")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, shrink = successes / total, 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / shrink
    reach = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / shrink
    low, high = max(centre - reach, 0.0), min(centre + reach, 1.0)
    return Interval(estimate=share, low=min(low, share), high=max(high, share), level=level, method="Wilson")
