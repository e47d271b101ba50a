"""One thing written in several ways: the form in which two cells of a table are compared.

Spreadsheets, exports and people write one patient as ``7``, ``007``, ``7.0``, ``Mü 1`` (composed or decomposed) or
``MÜ 1``. Compared as they stand, these are different patients, and leakage between splits goes unseen. The normal form
errs on the other side: it may take two patients for one, which costs cases and widens intervals, but never flatters.
``A-12`` and ``a 12``, ``x3`` and ``x03``, ``Doe^John`` and ``Doe, John`` stay apart, and `study check` names them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache

_WHOLE_NUMBER = re.compile(r"([0-9]+)(?:\.0*|,0{0,2})?")  # ``7,000`` may be seven thousand
_LEADING_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
_POINT_ZERO = re.compile(r"(?<![0-9.])([0-9]+)\.0+$")
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?:[ '][0-9]{3})+")
_DIGITS_OF_A_NUMBER = 6  # such as those of insured people and registers; ``N1_0001`` is another image than ``N10001``
_PARTED = re.compile(r"[0-9][^0-9a-z]+[0-9]")
_AROUND = "+-=[](){}'"
# In small letters; keys are written in capitals more often, so the Cyrillic v is the b that its capital looks like.
_LOOK_ALIKES = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445"  # Cyrillic
    "\u0456\u0458\u0455\u0501\u04bb\u04cf\u051b\u051d"
    "\u03b1\u03b2\u03b5\u03b6\u03b7\u03b9\u03ba\u03bc\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7"  # Greek
    "\u00f8\u0142\u0111\u0131\u0127\u0268",  # Latin with a stroke, which no accent is to Unicode; \u0131 has no dot
    "abekmhopctyx" + "ijsdhlqw" + "abezhikmnoptyx" + "oldihi",
)
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
    """Groups of ``texts`` in normal form that stay apart, and differ only in what `_similar` leaves out."""
    groups: dict[str, list[str]] = defaultdict(list)
    for form in dict.fromkeys(filter(None, map(normal_form, texts))):
        groups[_similar(form) or form].append(form)
    for parted in [form for group in groups.values() for form in group if _PARTED.search(form)]:
        joined = "".join(filter(str.isalnum, parted))
        whole = groups.get(_LEADING_ZEROS.sub("", joined), [])
        is_number = sum(map(str.isdecimal, joined)) >= _DIGITS_OF_A_NUMBER
        if is_number and parted not in whole and any(form.isalnum() for form in whole):
            whole.append(parted)
    return [tuple(sorted(group)) for group in groups.values() if len(group) > 1]


def _similar(form: str) -> str:
    """A normal form without punctuation, symbols, leading zeros and accents, with Latin letters for those alike.

    Punctuation between two digits stands, whichever it is: ``P-12`` and ``P1-2`` are two patients, ``1.2.840`` and
    ``1.28.40`` two studies. That of thousands does not. A number of six digits and more is also like the one that has
    no punctuation at all: ``123-45-6789`` and ``123456789``.
    """
    if not (form.isascii() and form.isalnum()):
        if _THOUSANDS.fullmatch(form.strip(_AROUND)):
            form = re.sub("[, ']", "", form)
        form = "".join(_compared(_POINT_ZERO.sub(r"\1", form)))
    return _LEADING_ZEROS.sub("", form)


def _compared(form: str) -> Iterator[str]:
    last, gap = "", False
    for character in unicodedata.normalize("NFD", form).translate(_LOOK_ALIKES):
        kind = unicodedata.category(character)[0]
        if kind in "PSZC":
            gap = True
        elif kind != "M" or not last.isascii():
            if gap and last.isdecimal() and character.isdecimal():
                yield "-"
            yield character
            last, gap = character, False


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
