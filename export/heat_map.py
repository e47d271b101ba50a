"""Class activation maps of a bundle's networks: put into the graph at export, kept by `quantize`, and checked.

The check needs no second implementation: a map's mean is the logit without its bias (see `cam_output`), so over cases

    d_i = z_i − mean over places of M_i        must be the same for every case i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medfm_compress.export.passes.cam_output import CAM, add_maps, cam_output, find_feature_map
from medfm_compress.export.passes.read import read_graph
from medfm_compress.runtime.bundle.manifest import Tensor
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.golden_cases import make_goldens
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.protocol import Session

if TYPE_CHECKING:
    import onnx_ir as ir

_LARGEST_SHARE = 1e-3
"""Of the logits' size: what the mean of a map may be off by, in float32."""
_CASES = 4


class HeatMapOutput(NamedTuple):
    """A graph with class activation maps, or without where it has none.

    Attributes:
        content: ONNX.
        output: of the maps; None where there is none.
        line: what is said of it; empty where none were asked for.
    """

    content: bytes
    output: Tensor | None = None
    line: str = ""


def heat_map_output(content: bytes) -> HeatMapOutput:
    """``content``, an ONNX with static shapes, with class activation maps as its last output, where it has any."""
    import onnx_ir as ir

    model = read_graph(content)
    reason = cam_output(model)
    if reason:
        return HeatMapOutput(content, line=f"no heat map: {reason}")
    shape = tuple(int(side) for side in model.graph.outputs[-1].shape or ())
    line = f"heat map: class activation maps of {shape[2]} × {shape[3]} places, one a label"
    proto = ir.to_proto(model)
    return HeatMapOutput(proto.SerializeToString(deterministic=True), Tensor(name=CAM, role="cam", shape=shape), line)


def with_maps_of(quantized: ir.Model, prepared: ir.Model) -> ir.Model:
    """A copy of ``quantized`` with the class activation maps of the float graph that it was made from.

    Raises:
        InputError: ``prepared`` has none.
    """
    feature_map = find_feature_map(prepared)
    if isinstance(feature_map, str):
        raise InputError(f"the heat map is lost on the way: {feature_map}; export the model without --heat-map")
    changed = quantized.clone()
    add_maps(changed, feature_map)
    return changed


def check_maps(mapped: HeatMapOutput, sessions: Sequence[Session], spec: ImageSpec) -> None:
    """Hold the maps of each engine against its logits on synthetic inputs.

    Raises:
        InputError: a map is not what makes up its logit.
    """
    if mapped.output is None:
        return
    inputs = make_goldens(spec, _CASES, seed=1)
    for session in sessions:
        rows = [session.run({session.input_names[0]: inputs[i : i + 1]}) for i in range(len(inputs))]
        logits = np.concatenate([row[session.output_names[0]] for row in rows]).astype(np.float64)
        parts = np.concatenate([row[CAM] for row in rows]).mean(axis=(2, 3), dtype=np.float64)
        rest = logits - parts
        if not np.ptp(rest, axis=0).max() <= _LARGEST_SHARE * max(1.0, float(np.abs(parts).max())):
            raise InputError(
                f"{session.info.backend}: the class activation maps do not make up the logits; "
                "export without --heat-map"
            )
