#!/usr/bin/env bash
# The networks of docs/results/int8-cpu.md, trained briefly on chest X-rays so that their logits mean something.
#
#   bash experiments/int8_cpu_models.sh STUDY OUT [MODEL…]
#
# STUDY is a folder with cases.csv (image, split, label, patient) whose official train and test splits are kept apart by
# patient here. Each model leaves OUT/<model>/ (model folder), OUT/<model>.medfm and OUT/<model>.onnx. What is in OUT
# already is kept. One processor is enough: 2 to 8 minutes a model.
set -euo pipefail
study=$1 out=$2
shift 2
mkdir -p "$out"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

step() { # step FILE COMMAND…: run COMMAND unless FILE is there
  local made=$1
  shift
  [ -e "$made" ] || "$@"
}

# STUDY's cases dealt out again: `cut OUT.csv TRAIN` takes TRAIN training and 128 validation cases of the train split, 100
# of the test split, half of each normal, a patient in one split only.
cut() {
  python - "$study" "$1" "$2" <<'PY'
import csv
import random
import sys
from pathlib import Path

folder, out, train = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), int(sys.argv[3])
rows = list(csv.DictReader((folder / "cases.csv").open(newline="")))
random.Random(0).shuffle(rows)
held = {row["patient"] for row in rows if row["split"] == "test"}
chosen, owner = {}, {}
for name, source, count in (("test", "test", 100), ("val", "train", 128), ("train", "train", train)):
    wanted = {"normal": count // 2, "pneumonia": count // 2}
    for row in rows:
        image, patient, label = row["image"], row["patient"], row["label"]
        clash = owner.get(patient, name) != name or (name != "test" and patient in held)
        if row["split"] != source or clash or image in chosen or not wanted[label]:
            continue
        wanted[label] -= 1
        owner[patient] = name
        chosen[image] = (folder / image, name, label, patient)
with out.open("w", newline="") as file:
    csv.writer(file).writerows((("image", "split", "label", "patient"), *chosen.values()))
PY
}
step "$out/study.csv" cut "$out/study.csv" 300

finetune() { # finetune STUDY MODEL PIXELS EPOCHS RATE OUT [OPTION…]
  local study=$1 name=$2 pixels=$3 epochs=$4 rate=$5 out=$6
  shift 6
  step "$out/model.json" medfm-compress finetune "$name" --study "$study" --image-size "$pixels" --colour rgb \
    --epochs "$epochs" --batch-size 16 --learning-rate "$rate" --patience 0 --precision "${PRECISION:-bf16}" \
    --device cpu --seed 0 --licence "CC BY 4.0 (trained from scratch on chest X-rays of Kermany et al. 2018)" \
    --out "$out" "$@"
  rm -rf "$out/training"
}

pack() { # pack NAME: its bundle and its plain graph
  local name=$1
  step "$out/$name.medfm" medfm-compress export "$out/$name" --study "$out/study.csv" --out "$out/$name.medfm"
  step "$out/$name.onnx" python - "$out/$name.medfm" "$out/$name.onnx" <<'PY'
import sys
from pathlib import Path

from medfm_compress.runtime.bundle.bundle import Bundle

bundle = Bundle.open(sys.argv[1])
member = next(v.files[0] for v in bundle.manifest.variants if v.precision == "fp32" and v.files[0].endswith(".onnx"))
Path(sys.argv[2]).write_bytes(bundle.read(member))
PY
}

# A ViT learns nothing from 300 images in minutes: it sees many of 96 px first, and its position embeddings are stretched.
vit() { # vit NAME EPOCHS: on 3,265 images of 96 px (all that keep patients apart), then two on 300 of 224 px
  local coarse=$out/coarse/$1
  mkdir -p "$out/coarse"
  step "$out/coarse/study-4000.csv" cut "$out/coarse/study-4000.csv" 4000
  finetune "$out/coarse/study-4000.csv" "$1" 96 "$2" 0.0005 "$coarse" --batch-size 32
  step "$coarse/stretched.safetensors" python - "$coarse" <<'PY'
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed

folder = Path(sys.argv[1])
tensors = load_file(folder / "model.safetensors")
tensors["pos_embed"] = resample_abs_pos_embed(tensors["pos_embed"], [14, 14], num_prefix_tokens=1).contiguous()
save_file(tensors, folder / "stretched.safetensors")
PY
  finetune "$out/study.csv" "$1" 224 2 0.0003 "$out/$1" --weights "$coarse/stretched.safetensors"
}

# ViT-B starts as a wider DeiT-tiny: copies of its channels, each shared among k, compute the same (Net2Net, Chen
# et al. 2016); noise of a twentieth of each weight makes the copies differ.
wide() { # wide NAME FACTOR
  local start=$out/coarse/$1.safetensors
  train deit_tiny_patch16_224
  mkdir -p "$out/coarse"
  step "$start" python - "$out/deit_tiny_patch16_224" "$2" "$start" <<'PY'
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

folder, k, out = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.manual_seed(0)


def widened(name, tensor):
    if name.startswith("head.bias"):
        return tensor
    if name.startswith("head"):
        return tensor.tile(1, k) / k
    if "qkv" in name:
        parts = tensor.reshape(3, -1, *tensor.shape[1:])
        wide = parts.tile(1, k, k) / k if parts.ndim == 3 else parts.tile(1, k)
        return wide.reshape(-1, *wide.shape[2:])
    if name.startswith("patch_embed") and tensor.ndim == 4:
        return tensor.tile(k, 1, 1, 1)
    if tensor.ndim == 2:
        return tensor.tile(k, k) / k
    return tensor.tile(*[1] * (tensor.ndim - 1), k)  # biases, norms, embeddings of class and position


def disturbed(tensor):
    return (tensor * (1 + 0.05 * torch.randn_like(tensor))).contiguous() if tensor.ndim > 1 else tensor.contiguous()


tensors = load_file(folder / "model.safetensors")
save_file({name: disturbed(widened(name, tensor)) for name, tensor in tensors.items()}, out)
PY
  finetune "$out/study.csv" "$1" 224 0 0.0001 "$out/$1" --weights "$start"
}

cnn() { # cnn NAME EPOCHS [CASES]: at 96 px, which costs a fifth; filters and statistics are then used at 224 px as they are
  local coarse=$out/coarse/$1 cases=$out/study.csv
  mkdir -p "$out/coarse"
  if [ -n "${3:-}" ]; then
    cases=$out/coarse/study-$3.csv
    step "$cases" cut "$cases" "$3"
  fi
  finetune "$cases" "$1" 96 "$2" 0.001 "$coarse"
  finetune "$out/study.csv" "$1" 224 0 0.001 "$out/$1" --weights "$coarse/model.safetensors"
}

train() {
  case $1 in
    vit_base_*) wide "$1" 4 ;;
    vit_small_* | deit_*) vit "$1" 10 ;;
    resnet50 | densenet121) cnn "$1" 3 ;;
    convnext_* | regnety_* | efficientnetv2_*) cnn "$1" 4 1000 ;;
    swin_* | tiny_vit_* | coatnet_* | maxvit_*) finetune "$out/study.csv" "$1" 224 5 0.0005 "$out/$1" ;;
    efficientformer_l1) finetune "$out/study.csv" "$1" 224 4 0.001 "$out/$1" ;;
    *) finetune "$out/study.csv" "$1" 224 5 0.001 "$out/$1" ;;
  esac
  pack "$1"
}

[ $# -gt 0 ] || set -- resnet18 mobilenetv3_large_100 deit_tiny_patch16_224 mobilevitv2_100 efficientformer_l1 densenet121 \
  vit_small_patch16_224 resnet50 convnext_tiny swin_tiny_patch4_window7_224 efficientnetv2_rw_t regnety_032 \
  tiny_vit_11m_224 coatnet_nano_rw_224
for name; do train "$name"; done
