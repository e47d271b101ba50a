"""`Evaluation`: what a model answered on every case; `Comparison` and `Fidelity`: two of them side by side."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.mask_rules import MaskRules
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, Metric


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Per-case table of one model on one split. Inference sees columns only.

    Attributes:
        name: e.g. ``teacher`` or a variant's name.
        images: case keys, length n.
        logits: ``[n, labels]`` float64; of a segmentation those of each structure's highest probability in the image.
        scores: calibrated probabilities ``[n, findings]`` float64.
        truth: 0/1 ``[n, findings]`` int64.
        decisions: 0/1 ``[n, findings]`` int64, at the stored operating points (argmax for multiclass); of a
            segmentation whether the label map shows the structure anywhere.
        clusters: patient keys, length n.
        findings: names of the columns.
        subgroups: column name → values, each of length n.
        case_metrics: of a segmentation, a metric of `MASK_METRICS` → ``[n, findings]`` float64, NaN where a case has
            no value (see `evaluate.mask_metrics`); likewise of an anomaly score, whose are `PLACE_METRICS` (see
            `evaluate.anomaly_evaluation`); else empty.
        mask_rules: by which those were computed.
        distance_unit: of their distances, ``mm`` or ``px``; empty without any.
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
    case_metrics: dict[str, NDArray[np.float64]] = {}
    mask_rules: MaskRules | None = None
    distance_unit: str = ""


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
        least_loss: the loss that so many patients cannot exclude however alike the two models are; None if not known.
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
    least_loss: float | None = None
    too_few: str = ""

    @property
    def largest_loss(self) -> float:
        """The largest loss that the interval leaves possible; negative where even the worst end is a gain.

        Non-inferior means that this is below the margin.
        """
        return self.difference.high if self.metric in LOWER_IS_BETTER else -self.difference.low

    @property
    def smallest_loss(self) -> float:
        """The smallest loss that the interval leaves possible; positive where the bundle is worse beyond doubt."""
        return self.difference.low if self.metric in LOWER_IS_BETTER else -self.difference.high


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
