"""ONNX Runtime's own format: the graph as it was optimised for one class of CPU, so that a start need not do it again.

What is saved are ONNX Runtime's internal operators and layouts, which hold for one minor version and one kind of CPU:
float convolutions lie in blocks of 16 channels where the CPU has AVX-512 and of 8 where not (MLAS, ``nchwc``), and a
CPU that is of the other kind would compute something else from the same file. So the variant declares both, names its
class (``onnxruntime-cpu-int8-avx512``), and its portable ONNX stays in the bundle behind it: the engine takes that one
wherever the declaration does not fit. A bundle with both is larger by the size of the network; each variant's own size
counts the one file it runs.

Measured on an INT8 ViT-S (22 MB): the session opens in 76 ms instead of 110, and the process stays 12 MB smaller.
Optimised ONNX takes 90 ms. ``session.use_ort_model_bytes_for_initializers`` would save one more copy of the weights;
from Python it crashes, because the binding frees the bytes it would point into: left off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.build import Export, open_export
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.cpu import Cpu, read_cpu
from medfm_compress.runtime.errors import BundleRefused
from medfm_compress.runtime.golden_cases import make_golden_inputs, relative_logit_error
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.network_inputs import NetworkInputs, feed, rows_of
from medfm_compress.runtime.scratch_folder import scratch_folder
from medfm_compress.runtime.sessions import onnxruntime as backend
from medfm_compress.runtime.sessions.instruction_sets import InstructionSet
from medfm_compress.runtime.sessions.operators import read_operators, read_self_contained
from medfm_compress.runtime.sessions.protocol import Session

SUFFIX = ".ort"
# The same kernels in the same order; what remains is a constant that was folded in another place.
LARGEST_DIFFERENCE = 1e-4

_BLOCKED = "com.microsoft.nchwc"


class CpuClass(NamedTuple):
    """CPUs that one optimised file fits: a name for it, and the flags that tell them from others."""

    name: str
    needs: InstructionSet


class Optimised(msgspec.Struct, frozen=True, kw_only=True):
    """The optimised form of a variant, opened, or None with the reason.

    Attributes:
        export: the form.
        reason: why there is none.
        is_identical: every output on every golden case has the bits of the portable form.
    """

    export: Export | None = None
    reason: str = ""
    is_identical: bool = False


def optimise_export(
    portable: Export, spec: ImageSpec, cpu: Cpu | None = None, columns: Sequence[Column] = ()
) -> Optimised:
    """Give an ONNX Runtime variant a second form that is optimised for this machine's class of CPU.

    Args:
        portable: the variant as plain ONNX; left as it is, and to be shipped behind the optimised one.
        spec: of its input.
        cpu: this machine's, read where it is not given.
        columns: that it takes beside the image.
    """
    if portable.variant.backend != backend.BACKEND:
        return Optimised(reason=f"{portable.variant.backend} compiles by itself and keeps it in a cache")
    kind = cpu_class(cpu or read_cpu())
    if kind is None:
        return Optimised(reason="the CPU's class is not known here, so that the file could not be kept to it")
    content = optimise(portable.contents[0])
    variant = optimised_variant(portable.variant, content, kind, portable.session.info.version)
    try:
        export = open_export(variant, (content,), portable.session.info.threads)
    except BundleRefused as exc:
        return Optimised(reason=f"the optimised file cannot be opened: {exc}")
    inputs = make_golden_inputs(spec, columns)
    own, plain = (_outputs(session, inputs) for session in (export.session, portable.session))
    mine, theirs = (logits.reshape(len(logits), -1) for logits, *_ in (own, plain))  # of maps as well
    error = relative_logit_error(mine, theirs)
    if not error <= LARGEST_DIFFERENCE:
        return Optimised(reason=f"the optimised file computes something else: relative logit error {error:.3g}")
    is_identical = all(a.tobytes() == b.tobytes() for a, b in zip(own, plain, strict=True))
    return Optimised(export=export, is_identical=is_identical)


def _outputs(session: Session, inputs: NetworkInputs) -> list[NDArray[Any]]:
    """Every output of ``session`` on ``inputs`` of n cases, the logits first: ``[n, …]`` each."""
    answers = [session.run(feed(session.input_names, case)) for case in rows_of(inputs)]
    return [np.concatenate([answer[name] for answer in answers]) for name in session.output_names]


def optimise(onnx: bytes) -> bytes:
    """``onnx`` in the ORT format, as ONNX Runtime optimises it on this machine.

    Raises:
        BundleRefused: it cannot be loaded, or a tensor of it lies in another file.
    """
    read_self_contained(onnx, "onnxruntime cannot optimise the model")
    onnxruntime = backend.import_onnxruntime()
    with scratch_folder() as folder:
        path = folder / f"model{SUFFIX}"
        options = backend.session_options(onnxruntime, 1)
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ORT")
        try:
            onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        except Exception as exc:
            raise BundleRefused(f"onnxruntime cannot optimise the model: {' '.join(str(exc).split())[:300]}") from exc
        return path.read_bytes()


def optimised_variant(portable: Variant, content: bytes, kind: CpuClass, version: str) -> Variant:
    """The variant of ``content``, an optimised form of ``portable``: bound to its CPU class and minor version.

    Args:
        portable: whose precision, tolerance and decisions it shares.
        content: in the ORT format.
        kind: class of the CPU that optimised it.
        version: of the ONNX Runtime that did.
    """
    blocked = _BLOCKED in read_operators(content).domains
    # Without blocked layouts only the architecture matters, which the first of the needs tells.
    needs = kind.needs if blocked else kind.needs[:1]
    name = f"{portable.name}-{kind.name}"
    return msgspec.structs.replace(
        portable,
        name=name,
        files=(f"models/{name}{SUFFIX}",),
        instruction_set=(*portable.instruction_set, *needs),
        engine_versions=minor_range(version),
    )


def cpu_class(cpu: Cpu) -> CpuClass | None:
    """The class of ``cpu``; None where its flags cannot be read or ONNX Runtime is not measured on such a one."""
    if "asimd" in cpu.flags:
        return CpuClass("arm64", ("asimd",))
    if "avx512f" in cpu.flags:
        return CpuClass("avx512", ("avx2", "avx512f"))
    return CpuClass("avx2", ("avx2", "!avx512f")) if "avx2" in cpu.flags else None


def minor_range(version: str) -> str:
    """Version specifier of the minor version that ``version`` belongs to: ``1.32.0`` → ``>=1.32,<1.33``."""
    major, minor = (int(part) for part in re.findall(r"\d+", version)[:2])
    return f">={major}.{minor},<{major}.{minor + 1}"
