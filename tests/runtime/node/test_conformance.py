"""The conformance statement in the docs is the one that the code makes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pynetdicom")
from medfm_compress.runtime.node.conformance import _STORE_ANSWERS, statement

PAGE = Path(__file__).resolve().parents[3] / "docs" / "node-conformance.md"


def test_the_page_is_current() -> None:
    """``medfm-compress serve conformance > docs/node-conformance.md`` makes it."""
    assert PAGE.read_text() == statement()


def test_every_answer_to_c_store_is_explained() -> None:
    from medfm_compress.runtime.node import storing

    answers = {
        value
        for name, value in vars(storing).items()
        if name.isupper() and isinstance(value, int) and name != "HEAD_BYTES"
    }
    assert answers == set(_STORE_ANSWERS)


def test_what_is_received_and_sent_is_named() -> None:
    text = statement()
    for uid in (
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.5.1.4.1.1.88.34",
        "1.2.840.10008.1.20.1",
        "1.2.840.10008.1.2.4.70",
    ):
        assert f"{uid} |" in text or f"({uid})" in text
