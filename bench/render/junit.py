"""A verdict as JUnit XML, which every CI service shows: one suite a variant, one test case a check.

CI knows red and green only, and inconclusive is not a pass: both ``fail`` and ``inconclusive`` become ``<failure>``,
told apart by its ``type`` and the first word of its ``message``.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as Xml

from medfm_compress.bench.types.verdict import Check, VariantVerdict, Verdict
from medfm_compress.runtime.atomic_write import write_atomically

# Characters that XML 1.0 cannot hold, not even escaped (section 2.2).
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(verdict: Verdict) -> bytes:
    """UTF-8 XML of ``verdict``."""
    root = Xml.Element("testsuites", {"name": "medfm-compress gate", **_counts(verdict.variants)})
    for judged in verdict.variants:
        suite = Xml.SubElement(root, "testsuite", {"name": _legal(judged.variant), **_counts((judged,))})
        properties = Xml.SubElement(suite, "properties")
        for name in ("outcome", "model_digest", "policy_sha256"):
            value = str(getattr(judged if name == "outcome" else verdict, name))
            Xml.SubElement(properties, "property", name=name, value=_legal(value))
        for note in verdict.notes:
            Xml.SubElement(properties, "property", name="note", value=_legal(note))
        for check in judged.checks:
            _add_case(suite, judged.variant, check)
    Xml.indent(root)
    return bytes(Xml.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def save_junit(verdict: Verdict, path: str | Path) -> None:
    """Write ``verdict`` to ``path``, atomically."""
    write_atomically(path, render_junit(verdict))


def _add_case(suite: Xml.Element, variant: str, check: Check) -> None:
    case = Xml.SubElement(suite, "testcase", classname=_legal(variant), name=_legal(check.name), time="0")
    if check.outcome == "pass":
        Xml.SubElement(case, "system-out").text = _legal(check.reason)
        return
    message = _legal(f"{check.outcome}: {check.reason}")
    Xml.SubElement(case, "failure", type=check.outcome, message=message).text = message


def _counts(judged: tuple[VariantVerdict, ...]) -> dict[str, str]:
    outcomes = [check.outcome for variant in judged for check in variant.checks]
    failures = sum(outcome != "pass" for outcome in outcomes)
    return {"tests": str(len(outcomes)), "failures": str(failures), "errors": "0", "time": "0"}


def _legal(text: str) -> str:
    return _ILLEGAL.sub("�", text)
