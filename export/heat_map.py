"""Maps of a bundle's networks: put into the graph at export, kept by `quantize`, and checked.

Of class activation maps the check needs no second implementation: a map's mean is the logit without its bias (see
`cam_output`), so over cases

    d_i = z_i − mean over places of M_i        must be the same for every case i.

The maps of a class token are held against what the last attention's own linear layer returned, y = W_O[…] + b_O, and
its class token x against the logits (symbols of `class_token_output`; t runs over all tokens):

    Σ_t M_t / n = g · (λ ∘ (y − b_O)) / s,     z_i − g · x_i / s_i the same for every case i
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.cam_output import LastFeatureMap, add_maps, find_feature_map
from medfm_compress.export.passes.class_token_output import (
    ALL_TOKENS,
    ClassToken,
    add_class_token_maps,
    find_class_token,
)
from medfm_compress.export.passes.read import read_graph
from medfm_compress.runtime.bundle.manifest import Tensor
from medfm_compress.runtime.class_activation import CAM, CLASS_TOKEN
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.golden_cases import make_goldens
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.sessions.table import open_session_from_bytes

if TYPE_CHECKING:
    import onnx_ir as ir

_LARGEST_SHARE = 1e-3
"""Of the logits' size: what the mean of a map may be off by, in float32."""
_CASES = 4


class HeatMapOutput(NamedTuple):
    """A graph with maps of where a logit comes from, or without where it has none.

    Attributes:
        content: ONNX.
        output: of the maps; None where there is none.
        line: what is said of it; empty where none were asked for.
        source: of class token maps, where in the graph they come from.
    """

    content: bytes
    output: Tensor | None = None
    line: str = ""
    source: ClassToken | None = None


def heat_map_output(content: bytes) -> HeatMapOutput:
    """``content``, an ONNX with static shapes, with maps as its last output, where it has any."""
    import onnx_ir as ir

    model = read_graph(content)
    source = find_maps(model)
    if isinstance(source, str):
        return HeatMapOutput(content, line=f"no heat map: {source}")
    _add(model, source)
    output = model.graph.outputs[-1]
    shape = tuple(int(side) for side in output.shape or ())
    what = "class activation maps"
    if isinstance(source, ClassToken):
        what = "maps of what patches bring to the class token in the last attention,"
    line = f"heat map: {what} of {shape[2]} × {shape[3]} places, one a label"
    made = ir.to_proto(model).SerializeToString(deterministic=True)
    tensor = Tensor(name=output.name or "", role="cam", shape=shape)
    return HeatMapOutput(made, tensor, line, source if isinstance(source, ClassToken) else None)


def find_maps(model: ir.Model) -> LastFeatureMap | ClassToken | str:
    """Where maps of a float graph come from: a last feature map, else a class token; else why it has none."""
    feature_map = find_feature_map(model)
    if not isinstance(feature_map, str):
        return feature_map
    token = find_class_token(model)
    if isinstance(token, ClassToken):
        return token
    return f"{feature_map}, and {token}" if "one token" in feature_map and token != feature_map else feature_map


def with_maps_of(quantized: ir.Model, prepared: ir.Model) -> ir.Model:
    """A copy of ``quantized`` with the maps of the float graph that it was made from.

    Raises:
        InputError: ``prepared`` has none.
    """
    source = find_maps(prepared)
    if isinstance(source, str):
        raise InputError(f"the heat map is lost on the way: {source}; export the model without --heat-map")
    changed = quantized.clone()
    _add(changed, source)
    return changed


def check_maps(mapped: HeatMapOutput, sessions: Sequence[Session], spec: ImageSpec) -> None:
    """Hold the maps of each engine against its logits on synthetic inputs.

    Raises:
        InputError: a map is not what makes up its logit.
    """
    if mapped.output is None:
        return
    inputs = make_goldens(spec, _CASES, seed=1)
    expected = None if mapped.source is None else _checked_token_maps(mapped, mapped.source, inputs)
    for session in sessions:
        rows = _run(session, inputs)
        if expected is not None:
            same = _near(np.concatenate([row[CLASS_TOKEN] for row in rows]) - expected, expected)
        else:
            logits = np.concatenate([row[session.output_names[0]] for row in rows]).astype(np.float64)
            parts = np.concatenate([row[CAM] for row in rows]).mean(axis=(2, 3), dtype=np.float64)
            same = _near(np.ptp(logits - parts, axis=0), parts)
        if not same:
            what = "class activation maps" if expected is None else "maps of the class token"
            raise InputError(f"{session.info.backend}: the {what} do not make up the logits; export without --heat-map")


def _add(model: ir.Model, source: LastFeatureMap | ClassToken) -> None:
    if isinstance(source, ClassToken):
        add_class_token_maps(model, source)
    else:
        add_maps(model, source)


def _checked_token_maps(mapped: HeatMapOutput, source: ClassToken, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """The maps ``[n, K, h, w]`` by ONNX Runtime, once they are what the last attention brings to the logits."""
    rows = _run(_with_witnesses(mapped, source), inputs)
    logits, sums, expected, read = [], [], [], []
    for row in rows:
        token, result = (row[name].reshape(source.tokens, -1)[source.row] for name in (source.read, source.output))
        deviation = np.sqrt(token.astype(np.float64).var() + source.epsilon)
        logits.append(row["logits"][0])
        sums.append(row[ALL_TOKENS].mean(axis=0, dtype=np.float64) * source.tokens / np.prod(source.grid))
        expected.append(source.weights @ (source.layer_scale * (result - source.bias)) / deviation)
        read.append(source.weights @ token / deviation)
    rest = np.array(logits) - np.array(read)
    if not (_near(np.array(sums) - expected, np.array(expected)) and _near(np.ptp(rest, axis=0), np.array(read))):
        raise InputError("the maps of the class token do not make up the logits; export without --heat-map")
    return np.concatenate([row[CLASS_TOKEN] for row in rows])


def _with_witnesses(mapped: HeatMapOutput, source: ClassToken) -> Session:
    """A session that also returns what the maps are held against."""
    import onnx_ir as ir

    model = read_graph(mapped.content)
    values = {value.name: value for node in model.graph for value in node.outputs}
    returned = {output.name for output in model.graph.outputs}
    names = dict.fromkeys((source.read, source.output, ALL_TOKENS))
    model.graph.outputs.extend(values[name] for name in names if name not in returned)
    return open_session_from_bytes("onnxruntime", [ir.to_proto(model).SerializeToString()], 1, "fp32")


def _run(session: Session, inputs: NDArray[np.float32]) -> list[Mapping[str, NDArray[np.float32]]]:
    return [session.run({session.input_names[0]: inputs[row : row + 1]}) for row in range(len(inputs))]


def _near(differences: NDArray[np.floating], parts: NDArray[np.floating]) -> bool:
    return bool(np.abs(differences).max() <= _LARGEST_SHARE * max(1.0, float(np.abs(parts).max())))
