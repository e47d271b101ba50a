"""The product's own ``bench`` on GPU targets: a small teacher and student, trained here, in every target that is here.

    python experiments/gpu/bench_targets.py WORK OUT.json [--tiny]

The bundle holds the student's ONNX file as FP32 variants for the CPU, ONNX Runtime's providers and TensorRT, and what
``quantize`` makes for TensorRT. Targets that this machine lacks are said. ``--tiny`` is small and runs on a CPU.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from medfm_compress import steps
from medfm_compress.bench.types.target import DEVICES, TORCH_BACKENDS, Target
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.data.synthetic import draw_study
from medfm_compress.onnx_model import CaseSource
from medfm_compress.runtime.bundle.bundle import Bundle, golden_member, write_bundle
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.step_settings import DistillStep, ExportStep, FinetuneStep
from medfm_compress.teacher_baselines import unavailable

MADE = ("tensorrt:cuda:fp16", "tensorrt:cuda:bf16", "tensorrt:cuda:int8")
LIMIT = 0.2  # of the relative logit error: here a variant is to be timed, not to be shipped
GPU = (("onnxruntime", "cuda"), ("onnxruntime", "tensorrt"), ("tensorrt", "cuda"))
POLICY = "non_inferiority: [{metric: auroc, margin: 0.05}]\nmin_positives: 5\nmin_negatives: 5\nmin_clusters: 5\n"
NETWORKS = {True: ("test_resnet", "test_resnet"), False: ("resnet26t", "resnet10t")}


def progress(line: str) -> None:
    """Show one line."""
    sys.stdout.write(f"  {line}\n")
    sys.stdout.flush()


def make_bundle(work: Path, *, tiny: bool) -> Path:
    """A teacher and a student on the synthetic study, and a bundle of the student with variants for GPUs."""
    study, bundle = work / "study", work / "gpu.medfm"
    if bundle.is_file():
        return bundle
    if not (study / "cases.csv").is_file():
        draw_study(study, patients=60 if tiny else 200, seed=0, size_px=64 if tiny else 256)
    training = msgspec.convert({"epochs": 2, "learning_rate": 5e-4, "ema": 0.9}, TrainingConfig)
    teacher, student = NETWORKS[tiny]
    size_px = 64 if tiny else 224
    if not (work / "teacher").is_dir():
        finetune = FinetuneStep(model=teacher, image_size=size_px, training=training)
        steps.finetune(study, finetune, progress, work / "teacher")
    if not (work / "student").is_dir():
        sources = (TeacherSource(source=str(work / "teacher")),)
        steps.distill(study, sources, DistillStep(student=student, training=training), progress, work / "student")
    steps.export(work / "student", study, ExportStep(), "gpu", "", progress, work / "cpu.medfm")
    options = QuantizeOptions(samples=16 if tiny else 128, validation_samples=32, targets=MADE, error_limit=LIMIT)
    steps.quantize(CaseSource(study), work / "cpu.medfm", options, progress, work / "quantized.medfm")
    add_variants(work / "quantized.medfm", bundle)
    return bundle


def add_variants(path: Path, out: Path) -> None:
    """Write ``out``: the bundle at ``path`` with its FP32 ONNX file declared for every device of `GPU` as well."""
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    plain = next(v for v in manifest.variants if (v.backend, v.precision) == ("onnxruntime", "fp32"))
    files = {member.path: bundle.read(member.path) for member in manifest.members}
    added = []
    for backend, device in GPU:
        variant = Variant(
            name=f"{backend}-{device}-fp32",
            files=plain.files,
            backend=backend,  # type: ignore[arg-type]
            device=device,  # type: ignore[arg-type]
            precision="fp32",
            golden_tolerance=plain.golden_tolerance,
        )
        files[golden_member(variant.name)] = bundle.read(golden_member(plain.name))
        added.append(variant)
    write_bundle(out, msgspec.structs.replace(manifest, variants=(*manifest.variants, *added)), files)


def targets_here(*, tiny: bool) -> list[str]:
    """Every target of the bundle's CPU variant, of GPUs and of PyTorch that this machine can run."""
    here = ["onnxruntime:cpu", *(f"{backend}:{device}" for backend, device in GPU)]
    for backend in TORCH_BACKENDS:
        precisions = DEVICES[backend]["cpu" if tiny else "cuda"]
        here += [f"{backend}:{'cpu' if tiny else 'cuda'}:{precision}" for precision in precisions]
    reasons = {target: unavailable(Target.parse(target)) for target in here}
    for target, reason in reasons.items():
        if reason:
            progress(f"{target}: {reason}")
    return [target for target, reason in reasons.items() if not reason]


def main() -> None:
    """Bundle, bench, and the report's two files into the folder of OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    request = parser.parse_args()
    request.work.mkdir(parents=True, exist_ok=True)
    bundle = make_bundle(request.work, tiny=request.tiny)
    policy, report = request.work / "policy.yaml", request.work / "bench"
    policy.write_text(POLICY)
    command = [sys.executable, "-m", "medfm_compress", "bench", str(bundle), "--out", str(report), "--overwrite"]
    command += ["--teacher", str(request.work / "teacher"), "--study", str(request.work / "study")]
    command += ["--policy", str(policy), "--batch-sweep", "--rounds", "3" if request.tiny else "20", "--turn", "50ms"]
    for target in targets_here(tiny=request.tiny):
        command += ["--target", target]
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    shutil.copyfile(report / "report.json", request.out)
    shutil.copyfile(report / "report.html", request.out.with_suffix(".html"))


if __name__ == "__main__":
    main()
