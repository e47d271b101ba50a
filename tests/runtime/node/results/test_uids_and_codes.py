"""UIDs and codes: the same for the same, different for what differs, and valid whatever goes in."""

from __future__ import annotations

import re
import uuid

import pytest

from medfm_compress.runtime.node.config import CodeConfig
from medfm_compress.runtime.node.results.codes import PRIVATE_SCHEME, finding_code, one_line
from medfm_compress.runtime.node.results.uids import make_uid, make_uuid


@pytest.mark.parametrize("root", ["2.25", "1.2.826.0.1.3680043.10.9", "2.999"])
def test_uids_are_valid_and_fit(root: str) -> None:
    uids = {make_uid(root, "sr", str(number)) for number in range(3000)}
    assert len(uids) == 3000
    for uid in uids:
        assert re.fullmatch(r"[0-2](\.(0|[1-9][0-9]*))+", uid) and len(uid) <= 64


def test_a_uid_is_that_of_a_uuid_and_the_same_everywhere() -> None:
    assert make_uuid("a", "b").version == 8 and make_uuid("a", "b").variant == uuid.RFC_4122
    assert make_uid("2.25", "a", "b") == f"2.25.{make_uuid('a', 'b').int}"
    assert make_uuid("a", "b") == uuid.UUID("3c9d5910-45bc-8876-b9d0-399bbfb05c6a")


def test_parts_that_run_together_are_told_apart() -> None:
    keys = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc")]
    assert len({make_uuid(*key) for key in keys}) == len(keys)


LABELS = [
    *("Pneumonia", "pneumonia", "Erguß", "肺炎", "ذات الرئة", " ", "a\\b", "a/b", "x" * 64, "x" * 65, "x" * 200),
    *("line\nbreak", "\u202eevil", "\ud800", "é", "e\u0301", "🫁"),
]


def test_every_label_has_a_code_of_its_own() -> None:
    codes = [finding_code(label, None) for label in LABELS]
    assert len({code.value for code in codes}) == len(LABELS)
    for code in codes:
        assert re.fullmatch(r"F[A-Z2-7]{15}", code.value) and code.scheme == PRIVATE_SCHEME
        assert 1 <= len(code.meaning) <= 64 and "\\" not in code.meaning and code.meaning == one_line(code.meaning)
        code.meaning.encode("utf-8")


def test_a_code_is_the_same_on_every_device() -> None:
    assert finding_code("Pneumonia", None).value == "FEOS3CJO3UEEOSMN"


def test_a_configured_code_is_taken_and_long_ones_have_their_own_attributes() -> None:
    code = finding_code("Pneumonia", CodeConfig(value="233604007", scheme="SCT", meaning="Pneumonia"))
    assert code == ("233604007", "SCT", "Pneumonia") and code.value_keyword == "CodeValue"
    assert code._replace(value="1" * 17).value_keyword == "LongCodeValue"
    assert code._replace(value="urn:oid:1.2.3").value_keyword == "URNCodeValue"
