"""Whether the tensors, the image spec and the decisions that a manifest names fit its task."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from medfm_compress.runtime.bundle.manifest import ANOMALY_MAP, NEAREST, Manifest
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.tasks.table import rules_of


def task_contradiction(manifest: Manifest) -> str:
    """What of ``manifest`` does not fit its task, as one sentence; empty where all does."""
    return _tensor_contradiction(manifest) or _spec_contradiction(manifest) or _decision_contradiction(manifest)


def _tensor_contradiction(manifest: Manifest) -> str:
    """A bundle has one image and its columns in, and logits out, of the shape that its kind of task has."""
    images = [tensor.shape for tensor in manifest.inputs if tensor.role == "image"]
    logits = [tensor.shape for tensor in manifest.outputs if tensor.role == "logits"]
    if images != [manifest.image_spec.shape] or manifest.inputs[0].role != "image":
        return f"its inputs are {images}; one image of shape {manifest.image_spec.shape} is what its image spec gives"
    taken = [(tensor.name, tensor.shape) for tensor in manifest.inputs[1:]]
    told = [(column.name, (1, column.width)) for column in manifest.told]
    if taken != told:
        return f"its inputs beside the image are {_in_words(taken)}; its columns give {_in_words(told)}"
    names = [tensor.name for tensor in (*manifest.inputs, *manifest.outputs)]
    if told and len(set(names)) != len(names):
        return f"two of its tensors have one name: {', '.join(names)}"
    rules = rules_of(manifest.task)
    shape = rules.logits_shape(manifest.task, manifest.image_spec)
    if logits != [shape]:
        return f"its outputs are {logits}; one of shape {shape} is what its task needs"
    return _order_contradiction(manifest) or _score_contradiction(manifest) or _cam_contradiction(manifest)


def _order_contradiction(manifest: Manifest) -> str:
    """Logits, then features where typicality needs them, then what a score of anomalies comes with, then maps."""
    roles = [tensor.role for tensor in manifest.outputs]
    allowed = ["logits", *(["features"] if manifest.typicality is not msgspec.UNSET else [])]
    allowed += [role for role in (ANOMALY_MAP, NEAREST, "cam") if role in roles]
    if roles != allowed:
        return (
            f"its outputs are {', '.join(roles)}; they must be the logits and, where it tells how usual an image is, "
            "after them the features, each output once and maps last"
        )
    return ""


def _score_contradiction(manifest: Manifest) -> str:
    """What an anomaly score comes with: one map, of at least two places, and the numbers of some training cases."""
    places, nearest = manifest.output(ANOMALY_MAP), manifest.output(NEAREST)
    if manifest.task.kind != "anomaly" and (places or nearest):
        return f"it gives an anomaly map or nearest cases, which a {manifest.task.kind} task does not have"
    if places is not None and (places.shape[:2] != (1, 1) or len(places.shape) != 4 or math.prod(places.shape) < 2):
        return f"its anomaly map has shape {places.shape}; [1, 1, h, w] is needed, of two places or more"
    if nearest is not None and (len(nearest.shape) != 2 or nearest.shape[0] != 1 or nearest.shape[1] < 1):
        return f"its nearest cases have shape {nearest.shape}; [1, k] is needed"
    return ""


def _in_words(inputs: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in inputs) or "none"


def _cam_contradiction(manifest: Manifest) -> str:
    """Class activation maps are one map a label, of at least two places."""
    cam = manifest.cam
    if cam is None:
        return ""
    fits = len(cam.shape) == 4 and cam.shape[:2] == (1, len(manifest.task.labels)) and min(cam.shape[2:]) >= 1
    if not fits or cam.shape[2] * cam.shape[3] < 2:
        labels = len(manifest.task.labels)
        return f"its class activation maps have shape {cam.shape}; the last output, of [1, {labels}, h, w], is needed"
    return ""


def _spec_contradiction(manifest: Manifest) -> str:
    """The answer must cover what the task asks of the image."""
    try:
        rules_of(manifest.task).check_spec(manifest.task, manifest.image_spec)
    except InputError as exc:
        return str(exc)
    return ""


def _decision_contradiction(manifest: Manifest) -> str:
    """Temperatures and operating points of variants must fit the task."""
    for variant in manifest.variants:
        try:
            manifest.task_of(variant)
        except InputError as exc:
            return f"variant {variant.name!r} does not fit its task: {exc}"
    return ""
