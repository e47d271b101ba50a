"""Assemble a bundle: export, check parity, decide temperature and operating points on validation cases, seal.

Nothing is written before everything has passed, and then atomically.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from medfm_compress.bench.measure.machine import library_versions
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.study import Study
from medfm_compress.export.agreement import check_extra_outputs
from medfm_compress.export.heat_map import HeatMapOutput, check_maps, heat_map_output
from medfm_compress.export.kinds import Decided, ExportedNetwork, check_study, export_rules
from medfm_compress.export.module_outputs import Outputs, extra_tensors, module_outputs
from medfm_compress.export.onnx_export import INPUT, OUTPUT, export_onnx
from medfm_compress.export.openvino_ir import to_openvino_ir
from medfm_compress.export.parity import TOLERANCES, Logits, check_parity, module_logits
from medfm_compress.export.passes.features_output import FEATURES
from medfm_compress.export.trained_ranges import Ranges, attach_ranges
from medfm_compress.export.typicality import FALSE_REFUSAL_RATE, StoredTypicality, store_typicality, why_not
from medfm_compress.runtime.bundle.bundle import utc_date, write_bundle
from medfm_compress.runtime.bundle.manifest import (
    NEAREST,
    SCHEMA_VERSION,
    Backend,
    Device,
    Manifest,
    Provenance,
    Tensor,
    Variant,
)
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.dicom.attributes import check_attributes
from medfm_compress.runtime.errors import InputError, MedfmError
from medfm_compress.runtime.golden_cases import golden_files, make_golden_inputs, run_goldens
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.nearest_cases import nearest_file
from medfm_compress.runtime.progress import Progress, no_progress
from medfm_compress.runtime.sessions.instruction_sets import instructions
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.sessions.table import is_available, open_session_from_bytes
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.tasks.table import rules_of

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("medfm-compress", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "numpy")
ENGINE_VERSIONS: Mapping[Backend, str] = MappingProxyType(
    {"onnxruntime": ">=1.23,<2", "openvino": ">=2025.0", "tensorrt": ""}  # its own table knows which versions it has
)
REDUCED = "reduced"
"""Qualifier of variants whose 8-bit weights lie within ±64."""
_SUFFIXES: Mapping[Backend, tuple[str, ...]] = MappingProxyType(
    {"onnxruntime": (".onnx",), "openvino": (".xml", ".bin"), "tensorrt": (".onnx",)}
)


class BundleDraft(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle says of itself beyond the network: see `Manifest`.

    Of the false-refusal rate see `Typicality`; where the study is too small for it, or it is 0, nothing is stored. With
    ``heat_map`` the network gives class activation maps as well, where it has any (see `cam_output`). Columns are what
    the network takes beside the image, in the order of its inputs. ``nearest`` are hex SHA-256 of the training cases
    that its output of that name numbers.
    """

    name: str
    spec: ImageSpec
    task: Task
    provenance: Provenance
    intended_use: str
    false_refusal_rate: float = FALSE_REFUSAL_RATE
    heat_map: bool = False
    columns: tuple[Column, ...] = ()
    nearest: tuple[str, ...] = ()


class Network(NamedTuple):
    """A network as a bundle holds it.

    Attributes:
        content: ONNX with input ``image`` ``[1, C, H, W]``, one input a column, and output ``logits`` as its
            task has it, float32.
        reference: what it must compute, on normalised inputs.
        steps: what was done so far.
        extra: its outputs behind the logits.
        outputs: everything that it must compute, where it has such outputs.
    """

    content: bytes
    reference: Logits
    steps: tuple[str, ...]
    extra: tuple[Tensor, ...] = ()
    outputs: Outputs | None = None


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """One variant with its files' contents, in order, and an opened session of it."""

    variant: Variant
    contents: tuple[bytes, ...]
    session: Session

    @property
    def files(self) -> dict[str, bytes]:
        """Member path → content."""
        return dict(zip(self.variant.files, self.contents, strict=True))


def build_bundle(
    module: nn.Module,
    draft: BundleDraft,
    path: str | Path,
    *,
    study: Study | None = None,
    rule: str = "",
    progress: Progress = no_progress,
    ranges: Ranges | None = None,
) -> Manifest:
    """Write the FP32 bundle of ``module`` for ONNX Runtime and, where it is installed, OpenVINO.

    An engine that cannot run the network, or computes something else, is left out, and it is said why.

    Args:
        module: maps ``[1, C, H, W]``, and columns where there are any, to logits ``[1, labels]`` or
            ``[1, structures, H, W]``, and what else it names (see `module_outputs`); left as it is.
        draft: name, preprocessing, task, provenance and intended use.
        path: of the new ``.medfm`` file.
        study: its validation cases give temperature and operating points; without it the task keeps those it has.
        rule: how operating points are chosen; without it the usual one of the task's kind.
        progress: told what begins.
        ranges: name of a layer → range of its input, as it was trained with; `quantize` then begins with them.

    Raises:
        InputError: labels that differ from the study's, a module that cannot be exported, no engine that computes what
            the module computes (of an anomaly score: on every validation case), a file that cannot be written. Nothing
            is left behind.
    """
    rules_of(draft.task).check_spec(draft.task, draft.spec)
    check_attributes(draft.columns)
    if study is not None:
        check_study(study, draft.task, rule)
    progress("exporting to ONNX")
    features = wants_features(study, draft.false_refusal_rate)
    exported = export_onnx(module, draft.spec, draft.task, columns=draft.columns, features=features)
    steps = [f"export: ONNX by torch's {exported.exporter} exporter" + _because(exported.reason)]
    content = exported.content
    if ranges:
        attached = attach_ranges(content, module, ranges)
        content, steps = attached.content, [*steps, f"export: {attached.line}"]
    extra = extra_tensors(module, draft.spec)
    network = Network(content, module_logits(module), tuple(steps), extra, module_outputs(module) if extra else None)
    return bundle_of_network(network, draft, path, study=study, rule=rule, progress=progress)


def bundle_of_network(
    network: Network,
    draft: BundleDraft,
    path: str | Path,
    *,
    study: Study | None = None,
    rule: str = "",
    progress: Progress = no_progress,
) -> Manifest:
    """Write the FP32 bundle of a network that is in ONNX already; arguments and errors as of `build_bundle`."""
    if study is not None:
        check_study(study, draft.task, rule)
    elif needed := export_rules(draft.task).needs_study:
        raise InputError(f"a bundle of an anomaly score is made with a study: {needed}")
    why_no_typicality = "" if study is None else why_not(study, draft.false_refusal_rate)
    mapped = _with_maps(network.content, draft)
    members = _nearest_files(network, draft)
    exports, lines = _fp32_exports(network._replace(content=mapped.content), draft, progress)
    steps = [*network.steps, *(f"export: {line}" for line in lines)]
    task = draft.task
    if study is not None:
        decided = _decided(network, exports, draft, (study, rule), progress)
        task, exports = decided.task, _agreeing(exports, decided, progress)
        steps += [f"export: {line}" for line in (*decided.lines, *filter(None, decided.refused))]
        calibrated_on = msgspec.structs.replace(draft.provenance, calibration_fingerprint=study_fingerprint(study))
        draft = msgspec.structs.replace(draft, provenance=calibrated_on)
    files = bundle_files(exports, draft.spec, draft.columns) | members
    stored, line = _typicality(exports, study, draft, why_no_typicality, progress)
    steps += [f"export: {line}"] if line else []
    if mapped.line:
        progress(mapped.line)
        steps.append(f"export: {mapped.line}")
        check_maps(mapped, [export.session for export in exports], draft.spec)
    manifest = _draft_manifest(msgspec.structs.replace(draft, task=task), exports, network.extra, steps)
    if stored is not None:
        manifest = msgspec.structs.replace(manifest, outputs=(*manifest.outputs, stored.output), typicality=stored.rule)
        files |= stored.files
    if mapped.output is not None:
        manifest = msgspec.structs.replace(manifest, outputs=(*manifest.outputs, mapped.output))
    return write_bundle(path, manifest, files)


def _with_maps(content: bytes, draft: BundleDraft) -> HeatMapOutput:
    if draft.heat_map and draft.columns:
        return HeatMapOutput(content, line="no heat map: the classifier reads columns beside the image")
    return heat_map_output(content) if draft.heat_map else HeatMapOutput(content)


def wants_features(study: Study | None, false_refusal_rate: float) -> bool:
    """Whether a bundle needs the network's features as well, to tell images unlike those that it was made for."""
    return study is not None and not why_not(study, false_refusal_rate)


def make_variant(
    backend: Backend,
    precision: str,
    instruction_set: tuple[str, ...] | None = None,
    qualifier: str = "",
    files: tuple[str, ...] = (),
    device: Device = "cpu",
) -> Variant:
    """The variant of a backend, device and precision, named and tolerated alike everywhere.

    Args:
        backend: engine that runs it.
        precision: inference precision.
        instruction_set: CPU instructions it needs; None is what the precision needs (see `instruction_sets`), with
            weights of 7 bits where the qualifier is ``reduced``, else of the full 8.
        qualifier: ends the name, so that several variants of one backend and precision fit into one bundle.
        files: member paths of another variant whose files it runs; empty gives it files of its own.
        device: that computes.
    """
    name = f"{backend}-{device}-{precision}" + (f"-{qualifier}" if qualifier else "")
    if instruction_set is None:
        instruction_set = instructions(backend, precision, reduced=qualifier == REDUCED)
    return Variant(
        name=name,
        files=files or tuple(f"models/{name}{suffix}" for suffix in _SUFFIXES[backend]),
        backend=backend,
        device=device,
        precision=precision,  # type: ignore[arg-type]
        instruction_set=instruction_set,
        engine_versions=ENGINE_VERSIONS[backend],
        golden_tolerance=TOLERANCES[precision],
    )


def open_export(variant: Variant, contents: tuple[bytes, ...], threads: int = 1) -> Export:
    """Open the model in ``contents`` as ``variant``; raises what the backend raises."""
    session = open_session_from_bytes(variant.backend, contents, threads, variant.precision, device=variant.device)
    return Export(variant=variant, contents=contents, session=session)


def bundle_files(exports: tuple[Export, ...], spec: ImageSpec, columns: Sequence[Column] = ()) -> dict[str, bytes]:
    """Members of a bundle: model files, golden inputs and each variant's own logits on them.

    Raises:
        InputError: variants share a file and give it different contents.
    """
    inputs = make_golden_inputs(spec, columns)
    logits = {export.variant.name: run_goldens(export.session, inputs) for export in exports}
    files: dict[str, bytes] = {}
    for export in exports:
        for name, content in export.files.items():
            if files.setdefault(name, content) != content:
                raise InputError(f"variant {export.variant.name} shares {name} with another and has other contents")
    return files | golden_files(inputs, logits, spec)


def versions() -> dict[str, str]:
    """Versions of the libraries that make a bundle."""
    return library_versions(LIBRARIES)


def _decided(
    network: Network, exports: tuple[Export, ...], draft: BundleDraft, how: tuple[Study, str], progress: Progress
) -> Decided:
    """What the kind of task decides on the validation cases of a study by a rule, empty for its usual one."""
    (study, rule), kind = how, export_rules(draft.task)
    if kind.progress:
        progress(kind.progress)
    sessions = [export.session for export in exports]
    exported = ExportedNetwork(network.reference, sessions, draft.spec, draft.task, draft.columns)
    return kind.decide(exported, study, rule or kind.default_rule)


def _agreeing(exports: tuple[Export, ...], decided: Decided, progress: Progress) -> tuple[Export, ...]:
    """The variants that agree with the network on validation cases; raises InputError where none does."""
    for details in filter(None, decided.details):
        progress(f"left out: {details}")
    kept = tuple(export for export, reason in zip(exports, decided.refused, strict=True) if not reason)
    if not kept:
        raise InputError(f"{decided.details[0]}; nothing was written")
    return kept


def _nearest_files(network: Network, draft: BundleDraft) -> dict[str, bytes]:
    """The member that says which training cases the network numbers; raises InputError where nothing says it."""
    numbers = any(tensor.role == NEAREST for tensor in network.extra)
    if numbers != bool(draft.nearest):
        what = "numbers training cases" if numbers else "numbers no training cases"
        raise InputError(f"the network {what} and {len(draft.nearest)} hashes of them are given; fit it again")
    return nearest_file(draft.nearest) if numbers else {}


def _fp32_exports(network: Network, draft: BundleDraft, progress: Progress) -> tuple[tuple[Export, ...], list[str]]:
    """The variants of engines that compute what ``network`` computes, and a line on every engine.

    Raises:
        MedfmError: that of the first engine, where there is no such engine.
    """
    exports: list[Export] = []
    lines: list[str] = []
    failures: list[MedfmError] = []
    for backend in ("onnxruntime", "openvino"):
        if backend == "openvino" and not is_available(backend).ok:
            continue
        progress(f"checking parity of {backend}")
        try:
            export = _fp32_export(backend, network.content)
            parity = check_parity(network.reference, export.session, draft.spec, draft.task, columns=draft.columns)
            if network.outputs is not None:
                check_extra_outputs(network.outputs, export.session, draft.spec, len(draft.nearest))
            lines.append(str(parity))
            exports.append(export)
        except MedfmError as exc:
            failures.append(exc)
            lines.append(f"no variant for {backend}: {str(exc).removesuffix('; nothing was written')}")
            progress(lines[-1])
    if not exports:
        raise failures[0]
    return tuple(exports), lines


def _fp32_export(backend: Backend, onnx: bytes) -> Export:
    contents = (onnx,) if backend == "onnxruntime" else tuple(to_openvino_ir(onnx))
    return open_export(make_variant(backend, "fp32"), contents)


def _typicality(
    exports: tuple[Export, ...], study: Study | None, draft: BundleDraft, why: str, progress: Progress
) -> tuple[StoredTypicality | None, str]:
    """What the bundle stores of its training images, or None; and a line for the provenance."""
    if study is None or not draft.false_refusal_rate:
        return None, ""
    if not why and FEATURES not in exports[0].session.output_names:
        why = "its classifier does not read one row of features"
    if why:
        line = f"whether an image is unlike the training images will not be told: {why}"
        progress(line)
        return None, line
    progress("describing training and validation images, so that unlike ones can be told")
    names = [export.variant.name for export in exports]
    rate = draft.false_refusal_rate
    stored = store_typicality(exports[0].session, names, study, draft.spec, rate, draft.columns)
    return stored, str(stored.rule)


def _draft_manifest(
    draft: BundleDraft, exports: tuple[Export, ...], extra: tuple[Tensor, ...], steps: list[str]
) -> Manifest:
    if not draft.intended_use.strip():
        raise InputError("intended use is empty; say in one sentence what the bundle is for")
    provenance = msgspec.structs.replace(
        draft.provenance, steps=(*draft.provenance.steps, *steps), libraries=versions(), date=utc_date()
    )
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=draft.name,
        task=draft.task,
        image_spec=draft.spec,
        inputs=(
            Tensor(name=INPUT, role="image", shape=draft.spec.shape),
            *(Tensor(name=column.name, role="column", shape=(1, column.width)) for column in draft.columns),
        ),
        columns=draft.columns or msgspec.UNSET,
        outputs=(
            Tensor(name=OUTPUT, role="logits", shape=rules_of(draft.task).logits_shape(draft.task, draft.spec)),
            *extra,
        ),
        variants=tuple(export.variant for export in exports),
        members=(),
        provenance=provenance,
        intended_use=draft.intended_use,
        model_digest="",
    )


def _because(reason: str) -> str:
    return f", since the dynamo exporter failed: {reason}" if reason else ""
