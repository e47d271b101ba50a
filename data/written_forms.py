"""One thing written in several ways: the form in which two cells of a table are compared.

Spreadsheets, exports and people write one patient as ``7``, ``007``, ``7.0``, ``Mü 1`` (composed or decomposed) or
``MÜ 1``. Compared as they stand, these are different patients, and leakage between splits goes unseen. The normal form
errs on the other side: it may take two patients for one, which costs cases and widens intervals, but never flatters.
``A-12`` and ``a 12``, ``x3`` and ``x03`` stay apart, and `study check` names them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache

_WHOLE_NUMBER = re.compile(r"([0-9]+)(?:\.0*|,0{0,2})?")  # ``7,000`` may be seven thousand
_NUMBER = re.compile(r"0*(\d+)(?:\.0+)?")
_SEPARATORS = re.compile(r"[\s_/^#:-]+")
_QUOTES = "'"
# Not seen, and yet letters or marks to Unicode (Default_Ignorable_Code_Point, beside the format characters).
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)


@lru_cache(maxsize=1 << 17)
def normal_form(text: str) -> str:
    """What is left of ``text`` where a difference in writing is no difference.

    Unicode forms (NFKC, so full-width letters and no-break spaces too), the digits of other scripts, invisible
    characters, kinds of dashes and minus signs, kinds of quotes and quotes around, case, spaces around and repeated
    within, the padding of DICOM values (NUL, spaces, trailing ``^`` and ``=``), leading zeros of whole numbers and
    their ``.0`` or ``,0``.
    """
    folded = _UNSEEN.sub("", unicodedata.normalize("NFKC", text).casefold())
    visible = unicodedata.normalize("NFKC", "".join(map(_plain_character, folded)))
    plain = " ".join(visible.split()).rstrip(f"^= {_QUOTES}").lstrip(f" {_QUOTES}")
    number = _WHOLE_NUMBER.fullmatch(plain)
    return (number[1].lstrip("0") or "0") if number else plain


def similar_forms(texts: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of ``texts`` in normal form that stay apart, and differ only in separators or zeros within."""
    groups: dict[str, set[str]] = defaultdict(set)
    for text in filter(None, map(normal_form, texts)):
        groups[_NUMBER.sub(r"\1", _SEPARATORS.sub("", text))].add(text)
    return [tuple(sorted(group)) for group in groups.values() if len(group) > 1]


def _plain_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Pd" or character == "\u2212":  # the minus sign is no dash to Unicode
        return "-"
    if category in ("Pi", "Pf") or character in '"`\u201a\u201e\u2032\u02bc':
        return _QUOTES
    if category == "Nd":
        return str(unicodedata.digit(character))
    # Controls other than white space, such as the NUL that pads DICOM values, and invisible format characters.
    return "" if category == "Cf" or (category == "Cc" and not character.isspace()) else character
