"""Whether a quantized variant looks where the FP32 network looks: rank correlation of their maps of places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.attribution_agreement import rank_correlation
from medfm_compress.export.build import Export
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.class_activation import ClassActivation
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.sessions.table import open_variant
from medfm_compress.runtime.task import Task

CASES = 64


def heat_map_lines(bundle: Bundle, exports: Sequence[Export], inputs: NDArray[np.float32]) -> list[str]:
    """A line for the provenance on each of ``exports``; nothing where ``bundle`` has no maps of places.

    Args:
        bundle: with an FP32 variant for ONNX Runtime.
        exports: variants made from it; those that run on a GPU are left out.
        inputs: of validation cases, ``[n, C, H, W]``; at most 64 are looked at.
    """
    manifest = bundle.manifest
    places = manifest.place_map
    if places is None:
        return []
    source = next(v for v in manifest.variants if v.backend == "onnxruntime" and v.precision == "fp32")
    reference, cam = open_variant(bundle, source, 1), places.name
    expected = [activation(reference, image, cam) for image in inputs[:CASES, None]]
    lines = []
    for export in (export for export in exports if export.variant.device == "cpu"):
        own = [activation(export.session, image, cam) for image in inputs[:CASES, None]]
        ranks = [_agreement(*pair, manifest.task) for pair in zip(expected, own, strict=True)]
        lines.append(
            f"quantize: {export.variant.name}: heat maps have rank correlation {np.median(ranks):.2f} with those of "
            f"FP32 (median of {len(ranks)} cases, lowest {min(ranks):.2f})"
        )
    return lines


def activation(session: Session, image: NDArray[np.float32], cam: str) -> ClassActivation:
    """Maps and logits of one image ``[1, C, H, W]``; ``cam`` names the output of maps."""
    outputs = session.run({session.input_names[0]: image})
    return ClassActivation(np.asarray(outputs[cam][0]), np.asarray(outputs[session.output_names[0]][0]))


def _agreement(expected: ClassActivation, own: ClassActivation, task: Task) -> float:
    """Of the finding that is the most probable of the expected ones."""
    finding = max(task.findings, key=lambda name: expected.logits[task.labels.index(name)])
    return rank_correlation(own.evidence(task, finding), expected.evidence(task, finding))
