"""What several commands print of a model or a bundle in the same words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from medfm_compress.bench.types.quantization_step import UNLABELLED
from medfm_compress.cli import console
from medfm_compress.cli.next_command import print_next
from medfm_compress.runtime.dicom.rules import KIND_NOT_DECLARED

if TYPE_CHECKING:
    from medfm_compress.bench.types.interval import Interval
    from medfm_compress.compress.networks.model import Model
    from medfm_compress.runtime.bundle.manifest import Manifest
    from medfm_compress.runtime.columns import Column
    from medfm_compress.runtime.image_spec import DicomRules, ImageSpec

NOTHING: Mapping[str, Any] = MappingProxyType({})


def is_of_processor(ratio: Interval) -> bool:
    """Whether a ratio of two measurements is of processor time, and not of latency."""
    from medfm_compress.bench.measure.speedup import PROCESSOR_METHOD

    return ratio.method == PROCESSOR_METHOD


def print_model(model: Model, out: Path, next_command: str, more: Mapping[str, Any] = NOTHING) -> None:
    """A trained model: where it is, what was done and what goes on from it, if anything; ``more`` is for programs."""
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    steps = list(model.provenance.steps)

    def describe() -> None:
        console.say(steps[-1])
        console.say(f"wrote {out} ({model.name}, {parameters / 1e6:.1f} M parameters)")
        if next_command:
            print_next(next_command)

    document = {"model": str(out), "name": model.name, "parameters": parameters, "steps": steps}
    document |= {"next": next_command, **more}
    console.emit(lambda: document, describe)


def dicom_in_words(spec: ImageSpec) -> str:
    """Which DICOM files a bundle with ``spec`` takes, and which of their frames and windows; empty for any, the usual.

    It is what `export` and `inspect` say.
    """
    rules = spec.dicom
    low, high = rules.spacing_range_mm
    words = [
        f"{name} {', '.join(values)}"
        for name, values in (
            ("modality", rules.modalities),
            ("SOP class", rules.sop_classes or ()),
            ("view", rules.view_positions),
            ("body part", rules.body_parts),
            ("laterality", rules.lateralities or ()),
        )
        if values
    ]
    if (low, high) != (0, math.inf):
        words.append(f"spacing {low:g} mm and more" if high == math.inf else f"spacing {low:g} to {high:g} mm")
    if rules.orientation:
        words.append(f"turned so that rows and columns run to {rules.orientation}")
    if rules.mirrored_to:
        words.append(f"mirrored to side {rules.mirrored_to}")
    if rules.frame:
        words.append(f"of several frames {_frame_in_words(rules)}")
    if rules.window_number or rules.window_explanation:
        words.append(f"window {rules.window_number or rules.window_explanation}")
    return "; ".join(words)


def _frame_in_words(rules: DicomRules) -> str:
    if rules.frame == "all":
        return "an answer for each" if rules.frame_aggregation == "each" else f"the {rules.frame_aggregation} of all"
    return f"number {rules.frame_number}" if rules.frame == "numbered" else str(rules.frame)


def column_in_words(column: Column) -> str:
    """What a column is, where it comes from, and what becomes of a missing one."""
    absent = {"refuse": "no answer without it", "impute": f"imputed as {column.imputes}", "category": "may be missing"}
    source = f", from {column.dicom}" if column.dicom else ""
    return f"{column.name}, {column.allowed}{source}; {absent[column.missing]}"


def print_unlabelled(manifest: Manifest) -> None:
    """That a bundle was made with images without labels, and what follows; nothing where there were labels."""
    if any(UNLABELLED in step for step in manifest.provenance.steps):
        console.say(f"{UNLABELLED}; {'mean Dice' if manifest.task.is_dense else 'AUROC'} is not known")
    if manifest.task.is_dense:
        console.say(f"segmentation of {', '.join(manifest.task.labels)}: each pixel is what is most probable there")
        console.say(f"images are {describe_fit(manifest.image_spec)}")
        return
    if not manifest.task.operating_points and manifest.task.kind != "multiclass":
        measure = "probability" if manifest.task.gives_probabilities else "score"
        console.say(f"no operating points were chosen: findings are called at {measure} 0.5")


def describe_fit(spec: ImageSpec) -> str:
    """How an image comes to the size of the network's input."""
    if not spec.tiles:
        return f"resized by {spec.resize} ({spec.filter})"
    at = f" at {spec.tiles.mm_per_px:g} mm a pixel" if spec.tiles.mm_per_px else ""
    return f"cut into tiles{at} that overlap by {spec.tiles.overlap:g} (blending {spec.tiles.blending})"


def describe_accepted(spec: ImageSpec) -> str:
    """Which DICOM files a bundle takes; where it names none, how to name them, unless it is for colour photographs."""
    accepted = dicom_in_words(spec)
    if spec.dicom.declares_kind:
        return f"DICOM files of {accepted} are accepted, and no others"
    every = (
        f"DICOM files of every modality are accepted{f' ({accepted})' if accepted else ''}, and their predictions "
        f"flagged {KIND_NOT_DECLARED}"
    )
    if spec.colour_rule and spec.colour_rule.images == "colour":
        return every
    return f"{every}; name those that it was made for, of radiographs --dicom-modality DX"


def describe_colour_rule(spec: ImageSpec) -> str:
    """Which kind of images, by colour, a bundle is for, and what becomes of the others."""
    rule = spec.colour_rule
    if not rule:
        return "made for images of any colour, as far as it says"
    made_for, others = ("grey images", "in colour") if rule.images == "grey" else ("images in colour", "grey")
    return f"made for {made_for}; one that is {others} is {'flagged' if rule.others == 'flag' else 'refused'}"
