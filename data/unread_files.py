"""Files that are images and that nothing here reads: they are listed, so that no class is thinned out unseen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

_SHOWN = 8


def by_suffix(names: Iterable[str | PurePath]) -> str:
    """How many files there are of each suffix, in words: ``3 .webp, 1 .gif``."""
    counts = Counter(PurePath(name).suffix.lower() or "without suffix" for name in names)
    shown = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(_SHOWN))
    return shown + (" …" if len(counts) > _SHOWN else "")
