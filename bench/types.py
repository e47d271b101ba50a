"""The bench's nouns: `Target`, `Measurement`, `Evaluation`, `Policy`, `Comparison`, `Verdict`, `Report`."""

from __future__ import annotations

import itertools
from typing import Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.manifest import Outcome, Precision

Metric = Literal[
    "auroc",
    "auprc",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1",
    "brier",
    "log_loss",
    "ece",
]
METRICS: tuple[Metric, ...] = get_args(Metric)
LOWER_IS_BETTER: frozenset[Metric] = frozenset({"brier", "log_loss", "ece"})
"""Errors: for them a rise is the loss, so a margin bounds the upper end of bundle − teacher."""
REPORTED_ONLY: frozenset[Metric] = frozenset({"ece"})
"""Binned calibration error is biased upwards, more so on few cases (Kumar et al. 2019): shown, never gated."""


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where something runs: ``backend:device:precision:threads``, e.g. ``openvino:cpu:int8:2``."""

    backend: Literal["onnxruntime", "openvino", "torch"]
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "fp32"
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
        warm_up_stable: whether the latency had settled before the first sample (see `measure`).
        calls_per_round: consecutive ``session_ms`` that belong to one interleaved round; 0 where there were no rounds.
        stages_ms: stage name → one value a call, in the order in which they run (``read``, ``preprocess``, ``infer``,
            ``postprocess``); they split ``end_to_end_ms``. Empty where that was not measured.
        peak_gpu_bytes: largest GPU memory of the fresh process; 0 where no GPU was used.
        energy_mj: energy of one call in mJ, from the counter named in ``energy_source``; None where there is none.
        energy_source: ``rapl`` or ``nvml``, or why there is no figure.
    """

    name: str
    target: str
    session_ms: tuple[float, ...]
    end_to_end_ms: tuple[float, ...] = ()
    first_prediction_ms: float = 0.0
    peak_rss_bytes: int = 0
    size_bytes: int = 0
    warm_up_calls: int = 0
    warm_up_stable: bool = True
    calls_per_round: int = 0
    stages_ms: dict[str, tuple[float, ...]] = {}
    peak_gpu_bytes: int = 0
    energy_mj: float | None = None
    energy_source: str = ""

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
        subgroup: which group of patients, e.g. ``age >= 70`` or ``sex = female``; empty for all cases.
        cases: compared.
        patients: compared.
        patients_with: of them, those with the finding in at least one case; all of them for the finding ``""``.
        teacher: the teacher's own value.
        bundle: the variant's own value.
        difference: bundle − teacher, paired.
        margin: of the policy, where it requires this comparison.
        p_worse: one-sided p-value, small where the loss is clearly above ``margin``; not yet adjusted.
        too_few: why no interval could be computed (the widest stands instead); empty otherwise.
    """

    metric: Metric
    finding: str
    variant: str
    teacher: Interval
    bundle: Interval
    difference: Interval
    subgroup: str = ""
    cases: int = 0
    patients: int = 0
    patients_with: int = 0
    margin: float | None = None
    p_worse: float | None = None
    too_few: str = ""

    @property
    def largest_loss(self) -> float:
        """The largest loss that the interval leaves possible; negative where even the worst end is a gain.

        Non-inferior means that this is below the margin.
        """
        return self.difference.high if self.metric in LOWER_IS_BETTER else -self.difference.low


class SubgroupRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one column of the study divides the cases into groups.

    Attributes:
        column: of the study.
        cuts: ascending; make groups of a number, or of ranges such as a study's age decades: ``[50, 70]`` gives < 50,
            50 to below 70 and >= 70, and a value that is neither counts as not recorded. Without cuts every value is a
            group, and the empty one is not recorded.
        when_too_few: what a group without enough patients makes of a requirement: ``inconclusive``, or ``named``, which
            says so in the verdict's notes and asks nothing of it.
    """

    column: str
    cuts: tuple[float, ...] = ()
    when_too_few: Literal["inconclusive", "named"] = "inconclusive"

    def __post_init__(self) -> None:
        if not self.column:
            raise InputError("a subgroup rule names no column; write 'column: age'")
        if any(not later > earlier for earlier, later in itertools.pairwise(self.cuts)):
            raise InputError(f"cuts of {self.column!r} are {list(self.cuts)}; they must rise")


class NonInferiority(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A required comparison: the interval of bundle − teacher must exclude a loss of ``margin`` or more.

    Attributes:
        metric: what is compared; `REPORTED_ONLY` ones cannot be required.
        margin: in the metric's own unit, > 0 and < 1.
        finding: one finding, or empty for every finding.
        subgroup: a column that `Policy.subgroups` declares, for every group of it; empty for all cases together.
        teacher_floor: the teacher's own estimate must reach it (a bad teacher proves nothing); for errors, a ceiling.
        bundle_floor: the bundle's own estimate must reach it; for errors, a ceiling.
    """

    metric: Metric
    margin: float
    finding: str = ""
    subgroup: str = ""
    teacher_floor: float | None = None
    bundle_floor: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise InputError(f"margin is {self.margin}; it must be above 0 and below 1")
        if self.metric in REPORTED_ONLY:
            raise InputError(f"{self.metric} is biased on few cases and cannot be required; require brier or log_loss")


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hard limits on what a variant may cost; absent ones do not bind.

    Attributes:
        p50_ms: session latency, median.
        p99_ms: session latency, 99th percentile.
        end_to_end_p50_ms: from file to prediction, median.
        end_to_end_p99_ms: from file to prediction, 99th percentile.
        first_prediction_ms: process start to first prediction.
        size_bytes: of the files that the variant needs.
        peak_rss_bytes: of its process.
        peak_gpu_bytes: likewise, on the GPU.
        energy_mj: of one call.
        min_speedup: teacher's median session latency / the variant's, at least.
        min_compression: teacher's files / the variant's, at least.
        max_slowdown: median latency / that of an earlier bundle, at most, e.g. 1.05 (see `regression`).
    """

    p50_ms: float | None = None
    p99_ms: float | None = None
    end_to_end_p50_ms: float | None = None
    end_to_end_p99_ms: float | None = None
    first_prediction_ms: float | None = None
    size_bytes: int | None = None
    peak_rss_bytes: int | None = None
    peak_gpu_bytes: int | None = None
    energy_mj: float | None = None
    min_speedup: float | None = None
    min_compression: float | None = None
    max_slowdown: float | None = None


class FidelityLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How near to its teacher a variant must stay, case by case; absent limits do not bind.

    Attributes:
        max_relative_logit_error: see `Fidelity`; fits a quantized teacher, not a student of another architecture.
        min_agreement: lower end of the interval of `Fidelity.agreement`, in [0, 1].
    """

    max_relative_logit_error: float | None = None
    min_agreement: float | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must hold, declared before the test split is touched.

    Attributes:
        non_inferiority: required comparisons; at least one.
        budget: hard limits.
        fidelity: hard limits on the difference case by case.
        subgroups: columns whose groups are compared one by one.
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
    fidelity: FidelityLimits = FidelityLimits()
    subgroups: tuple[SubgroupRule, ...] = ()
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
        columns = [rule.column for rule in self.subgroups]
        if len(set(columns)) != len(columns):
            raise InputError(f"the policy divides one column twice: {', '.join(columns)}; keep one rule each")
        for required in self.non_inferiority:
            if required.subgroup and required.subgroup not in columns:
                raise InputError(
                    f"{required.metric} is required by {required.subgroup!r}, which is none of the policy's subgroups "
                    f"({', '.join(columns) or 'it has none'}); add '- column: {required.subgroup}' to subgroups"
                )
        keys = [(required.metric, required.finding, required.subgroup) for required in self.non_inferiority]
        twice = sorted(
            {
                f"{metric} of {finding or 'every finding'}{f' by {subgroup}' if subgroup else ''}"
                for metric, finding, subgroup in keys
                if keys.count((metric, finding, subgroup)) > 1
            }
        )
        if twice:
            raise InputError(f"the policy asks twice for {', '.join(twice)}; keep one entry each")

    def requirement(self, metric: Metric, finding: str, column: str = "") -> NonInferiority | None:
        """The entry that binds ``metric`` of ``finding`` in groups of ``column`` (empty: all cases).

        The finding's own entry comes before the one for every finding.
        """
        entries = {(entry.metric, entry.finding, entry.subgroup): entry for entry in self.non_inferiority}
        return entries.get((metric, finding, column)) or entries.get((metric, "", column))


class Fidelity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a variant's outputs differ from the teacher's, case by case; it still tells where AUROC cannot.

    Attributes:
        variant: name of the evaluation that was held against the teacher's.
        relative_logit_error: ‖z_v − z‖_F / ‖z − z̄‖_F, z̄ the per-output mean; for labels that exclude each other each
            case's mean logit is subtracted first.
        agreement: share of patients on all of whose cases every decision is the same, Wilson's interval.
        flipped_cases: cases with at least one other decision.
        cases: compared.
        largest_change: of any probability, absolute.
    """

    variant: str
    relative_logit_error: float
    agreement: Interval
    flipped_cases: int
    cases: int
    largest_change: float


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
