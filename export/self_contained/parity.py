"""Does a self-contained file say what `Engine` says? Checked at export on synthetic images of several sizes.

The engine's parts are run one after another: the bundle's own variant, whose golden cases are replayed first,
behind `runtime.preprocess` and before `runtime.activation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.self_contained.compose import FINDINGS, LOGITS, PROBABILITIES
from medfm_compress.export.self_contained.options import PixelKind
from medfm_compress.export.self_contained.pixel_values import PIXELS, WHITE
from medfm_compress.runtime.activation import decisions, probabilities
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.dicom.checks import Layout
from medfm_compress.runtime.dicom.grey import p_value_table
from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.golden_cases import make_goldens, relative_logit_error, replay_goldens
from medfm_compress.runtime.image_spec import MAX_SIDE_PX, ColourKind, ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import preprocess
from medfm_compress.runtime.sessions.onnxruntime import import_onnxruntime
from medfm_compress.runtime.sessions.table import open_variant
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.variant_selection import Machine, incompatibility

Inputs = Mapping[str, NDArray[Any]]

LARGEST_SCORE_DIFFERENCE = 1e-9
"""Of a probability computed from the same logits, in float64 either way."""
_SIZES = ((1.0, 1.0), (1.37, 2.11), (2.6, 0.83))  # of the network's input
_TINT = np.array([1.0, 0.9, 0.8], np.float32)
_OTHER: dict[ColourKind, ColourKind] = {"grey": "colour", "colour": "grey"}
_BITS, _SLOPE, _INTERCEPT, _CENTRE, _WIDTH = 12, 1.0, -1024.0, 900.0, 3000.0


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """How far the file is from the engine.

    Attributes:
        cases: synthetic images compared.
        relative_logit_error: over all cases, see `golden_cases`.
        max_probability_difference: over all cases and findings.
        tolerance: largest allowed relative logit error, the variant's own.
        engine: that ran both.
    """

    cases: int
    relative_logit_error: float
    max_probability_difference: float
    tolerance: float
    engine: str


def check_parity(content: bytes, bundle: Bundle, variant: Variant, pixels: PixelKind) -> Parity:
    """Compare the file ``content`` with ``variant`` of ``bundle``.

    Raises:
        InputError: this machine cannot run the variant, the file does not run, or they differ.
        BundleRefused: the variant computes something else here than where it was made.
    """
    manifest, task = bundle.manifest, bundle.manifest.task_of(variant)
    reason = incompatibility(variant, Machine(cpu=read_cpu()))
    if reason:
        raise InputError(f"variant {variant.name} {reason}, so that its parity cannot be checked here")
    session = open_variant(bundle, variant, 1)
    replay_goldens(bundle, variant, session)
    name, output = manifest.inputs[0].name, manifest.outputs[0].name
    cases = _cases(manifest.image_spec, pixels)
    expected = [session.run({name: preprocess(case, manifest.image_spec)})[output] for case, _ in cases]
    run = open_file(content)
    measured = [run(inputs) for _, inputs in cases]
    for answer in measured:
        _check_decisions(answer, task)
    logits, wanted = np.concatenate([answer[LOGITS] for answer in measured]), np.concatenate(expected)
    scores = np.concatenate([answer[PROBABILITIES] for answer in measured])
    parity = Parity(
        cases=len(cases),
        relative_logit_error=relative_logit_error(logits, wanted, task),
        max_probability_difference=float(np.abs(scores - probabilities(wanted, task)).max()),
        tolerance=variant.golden_tolerance,
        engine=f"onnxruntime {session.info.version}",
    )
    if not parity.relative_logit_error <= parity.tolerance:
        raise InputError(
            f"the self-contained file does not say what {variant.name} says: relative logit error "
            f"{parity.relative_logit_error:.3g}, allowed is {parity.tolerance:g}; nothing was written"
        )
    return parity


def open_file(content: bytes) -> Any:
    """A function from inputs to the outputs by name: plain ONNX Runtime, as any host has it.

    Raises:
        InputError: ONNX Runtime cannot open it, or (from the function) run it.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise InputError(f"onnxruntime cannot open the self-contained file: {in_one_line(exc)}") from exc
    names = [value.name for value in session.get_outputs()]
    taken = {value.name for value in session.get_inputs()}

    def run(inputs: Inputs) -> dict[str, NDArray[Any]]:
        try:
            return dict(zip(names, session.run(names, {key: inputs[key] for key in taken}), strict=True))
        except Exception as exc:
            raise InputError(f"the self-contained file gives no result: {in_one_line(exc)}") from exc

    return run


def _check_decisions(answer: Mapping[str, NDArray[Any]], task: Task) -> None:
    """Probabilities and findings must follow from the file's own logits as in `runtime.activation`."""
    scores = probabilities(answer[LOGITS], task)
    same = np.abs(scores - answer[PROBABILITIES]) <= LARGEST_SCORE_DIFFERENCE
    called = decisions(answer[PROBABILITIES], task).astype(bool) == answer[FINDINGS]
    if not (same.all() and called.all()):
        raise InputError(
            "the self-contained file decides otherwise than the runtime on its logits; nothing was written"
        )


def _cases(spec: ImageSpec, kind: PixelKind) -> list[tuple[Pixels, Inputs]]:
    """Synthetic images as the runtime takes them and as the file does: of three sizes, grey and (not DICOM) colour.

    A spec that refuses images of the other kind gets none of it.

    Raises:
        InputError: DICOM pixels, which are grey, for a network that refuses grey images.
    """
    refused = _OTHER[spec.colour_rule.images] if spec.colour_rule and spec.colour_rule.others == "refuse" else None
    if refused == "grey" and kind == "dicom":
        raise InputError(
            "--pixels dicom takes grey images, and the bundle refuses them (made for colour images); use --pixels uint8"
        )
    cases = []
    for number, (tall, wide) in enumerate(_SIZES):
        sides = {
            "height_px": _side(spec.height_px * tall, spec.min_side_px),
            "width_px": _side(spec.width_px * wide, spec.min_side_px),
        }
        plain = msgspec.structs.replace(spec, colour="grey", mean=(0.0,), std=(1.0,), **sides)
        fields = make_goldens(plain, 3, seed=2 + number)[:, 0]  # [3, H, W] in [0, 1]
        if kind == "dicom":
            cases.append(_dicom_case(fields[0], spec))
            continue
        white = np.iinfo(kind).max
        coloured = fields.transpose(1, 2, 0)
        if refused == "colour":  # a scan with a tint shows no colour, and its channels differ all the same
            coloured = fields[0][..., None] * _TINT
        for values in (coloured,) if refused == "grey" else (fields[0], coloured):
            cases.append(_pixel_case((values * white).astype(kind)))
    return cases


def _side(length: float, least: int) -> int:
    return max(8, least, min(round(length), MAX_SIDE_PX))


def _pixel_case(values: NDArray[Any]) -> tuple[Pixels, Inputs]:
    pixels = Pixels.from_integers(values)
    image = values if values.ndim == 3 else values[..., None]
    return pixels, {PIXELS: image, WHITE: np.array([pixels.high], np.float32)}


def _dicom_case(field: NDArray[np.float32], spec: ImageSpec) -> tuple[Pixels, Inputs]:
    from pydicom import Dataset

    stored = (field * (2**_BITS - 1)).astype(np.int32)
    ds = Dataset()
    ds.RescaleSlope, ds.RescaleIntercept = _SLOPE, _INTERCEPT
    ds.WindowCenter, ds.WindowWidth = _CENTRE, _WIDTH
    rows, columns = stored.shape
    layout = Layout(rows, columns, 1, 16, _BITS, False, "MONOCHROME1")
    table, _ = p_value_table(ds, layout, spec.dicom, "golden case")
    numbers = {
        "bits_stored": np.array([_BITS], np.int64),
        "is_signed": np.array([False]),
        "is_monochrome1": np.array([True]),
        "rescale_slope": np.array([_SLOPE]),
        "rescale_intercept": np.array([_INTERCEPT]),
        "window_center": np.array([_CENTRE]),
        "window_width": np.array([_WIDTH]),
        "voi_lut_function": np.array([0], np.int64),
        "padding_first": np.array([1], np.int64),
        "padding_last": np.array([0], np.int64),
    }
    return Pixels.from_integers(table[stored]), {PIXELS: stored[..., None], **numbers}
