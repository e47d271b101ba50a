"""A verdict as SARIF 2.1.0 (OASIS Standard, 27 March 2020), which code hosts show beside the changed files.

One result for each check that did not pass: level ``error`` for a failed one, ``warning`` for an inconclusive one. It
points at the line of the policy that asks for the check. Rule ids and fingerprints are made of names and never of
figures, so that a host knows the same complaint again in the next run (§3.27.17, `partialFingerprints`).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medfm_compress import __version__
from medfm_compress.bench.gate.decision import Decision, policy_keys
from medfm_compress.bench.gate.policy_line_numbers import PolicyKey, nearest_line, policy_lines
from medfm_compress.bench.types.verdict import Check
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.bundle.manifest import Outcome
from medfm_compress.runtime.strict_json import encode

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
FINGERPRINT = "medfmCheck/v1"
_ROOT = "%SRCROOT%"
_LEVELS: dict[Outcome, str] = {"fail": "error", "inconclusive": "warning"}
_HELP = {
    "non-inferiority": "A required comparison with the teacher did not rule out a loss of its margin.",
    "floor": "A model's own value does not reach what the policy asks of it.",
    "budget": "A variant costs more than the policy allows, or it was not measured.",
    "fidelity": "A variant's outputs differ from the teacher's by more than the policy allows.",
    "explanations": "A variant's heat maps differ from the teacher's by more than allowed, or were not compared.",
    "check": "A check of the gate did not pass.",
}


def render_sarif(decision: Decision, policy: bytes, policy_uri: str, report_uri: str) -> dict[str, Any]:
    """The log, as plain data.

    Args:
        decision: what was found.
        policy: bytes of the policy file.
        policy_uri: its path in the repository.
        report_uri: likewise the report's, which a check without a line in the policy points at.
    """
    keys, lines = policy_keys(decision), policy_lines(policy)
    results: list[dict[str, Any]] = []
    rules: dict[str, dict[str, Any]] = {}
    for judged in decision.verdict.variants:
        for check in judged.checks:
            if check.outcome == "pass":
                continue
            key = keys.get(check.name, ())
            rule = _rule(decision, key)
            rules.setdefault(rule["id"], rule)
            result = _result(judged.variant, check, rule["id"])
            result["ruleIndex"] = list(rules).index(rule["id"])
            line = nearest_line(key, lines)
            result["locations"] = [_location(policy_uri, line) if line else _location(report_uri, 1)]
            results.append(result)
    driver = {
        "name": "medfm-compress gate",
        "version": __version__,
        "semanticVersion": __version__,
        "rules": list(rules.values()),
    }
    run = {
        "tool": {"driver": driver},
        "results": results,
        "columnKind": "unicodeCodePoints",
        "properties": {
            "outcome": decision.verdict.outcome,
            "model_digest": decision.verdict.model_digest,
            "policy_sha256": decision.verdict.policy_sha256,
            "notes": list(decision.verdict.notes),
        },
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def save_sarif(decision: Decision, path: str | Path, policy: bytes, policy_uri: str, report_uri: str) -> None:
    """Write the log to ``path``, atomically; arguments as :func:`render_sarif`."""
    write_atomically(path, encode(render_sarif(decision, policy, policy_uri, report_uri)))


def _rule(decision: Decision, key: PolicyKey) -> dict[str, Any]:
    """The rule of a check that the policy asks for at ``key``; its id says what kind of check and of what."""
    kind, what = "check", ""
    if key[:1] == ("non_inferiority",):
        kind = "floor" if len(key) > 2 else "non-inferiority"
        what = decision.policy.non_inferiority[int(key[1])].metric
    elif key:
        kind, what = str(key[0]), str(key[1])
    text = _HELP[kind]
    return {
        "id": f"{kind}/{what}" if what else kind,
        "shortDescription": {"text": f"{kind.capitalize()}: {what}" if what else kind.capitalize()},
        "fullDescription": {"text": text},
        "help": {"text": f"{text} Every key of a policy is explained in docs/policy.md of medfm-compress."},
    }


def _result(variant: str, check: Check, rule: str) -> dict[str, Any]:
    fingerprint = hashlib.sha256(f"{rule}\0{variant}\0{check.name}".encode(errors="replace")).hexdigest()
    return {
        "ruleId": rule,
        "level": _LEVELS[check.outcome],
        "message": {"text": _plain(f"{check.outcome}: {check.name} ({variant}): {check.reason}")},
        "partialFingerprints": {FINGERPRINT: fingerprint},
        "properties": {"variant": variant, "outcome": check.outcome},
    }


def _plain(text: str) -> str:
    """``text`` as a message without links: brackets would make one (§3.11.6)."""
    return re.sub(r"([\\\[\]])", r"\\\1", text)


def _location(uri: str, line: int | None) -> dict[str, Any]:
    """A line of a file; an absolute path stays one, any other is relative to the repository."""
    path = Path(uri)
    place = (
        {"uri": path.as_uri()}
        if path.is_absolute()
        else {"uri": quote(path.as_posix(), errors="replace"), "uriBaseId": _ROOT}
    )
    return {"physicalLocation": {"artifactLocation": place, "region": {"startLine": line or 1}}}
