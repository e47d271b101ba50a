"""The targets of a bundle: each with its FP32 variant opened, and the float precisions that this CPU has beside it."""

from __future__ import annotations

from functools import partial

import msgspec

from medfm_compress.bench.types.target import Target, check_threads, split_targets
from medfm_compress.compress.quantization.build_candidate import portable, serialise
from medfm_compress.compress.quantization.candidate_search import Group
from medfm_compress.compress.quantization.candidate_trial import REFERENCE, Attempt, CandidateTrial
from medfm_compress.compress.quantization.gpu_variants import BACKEND as TENSORRT
from medfm_compress.compress.quantization.methods import DoesNotApply, Method, Rest
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.export.build import REDUCED, make_variant, open_export
from medfm_compress.export.passes.pipeline import for_onnxruntime
from medfm_compress.export.passes.read import read_graph
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Backend, Precision, Variant
from medfm_compress.runtime.cpu import missing_flags, read_cpu
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.heap import release_unused_memory
from medfm_compress.runtime.sessions.instruction_sets import BF16, favours_symmetric, multiplies_exactly
from medfm_compress.runtime.sessions.table import is_available

_BACKENDS = ("openvino", "onnxruntime")
_FLOATS: tuple[Precision, ...] = ("bf16", "fp16")  # of OpenVINO, beside FP32
_BESIDE_VNNI = ("avx512bw",)  # makes 7-bit INT8 much faster: what was measured with it asks for it


def for_engines(options: QuantizeOptions) -> QuantizeOptions:
    """``options`` with targets of backend and device alone, and the threads that they name.

    A target of TensorRT keeps its precision: it names the variant, where a CPU's is found by the clock.

    Raises:
        InputError: a target that is unknown, or of a CPU and another precision than int8; more threads than CPUs here.
    """
    targets, threads = split_targets(options.targets)
    engines = []
    for target in targets:
        parsed = Target.parse(target)
        if parsed.backend == TENSORRT:
            named = target.split(":")[2:]  # without one, `gpu_precisions` has its own
            engines.append(":".join((parsed.backend, parsed.device, *named)))
            continue
        engine = f"{parsed.backend}:{parsed.device}"
        engines.append(f"{_backend(engine)}:{parsed.device}")
        if target.count(":") == 2 and parsed.precision != "int8":
            raise InputError(f"target {target!r}: the clock finds which precision ships on a CPU; give {engine}")
    check_threads(threads or options.threads)
    return msgspec.structs.replace(options, targets=tuple(engines), threads=threads or options.threads)


def variants_of(bundle: Bundle, targets: tuple[str, ...]) -> tuple[Variant, ...]:
    """The FP32 variants of ``targets``, e.g. ``openvino:cpu``; all that can run here where none are named.

    Raises:
        InputError: a target that is not known, has no FP32 variant, or cannot run here.
    """
    variants = [v for v in bundle.manifest.variants if v.name == make_variant(v.backend, "fp32").name]
    known = tuple(dict.fromkeys(v.backend for v in variants))
    requested = tuple(dict.fromkeys(_backend(target) for target in targets))
    missing = [backend for backend in requested if backend not in known]
    if missing:
        raise InputError(f"{bundle.path.name} has no FP32 variant for {missing[0]}; it has {', '.join(known)}")
    chosen = [v for v in variants if v.backend in (requested or known) and is_available(v.backend).ok]
    if not chosen:
        raise InputError(f"none of {', '.join(requested or known)} can run here; install one of them")
    return tuple(chosen)


def _backend(target: str) -> str:
    parsed = Target.parse(target)
    if parsed.backend not in _BACKENDS or parsed.device != "cpu" or target.count(":") > 1:
        allowed = " or ".join((*(f"{backend}:cpu" for backend in _BACKENDS), f"{TENSORRT}:cuda"))
        raise InputError(f"target {target!r} cannot be quantized for; it must be {allowed}")
    return parsed.backend


def make_group(variant: Variant, contents: tuple[bytes, ...], threads: int) -> Group:
    """The group of one FP32 variant, given the contents of its files.

    Raises:
        BundleRefused: it cannot be opened.
    """
    reference = CandidateTrial(
        name=REFERENCE,
        variant=variant,
        export=open_export(variant, contents, threads),
        size_bytes=sum(map(len, contents)),
        error=0.0,
    )

    cpu = read_cpu()
    reduced = not multiplies_exactly(cpu)
    measured_with = tuple(flag for flag in _BESIDE_VNNI if variant.backend == "openvino" and flag in cpu.flags)

    def int8(method: Method) -> Variant:
        made = make_variant(variant.backend, method.precision, qualifier=REDUCED if method.reduced else "")
        needs = measured_with if reduced and method.reduced else ()
        return msgspec.structs.replace(made, instruction_set=(*made.instruction_set, *needs))

    if variant.backend == "onnxruntime":
        fused = partial(_fused, contents[0], threads)
        return Group(reference=reference, floats=(), rests=("fp32",), variant=int8, last=fused, reduced=reduced)
    floats = tuple(partial(_float, variant.backend, precision, contents, threads) for precision in _FLOATS)
    rests: tuple[Rest, ...] = ("fp32", "bf16") if not missing_flags(BF16, cpu) else ("fp32",)
    symmetric = favours_symmetric(variant.backend, cpu)
    return Group(reference=reference, floats=floats, rests=rests, variant=int8, symmetric=symmetric, reduced=reduced)


def _float(backend: Backend, precision: Precision, contents: tuple[bytes, ...], threads: int) -> Attempt:
    """The same files in another inference precision."""
    variant = make_variant(backend, precision)
    missing = missing_flags(variant.instruction_set, read_cpu())
    if missing:
        return DoesNotApply(candidate=precision, reason=f"this CPU lacks {', '.join(missing)}")
    return _opened(precision, variant, contents, threads)


def _fused(onnx: bytes, threads: int) -> Attempt:
    """FP32 with the operators that ONNX Runtime runs fastest, e.g. one for a whole attention."""
    graph = portable(onnx)
    release_unused_memory()  # that of the graph as it was read
    fused, passes = for_onnxruntime(read_graph(graph), quantized=False)
    if not passes:
        return DoesNotApply(candidate="fp32-fused", reason="ONNX Runtime has no faster operators for this graph")
    return _opened("fp32-fused", make_variant("onnxruntime", "fp32", qualifier="fused"), (serialise(fused),), threads)


def _opened(name: str, variant: Variant, contents: tuple[bytes, ...], threads: int) -> CandidateTrial:
    trial = CandidateTrial(name=name, variant=variant, size_bytes=sum(map(len, contents)))
    try:
        return msgspec.structs.replace(trial, export=open_export(variant, contents, threads))
    except BundleRefused as exc:
        return msgspec.structs.replace(trial, reason=f"cannot be run: {exc}")
