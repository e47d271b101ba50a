"""The bench's nouns: `Target`, `Measurement`, `Evaluation`, `Policy`, `Comparison`, `Verdict`, `Report`."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.manifest import Outcome

Metric = Literal["auroc", "auprc", "accuracy", "sensitivity", "specificity", "precision", "f1"]
METRICS: tuple[Metric, ...] = ("auroc", "auprc", "accuracy", "sensitivity", "specificity", "precision", "f1")


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where something runs: ``backend:device:precision:threads``, e.g. ``openvino:cpu:int8:2``."""

    backend: Literal["onnxruntime", "openvino", "torch"]
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    threads: int = 1

    def __str__(self) -> str:
        return f"{self.backend}:{self.device}:{self.precision}:{self.threads}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """Parse ``backend[:device[:precision[:threads]]]``.

        Raises:
            InputError: an unknown part, or threads below 1.
        """
        parts = text.split(":")
        names = ("backend", "device", "precision", "threads")
        fields: dict[str, object] = dict(zip(names, parts, strict=False))
        if len(parts) > len(names):
            raise InputError(f"target {text!r} has too many parts; write backend:device:precision:threads")
        try:
            if "threads" in fields:
                fields["threads"] = int(str(fields["threads"]))
            target = msgspec.convert(fields, cls)
        except (msgspec.ValidationError, ValueError) as exc:
            raise InputError(f"target {text!r}: {exc}; write backend:device:precision:threads") from None
        if target.threads < 1:
            raise InputError(f"target {text!r}: threads must be at least 1")
        return target


class Measurement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Raw samples of one session on one target, from a fresh process; quantiles are derived, never stored.

    Attributes:
        name: what was measured, e.g. ``bundle`` or ``teacher``.
        target: what the engine says really ran.
        session_ms: latency of ``Session.run`` alone, one value a call.
        end_to_end_ms: from file to prediction, one value a call; empty where not measured.
        first_prediction_ms: process start to first prediction.
        peak_rss_bytes: peak resident memory of the fresh process.
        size_bytes: files this variant needs.
        warm_up_calls: calls made before the first sample.
        calls_per_round: consecutive ``session_ms`` that belong to one interleaved round; 0 where there were no rounds.
    """

    name: str
    target: str
    session_ms: tuple[float, ...]
    end_to_end_ms: tuple[float, ...] = ()
    first_prediction_ms: float = 0.0
    peak_rss_bytes: int = 0
    size_bytes: int = 0
    warm_up_calls: int = 0
    calls_per_round: int = 0

    def quantile_ms(self, q: float) -> float:
        """Quantile ``q`` in [0, 1] of the session latency, in ms."""
        return float(np.quantile(self.session_ms, q))


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Per-case table of one model on one split. Inference sees columns only.

    Attributes:
        name: e.g. ``teacher`` or a variant's name.
        images: case keys, length n.
        logits: ``[n, labels]`` float64.
        scores: calibrated probabilities ``[n, findings]`` float64.
        truth: 0/1 ``[n, findings]`` int64.
        decisions: 0/1 ``[n, findings]`` int64, at the stored operating points (argmax for multiclass).
        clusters: patient keys, length n.
        findings: names of the columns.
        subgroups: column name → values, each of length n.
    """

    name: str
    images: tuple[str, ...]
    logits: NDArray[np.float64]
    scores: NDArray[np.float64]
    truth: NDArray[np.int64]
    decisions: NDArray[np.int64]
    clusters: tuple[str, ...]
    findings: tuple[str, ...]
    subgroups: dict[str, tuple[str, ...]] = {}


class Interval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A point estimate with a two-sided interval; ``standard_error`` where the method gives one."""

    estimate: float
    low: float
    high: float
    level: float = 0.95
    method: str = ""
    standard_error: float | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One metric of one variant against the teacher on the same cases: values, and bundle − teacher.

    Attributes:
        metric: what is compared.
        finding: which finding; empty for the accuracy over all labels of a task whose labels exclude each other.
        variant: name of the evaluation that was compared with the teacher's.
        teacher: the teacher's own value.
        bundle: the variant's own value.
        difference: bundle − teacher, paired.
        margin: of the policy, where it requires this comparison.
        p_worse: one-sided p-value, small where the difference is clearly below ``-margin``; not yet adjusted.
        too_few: why no interval could be computed (the widest stands instead); empty otherwise.
    """

    metric: Metric
    finding: str
    variant: str
    teacher: Interval
    bundle: Interval
    difference: Interval
    margin: float | None = None
    p_worse: float | None = None
    too_few: str = ""


class NonInferiority(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A required comparison: the lower end of the 95% interval of bundle − teacher must lie above ``-margin``.

    Attributes:
        metric: what is compared.
        margin: in the metric's own unit, > 0 and < 1.
        finding: one finding, or empty for every finding.
        teacher_floor: the teacher's own estimate must reach it (a bad teacher proves nothing).
        bundle_floor: the bundle's own estimate must reach it.
    """

    metric: Metric
    margin: float
    finding: str = ""
    teacher_floor: float | None = None
    bundle_floor: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise InputError(f"margin is {self.margin}; it must be above 0 and below 1")


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hard limits on what a variant may cost; absent ones do not bind."""

    p50_ms: float | None = None
    p99_ms: float | None = None
    size_bytes: int | None = None
    peak_rss_bytes: int | None = None
    min_speedup: float | None = None
    min_compression: float | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must hold, declared before the test split is touched.

    Attributes:
        non_inferiority: required comparisons; at least one.
        budget: hard limits.
        min_positives: fewer patients with a finding (cases, where no patient is known) make it inconclusive before
            any interval is computed; at least 2.
        min_negatives: likewise, patients with a case without it.
        min_clusters: likewise, patients in all.
        alpha: one-sided, in (0, 0.5).
        resamples: bootstrap resamples, >= 1000.
        seed: of the bootstrap.
    """

    non_inferiority: tuple[NonInferiority, ...]
    budget: Budget = Budget()
    min_positives: int = 20
    min_negatives: int = 20
    min_clusters: int = 40
    alpha: float = 0.025
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.non_inferiority:
            raise InputError("a policy needs at least one non_inferiority entry; without one, nothing is proven")
        if not 0 < self.alpha < 0.5:
            raise InputError(f"alpha is {self.alpha}; it must be above 0 and below 0.5")
        if self.resamples < 1000:
            raise InputError(f"resamples is {self.resamples}; it must be at least 1000")
        for name, least in (("min_positives", 2), ("min_negatives", 2), ("min_clusters", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        keys = [(required.metric, required.finding) for required in self.non_inferiority]
        twice = sorted(
            {
                f"{metric} of {finding or 'every finding'}"
                for metric, finding in keys
                if keys.count((metric, finding)) > 1
            }
        )
        if twice:
            raise InputError(f"the policy asks twice for {', '.join(twice)}; keep one entry each")

    def requirement(self, metric: Metric, finding: str) -> NonInferiority | None:
        """The entry that binds ``metric`` of ``finding``: the finding's own before the one for every finding."""
        entries = {(entry.metric, entry.finding): entry for entry in self.non_inferiority}
        return entries.get((metric, finding)) or entries.get((metric, ""))


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a verdict."""

    name: str
    outcome: Outcome
    reason: str


class VariantVerdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All checks of one variant and what follows from them."""

    variant: str
    outcome: Outcome
    checks: tuple[Check, ...]


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer: pass only if every shipped variant passes.

    ``notes`` is what a reader must know beside the outcome, e.g. that the policy changed after the evaluation.
    """

    outcome: Outcome
    variants: tuple[VariantVerdict, ...]
    policy_sha256: str
    model_digest: str
    notes: tuple[str, ...] = ()
