"""The bundle's manifest: types only. `bundle` reads and writes the file around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from numpy.typing import NDArray

from medfm_compress.runtime.columns import Column, check_columns
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import OperatingPoint, Task

SCHEMA_VERSION = 8
"""The newest schema; a bundle is written in the oldest that holds it (see `schema_of`)."""
MAX_GOLDEN_TOLERANCE = 0.25
"""Two and a half times what `export` allows its roughest precision (int8, 0.1); above it a replay proves nothing."""
MAX_RELEASE = 2**53 - 1
"""The largest whole number that every reader of JSON keeps."""
NOT_FOR_CLINICAL_USE = "Research and evaluation only; not for clinical use."

Backend = Literal["onnxruntime", "openvino", "tensorrt"]
Device = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]
"""``tensorrt`` and ``tensorrt-rtx`` are a CUDA device through ONNX Runtime's provider of that name."""
Precision = Literal[
    "fp32", "bf16", "fp16", "fp8", "fp8-fp16", "int8", "int8-bf16", "int8-fp16", "int8-weights", "int4-weights"
]  # fmt: skip
ANOMALY_MAP: Literal["anomaly_map"] = "anomaly_map"
NEAREST: Literal["nearest"] = "nearest"
"""Outputs that come with an anomaly score, named as their roles."""
OF_SCHEMA_3 = ("int8-bf16", "int8-weights", "int4-weights")
OF_SCHEMA_4 = ("fp8", "fp8-fp16", "int8-fp16")
Outcome = Literal["pass", "fail", "inconclusive"]


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file inside the bundle: its path, size in bytes and hex sha256."""

    path: str
    bytes: int
    sha256: str


class Tensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output of the network, float32.

    Attributes:
        name: unique among inputs, or outputs.
        role: of inputs ``image`` and, since schema 8, ``column`` (see `runtime.columns`); of outputs ``logits``,
            ``features``, ``cam``, and since schema 8 ``anomaly_map`` ``[1, 1, h, w]`` (the anomaly score of every
            place) and ``nearest`` ``[1, k]`` (numbers of the most similar training cases, whole).
        shape: with the batch axis of 1 first.
    """

    name: str
    role: Literal["image", "column", "logits", "features", "cam", "anomaly_map", "nearest"]
    shape: tuple[int, ...]


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One deployable form of the network.

    Attributes:
        name: unique in the bundle, e.g. ``openvino-cpu-int8``.
        files: member paths; the first is the one to open (an OpenVINO ``.xml`` is followed by its ``.bin``). Variants
            may share them: OpenVINO runs one file in several precisions.
        backend: engine that runs it.
        device: what of the machine computes. ``tensorrt`` and ``tensorrt-rtx`` are since schema 4.
        precision: inference precision, always set explicitly on the engine. ``int8-bf16`` is a quantized network whose
            float part runs in bf16, of ``int8-fp16`` and ``fp8-fp16`` in fp16, of ``int8`` and ``fp8`` (E4M3) in
            fp32; of ``int8-weights`` and ``int4-weights`` only the weights are stored in that many bits. ``int8-bf16``
            and weights alone are since schema 3, ``fp8``, ``fp8-fp16`` and ``int8-fp16`` since 4.
        instruction_set: CPU flags it needs, in Linux's spelling, e.g. ``("avx512_vnni",)``; empty needs none. A
            member ``"avx512_vnni|avx_vnni"`` is met by either, ``"!avx512f"`` by a CPU without it.
        engine_versions: version specifier of the engine, e.g. ``>=1.23,<2``.
        golden_tolerance: largest allowed relative logit error on the golden cases (see `goldens`), 0 to 0.25.
        temperature: its own, 0.001 to 1000; absent it is the task's. Since schema 2.
        operating_points: its own, in place of all of the task's; absent they are the task's. Since schema 2.

    Read the last two through `Manifest.task_of`. Unset fields are left out of the JSON, so that the digest of a bundle
    without them, and the verdicts that cite it, hold in every version.
    """

    name: str
    files: tuple[str, ...]
    backend: Backend
    device: Device
    precision: Precision
    instruction_set: tuple[str, ...] = ()
    engine_versions: str = ""
    golden_tolerance: float = 1e-3
    temperature: float | msgspec.UnsetType = msgspec.UNSET
    operating_points: tuple[OperatingPoint, ...] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not self.files:
            raise InputError(f"variant {self.name!r} has no files")
        if not 0 <= self.golden_tolerance <= MAX_GOLDEN_TOLERANCE:
            raise InputError(
                f"golden_tolerance of variant {self.name!r} is {self.golden_tolerance}; it must be 0 to "
                f"{MAX_GOLDEN_TOLERANCE}, for above that replaying the golden cases proves nothing"
            )

    @property
    def target(self) -> str:
        """``backend:device:precision``."""
        return f"{self.backend}:{self.device}:{self.precision}"

    @property
    def decides_itself(self) -> bool:
        """Whether it has a temperature or operating points of its own."""
        return self.temperature is not msgspec.UNSET or self.operating_points is not msgspec.UNSET


class StoredVerdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the gate said of one variant, and of exactly which model and under which policy.

    Attributes:
        variant: its name.
        outcome: pass, fail or inconclusive.
        model_digest: of the bundle that was judged; a verdict that cites another digest is void.
        policy_sha256: of the policy file.
        report_sha256: of the report's JSON.
        date: ISO 8601, UTC.
    """

    variant: str
    outcome: Outcome
    model_digest: str
    policy_sha256: str
    report_sha256: str
    date: str


class Typicality(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a device tells that an image is unlike those the network was made for; see `runtime.typicality`.

    Attributes:
        false_refusal_rate: α: an image drawn as the validation cases were is called not reliable at most so often.
        training_cases: that the statistics are of.
        validation_cases: that an image is compared with.
    """

    false_refusal_rate: float
    training_cases: int
    validation_cases: int

    def __post_init__(self) -> None:
        if not 0 < self.false_refusal_rate < 1:
            raise InputError(f"false_refusal_rate is {self.false_refusal_rate}; it must lie between 0 and 1")

    def __str__(self) -> str:
        return (
            f"an image unlike {self.training_cases} training cases is called not reliable, at a false-refusal rate of "
            f"{self.false_refusal_rate:g} by {self.validation_cases} validation cases"
        )


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the model came from. Nothing of a patient: fingerprints and names of models only.

    Attributes:
        teacher: name of the teacher's architecture and the sha256 of its weights.
        teacher_licence: SPDX id or sentence; travels with every student.
        student: likewise for the deployed network.
        study_fingerprint: sha256 over the table and images of the study that the network was trained on.
        calibration_fingerprint: likewise of the one whose validation cases gave temperature and operating points.
        steps: what was done, in order, one line each.
        recipe_sha256: of the recipe file, empty without one.
        libraries: name → version of what made it.
        date: ISO 8601, UTC; from SOURCE_DATE_EPOCH where that is set.
    """

    teacher: str = ""
    teacher_licence: str = ""
    student: str = ""
    study_fingerprint: str = ""
    calibration_fingerprint: str = ""
    steps: tuple[str, ...] = ()
    recipe_sha256: str = ""
    libraries: dict[str, str] = {}
    date: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a device needs to know before it opens a model file.

    ``model_digest`` covers task, image spec, tensors, variants and the hashes of their files and goldens; not report,
    verdicts, provenance or release, so that they may be added without a new model. ``release`` counts up, 1 to
    2^53 - 1: a device that accepted one may refuse those below it. Since schema 5; unset, it is left out of the JSON.
    """

    schema_version: int
    name: str
    task: Task
    image_spec: ImageSpec
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    variants: tuple[Variant, ...]
    members: tuple[Member, ...]
    provenance: Provenance
    intended_use: str
    model_digest: str
    verdicts: tuple[StoredVerdict, ...] = ()
    typicality: Typicality | msgspec.UnsetType = msgspec.UNSET
    release: int | msgspec.UnsetType = msgspec.UNSET
    columns: tuple[Column, ...] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        check_columns(self.told)
        if self.release is not msgspec.UNSET and not 1 <= self.release <= MAX_RELEASE:
            raise InputError(f"release is {self.release}; it must be 1 to {MAX_RELEASE}")

    @property
    def told(self) -> tuple[Column, ...]:
        """What the network takes beside the image, in the order of its inputs; since schema 8."""
        return () if self.columns is msgspec.UNSET else self.columns

    @property
    def cam(self) -> Tensor | None:
        """The output of class activation maps ``[1, labels, h, w]``; None for a bundle without. Since schema 7."""
        return self.output("cam")

    @property
    def place_map(self) -> Tensor | None:
        """The output that says of places what the logits say of the image: an anomaly map, or maps of classes."""
        return self.output(ANOMALY_MAP) or self.cam

    def output(self, role: str) -> Tensor | None:
        """The output of that role; None for a bundle without."""
        return next((tensor for tensor in self.outputs if tensor.role == role), None)

    def with_shapes_checked(self, outputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """``outputs`` of one call of the network, as they are.

        Raises:
            BundleRefused: what comes with an anomaly score has another shape than this manifest says.
        """
        for tensor in self.outputs:
            shape = outputs[tensor.name].shape if tensor.role in (ANOMALY_MAP, NEAREST) else tensor.shape
            if shape != tensor.shape:
                raise BundleRefused(
                    f"the network's output {tensor.name!r} has shape {list(shape)}, its manifest says "
                    f"{list(tensor.shape)}; no result is given: export the bundle again"
                )
        return outputs

    @property
    def release_number(self) -> int:
        """The release, 0 for a bundle without one, which is older than all others."""
        return 0 if self.release is msgspec.UNSET else self.release

    def task_of(self, variant: Variant) -> Task:
        """The task as ``variant`` decides it: with its own temperature and operating points where it has them.

        Raises:
            InputError: they do not fit the task (a written bundle was checked for that).
        """
        own = {
            name: getattr(variant, name)
            for name in ("temperature", "operating_points")
            if getattr(variant, name) is not msgspec.UNSET
        }
        if "temperature" in own and "operating_points" not in own and self.task.operating_points:
            raise InputError(
                "it has a temperature of its own and the task's operating points, which were chosen at another; give "
                "it operating points too"
            )
        return msgspec.structs.replace(self.task, **own)


def schema_of(manifest: Manifest) -> int:
    """The oldest schema that holds ``manifest``: the newest of which it has something, see `_SINCE`; else 1."""
    return next((schema for schema, has in _SINCE if has(manifest)), 1)


def _is_of_schema_4(variant: Variant) -> bool:
    return variant.backend == "tensorrt" or variant.device not in ("cpu", "cuda") or variant.precision in OF_SCHEMA_4


_SINCE: tuple[tuple[int, Callable[[Manifest], bool]], ...] = (
    (8, lambda it: it.task.kind == "anomaly" or it.columns is not msgspec.UNSET),
    (8, lambda it: it.image_spec.dicom.has_rules_of_schema_8),
    (7, lambda it: it.task.is_dense or it.image_spec.stain is not msgspec.UNSET or it.cam is not None),
    (6, lambda it: it.image_spec.dicom.has_later_rules),
    (5, lambda it: it.typicality is not msgspec.UNSET or it.release is not msgspec.UNSET),
    (4, lambda it: it.image_spec.colour_rule is not msgspec.UNSET or any(map(_is_of_schema_4, it.variants))),
    (3, lambda it: any(variant.precision in OF_SCHEMA_3 for variant in it.variants)),
    (2, lambda it: any(variant.decides_itself for variant in it.variants)),
)
"""Newest first: a schema, and whether a manifest has what only it and later ones hold."""
