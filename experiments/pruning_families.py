"""Prune a small member of every family of networks to half its MACs, and write down what happened.

    python experiments/pruning_families.py table             # all families → docs/pruning/families.md, some minutes
    python experiments/pruning_families.py table resnet10t   # only its row, the others stay; or smp:unet/NAME …
    python experiments/pruning_families.py reload FOLDER     # in a fresh process: do the saved networks answer alike?

Networks are untrained, with random normalisation statistics, layer scales and position tables, so that nothing is an
identity by accident. A family is either pruned, saved, loaded again in a fresh process (equal to the bit) and exported
(within `PARITY` of the largest logit; segmentations in OpenVINO too), or refused with a sentence that says why.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import nn

from medfm_compress.compress.networks.architecture import Architecture, Wanted
from medfm_compress.compress.networks.libraries import library_for
from medfm_compress.compress.networks.model import Model, create_module, load_model, save_model
from medfm_compress.compress.pruning.apply import DOES_NOT_RUN
from medfm_compress.compress.pruning.goal import PruningGoal
from medfm_compress.compress.pruning.prune import PrunedModule, prune_module
from medfm_compress.compress.pruning.sensitivity import ValidationSet
from medfm_compress.compress.pruning.width_search import PruningData
from medfm_compress.runtime.errors import MedfmError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

PAGE = Path(__file__).parents[1] / "docs" / "pruning" / "families.md"
PARITY = 1e-5  # largest difference of a logit, relative to the largest logit
TASK = Task(kind="binary", labels=("normal", "opacity"))
DENSE = Task(kind="segmentation", labels=("lesion",))

State = Literal["pruned", "refused", "crashed"]


@dataclass(frozen=True)
class Family:
    """A small member of a family.

    Attributes:
        name: of the family.
        network: timm name, or what the command line calls a network of another library.
        px: height and width.
        arguments: of ``timm.create_model``; they make the network small.
        round_to: widths are multiples of it; 8 where the network is too narrow for 16.
        quick: whether pruning and loading again takes about a second.
    """

    name: str
    network: str
    px: int = 64
    arguments: dict[str, Any] = field(default_factory=dict)
    round_to: int = 16
    quick: bool = False

    def build(self) -> Model:
        """An untrained model whose every parameter matters."""
        torch.manual_seed(0)
        architecture = Architecture(name=self.network, arguments={"num_classes": 2, **self.arguments})
        if self.is_dense:
            library, name = library_for(self.network, DENSE)
            architecture = library.draft(name, Wanted(1, 3, self.px, dict(self.arguments)))
        module = create_module(architecture)
        _stir(module)
        black, white = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        spec = ImageSpec(height_px=self.px, width_px=self.px, colour="rgb", mean=black, std=white)
        return Model(self.name, module, spec, DENSE if self.is_dense else TASK, architecture)

    @property
    def is_dense(self) -> bool:
        """Whether it answers for every pixel."""
        return ":" in self.network

    @property
    def place(self) -> str:
        """A folder's name."""
        return self.network.replace(":", "-").replace("/", "-")

    def images(self, count: int = 2) -> torch.Tensor:
        """Float32 ``[count, 3, px, px]``, 0 to 1, the same every time."""
        return torch.rand(count, 3, self.px, self.px, generator=torch.Generator().manual_seed(1))


def _stir(module: nn.Module) -> None:
    """Give normalisations statistics, and parameters that start at a constant (tables, layer scales) a value each."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                part.running_mean.normal_(std=0.1)
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_var is not None:
                part.running_var.uniform_(0.5, 1.5)
        for parameter in module.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                middle = 1.0 if parameter.flatten()[0] == 1 else 0.0
                parameter.copy_(middle + 0.2 * torch.randn(parameter.shape))


SMALL_VIT: dict[str, Any] = {"img_size": 64, "depth": 2}
NARROW_VIT: dict[str, Any] = {**SMALL_VIT, "embed_dim": 192, "num_heads": 3}
SMALL_SWIN: dict[str, Any] = {
    "img_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4
}  # fmt: skip
ONE_BLOCK: dict[str, Any] = {"layers": [1, 1, 1, 1]}
ONE_DEPTH: dict[str, Any] = {"depths": [1, 1, 1, 1]}

FAMILIES = (
    Family("ViT", "vit_tiny_patch16_224", arguments=SMALL_VIT, quick=True),
    Family("DeiT, distilled", "deit_tiny_distilled_patch16_224", arguments=SMALL_VIT, quick=True),
    Family("DINOv2, registers", "vit_small_patch14_reg4_dinov2", 56, {"img_size": 56, "depth": 2}),
    Family("DINOv3", "vit_small_patch16_dinov3", arguments=SMALL_VIT),
    Family("RoPE ViT", "vit_small_patch16_rope_224", arguments=SMALL_VIT, quick=True),
    Family("RoPE ViT, learnt", "vit_small_patch16_rope_mixed_224", arguments=SMALL_VIT),
    Family("SigLIP", "vit_base_patch16_siglip_224", arguments=NARROW_VIT),
    Family("EVA-02, SwiGLU", "eva02_tiny_patch14_224", 56, {"img_size": 56, "depth": 2}),
    Family("BEiT", "beit_base_patch16_224", arguments=NARROW_VIT, quick=True),
    Family("Swin", "swin_tiny_patch4_window7_224", arguments=SMALL_SWIN, quick=True),
    Family("Swin v2", "swinv2_tiny_window8_256", arguments=SMALL_SWIN),
    Family("CaiT", "cait_xxs24_224", arguments=SMALL_VIT),
    Family("XCiT", "xcit_nano_12_p8_224", arguments=SMALL_VIT),
    Family("PVT v2", "pvt_v2_b0"),
    Family("CoAtNet", "coatnet_pico_rw_224", arguments={"img_size": 64}),
    Family("MaxViT", "maxvit_pico_rw_256", arguments={"img_size": 64}),
    Family("MobileViT", "mobilevit_xxs"),
    Family("MobileViT v2", "mobilevitv2_050", quick=True),
    Family("EdgeNeXt", "edgenext_xx_small"),
    Family("FastViT", "fastvit_t8", arguments=ONE_BLOCK),
    Family("FastViT, attention", "fastvit_sa12", arguments=ONE_BLOCK),
    Family("PoolFormer", "poolformer_s12"),
    Family("ResNet", "resnet10t", quick=True),
    Family("Wide ResNet", "wide_resnet50_2", arguments=ONE_BLOCK),
    Family("ResNeXt", "resnext50_32x4d", arguments=ONE_BLOCK, quick=True),
    Family("SE-ResNet", "seresnet50", arguments=ONE_BLOCK),
    Family("ResNet v2", "resnetv2_50", arguments=ONE_BLOCK),
    Family("Res2Net", "res2net50_26w_4s", arguments=ONE_BLOCK),
    Family("RegNet X", "regnetx_002"),
    Family("RegNet Y", "regnety_002"),
    Family("DenseNet", "densenet121", arguments={"block_config": [2, 2, 2, 2]}, quick=True),
    Family("VGG", "vgg11_bn", arguments={"mlp_ratio": 0.0625}),
    Family("HRNet", "hrnet_w18_small"),
    Family("MobileNet v2", "mobilenetv2_050"),
    Family("MobileNet v3", "mobilenetv3_small_050", quick=True),
    Family("EfficientNet", "efficientnet_b0"),
    Family("GhostNet", "ghostnet_050"),
    Family("RepVGG", "repvgg_a0"),
    Family("HGNet v2", "hgnetv2_b0"),
    Family("ConvNeXt", "convnext_atto", arguments=ONE_DEPTH, quick=True),
    Family("ConvNeXt v2", "convnextv2_atto", arguments=ONE_DEPTH),
    Family("InceptionNeXt", "inception_next_atto", 96, ONE_DEPTH),
    Family("MambaOut", "mambaout_femto", arguments=ONE_DEPTH),
    Family("EfficientFormer", "efficientformer_l1", 224),
    Family("EfficientFormer v2", "efficientformerv2_s0", 224),
    Family("TinyViT", "tiny_vit_5m_224", 224),
    Family("LeViT", "levit_128s", 224, round_to=8),
    Family("PiT", "pit_ti_224", 224),
    Family("CrossViT", "crossvit_tiny_240", 240),
    Family("U-Net", "smp:unet/tu-mobilenetv3_small_100", round_to=8, quick=True),
    Family("U-Net++", "smp:unetplusplus/tu-mobilenetv3_small_100", round_to=8),
    Family("FPN", "smp:fpn/tu-mobilenetv3_small_100", quick=True),
    Family("DeepLabV3+", "smp:deeplabv3plus/tu-mobilenetv3_small_100"),
    Family("SegFormer's decoder", "smp:segformer/tu-mobilenetv3_small_100"),
    Family("SegFormer, MiT encoder", "smp:segformer/mit_b0"),
    Family("UPerNet", "smp:upernet/tu-mobilenetv3_small_100"),
    Family("LinkNet", "smp:linknet/tu-mobilenetv3_small_100", round_to=8),
    Family("MONAI UNet", "monai:unet", round_to=8, quick=True),
    Family("MONAI BasicUNet", "monai:basicunet", round_to=8),
    Family("MONAI DynUNet", "monai:dynunet", round_to=8),
    Family("MONAI SegResNet", "monai:segresnet", round_to=8),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a family; empty where it was refused or not tried.

    Attributes:
        family: which.
        state: ``pruned``, ``refused`` with a sentence, or ``crashed``, which is a mistake of ours.
        kept: fraction of the MACs.
        shrinks: kinds of units that became narrower, with their number.
        protected: distinct reasons why something stayed as it was.
        refusal: what the error said.
        reload: whether a fresh process answers the same, to the bit.
        parity: ONNX Runtime against PyTorch, relative to the largest logit.
    """

    family: Family
    state: State
    kept: float = 0.0
    shrinks: str = ""
    protected: tuple[str, ...] = ()
    refusal: str = ""
    reload: bool | None = None
    parity: float | None = None


def prune_family(family: Family, folder: Path) -> tuple[Outcome, Model | None]:
    """Prune a family to half its MACs and save it into ``folder``, with two images and its answers to them."""
    model = family.build()
    try:
        goal = PruningGoal(macs=0.5, round_to=family.round_to, allocation="measured")
        small = prune_module(model.module, family.images(1), goal, PruningData(validation=_validation_set(family)))
    except MedfmError as exc:
        return Outcome(family, "refused", refusal=str(exc)), None
    except Exception as exc:  # noqa: BLE001  (the table shows it and the test fails)
        return Outcome(family, "crashed", refusal=f"{type(exc).__name__}: {exc}"), None
    plan = msgspec.to_builtins(small.plan)
    architecture = msgspec.structs.replace(model.architecture, pruning=plan)
    pruned = dataclasses.replace(model, module=small.module, architecture=architecture)
    _save(pruned, family, folder)
    kept = small.plan.macs_after / small.plan.macs_before
    reasons = tuple(sorted({entry.reason for entry in small.protected}))
    return Outcome(family, "pruned", kept, _shrinks(small), reasons), pruned


def _validation_set(family: Family) -> ValidationSet:
    """A few random images: which widths go does not matter here, but every kind of unit has to be tried."""
    batch = (family.images(4), torch.zeros(4, 1, dtype=torch.int64))
    return ValidationSet([batch], lambda *_: None, centred=not family.is_dense)


def _shrinks(small: PrunedModule) -> str:
    kinds = Counter(change.kind for change in small.widths)
    return ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))


def _save(model: Model, family: Family, folder: Path) -> None:
    from safetensors.torch import save_file

    place = folder / family.place
    save_model(model, place)
    with torch.no_grad():
        save_file({"images": family.images(), "logits": model.module(family.images())}, place / "answers.safetensors")


def reload_all(folder: Path) -> dict[str, bool]:
    """Network → whether a fresh process, with as many threads, answers as the saved answers say, to the bit."""
    command = [sys.executable, __file__, "reload", str(folder), "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the fresh process failed: {done.stderr[-2000:]}")
    outputs: dict[str, bool] = json.loads(done.stdout.splitlines()[-1])
    return outputs


def _reload(folder: Path) -> dict[str, bool]:
    from safetensors.torch import load_file

    same = {}
    for place in sorted(path.parent for path in folder.glob("*/answers.safetensors")):
        outputs = load_file(place / "answers.safetensors")
        with torch.no_grad():
            same[place.name] = torch.equal(load_model(place).module(outputs["images"]), outputs["logits"])
    return same


def export_parity(model: Model, family: Family) -> float:
    """Largest difference of ONNX Runtime, of a segmentation OpenVINO too, to PyTorch, relative to the largest logit."""
    import onnxruntime

    from medfm_compress.export.onnx_export import export_onnx

    exported = export_onnx(model.module, model.spec, model.task)
    session = onnxruntime.InferenceSession(exported.content, providers=["CPUExecutionProvider"])
    image = family.images(1)
    answers = session.run(["logits"], {"image": image.numpy()})
    if family.is_dense:
        answers.append(_of_openvino(exported.content, image))
    with torch.no_grad():
        expected = model.module(image)
    apart = max(float((torch.from_numpy(logits) - expected).abs().max()) for logits in answers)
    return apart / float(expected.abs().max())


def _of_openvino(onnx: bytes, image: torch.Tensor) -> Any:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(onnx, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(image.numpy())[0]


def trains(model: Model, family: Family) -> bool:
    """Whether a step of training goes through the pruned network, with a finite gradient in every weight."""
    model.module.train().requires_grad_(True)
    try:
        model.module(family.images(2)).square().mean().backward()
    except DOES_NOT_RUN:
        return False
    finally:
        model.module.eval()
    return all(weight.grad is None or bool(weight.grad.isfinite().all()) for weight in model.module.parameters())


def try_families(families: Sequence[Family], folder: Path, *, export: bool) -> list[Outcome]:
    """Prune, save, load in one fresh process, and export where ``export``."""
    outcomes = []
    for family in families:
        outcome, model = prune_family(family, folder)
        if export and model is not None:
            outcome = dataclasses.replace(outcome, parity=export_parity(model, family))
        if family.is_dense and model is not None and not trains(model, family):
            outcome = dataclasses.replace(outcome, state="crashed", refusal="a step of training does not go through it")
        outcomes.append(outcome)
        sys.stderr.write(f"{row(outcome)}\n")
    same = reload_all(folder)
    return [dataclasses.replace(outcome, reload=same.get(outcome.family.place)) for outcome in outcomes]


def row(outcome: Outcome) -> str:
    """A line of the page's table."""
    family = outcome.family
    arguments = ", ".join(f"{name} {value}" for name, value in family.arguments.items())
    example = f"`{family.network}`" + (f", {arguments}" if arguments else "")
    if outcome.state != "pruned":
        cells = [family.name, example, outcome.state, "", outcome.refusal.replace("|", "/"), "", ""]
    else:
        kept = f"{outcome.kept:.3f}" + (f" (multiples of {family.round_to})" if family.round_to != 16 else "")
        parity = "" if outcome.parity is None else f"{outcome.parity:.0e}"
        reload = {True: "equal", False: "DIFFERS", None: ""}[outcome.reload]
        cells = [family.name, example, kept, outcome.shrinks, "; ".join(outcome.protected), reload, parity]
    return "| " + " | ".join(cells) + " |"


HEADER = """# Pruning, family by family

Written by `python experiments/pruning_families.py table`; do not edit. A small, untrained member of every family is
pruned to half its multiply-accumulates at widths in multiples of 16, with every lever of the default allocation
(channels, heads, token width, whole blocks), saved, loaded in a fresh process and exported to
ONNX. *Equal* means the fresh process gives the same logits to the bit; *parity* is the largest difference between ONNX
Runtime (of segmentations OpenVINO too) and PyTorch relative to the largest logit. Through a pruned segmentation a step
of training goes as well. Steps of 8 are what `prune` itself takes for a segmentation's groups of fewer than 32
channels. A family that cannot be pruned is refused with the sentence shown;
no wrong network is ever returned.

| family | example | MACs kept | what shrinks (units) | what stays and why, or the refusal | reload | parity |
|---|---|---|---|---|---|---|
"""


def _main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table")
    table.add_argument("families", nargs="*", help="timm names of the rows to write; none means all")
    reload = commands.add_parser("reload")
    reload.add_argument("folder", type=Path)
    reload.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.command == "reload":
        torch.set_num_threads(arguments.threads)
        sys.stdout.write(json.dumps(_reload(arguments.folder)) + "\n")
        return 0
    chosen = [family for family in FAMILIES if not arguments.families or family.network in arguments.families]
    with tempfile.TemporaryDirectory() as folder:
        _write({outcome.family.name: row(outcome) for outcome in try_families(chosen, Path(folder), export=True)})
    return 0


def _write(rows: dict[str, str]) -> None:
    """Put ``rows`` into the page, in the order of `FAMILIES`; rows of other families stay as they are."""
    if PAGE.exists():
        lines = (line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| "))
        rows = {**{line.split(" | ")[0].removeprefix("| "): line for line in lines}, **rows}
    table = [rows[family.name] for family in FAMILIES if family.name in rows]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(HEADER + "\n".join(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(_main())
