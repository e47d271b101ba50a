#!/usr/bin/env bash
# The networks of docs/results/int8-cpu.md, trained briefly on chest X-rays so that their logits mean something.
#
#   bash bench/scripts/int8_cpu_models.sh STUDY OUT [MODEL…]
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
  step "$out/model.json" medfm-compress finetune "$study" --model "$name" --image-size "$pixels" --colour rgb \
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

from medfm_compress.runtime.bundle import Bundle

bundle = Bundle.open(sys.argv[1])
member = next(v.files[0] for v in bundle.manifest.variants if v.precision == "fp32" and v.files[0].endswith(".onnx"))
Path(sys.argv[2]).write_bytes(bundle.read(member))
PY
}

# A ViT learns nothing from 300 images in minutes: it sees many small ones first, and its position embeddings are stretched.
vit() { # vit NAME IMAGES_OF_64_PX THEIR_EPOCHS IMAGES_OF_224_PX THEIR_EPOCHS
  local coarse=$out/coarse/$1
  mkdir -p "$out/coarse"
  step "$out/coarse/study-$2.csv" cut "$out/coarse/study-$2.csv" "$2"
  step "$out/coarse/study-$4.csv" cut "$out/coarse/study-$4.csv" "$4"
  finetune "$out/coarse/study-$2.csv" "$1" 64 "$3" 0.001 "$coarse"
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
  finetune "$out/coarse/study-$4.csv" "$1" 224 "$5" 0.0003 "$out/$1" --weights "$coarse/stretched.safetensors"
}

cnn() { # cnn NAME THEIR_EPOCHS: at 96 px, which costs a fifth; its filters and statistics then meet 224 px in one short epoch
  local coarse=$out/coarse/$1
  mkdir -p "$out/coarse"
  step "$out/coarse/study-100.csv" cut "$out/coarse/study-100.csv" 100
  finetune "$out/study.csv" "$1" 96 "$2" 0.001 "$coarse"
  finetune "$out/coarse/study-100.csv" "$1" 224 1 0.0003 "$out/$1" --weights "$coarse/model.safetensors"
}

train() {
  case $1 in
    vit_base_*) vit "$1" 600 2 100 1 ;;
    vit_small_*) vit "$1" 1000 3 100 1 ;;
    deit_*) vit "$1" 2000 8 300 2 ;;
    resnet50 | densenet121) cnn "$1" 4 ;;
    efficientformer_l1) finetune "$out/study.csv" "$1" 224 2 0.001 "$out/$1" ;;
    *) finetune "$out/study.csv" "$1" 224 5 0.001 "$out/$1" ;;
  esac
  pack "$1"
}

[ $# -gt 0 ] || set -- resnet18 mobilenetv3_large_100 deit_tiny_patch16_224 mobilevitv2_100 efficientformer_l1 densenet121 \
  vit_small_patch16_224 resnet50 vit_base_patch16_224
for name; do train "$name"; done
