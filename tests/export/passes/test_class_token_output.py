"""Maps of a class token: their sum is what the last attention brings to the logits, by PyTorch's own numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from medfm_compress.compress.quantization.build_candidate import GraphBuilder, portable
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.methods import Method
from medfm_compress.export.heat_map import check_maps, heat_map_output
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.export.passes.cam_output import remove_maps
from medfm_compress.export.passes.pipeline import for_onnxruntime
from medfm_compress.export.passes.read import read_graph
from medfm_compress.runtime.class_activation import CLASS_TOKEN
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.onnxruntime import from_bytes
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.task import Task

SPEC = ImageSpec(height_px=32, width_px=48, colour="grey", mean=(0.5,), std=(0.25,))
TASK = Task(kind="multiclass", labels=("a", "b", "c"))
KINDS = {
    "plain": {},
    "layer-scale": {"init_values": 0.3},
    "registers": {"reg_tokens": 2},
    "no-bias": {"qkv_bias": False, "proj_bias": False},
}


def vit(**arguments):
    torch.manual_seed(0)
    sizes = {"img_size": (32, 48), "patch_size": 8, "in_chans": 1, "embed_dim": 32, "depth": 2, "num_heads": 4}
    module = VisionTransformer(num_classes=3, **sizes, **arguments).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def images(count=4):
    return np.random.default_rng(0).normal(size=(count, *SPEC.shape)).astype(np.float32)


def expected(module, image):
    """What every patch brings, by nothing that the export uses: one patch's value alone, through proj and norm."""
    block, seen = module.blocks[-1], {}
    handles = [
        block.attn.register_forward_pre_hook(lambda _, inputs: seen.update(tokens=inputs[0])),
        module.norm.register_forward_pre_hook(lambda _, inputs: seen.update(last=inputs[0])),
    ]
    with torch.no_grad():
        module(torch.from_numpy(image))
        [handle.remove() for handle in handles]
        attention, tokens = block.attn, seen["tokens"]
        count, width = tokens.shape[1], tokens.shape[2]
        heads = attention.num_heads
        q, k, v = attention.qkv(tokens).reshape(count, 3, heads, width // heads).permute(1, 2, 0, 3)
        row = (q[:, 0:1] @ k.transpose(1, 2) * attention.scale).softmax(-1)[:, 0]
        last = seen["last"][0, 0]
        deviation = (last.var(unbiased=False) + module.norm.eps).sqrt()
        maps = []
        for patch in range(module.num_prefix_tokens, count):
            alone = torch.nn.functional.linear((row[:, patch, None] * v[:, patch]).reshape(-1), attention.proj.weight)
            alone = block.ls1(alone[None, None])[0, 0]
            maps.append(module.head.weight @ (module.norm.weight * (alone - alone.mean()) / deviation))
        places = count - module.num_prefix_tokens
        return (torch.stack(maps, 1) * places).reshape(-1, 4, 6).numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "fused"])
def test_a_map_is_what_its_patch_brings(kind, engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    module = vit(**KINDS[kind])
    exported = export_onnx(module, SPEC, TASK).content
    mapped = heat_map_output(exported)
    assert mapped.output is not None and mapped.output.shape == (1, 3, 4, 6), mapped.line
    assert "class token" in mapped.line and mapped.output.name == CLASS_TOKEN and mapped.output.role == "cam"
    if engine == "openvino":
        from medfm_compress.export.openvino_ir import to_openvino_ir

        session = open_session_from_bytes("openvino", list(to_openvino_ir(mapped.content)), 1, "fp32")
    elif engine == "fused":
        from medfm_compress.export.heat_map import with_maps_of

        fused = for_onnxruntime(read_graph(exported), quantized=True)[0]
        assert any(node.op_type == "MultiHeadAttention" for node in fused.graph)
        session = from_bytes([ir.to_proto(with_maps_of(fused, fused)).SerializeToString()], 1)
    else:
        session = from_bytes([mapped.content], 1)
    check_maps(mapped, [session], SPEC)
    for image in images():
        outputs = session.run({"image": image})
        wanted = expected(module, image)
        assert outputs[CLASS_TOKEN][0] == pytest.approx(wanted, abs=2e-4 * float(np.abs(wanted).max()))
        with torch.no_grad():
            assert outputs["logits"] == pytest.approx(module(torch.from_numpy(image)).numpy(), abs=1e-3)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("method", [Method(), Method(placement="dynamic"), Method(weight_bits=8)], ids=str)
def test_quantization_keeps_them(backend, method):
    if backend == "openvino":
        pytest.importorskip("openvino")
        if method.placement == "dynamic":
            pytest.skip("a placement of ONNX Runtime")
    module, inputs = vit(), images(8)[:, 0]
    source = portable(heat_map_output(export_onnx(module, SPEC, TASK).content).content)
    builder = GraphBuilder(source, calibrate(source, iter([inputs]), threads=1), inputs, TASK)
    precision = "int8-weights" if method.weight_bits else "int8"
    session = open_session_from_bytes(backend, list(builder.build(backend, method)), 1, precision)
    assert session.output_names == ("logits", CLASS_TOKEN)
    for image in images(2):
        wanted, found = expected(module, image), session.run({"image": image})[CLASS_TOKEN][0]
        assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.95


def test_they_are_taken_away_again():
    exported = export_onnx(vit(), SPEC, TASK).content
    model = read_graph(heat_map_output(exported).content)
    plain = [node.op_type for node in read_graph(exported).graph]
    assert len(list(model.graph)) > len(plain) and remove_maps(model)
    assert [node.op_type for node in model.graph] == plain and [out.name for out in model.graph.outputs] == ["logits"]


@pytest.mark.parametrize("broken", ["cam_directions", "cam_mean"])
def test_maps_that_do_not_make_up_the_logits_are_refused(broken):
    mapped = heat_map_output(export_onnx(vit(), SPEC, TASK).content)
    model = read_graph(mapped.content)
    weights = model.graph.initializers[broken]
    weights.const_value = ir.tensor(1.1 * weights.const_value.numpy(), name=broken)
    content = ir.to_proto(model).SerializeToString()
    with pytest.raises(InputError, match="do not make up the logits"):
        check_maps(mapped._replace(content=content), [from_bytes([content], 1)], SPEC)
    with pytest.raises(InputError, match="do not make up the logits"):  # an engine's alone
        check_maps(mapped, [from_bytes([content], 1)], SPEC)


REFUSED = {
    "relative positions": (
        "beit_base_patch16_224",
        {"global_pool": "token", "embed_dim": 32, "num_heads": 2, "depth": 1},
        "its last attention is not of the form",
    ),
    "two heads": ("deit_tiny_distilled_patch16_224", {"embed_dim": 32, "num_heads": 2, "depth": 1}, "joins 2 values"),
    "normed queries": ("vit_tiny_patch16_224", {"qk_norm": True, "embed_dim": 32, "num_heads": 2, "depth": 1}, "form"),
    "attention pooling": (
        "vit_tiny_patch16_224",
        {"global_pool": "map", "embed_dim": 32, "num_heads": 2, "depth": 1},
        "no heat map",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_forms_say_why(kind):
    name, arguments, reason = REFUSED[kind]
    module = timm.create_model(name, img_size=(32, 48), patch_size=8, in_chans=1, num_classes=3, **arguments).eval()
    content = export_onnx(module, SPEC, TASK).content
    mapped = heat_map_output(content)
    assert mapped.output is None and mapped.content == content and reason in mapped.line, mapped.line
