"""Make INT8 candidates of one graph: one calibration, shared by every backend, method and placement.

Order: SmoothQuant and bias correction on the portable graph, then the backend's own passes, then Q/DQ where the backend
wants it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import msgspec

from medfm_compress.compress.quantization import placement_onnxruntime, placement_openvino
from medfm_compress.compress.quantization.activation_statistics import Statistics
from medfm_compress.compress.quantization.bias_correction import correct_biases
from medfm_compress.compress.quantization.column_branch import column_branch
from medfm_compress.compress.quantization.dynamic import quantize_dynamic
from medfm_compress.compress.quantization.explicit_smoothing import smooth_explicitly
from medfm_compress.compress.quantization.float32_islands import Islands, find_islands
from medfm_compress.compress.quantization.layer_sensitivity import rank_layers
from medfm_compress.compress.quantization.methods import DEFAULT_ESTIMATOR, EXPLICIT_STRENGTHS, TRAINED, Method
from medfm_compress.compress.quantization.nncf_candidates import first_settings, is_installed
from medfm_compress.compress.quantization.nncf_job import NncfJob, quantize_with_nncf
from medfm_compress.compress.quantization.nncf_settings import MISSING, NncfSettings
from medfm_compress.compress.quantization.qdq import Placement, Symmetric, write_qdq
from medfm_compress.compress.quantization.range_estimators import Range, estimate_ranges
from medfm_compress.compress.quantization.smoothquant import Smoothed, smooth
from medfm_compress.compress.quantization.tensorrt_graphs import write_precision
from medfm_compress.compress.quantization.weight_only import weight_only
from medfm_compress.compress.quantization.weights import WEIGHTED
from medfm_compress.export.heat_map import with_maps_of
from medfm_compress.export.openvino_ir import to_openvino_ir
from medfm_compress.export.passes.cam_output import remove_maps
from medfm_compress.export.passes.compact_memory import compact_memory, scorer_nodes
from medfm_compress.export.passes.pipeline import for_onnxruntime, simplify
from medfm_compress.export.passes.read import read_graph
from medfm_compress.export.trained_ranges import take_ranges
from medfm_compress.runtime.bundle.manifest import Backend, Precision
from medfm_compress.runtime.network_inputs import NetworkInputs, images_of
from medfm_compress.runtime.task import Task

if TYPE_CHECKING:
    import onnx_ir as ir

DYNAMIC = "dynamic"
SAMPLE = 32  # calibration cases kept: rescaled activations get their histograms from them
_SYMMETRIC: tuple[Symmetric, Symmetric] = ("balanced", "all")
_ISLAND_CASES = 8  # of them, on which nodes are tried in FP16
_RANKING = 4  # of them, on which layers are ranked
_RANKING_S = 60.0  # for one ranking of layers


class Place(Protocol):
    """Chooses where Q/DQ goes in a graph; layers named in ``exclude`` stay in float."""

    def __call__(self, model: ir.Model, exclude: Collection[str] = (), *, reduced: bool = False) -> Placement:
        """The placement."""
        ...


PLACEMENTS: MappingProxyType[Backend, MappingProxyType[str, Place]] = MappingProxyType(
    {
        "openvino": MappingProxyType(
            {
                "default": placement_openvino.place,
                "byte-sums": partial(placement_openvino.place, sums="bytes"),
                "probabilities": partial(placement_openvino.place, sums="bytes", probabilities=True),
            }
        ),
        "onnxruntime": MappingProxyType(
            {
                "default": placement_onnxruntime.place,
                "joined": partial(placement_onnxruntime.place, joined=True),
                "float-sums": partial(placement_onnxruntime.place, sums=False),
                "byte-gates": partial(placement_onnxruntime.place, gates=True),
            }
        ),
    }
)
"""Options of each backend's placement that were the fastest, or the most faithful, on some network."""


class GraphBuilder:
    """The candidates of one float graph; see `candidate_search.Builder`."""

    def __init__(self, onnx: bytes, statistics: Statistics, inputs: NetworkInputs, task: Task | None = None) -> None:
        """Keep a graph, what calibration measured on it, and `SAMPLE` of its inputs: images ``[n, C, H, W]``, columns.

        ``task`` says what its logits mean; without one they are compared as they are.
        """
        self._task = task
        self._last_of_nncf: tuple[tuple[Backend, Method], tuple[bytes, ...]] | None = None
        self._statistics = statistics
        self._inputs = inputs
        self._model = read_graph(onnx)
        self._has_maps = remove_maps(self._model)  # they go into each candidate, behind what it quantizes
        self._trained = take_ranges(self._model)
        scorer = scorer_nodes(self._model)
        self._scorer = tuple(node.name or "" for node in scorer)
        self._scorer_layers = tuple(node.name or "" for node in scorer if node.op_type in WEIGHTED)  # that NNCF knows
        self._smooth = lru_cache(maxsize=1)(self._smoothed)
        self._divide = lru_cache(maxsize=1)(self._divided)

    @property
    def trained(self) -> bool:
        """Whether the network was trained for INT8, and the graph says with which ranges."""
        return bool(self._trained)

    def placements(self, backend: Backend) -> tuple[str, ...]:
        """Names of the backend's placements that give this graph different files, the usual one first."""
        model, _ = self._prepared(backend, Method())
        names: dict[Placement, str] = {}
        for name, place in PLACEMENTS[backend].items():
            names.setdefault(place(model, column_branch(model)), name)
        dynamic = (DYNAMIC,) if backend == "onnxruntime" and has_attention(self._model) else ()
        return (*names.values(), *dynamic)

    def is_skewed(self, backend: Backend) -> bool:
        """Whether an activation has a zero point although those of a balanced range have none."""
        model, ranges = self._prepared(backend, Method())
        balanced, none_left = (
            _place(backend, Method(symmetric=symmetric), model, column_branch(model)) for symmetric in _SYMMETRIC
        )
        known = {name: ranges[name] for name in balanced.activations if name in ranges}
        return any(balanced.is_signed(name, *ends) != none_left.is_signed(name, *ends) for name, ends in known.items())

    def smooths(self) -> bool:
        """Whether SmoothQuant finds anything to fold into."""
        return bool(self._smooth().layers)

    def build(self, backend: Backend, method: Method, deadline: float = math.inf) -> tuple[bytes, ...]:
        """The contents of the candidate's files: ``.onnx``, or an IR's ``.xml`` and ``.bin``.

        Raises:
            ModelError: NNCF was asked, and gave none before ``deadline`` of `time.monotonic`.
        """
        if method.nncf is not None:
            return self._made_by_nncf(backend, method, deadline)
        model, ranges = self._prepared(backend, method)
        if method.weight_bits:
            quantized = weight_only(model, method.weight_bits, backend, self._scorer)
        elif method.placement == DYNAMIC:
            quantized = quantize_dynamic(model, exclude=self._floats(model, method), reduced=method.reduced)
        else:
            quantized = write_qdq(model, _place(backend, method, model, self._floats(model, method)), ranges)
        whole = self._with_maps(quantized, model)
        compact_memory(whole)
        content = serialise(whole)
        return tuple(to_openvino_ir(content)) if backend == "openvino" else (content,)

    def tensorrt_graph(self, precision: Precision, method: Method | None = None, keep: Collection[str] = ()) -> bytes:
        """The file in a precision of TensorRT (see `tensorrt_graphs`), its nodes in ``keep`` in FP32.

        Of ``method`` count the estimator and whether outliers are smoothed.
        """
        model, statistics = self._model, self._statistics
        if method is not None and method.smoothquant:
            model, statistics = self._smooth().model, self._smooth().statistics
        present = {node.name for node in model.graph}
        estimator = DEFAULT_ESTIMATOR if method is None else method.estimator
        kept = [name for name in keep if name in present]
        written = write_precision(model, precision, statistics, keep=kept, estimator=estimator).model
        return serialise(self._with_maps(written, model))

    def islands(self, task: Task) -> Islands:
        """The nodes that stay in FP32 beside FP16, found on calibration cases; see `float32_islands`."""
        return find_islands(self._model, images_of(self._inputs[:_ISLAND_CASES]), task)

    def most_harmful(self, backend: Backend, method: Method) -> tuple[str, ...]:
        """Node names of the layers whose own quantization moves the output most, most harmful first."""
        model, ranges = self._prepared(backend, method)
        place = partial(_place, backend, method, exclude=column_branch(model))
        ranked = rank_layers(model, ranges, place, self._inputs[:_RANKING], deadline=time.monotonic() + _RANKING_S)
        return tuple(layer.name for layer in ranked if layer.name not in self._scorer)

    def _floats(self, model: ir.Model, method: Method) -> tuple[str, ...]:
        """Nodes of ``model`` that stay in float: those the method names, the columns' own, a scorer of anomalies."""
        return (*method.excluded, *column_branch(model), *self._scorer)

    def _prepared(self, backend: Backend, method: Method) -> tuple[ir.Model, dict[str, Range]]:
        """The float graph that Q/DQ goes into, and the range of every value of it."""
        model, statistics = self._rescaled(method.smoothquant, method.divided)
        if method.bias_correction:
            model = correct_biases(model, statistics, exclude=self._floats(model, method), reduced=method.reduced)
        if backend == "onnxruntime":
            model = for_onnxruntime(model, quantized=not method.weight_bits)[0]
        if method.estimator != TRAINED:
            return model, estimate_ranges(statistics, method.estimator)
        trained = {name: Range(*ends) for name, ends in self._trained.items()}
        return model, estimate_ranges(statistics, DEFAULT_ESTIMATOR) | trained

    def nncf(self, backend: Backend) -> NncfSettings | str:
        """What NNCF is told first, or why it cannot be asked."""
        if len(self._model.graph.inputs) > 1:
            return "NNCF is asked about networks of images alone"
        return first_settings(backend, attention=has_attention(self._model)) if is_installed() else MISSING

    def _made_by_nncf(self, backend: Backend, method: Method, deadline: float) -> tuple[bytes, ...]:
        method = msgspec.structs.replace(method, rest="fp32")  # the files are the same
        if self._last_of_nncf is None or self._last_of_nncf[0] != (backend, method):
            # A graph that is quantized by NNCF gets the backend's own passes as well.
            prepared = self._prepared(backend, Method(weight_bits=method.weight_bits))[0]
            graph = serialise(self._with_maps(prepared, prepared))
            floats = (*method.excluded, *self._scorer_layers)
            job = NncfJob.of(msgspec.structs.replace(method, excluded=floats), backend, self._task)
            self._last_of_nncf = (backend, method), quantize_with_nncf(graph, images_of(self._inputs), job, deadline)
        return self._last_of_nncf[1]

    def _with_maps(self, quantized: ir.Model, prepared: ir.Model) -> ir.Model:
        """``quantized`` with the class activation maps of ``prepared``, where the graph had them."""
        return with_maps_of(quantized, prepared) if self._has_maps else quantized

    def divides(self) -> bool:
        """Whether SmoothQuant by multiplications finds outlier channels."""
        return bool(self._divide(self.smooths(), EXPLICIT_STRENGTHS[0]).layers)

    def _rescaled(self, smoothed: bool, divided: float) -> tuple[ir.Model, Statistics]:
        if divided:
            return self._divide(smoothed, divided)[:2]
        return self._smooth()[:2] if smoothed else (self._model, self._statistics)

    def _divided(self, smoothed: bool, strength: float) -> Smoothed:
        return smooth_explicitly(*self._rescaled(smoothed, 0.0), strength, self._inputs)

    def _smoothed(self) -> Smoothed:
        return smooth(self._model, self._statistics, inputs=self._inputs)


def _place(backend: Backend, method: Method, model: ir.Model, exclude: Collection[str] = ()) -> Placement:
    """Where a method with ranges wants Q/DQ in ``model``."""
    placed = PLACEMENTS[backend][method.placement](model, exclude, reduced=method.reduced)
    return msgspec.structs.replace(placed, others=method.symmetric)


def portable(onnx: bytes) -> bytes:
    """The graph after the portable passes; what a current export gave comes back as it is.

    Raises:
        ModelError: see `read_graph`.
    """
    model = read_graph(onnx)
    del onnx  # of a large network the only copy that nobody else needs any more
    simplify(model)
    return serialise(model)


def has_attention(model: ir.Model) -> bool:
    """Whether the graph multiplies the result of a softmax with another activation."""
    return any(
        user.op_type in ("MatMul", "Einsum")
        for node in model.graph
        if node.op_type == "Softmax"
        for user, _ in node.outputs[0].uses()
    )


def serialise(model: ir.Model) -> bytes:
    """The bytes of an ONNX file; equal for equal graphs."""
    import onnx_ir as ir

    content: bytes = ir.serde.to_proto(model).SerializeToString(deterministic=True)
    return content
