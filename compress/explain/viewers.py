"""Who is asked where it looks, and how: the teacher, the bundle's variants, and the teacher with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.attribution_agreement import RANDOMISED
from medfm_compress.bench.models import unavailable_variants
from medfm_compress.compress.explain.attribution import attribute, method_of, randomised
from medfm_compress.compress.explain.options import ExplainOptions
from medfm_compress.compress.networks.model import Model, load_model
from medfm_compress.compress.networks.torch_session import TorchSession
from medfm_compress.export.heat_map import check_maps, heat_map_output
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Tensor, Variant
from medfm_compress.runtime.class_activation import read_activation
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.heat_map import ACTIVATION, METHODS
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.occlusion import occlusion_map
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.sessions.table import open_session_from_bytes, open_variant
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.variant_selection import Machine, incompatibility

FloatArray = NDArray[np.float32]
TEACHER = "teacher"


@dataclass(frozen=True)
class Viewer:
    """A network that can be asked where it looks: normalised image ``[1, C, H, W]`` → map ``[h, w]``."""

    name: str
    method: str
    spec: ImageSpec
    map_of: Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class Reference:
    """The teacher: a network in PyTorch, or the FP32 variant of a bundle, whose weights cannot be drawn anew.

    Attributes:
        network: either.
        spec: its preprocessing.
        task: its outputs.
        identity: ``name@sha256`` of its weights; a bundle's is that of the model it was exported from, if it says so.
    """

    network: Model | Bundle
    spec: ImageSpec
    task: Task
    identity: str

    @classmethod
    def of(cls, network: Model | Bundle) -> Reference:
        """What is known of ``network``."""
        if isinstance(network, Model):
            return cls(network, network.spec, network.task, f"{network.name}@{network.weights_sha256()}")
        manifest = network.manifest
        identity = manifest.provenance.student or f"{manifest.name}@{manifest.model_digest}"
        return cls(network, manifest.image_spec, manifest.task, identity)


def viewers_of(
    bundle: Bundle, teacher: Reference, student_folder: str | Path | None, finding: str, options: ExplainOptions
) -> tuple[Viewer, ...]:
    """Teacher, variants (or the student in PyTorch), and the teacher with random weights where they can be drawn.

    Raises:
        InputError: ``student_folder`` without ``gradient`` or the reverse, or another student than the bundle's; a
            bundle as the teacher without ``device``; no such variant; or a network that gives no map of its own.
    """
    if (student_folder is None) == (options.method == "gradient"):
        raise InputError("--student, the model folder that the bundle was exported from, goes with --method gradient")
    if options.method == "device":
        return _by_device(bundle, teacher, finding, options)
    if isinstance(teacher.network, Bundle):
        raise InputError(
            f"the teacher {teacher.network.path.name} is a bundle, which --method {options.method} cannot explain; "
            "give the model folder that it was exported from, or use --method device"
        )
    model = teacher.network
    floor = randomised(model, options.seed)
    if student_folder is not None:
        student = _student(bundle, student_folder)
        return (
            _by_gradient(TEACHER, model, finding),
            _by_gradient(f"{student.name} (PyTorch)", student, finding),
            _by_gradient(RANDOMISED, floor, finding),
        )
    variant = _variants(bundle, options.variant)[0]
    session, spec = open_variant(bundle, variant, options.threads), bundle.manifest.image_spec

    def viewer(name: str, session: Session, spec: ImageSpec) -> Viewer:
        def logits_of(image: FloatArray) -> FloatArray:
            logits: FloatArray = session.run({session.input_names[0]: image})[session.output_names[0]]
            return logits

        def map_of(image: FloatArray) -> FloatArray:
            return occlusion_map(logits_of, image, teacher.task, finding, options.occlusion)

        return Viewer(name, "occlusion", spec, map_of)

    return (
        viewer(TEACHER, TorchSession(model, "cpu", options.threads), teacher.spec),
        viewer(variant.name, session, spec),
        viewer(RANDOMISED, TorchSession(floor, "cpu", options.threads), floor.spec),
    )


def check_view(viewers: Sequence[Viewer]) -> None:
    """Check that maps can be laid over each other.

    Raises:
        InputError: the networks see different parts of an image.
    """
    views = [(viewer.spec.resize, viewer.spec.crop_fraction, _aspect(viewer.spec)) for viewer in viewers]
    for viewer, view in zip(viewers, views, strict=True):
        if view != views[0]:
            raise InputError(
                f"teacher and {viewer.name} see different parts of an image (resize, crop, aspect {views[0]} and "
                f"{view}); their maps cannot be laid over each other"
            )


def _by_device(bundle: Bundle, teacher: Reference, finding: str, options: ExplainOptions) -> tuple[Viewer, ...]:
    """Maps that the networks give themselves: of each variant in its own engine, of the teacher in ONNX Runtime."""
    own = _maps_of(bundle)
    if isinstance(teacher.network, Bundle):
        ahead = [_by_own_map(TEACHER, *_opened_teacher(teacher.network, options.threads), teacher, finding)]
        behind = []
    else:
        mapped = _exported(teacher.network, options.threads)
        ahead = [_by_own_map(TEACHER, *mapped, teacher, finding)]
        floor = _exported(randomised(teacher.network, options.seed), options.threads, check=False)
        behind = [_by_own_map(RANDOMISED, *floor, teacher, finding)]
    variants = _variants(bundle, options.variant) if options.variant else _evaluated(bundle)
    seen = Reference(bundle, bundle.manifest.image_spec, bundle.manifest.task, "")
    asked = [_by_own_map(v.name, open_variant(bundle, v, options.threads), own, seen, finding) for v in variants]
    return (*ahead, *asked, *behind)


def _evaluated(bundle: Bundle) -> tuple[Variant, ...]:
    """Those that `bench` evaluates on this machine, so that the gate finds all of them."""
    lacking = unavailable_variants(bundle)
    return tuple(variant for variant in bundle.manifest.variants if variant.name not in lacking)


def _maps_of(bundle: Bundle) -> Tensor:
    cam = bundle.manifest.cam
    if cam is None:
        raise InputError(
            f"{bundle.path.name} gives no maps, which --method device compares; export the model with --heat-map, "
            "which says whether it has any, or use --method occlusion, which needs none"
        )
    return cam


def _opened_teacher(bundle: Bundle, threads: int) -> tuple[Session, Tensor]:
    own, machine = _maps_of(bundle), Machine(cpu=read_cpu())
    variants = [v for v in bundle.manifest.variants if v.precision == "fp32" and not incompatibility(v, machine)]
    if not variants:
        raise InputError(
            f"the teacher {bundle.path.name} has no FP32 variant that can run here; give the bundle that it was "
            "quantized from, or a model folder"
        )
    return open_variant(bundle, variants[0], threads), own


def _exported(model: Model, threads: int, *, check: bool = True) -> tuple[Session, Tensor]:
    """``model`` in ONNX Runtime with its maps, exported in memory as ``export --heat-map`` does."""
    mapped = heat_map_output(export_onnx(model.module, model.spec, model.task).content)
    if mapped.output is None:
        raise InputError(
            f"the teacher {model.name} gives no maps, which --method device compares ({mapped.line}); use --method "
            "occlusion, which needs none"
        )
    session = open_session_from_bytes("onnxruntime", [mapped.content], threads, "fp32")
    if check:
        check_maps(mapped, [session], model.spec)
    return session, mapped.output


def _by_own_map(name: str, session: Session, cam: Tensor, network: Reference, finding: str) -> Viewer:
    def map_of(image: FloatArray) -> FloatArray:
        outputs = session.run({session.input_names[0]: image})
        activation = read_activation(outputs, cam, outputs[session.output_names[0]])
        if activation is None:
            raise InputError(f"{name} gives a map that is not finite; use --method occlusion")
        return activation.evidence(network.task, finding)

    return Viewer(name, METHODS.get(cam.name, ACTIVATION), network.spec, map_of)


def _student(bundle: Bundle, folder: str | Path) -> Model:
    student = load_model(folder)
    made_of, own = bundle.manifest.provenance.student, f"{student.name}@{student.weights_sha256()}"
    if made_of and made_of != own:
        raise InputError(f"{folder} is {own[:60]}, the bundle was exported from {made_of[:60]}; give that model folder")
    return student


def _by_gradient(name: str, model: Model, finding: str) -> Viewer:
    return Viewer(name, method_of(model), model.spec, lambda image: attribute(model, image, finding)[0])


def _variants(bundle: Bundle, name: str) -> tuple[Variant, ...]:
    """The variant called ``name``; without a name all that can run here, at least one."""
    machine = Machine(cpu=read_cpu())
    if name:
        requested = bundle.variant(name)
        reason = incompatibility(requested, machine)
        if reason:
            raise InputError(f"variant {name!r} cannot run here: {reason}")
        return (requested,)
    found = tuple(variant for variant in bundle.manifest.variants if not incompatibility(variant, machine))
    if not found:
        raise InputError(f"no variant of {bundle.path.name} can run here; 'medfm-compress inspect' says why")
    return found


def _aspect(spec: ImageSpec) -> float:
    return round(spec.width_px / spec.height_px, 3)
