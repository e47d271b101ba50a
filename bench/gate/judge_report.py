"""Judge a report that was made before, and write what comes of it into the bundle.

The one way to a verdict, for the command and for the last step of a recipe: the statistics are computed again from the
report's per-case scores, the report has to be of this policy, this bundle and this study, and what a reader must know
(a changed policy, cases that were looked at before) stands in the verdict's notes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from medfm_compress.bench.gate.baseline_report import compare_to_baseline
from medfm_compress.bench.gate.decision import Decision, reuse_warnings
from medfm_compress.bench.gate.gate import judge_evidence, recompute, stored_verdicts
from medfm_compress.bench.gate.policy_file import LoadedPolicy
from medfm_compress.bench.report import Report, load_report, parse_report
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.open import open_study_of
from medfm_compress.runtime.bundle.bundle import Bundle, rewrite_bundle, utc_date
from medfm_compress.runtime.errors import InputError


class JudgeRequest(NamedTuple):
    """What is judged, by what, and what it is held against.

    Attributes:
        path: of the report, for messages.
        data: its bytes.
        policy: that must hold.
        bundle: that the report must be of, every variant of which must have passed; None asks nothing of it.
        study: likewise, the study.
        baseline: an earlier report on the same cases, shown and not judged.
        accept_changed_policy: judge by another policy than the report was made under, and say so; None where that
            cannot be asked for.
        notes: sentences for the verdict.
    """

    path: Path
    data: bytes
    policy: LoadedPolicy
    bundle: Path | None = None
    study: Path | None = None
    baseline: Path | None = None
    accept_changed_policy: bool | None = False
    notes: tuple[str, ...] = ()


def judge_report(request: JudgeRequest) -> Decision:
    """The decision.

    Raises:
        InputError: a damaged report, or one of another policy, bundle or study.
        StudyError: a study that cannot be read.
    """
    made, policy = parse_report(request.data, source=str(request.path)), request.policy
    notes = (*request.notes, *_policy_notes(made, policy, request.accept_changed_policy), *reuse_warnings(made))
    if request.study:
        _check_study(request.study, made)
    shipped = _shipped(request.bundle, made) if request.bundle else ()
    evidence = recompute(made, policy.policy, shipped)
    verdict = judge_evidence(evidence, policy.policy, policy_sha256=policy.sha256, notes=notes)
    baseline = load_report(request.baseline) if request.baseline else None
    earlier = compare_to_baseline(made, evidence, baseline, policy.policy) if baseline else None
    return Decision(verdict, evidence, policy.policy, made, earlier)


def record_verdicts(decision: Decision, data: bytes, bundle: Path, out: Path) -> int:
    """Write ``bundle`` with the verdicts on the report ``data`` to ``out``, which may be the same file.

    Returns:
        How many signatures it had: they were made of the manifest as it was, and are left out.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    opened = Bundle.open(bundle)
    rewrite_bundle(opened, out, verdicts=stored_verdicts(decision.verdict, report_sha256=sha256, date=utc_date()))
    return len(opened.signed.signatures)


def _policy_notes(made: Report, declared: LoadedPolicy, accepted: bool | None) -> tuple[str, ...]:
    """What must be said where the policy is not the one that the report was made under."""
    if declared.sha256 == made.policy_sha256:
        return ()
    text = f"the policy (sha256 {declared.sha256[:12]}) is not the one that the report was made under"
    if not accepted:
        raise InputError(
            f"{text} ({made.policy_sha256[:12]}): it must be written before the test cases are evaluated; give that one"
            + (
                ""
                if accepted is None
                else ", or --accept-changed-policy to judge by this one and have the verdict say so"
            )
        )
    return (f"{text} ({made.policy_sha256[:12]}): it is not known to be older than the evaluation of the test cases",)


def _check_study(path: Path, made: Report) -> None:
    fingerprint = study_fingerprint(open_study_of(made.task, path))
    if fingerprint != made.study_fingerprint:
        raise InputError(
            f"the report is of study {made.study_fingerprint[:12]}, {path} is study {fingerprint[:12]}: other cases, "
            "labels, splits or images; bench the bundle on this study and judge that report"
        )


def _shipped(path: Path, made: Report) -> tuple[str, ...]:
    """Names of the bundle's variants; raises InputError where the report is of another model."""
    opened = Bundle.open(path)
    if opened.model_digest != made.model_digest:
        raise InputError(
            f"{path} holds model {opened.model_digest[:12]}, the report is of model {made.model_digest[:12]}; "
            "bench this bundle and judge that report"
        )
    return tuple(variant.name for variant in opened.manifest.variants)
