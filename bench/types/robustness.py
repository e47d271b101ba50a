"""`DropComparison`: how much more a variant lost than its teacher when the same images were perturbed."""

from __future__ import annotations

import msgspec

from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, Metric
from medfm_compress.bench.types.perturbation import PerturbationName


class DropComparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One metric of one finding under one perturbation.

    Attributes:
        perturbation: what was done to the images.
        severity: 1 to 3.
        metric: what is compared.
        finding: of the task.
        variant: name of the evaluation that was compared with the teacher's.
        teacher: its values on the clean and on the perturbed images.
        bundle: the variant's.
        difference: the variant's change less the teacher's, paired; below 0 where the variant lost more.
        margin: of the policy.
        p_worse: one-sided p-value, small where it lost clearly more than ``margin`` above the teacher's loss.
        too_few: why no interval could be computed (the widest stands instead); empty otherwise.
    """

    perturbation: PerturbationName
    severity: int
    metric: Metric
    finding: str
    variant: str
    teacher: tuple[float, float]
    bundle: tuple[float, float]
    difference: Interval
    margin: float
    p_worse: float = 1.0
    too_few: str = ""

    @property
    def largest_loss(self) -> float:
        """The largest loss beyond the teacher's that the interval leaves possible."""
        return self.difference.high if self.metric in LOWER_IS_BETTER else -self.difference.low

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        """Which requirement it answers."""
        return (self.variant, self.perturbation, self.severity, self.metric, self.finding)
