"""Labels that say the opposite of one another: ``covid`` and ``non-covid``, ``HER2+`` and ``HER2-``, yes and no."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from medfm_compress.data.written_forms import normal_form

NEGATIVE_NAMES = (
    "normal", "negative", "no finding", "healthy", "control", "benign", "none", "absent", "other", "no", "false", "0",
)  # fmt: skip
"""Usual names for nothing found, the most usual first."""
_NEGATED = tuple(
    re.compile(form)
    for form in (
        r"(?:not an?|not|non|no evidence of|no sign of|no|without|absence of|negative for|free of) (.+)",
        r"non(\w{3}.*)",
        r"not(\w{3}.*)",
        r"no(\w{3}.*)",
        r"un(\w+ed)",
        r"(.+?)(?: negative| neg| absent| free|-)",
    )
)
_AFFIRMED = (re.compile(r"(?:with|presence of|positive for) (.+)"), re.compile(r"(.+?)(?: positive| pos| present|\+)"))
# Of these the negation is what is found: an unhealed wound, a lung that is not clear.
_REASSURING = frozenset(
    {*NEGATIVE_NAMES, "clear", "controlled", "differentiated", "healed", "intact", "resolved", "stable"}
)
_MOST_WORDS = 8  # before a negation
_ANSWERS = (
    ("true", "false"), ("yes", "no"), ("1", "0"), ("y", "n"), ("t", "f"), ("positive", "negative"), ("pos", "neg"),
    ("present", "absent"),
)  # fmt: skip


def plain_name(label: str) -> str:
    """In small letters, with spaces for ``_`` and for ``-`` within, without brackets: ``HER2 (-)`` is ``her2-``."""
    words = re.sub(r"[_()\[\]]", " ", normal_form(label))
    return re.sub(r"\s+(?=[+-]$)", "", " ".join(re.sub(r"-(?!\s*$)", " ", words).split()))


def negations(labels: Iterable[str]) -> dict[str, str]:
    """Label → the other one of ``labels`` that it says is not there, for each of which both stand there."""
    plain = {label: plain_name(label) for label in labels}
    affirmed = {thing: label for label, name in plain.items() for thing in (*_things(_AFFIRMED, name), name)}
    return {
        label: affirmed[thing]
        for label, name in plain.items()
        for thing in _things(_NEGATED, name)
        if affirmed.get(thing, label) != label and thing not in _REASSURING
    }


def _things(forms: Iterable[re.Pattern[str]], name: str) -> Iterator[str]:
    """What ``name`` says is there, or is not, in each of ``forms``; also behind words for where: ``ct noncovid``."""
    words = name.split(" ")
    for place in range(min(len(words), _MOST_WORDS)):
        head, tail = words[:place], " ".join(words[place:])
        yield from (" ".join([*head, match[1]]) for form in forms if (match := form.fullmatch(tail)))


def mixed_answers(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Labels that say yes or no, by the way in which they do, where two of these are mixed in one column; else none.

    Letters may be names of classes: of these alone both pairs must be there, and nothing else.
    """
    ways = [tuple(label for label in labels if normal_form(label) in pair) for pair in _ANSWERS]
    forms = set(map(normal_form, labels))
    twice = any(sum(pair[side] in forms for pair in _ANSWERS) > 1 for side in (0, 1))
    complete = sum(len(way) > 1 for way in ways)
    are_all = sum(map(len, ways)) == len(labels)
    are_letters = all(len(form) == 1 and form.isalpha() for form in forms)
    mixed = are_all and complete > 1 if are_letters else are_all or complete > 1
    return [way for way in ways if way] if twice and mixed else []
