"""`Reference`: what images and scores were like when the bundle was made, in a member of the bundle.

It is no part of the model: it may be added to a finished bundle, whose verdicts then still hold, and it says of which
model it is, so that one that was left behind by a later change is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec
import numpy as np

from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.monitor.histogram import Histogram, summarise
from medfm_compress.runtime.prediction import NetworkInput, Prediction
from medfm_compress.runtime.strict_json import decode, encode

MEMBER = "monitor/reference.json"
MIN_CASES = 50
MAX_SCORES = 8
"""Findings whose scores are watched, the first ones: every further feature makes all alarms later."""
MEAN, SPREAD, SPACING = "mean intensity", "spread of intensity", "pixel spacing"
TYPICALITY = "typicality"


class Reference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Histograms of the cases of one split.

    Attributes:
        model_digest: of the bundle.
        split: of the study.
        cases: that they are of.
        inputs: name of a feature of the image → its values.
        scores: variant → finding → its probabilities.
        typicality: variant → how usual the images are by its penultimate layer and their pixels, see
            `runtime.typicality`; empty where the bundle does not tell.
    """

    model_digest: str
    split: str
    cases: int
    inputs: dict[str, Histogram]
    scores: dict[str, dict[str, Histogram]]
    typicality: dict[str, Histogram] = {}

    def features(self, variant: str) -> dict[str, Histogram]:
        """Everything that is watched of ``variant``, by name."""
        outputs = {f"score of {name}": shown for name, shown in self.scores.get(variant, {}).items()}
        usual = {TYPICALITY: self.typicality[variant]} if variant in self.typicality else {}
        return self.inputs | outputs | usual


class NoReference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """There is none that could be used, and why."""

    reason: str


def read_reference(bundle: Bundle, variant: Variant) -> Reference | NoReference:
    """The reference in ``bundle``, or why there is none for ``variant``.

    Raises:
        BundleRefused: the member is not what it must be.
    """
    if MEMBER not in {member.path for member in bundle.manifest.members}:
        return NoReference(reason="the bundle holds no reference; its maker adds one with monitor reference")
    try:
        reference = decode(bundle.read(MEMBER), Reference, source=MEMBER, error=BundleRefused)
    except InputError as exc:  # a histogram that contradicts itself
        raise BundleRefused(f"{MEMBER}: {exc}") from None
    if reference.model_digest != bundle.model_digest:
        return NoReference(reason="the reference in the bundle is of another model; add one with monitor reference")
    if variant.name not in reference.scores:
        return NoReference(reason=f"the reference holds no scores of variant {variant.name}")
    return reference


def input_features(seen: NetworkInput, spec: ImageSpec) -> dict[str, float]:
    """What is watched of an image: intensities in [0, 1] as the network sees them, before normalisation; mm."""
    std, mean = (np.array(values, np.float32)[:, None, None] for values in (spec.std, spec.mean))
    image = seen.tensor * std + mean
    values = {MEAN: float(image.mean()), SPREAD: float(image.std())}
    return values if seen.spacing_mm is None else values | {SPACING: seen.spacing_mm}


def output_features(prediction: Prediction, seen: NetworkInput) -> dict[str, float]:
    """What is watched of an answer, whether it is given or withheld."""
    values = {f"score of {name}": value for name, value in seen.scores.items()}
    return values if prediction.typicality is None else values | {TYPICALITY: prediction.typicality}


def make_reference(
    bundle: Bundle,
    split: str,
    inputs: Sequence[Mapping[str, float]],
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    typicality: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> Reference:
    """A reference from the values of every case.

    Args:
        bundle: whose images and scores they are.
        split: of the study that the cases are of.
        inputs: of every case, from `input_features`. A feature that not all cases have is left out.
        scores: variant → finding → probability of every case.
        typicality: variant → that of every case.

    Raises:
        InputError: too few cases.
    """
    if len(inputs) < MIN_CASES:
        raise InputError(f"split {split!r} has {len(inputs)} cases; a reference needs at least {MIN_CASES}")
    names = [name for name in (MEAN, SPREAD, SPACING) if all(name in case for case in inputs)]
    return Reference(
        model_digest=bundle.model_digest,
        split=split,
        cases=len(inputs),
        inputs=_summaries({name: [case[name] for case in inputs] for name in names}),
        scores={
            variant: _summaries(dict(list(by_finding.items())[:MAX_SCORES])) for variant, by_finding in scores.items()
        },
        typicality=_summaries(typicality),
    )


def reference_member(reference: Reference) -> dict[str, bytes]:
    """The member that a bundle gets."""
    return {MEMBER: encode(reference)}


def _summaries(values: Mapping[str, Sequence[float]]) -> dict[str, Histogram]:
    return {name: summarise(numbers) for name, numbers in values.items()}
