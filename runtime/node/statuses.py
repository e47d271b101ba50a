"""What a DICOM peer's status or reason means for the object that it is about: the one table.

Sources: PS3.4 B.2.3, table B.2-1 (C-STORE); PS3.7 annex C (every service); PS3.8 9.3.3.2, table 9-18 (presentation
contexts); PS3.3 C.14.1.1 (failure reasons of storage commitment). The first row that holds a code decides.

    stored     success, or a warning: the peer keeps the object, changed perhaps
    transient  the peer could not, this time: again after a wait
    permanent  the same object would be refused again: quarantine. So is every code that no source knows
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Meaning = Literal["stored", "transient", "permanent"]
CommitmentMeaning = Literal["send again", "ask again", "permanent"]


class Status(NamedTuple):
    """What a status means; ``text`` is for people and names the code."""

    meaning: Meaning
    text: str


class _Row(NamedTuple):
    first: int
    last: int
    meaning: Meaning
    text: str


_ROWS = (
    _Row(0x0000, 0x0000, "stored", "success"),
    _Row(0xB000, 0xB000, "stored", "warning: data elements coerced"),
    _Row(0xB006, 0xB006, "stored", "warning: elements discarded"),
    _Row(0xB007, 0xB007, "stored", "warning: data set does not match SOP class"),
    # PS3.7 C.4: of 0001, Bxxx, 0107 and 0116 annex C says that the operation was done.
    _Row(0x0001, 0x0001, "stored", "warning"),
    _Row(0xB000, 0xBFFF, "stored", "warning"),
    _Row(0x0107, 0x0107, "stored", "warning: attribute list error"),
    _Row(0x0116, 0x0116, "stored", "warning: attribute value out of range"),
    _Row(0xA700, 0xA7FF, "transient", "refused: out of resources"),
    _Row(0x0213, 0x0213, "transient", "resource limitation"),
    _Row(0x0110, 0x0110, "transient", "processing failure"),  # general: says nothing of the object
    _Row(0x0210, 0x0210, "transient", "duplicate invocation"),  # of the message ID
    _Row(0xFE00, 0xFE00, "transient", "cancelled"),
    _Row(0xA900, 0xA9FF, "permanent", "error: data set does not match SOP class"),
    _Row(0xC000, 0xCFFF, "permanent", "error: cannot understand"),
    _Row(0x0105, 0x0105, "permanent", "no such attribute"),
    _Row(0x0106, 0x0106, "permanent", "invalid attribute value"),
    _Row(0x0111, 0x0111, "permanent", "duplicate SOP instance"),
    _Row(0x0112, 0x0112, "permanent", "no such SOP instance"),
    _Row(0x0114, 0x0114, "permanent", "no such argument"),
    _Row(0x0115, 0x0115, "permanent", "invalid argument value"),
    _Row(0x0117, 0x0117, "permanent", "invalid SOP instance"),
    _Row(0x0118, 0x0118, "permanent", "no such SOP class"),
    _Row(0x0119, 0x0119, "permanent", "class-instance conflict"),
    _Row(0x0120, 0x0120, "permanent", "missing attribute"),
    _Row(0x0121, 0x0121, "permanent", "missing attribute value"),
    _Row(0x0122, 0x0122, "permanent", "refused: SOP class not supported"),
    _Row(0x0123, 0x0123, "permanent", "no such action type"),
    _Row(0x0124, 0x0124, "permanent", "refused: not authorized"),
    _Row(0x0211, 0x0211, "permanent", "unrecognized operation"),
    _Row(0x0212, 0x0212, "permanent", "mistyped argument"),
)

# PS3.8 table 9-18: result of a presentation context that was not accepted.
_CONTEXT_RESULTS: dict[int, Status] = {
    1: Status("transient", "user rejection"),
    2: Status("transient", "no reason (provider rejection)"),
    3: Status("permanent", "abstract syntax not supported"),
    4: Status("permanent", "transfer syntaxes not supported"),
}

# PS3.3 C.14.1.1. What no source knows is asked for again, until the time to give up.
_COMMITMENT_REASONS: dict[int, tuple[CommitmentMeaning, str]] = {
    0x0110: ("ask again", "processing failure"),
    0x0112: ("send again", "no such object instance"),
    0x0119: ("permanent", "class-instance conflict"),
    0x0122: ("permanent", "referenced SOP class not supported"),
    0x0131: ("ask again", "duplicate transaction UID"),
    0x0213: ("ask again", "resource limitation"),
}


def response(code: int) -> Status:
    """What status ``code`` of a C-STORE, N-ACTION or N-EVENT-REPORT response means."""
    for row in _ROWS:
        if row.first <= code <= row.last:
            return Status(row.meaning, f"{code:04X}H, {row.text}")
    return Status("permanent", f"{code:04X}H, which is no known status")


def rejected_context(result: int | None) -> Status:
    """What ``result`` of a presentation context means that was not accepted; None: it was not answered at all."""
    if result is None:
        return Status("transient", "not answered")
    return _CONTEXT_RESULTS.get(result, Status("permanent", f"{result}, which is no known result"))


def commitment_failure(reason: int | None) -> tuple[CommitmentMeaning, str]:
    """What failure reason (0008,1197) ``reason`` asks for, and its text; None: none was given."""
    if reason is None:
        return "ask again", "no reason given"
    meaning, text = _COMMITMENT_REASONS.get(reason, ("ask again", "which is no known reason"))
    return meaning, f"{reason:04X}H, {text}"
