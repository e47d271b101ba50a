"""Words that mean "not recorded" in tables that other programs or people wrote."""

from __future__ import annotations

import re
import unicodedata

from medfm_compress.data.written_forms import normal_form

_WORDS = frozenset(
    {
        "", "nan", "na", "nana", "null", "nil", "nat", "pdna", "pdnat", "npnan", "mathnan", "nanind", "nansnan",
        "missingvalue", "nodata", "novalue", "notapplicable", "notavailable", "notrecorded", "undefined",
    }
)  # fmt: skip
_LABEL_WORDS = frozenset(
    {
        "missing", "notannotated", "notdone", "notknown", "notlabeled", "notlabelled", "notreported", "notspecified",
        "tbd", "unannotated", "unk", "unknown", "unlabeled", "unlabelled", "unspecified",
    }
)  # fmt: skip
# Of spreadsheets, and what C prints for no number: 1.#IND, -1.#QNAN00.
_ERRORS = re.compile(
    r"#(value|ref|name|num|null|div/0|na|n/a|calc|spill|getting_data|field|blocked|connect|unknown|error|error!|err:\d+)"
    r"[!?]?|-?1[.,]#(ind|qnan|snan|inf)0*"
)
_STAND_IN = re.compile(r"-\d+|([6-9])\1+")


def is_missing(value: str) -> bool:
    """Whether ``value`` is empty or stands for no value, such as pandas' ``nan`` or a spreadsheet's ``#REF!``.

    Compared in its normal form, without punctuation and spaces: ``<NA>``, ``n / a``, ``(null)``, ``?``, ``-``. ``none``
    in lower case is left alone: it is also a usual name for nothing found.
    """
    form = normal_form(value)
    return _bare(form) in _WORDS or bool(_ERRORS.fullmatch(form)) or _bare(value) == "None"


def is_no_label(value: str) -> bool:
    """Whether ``value`` names no class: also words such as ``unknown``, which may well name a group of patients."""
    return is_missing(value) or _bare(normal_form(value)) in _LABEL_WORDS


def is_stand_in(value: str) -> bool:
    """Whether ``value`` is a number that often stands for no value: ``-1``, ``99``, ``9999``."""
    return bool(_STAND_IN.fullmatch(normal_form(value).removesuffix(".0")))


def _bare(text: str) -> str:
    return "".join(filter(_is_read, unicodedata.normalize("NFKC", text)))


def _is_read(character: str) -> bool:
    """Whether ``character`` is more than punctuation, space or padding; ``+`` is: it may say *positive*."""
    return unicodedata.category(character)[0] not in "PZC" and character not in "<>|~^`="
