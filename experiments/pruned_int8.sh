#!/usr/bin/env bash
# Half of the multiplications taken away, and INT8 of what is left: how much faster than PyTorch eager, and what it costs.
#
#   bash experiments/pruned_int8.sh STUDY OUT NAME…          NAME: resnet50, densenet121, … of timm
#
# STUDY is a folder of chest X-rays with cases.csv (image, split, label, patient). Trained, pruned and judged at 128 px, on
# 1,000 training images, 128 for validation and the official test split, whose patients are in no other split; timed at
# 224 px, where the same filters run. Leaves OUT/NAME/: teacher, pruned, bundles and reports. What is in OUT is kept. One
# processor is enough: 15 to 35 minutes a network; where a CPU with AMX is as fast in bf16 as in INT8, that ships and is judged.
# PRECISION=fp32 where the processor has no bf16 of its own.
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

cut() { # cut OUT.csv TEST: TEST images of the official test split
  python - "$study" "$1" "$2" <<'PY'
import csv
import random
import sys
from pathlib import Path

folder, out, tested = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), int(sys.argv[3])
rows = list(csv.DictReader((folder / "cases.csv").open(newline="")))
random.Random(0).shuffle(rows)
held = {row["patient"] for row in rows if row["split"] == "test"}
chosen, owner = {}, {}
for name, source, count in (("test", "test", tested), ("val", "train", 128), ("train", "train", 1000)):
    wanted = {"normal": count // 2, "pneumonia": count}
    for row in rows:
        patient, label = row["patient"], row["label"]
        clash = owner.get(patient, name) != name or (name != "test" and patient in held)
        taken = sum(split == name for _, split, _, _ in chosen.values())
        if row["split"] != source or clash or row["image"] in chosen or not wanted[label] or taken >= count:
            continue
        wanted[label] -= 1
        owner[patient] = name
        chosen[row["image"]] = (folder / row["image"], name, label, patient)
with out.open("w", newline="") as file:
    csv.writer(file).writerows((("image", "split", "label", "patient"), *chosen.values()))
PY
}

at_224() { # at_224 FOLDER OUT: the same network for images of 224 px
  python - "$1" "$2" <<'PY'
import sys
from dataclasses import replace

import msgspec

from medfm_compress.compress.networks.model import load_model, save_model

model = load_model(sys.argv[1])
architecture = model.architecture
if "img_size" in architecture.arguments:
    model.module.set_input_size(img_size=224)  # positions are interpolated, as timm does
    architecture = msgspec.structs.replace(architecture, arguments=architecture.arguments | {"img_size": 224})
spec = msgspec.structs.replace(model.spec, height_px=224, width_px=224)
save_model(replace(model, spec=spec, architecture=architecture), sys.argv[2])
PY
}

quantized() { # quantized MODEL CASES BUNDLE: exported, and quantized for OpenVINO
  step "$3.fp32.medfm" medfm-compress export "$1" --study "$2" --out "$3.fp32.medfm"
  step "$3.medfm" medfm-compress quantize "$3.fp32.medfm" --study "$2" --out "$3.medfm" --target openvino:cpu:int8:1 \
    --time-budget 60
}

one() {
  local at=$out/$1 cases=$out/cases.csv
  mkdir -p "$at"
  step "$at/teacher/model.json" medfm-compress finetune "$1" --study "$cases" --image-size 128 --colour rgb --epochs 5 \
    --batch-size 16 --learning-rate 0.001 --patience 0 --precision "${PRECISION:-bf16}" --device cpu --seed 0 --out "$at/teacher" \
    --licence "CC BY 4.0 (trained from scratch on chest X-rays of Kermany et al. 2018)"
  step "$at/pruned/model.json" medfm-compress prune "$at/teacher" --study "$cases" --out "$at/pruned" --max-macs 0.5 \
    --target "" --round-to 32 --epochs 4 --batch-size 16 --learning-rate 0.0005 --precision "${PRECISION:-bf16}" --device cpu --seed 0
  quantized "$at/pruned" "$cases" "$at/pruned-int8"
  step "$at/accuracy/report.json" medfm-compress bench "$at/pruned-int8.medfm" --teacher "$at/teacher" --study "$cases" \
    --policy "$out/policy.yaml" --out "$at/accuracy" --target openvino:cpu || [ $? -le 3 ]
  step "$at/teacher-224/model.json" at_224 "$at/teacher" "$at/teacher-224"
  step "$at/pruned-224/model.json" at_224 "$at/pruned" "$at/pruned-224"
  quantized "$at/pruned-224" "$cases" "$at/pruned-224-int8"
  step "$at/latency/report.json" medfm-compress bench "$at/pruned-224-int8.medfm" --teacher "$at/teacher-224" \
    --study "$out/few.csv" --policy "$out/policy.yaml" --out "$at/latency" --target openvino:cpu || [ $? -le 3 ]
}

step "$out/cases.csv" cut "$out/cases.csv" 624
step "$out/few.csv" cut "$out/few.csv" 100
step "$out/policy.yaml" medfm-compress policy init "$out/policy.yaml"
for name; do one "$name"; done
