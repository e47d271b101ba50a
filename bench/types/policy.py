"""`Policy`: what must hold, declared before the test split is touched."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec

from medfm_compress.bench.types.mask_rules import MaskRules
from medfm_compress.bench.types.metric import REPORTED_ONLY, UNBOUNDED, Metric
from medfm_compress.bench.types.perturbation import PERTURBATIONS, SEVERITIES, PerturbationName
from medfm_compress.runtime.errors import InputError

CROSS = " × "
_CROSSES = re.compile("[×*]")


def intersection(column: str) -> str:
    """``column`` as it is written throughout: an intersection, ``age*sex`` or ``age × sex``, as ``age × sex``."""
    return CROSS.join(part.strip() for part in _CROSSES.split(column))


class SubgroupRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one column of the study divides the cases into groups.

    Attributes:
        column: of the study; or an intersection of columns that have rules of their own, ``age × sex`` or
            ``age * sex``, whose groups are those of each within those of the others.
        cuts: ascending; make groups of a number, or of ranges such as a study's age decades and ``90+``: ``[50, 70]``
            gives < 50, 50 to below 70 and >= 70, and a value that is neither counts as not recorded. Without cuts every
            value is a group, and the empty one is not recorded.
        when_too_few: what a group without enough patients makes of a requirement: ``inconclusive``, or ``named``, which
            says so in the verdict's notes and asks nothing of it.
    """

    column: str
    cuts: tuple[float, ...] = ()
    when_too_few: Literal["inconclusive", "named"] = "inconclusive"

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "column", intersection(self.column))
        if not all(self.parts):
            raise InputError("a subgroup rule names no column; write 'column: age', or 'column: age × sex'")
        if len(self.parts) > 1 and self.cuts:
            raise InputError(f"{self.column!r} has cuts; give them to the rule of the column that they cut")
        if any(not later > earlier for earlier, later in itertools.pairwise(self.cuts)):
            raise InputError(f"cuts of {self.column!r} are {list(self.cuts)}; they must rise")

    @property
    def parts(self) -> tuple[str, ...]:
        """The columns of the study that divide the cases: one, or those of the intersection."""
        return tuple(self.column.split(CROSS))


class NonInferiority(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A required comparison: the interval of bundle − teacher must exclude a loss of ``margin`` or more.

    Attributes:
        metric: what is compared; `REPORTED_ONLY` ones cannot be required.
        margin: in the metric's own unit, > 0; of all but distances and counts < 1.
        finding: one finding, or empty for every finding.
        subgroup: a column that `Policy.subgroups` declares, for every group of it; empty for all cases together.
        teacher_floor: the lower end of the teacher's own interval must reach it (a bad teacher proves nothing); for
            errors a ceiling, and the upper end.
        bundle_floor: likewise the bundle's own interval.
    """

    metric: Metric
    margin: float
    finding: str = ""
    subgroup: str = ""
    teacher_floor: float | None = None
    bundle_floor: float | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "subgroup", intersection(self.subgroup))
        _check_margin(self.metric, self.margin)
        if self.metric in REPORTED_ONLY:
            raise InputError(f"{self.metric} is biased on few cases and cannot be required; require brier or log_loss")

    def check_finding(self, findings: Sequence[str]) -> None:
        """Raises `InputError` where ``findings``, those of a task, lack the one that this entry names."""
        check_finding(self.finding, findings)


def check_finding(finding: str, findings: Sequence[str]) -> None:
    """Raises `InputError` where ``findings``, those of a task, lack ``finding``, which may be empty for all of them."""
    if finding and finding not in findings:
        known = ", ".join(filter(None, findings))
        raise InputError(f"the policy names finding {finding!r}, which this task lacks; it has {known}")


class Robustness(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A required comparison on perturbed images: what the bundle loses beyond what the teacher loses.

    The interval of (bundle perturbed − bundle clean) − (teacher perturbed − teacher clean) must exclude a loss of
    ``margin`` or more, for each perturbation at each severity.

    Attributes:
        metric: what is compared; `REPORTED_ONLY` ones cannot be required.
        margin: in the metric's own unit, > 0; of all but distances and counts < 1.
        perturbations: which; without any, all of `PERTURBATIONS`.
        severities: of 1, 2 and 3; without any, all three.
        finding: one finding, or empty for every finding.
    """

    margin: float
    metric: Metric = "auroc"
    perturbations: tuple[PerturbationName, ...] = PERTURBATIONS
    severities: tuple[Literal[1, 2, 3], ...] = SEVERITIES
    finding: str = ""

    def __post_init__(self) -> None:
        _check_margin(self.metric, self.margin)
        if self.metric in REPORTED_ONLY:
            raise InputError(f"{self.metric} is biased on few cases and cannot be required; require brier or log_loss")
        for name, every in (("perturbations", PERTURBATIONS), ("severities", SEVERITIES)):
            chosen = getattr(self, name)
            if len(set(chosen)) < len(chosen):
                raise InputError(f"{name} is {list(chosen)}, which names one twice; keep each once")
            if not chosen:
                msgspec.structs.force_setattr(self, name, every)


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
        min_speedup: teacher's session latency / the variant's, median of the rounds' ratios, at least.
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


class ExplanationLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How alike the heat maps of a variant and its teacher must be (`explain`); absent limits do not bind.

    Attributes:
        min_rank_correlation: lower end of the interval of the median over cases of Spearman's ρ, above 0 to 1.
        min_overlap: likewise of the share of the hottest tenth of the pixels that both have; chance gives 0.1.
    """

    min_rank_correlation: float | None = None
    min_overlap: float | None = None


MOST_RESAMPLES = 100_000  # the noise of an end is then 1/50 of a standard error; more would only take time
MOST_WHOLE = (1 << 63) - 1  # a report, which repeats its policy, holds no larger one
MOST_DISTANCE = 1e6  # px, mm or regions: no image has more
MOST_ENTRIES = 1000  # a metric of every finding in every group by name; each entry costs an interval


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must hold, declared before the test split is touched.

    Attributes:
        non_inferiority: required comparisons; at least one.
        budget: hard limits.
        fidelity: hard limits on the difference case by case.
        explanations: limits on the agreement of heat maps.
        subgroups: columns whose groups are compared one by one.
        robustness: required comparisons on perturbed images.
        masks: how masks of a segmentation are held against the truth.
        min_positives: fewer patients with a finding (cases, where no patient is known) make it inconclusive before
            any interval is computed; at least 2.
        min_negatives: likewise, patients with a case without it.
        min_clusters: likewise, patients in all.
        alpha: one-sided, in (0, 0.5).
        resamples: bootstrap resamples, 1000 to 100,000.
        seed: of the bootstrap.
    """

    non_inferiority: tuple[NonInferiority, ...]
    budget: Budget = Budget()
    fidelity: FidelityLimits = FidelityLimits()
    explanations: ExplanationLimits = ExplanationLimits()
    subgroups: tuple[SubgroupRule, ...] = ()
    robustness: tuple[Robustness, ...] = ()
    masks: MaskRules = MaskRules()
    min_positives: int = 20
    min_negatives: int = 20
    min_clusters: int = 40
    alpha: float = 0.025
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.non_inferiority:
            raise InputError("a policy needs at least one non_inferiority entry; without one, nothing is proven")
        for name in ("non_inferiority", "subgroups", "robustness"):
            if len(getattr(self, name)) > MOST_ENTRIES:
                raise InputError(f"{name} has {len(getattr(self, name))} entries; at most {MOST_ENTRIES} can be judged")
        if not 0 < self.alpha < 0.5:
            raise InputError(f"alpha is {self.alpha}; it must be above 0 and below 0.5")
        if not 1000 <= self.resamples <= MOST_RESAMPLES:
            raise InputError(f"resamples is {self.resamples}; it must be at least 1000 and at most {MOST_RESAMPLES}")
        for name, least in (("min_positives", 2), ("min_negatives", 2), ("min_clusters", 2), ("seed", 0)):
            if not least <= getattr(self, name) <= MOST_WHOLE:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}, and below 2^63")
        columns = [rule.column for rule in self.subgroups]
        if len(set(columns)) != len(columns):
            raise InputError(f"the policy divides one column twice: {', '.join(columns)}; keep one rule each")
        for rule in self.subgroups:
            alone = [part for part in rule.parts if len(rule.parts) > 1 and part not in columns]
            if alone or len(set(rule.parts)) < len(rule.parts):
                raise InputError(
                    f"the policy divides by {rule.column!r}; each of its columns needs one rule of its own in subgroups"
                    f"{f', which {alone[0]!r} lacks' if alone else ''}"
                )
        for required in self.non_inferiority:
            if required.subgroup and required.subgroup not in columns:
                raise InputError(
                    f"{required.metric} is required by {required.subgroup!r}, which is none of the policy's subgroups "
                    f"({', '.join(columns) or 'it has none'}); add '- column: {required.subgroup}' to subgroups"
                )
        _refuse_repeated(self.non_inferiority)

    @property
    def study_columns(self) -> frozenset[str]:
        """Columns of the study that any rule names; no other enters a report."""
        return frozenset(part for rule in self.subgroups for part in rule.parts)

    def requirement(self, metric: Metric, finding: str, column: str = "") -> NonInferiority | None:
        """The entry that binds ``metric`` of ``finding`` in groups of ``column`` (empty: all cases).

        The finding's own entry comes before the one for every finding.
        """
        entries = {(entry.metric, entry.finding, entry.subgroup): entry for entry in self.non_inferiority}
        return entries.get((metric, finding, column)) or entries.get((metric, "", column))


def _check_margin(metric: Metric, margin: float) -> None:
    if metric in UNBOUNDED:
        if not 0 < margin <= MOST_DISTANCE:
            raise InputError(f"margin of {metric} is {margin}; it must be above 0 and at most {MOST_DISTANCE:g}")
    elif not 0 < margin < 1:
        raise InputError(f"margin is {margin}; it must be above 0 and below 1")


def _refuse_repeated(entries: Sequence[NonInferiority]) -> None:
    keys = [(required.metric, required.finding, required.subgroup) for required in entries]
    twice = sorted(
        {
            f"{metric} of {finding or 'every finding'}{f' by {subgroup}' if subgroup else ''}"
            for (metric, finding, subgroup), count in Counter(keys).items()
            if count > 1
        }
    )
    if twice:
        raise InputError(f"the policy asks twice for {', '.join(twice)}; keep one entry each")
