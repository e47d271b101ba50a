"""Small members of timm's families, seeded, as the product exports them; and in every precision for TensorRT.

Weights are not trained: acceptance depends on operators, shapes and types, not on what the weights say. Batch
normalisations are left at their start. The head has two labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from medfm_compress.compress.networks.architecture import Wanted
from medfm_compress.compress.networks.libraries import library_for
from medfm_compress.compress.quantization.activation_statistics import Statistics
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.tensorrt_graphs import write_precision
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.export.passes.read import read_graph
from medfm_compress.runtime.golden_cases import make_goldens
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

SIDE_PX = 64
CASES = 4
TASK = Task(kind="multilabel", labels=("finding", "other"))
DENSE = Task(kind="segmentation", labels=("lesion", "vessel"))

_IMAGE = {"img_size": SIDE_PX}
FAMILIES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "vit_tiny_patch16_224": {**_IMAGE, "depth": 4},
        "deit_tiny_distilled_patch16_224": {**_IMAGE, "depth": 4},
        "deit3_small_patch16_224": {**_IMAGE, "depth": 2},
        "beit_base_patch16_224": {**_IMAGE, "depth": 1},
        "eva02_tiny_patch14_224": {"img_size": 56, "depth": 2},
        "vit_small_patch14_reg4_dinov2": {"img_size": 56, "depth": 2},
        "cait_xxs24_224": {**_IMAGE, "depth": 2},
        "xcit_nano_12_p16_224": {**_IMAGE, "depth": 2},
        "swin_tiny_patch4_window7_224": {**_IMAGE, "window_size": 4, "depths": (1, 1, 2, 1)},
        "swinv2_tiny_window8_256": {**_IMAGE, "window_size": 4, "depths": (1, 1, 2, 1)},
        "pit_ti_224": {**_IMAGE},
        "pvt_v2_b0": {},
        "mixer_s32_224": {**_IMAGE},
        "poolformer_s12": {},
        "caformer_s18": {},
        "mobilevit_xxs": {},
        "mobilevitv2_050": {},
        "efficientvit_b0": {},
        "edgenext_xx_small": {},
        "fastvit_t8": {},
        "maxvit_rmlp_pico_rw_256": {**_IMAGE},
        "resnet10t": {},
        "resnext26ts": {},
        "seresnet50": {},
        "densenet121": {"block_config": (2, 2, 2, 2)},
        "efficientnet_b0": {},
        "tf_efficientnetv2_b0": {},
        "mobilenetv2_050": {},
        "mobilenetv3_small_050": {},
        "mobilenetv4_conv_small_050": {},
        "regnety_002": {},
        "repvgg_a0": {},
        "vgg11_bn": {},
        "inception_v3": {},
        "convnext_atto": {},
        "convnextv2_atto": {},
        "ghostnet_050": {},
        "hrnet_w18_small": {},
        "dla46_c": {},
        "nf_resnet26": {},
        "sequencer2d_s": {"layers": (1, 1, 1, 1)},
        "smp:unet/tu-mobilenetv3_small_050": {},
        "smp:unetplusplus/tu-mobilenetv3_small_050": {},
        "smp:fpn/tu-mobilenetv3_small_050": {},
        "smp:deeplabv3plus/tu-mobilenetv3_small_050": {},
        "smp:segformer/tu-mobilenetv3_small_050": {},
        "monai:unet": {},
        "monai:segresnet": {},
    }
)
QUICK: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "vit_tiny_patch16_224": {**_IMAGE, "depth": 2},
        "swin_tiny_patch4_window7_224": {**_IMAGE, "window_size": 4, "depths": (1, 2), "num_heads": (3, 6)},
        "convnext_atto": {"depths": (1, 1, 1, 1)},
        "resnet10t": {},
        "densenet121": {"block_config": (2, 2)},
        "mobilenetv3_small_050": {},
        "smp:unet/tu-mobilenetv3_small_050": {},
    }
)
LARGER_PX = {"inception_v3": 96}  # its strides leave nothing of 64 px


def network(name: str, options: Mapping[str, Any]) -> tuple[nn.Module, ImageSpec, Task]:
    """A seeded network, its input and its task: a segmentation where the name says the library before a colon."""
    torch.manual_seed(0)
    side = options.get("img_size", LARGER_PX.get(name, SIDE_PX))
    spec = ImageSpec(height_px=side, width_px=side, colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
    if ":" in name:
        library, inner = library_for(name, DENSE)
        return library.create(library.draft(inner, Wanted(len(DENSE.labels), 3, side, {}))).eval(), spec, DENSE
    return timm.create_model(name, num_classes=len(TASK.labels), **options).eval(), spec, TASK


class Exported:
    """One network as the product exports it, and its graphs for TensorRT."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        module, spec, task = network(name, options)
        self.fp32 = export_onnx(module, spec, task).content
        self.cases = make_goldens(spec, CASES, 1).astype(np.float32)
        self._statistics: Statistics | None = None

    def graph(self, precision: str) -> bytes:
        """The serialized graph in ``precision``."""
        import onnx_ir as ir

        if self._statistics is None and precision not in ("fp32", "fp16", "bf16"):
            self._statistics = calibrate(self.fp32, [self.cases])
        written = write_precision(read_graph(self.fp32), precision, self._statistics)
        return bytes(ir.to_proto(written.model).SerializeToString())
