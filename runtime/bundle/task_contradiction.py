"""Whether the tensors, the image spec and the decisions that a manifest names fit its task."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from medfm_compress.runtime.bundle.manifest import Manifest
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
    features = [tensor for tensor in manifest.outputs if tensor.role == "features"]
    expected = int(manifest.typicality is not msgspec.UNSET)
    rules = rules_of(manifest.task)
    shape = rules.logits_shape(manifest.task, manifest.image_spec)
    further = [tensor for tensor in manifest.outputs if tensor is not manifest.cam]
    if logits != [shape] or len(further) != 1 + expected:
        return f"its outputs are {logits}; one of shape {shape} is what its task needs"
    if manifest.outputs[0].role != "logits" or len(features) != expected:
        return "its outputs must be the logits and, where it tells how usual an image is, after them the features"
    return _cam_contradiction(manifest)


def _in_words(inputs: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in inputs) or "none"


def _cam_contradiction(manifest: Manifest) -> str:
    """Class activation maps are the last output, one map a label, of at least two places."""
    cam = manifest.cam
    if cam is None:
        return ""
    fits = len(cam.shape) == 4 and cam.shape[:2] == (1, len(manifest.task.labels)) and min(cam.shape[2:]) >= 1
    if not fits or cam.shape[2] * cam.shape[3] < 2 or cam is not manifest.outputs[-1]:
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
