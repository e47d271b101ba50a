#!/usr/bin/env bash
# Four candidates and one teacher on dermoscopy, each judged by the gate: docs/results/gate.md.
#
#   bash experiments/gate_skin_lesion.sh STUDY OUT
#
# STUDY is a folder with cases.csv (image, split, label, age, sex), e.g. ISIC 2017. What is already in OUT is kept.
set -euo pipefail
study=$1 out=$2
here=$(cd "$(dirname "$0")" && pwd)
policy=$here/../examples/skin-lesion-policy.yaml
mkdir -p "$out"

step() { # step FILE COMMAND…: run COMMAND unless FILE is there
  local made=$1
  shift
  [ -e "$made" ] || "$@"
}

step "$out/study.csv" medfm-compress study split "$study" --test 0.465 --val 0.07 --seed 0 --out "$out/study.csv"
step "$out/teacher" medfm-compress finetune resnet18 --study "$out/study.csv" --image-size 96 --modality dermoscopy \
  --epochs 120 --batch-size 16 --learning-rate 0.001 --patience 0 --seed 0 \
  --licence "CC0-1.0 (trained from scratch on ISIC 2017)" --out "$out/teacher"

# Identical: the teacher itself in FP32. Good: the teacher in INT8. Damaged: its answers for patients of 70 and over dealt
# out again among them. Few: the good one on 40 test cases.
step "$out/identical.medfm" medfm-compress export "$out/teacher" --study "$out/study.csv" --out "$out/identical.medfm"
step "$out/good.medfm" medfm-compress quantize "$out/identical.medfm" --study "$out/study.csv" --out "$out/good.medfm"
step "$out/damaged-model" python "$here/gate_damage.py" "$out/teacher" "$out/study.csv" "$out/damaged-model" --column age --least 70
step "$out/damaged.medfm" medfm-compress export "$out/damaged-model" --study "$out/study.csv" --out "$out/damaged.medfm"
step "$out/few.csv" python - "$out/study.csv" "$out/few.csv" <<'PY'
import csv
import sys

with open(sys.argv[1], newline="") as file:
    rows = list(csv.DictReader(file))
test = [row for row in rows if row["split"] == "test"][:40]
with open(sys.argv[2], "w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows([row for row in rows if row["split"] != "test"] + test)
PY

judge() { # judge NAME BUNDLE STUDY
  step "$out/report-$1" medfm-compress bench "$2" --teacher "$out/teacher" --study "$3" --policy "$policy" \
    --target onnxruntime:cpu --target openvino:cpu --target torch:cpu --rounds 10 --cache "$out/prepared" --out "$out/report-$1"
  local code=0
  medfm-compress gate "$out/report-$1/report.json" --policy "$policy" || code=$?
  echo "exit code $code"
}
judge identical "$out/identical.medfm" "$out/study.csv"
judge good "$out/good.medfm" "$out/study.csv"
judge damaged "$out/damaged.medfm" "$out/study.csv"
judge few "$out/good.medfm" "$out/few.csv"
