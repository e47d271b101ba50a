"""Patient keys that are written in more than one way.

The same text may be stored composed or decomposed, with a no-break space or two spaces: such keys are one patient and
are brought to one form (Unicode NFKC, spaces collapsed). ``p7`` and ``P7``, ``7``, ``7.0`` and ``007`` may or may not
be one patient; they stay apart, and `study check` names them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

_NUMBER = re.compile(r"0*(\d+)(?:\.0+)?")


def patient_key(text: str) -> str:
    """``text`` in the one form in which keys are compared."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def similar_keys(keys: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of distinct ``keys`` that differ only in case, separators, leading zeros or a decimal zero."""
    groups: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        if key:
            groups[_loosely(key)].add(key)
    return [tuple(sorted(group)) for group in groups.values() if len(group) > 1]


def _loosely(key: str) -> str:
    plain = re.sub(r"[\s_-]+", "", key.casefold())
    return _NUMBER.sub(lambda match: match[1], plain)
