#!/usr/bin/env bash
# Everything of docs/results/segmentation.md but its pictures, on skin lesions (ISIC 2017, CC0), one thread.
#
#   bash experiments/segmentation.sh STUDY ENCODER.safetensors WORK
#
# STUDY has images and lesion masks in cases.csv, ENCODER is timm's tf_efficientnet_lite0 on ImageNet. The teacher
# takes an hour on one core, the student as long again; what is in WORK already is kept.
set -euo pipefail
study=$1 encoder=$2 work=$3
here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
mkdir -p "$work"
teacher=(smp:unet/tu-tf_efficientnet_lite0 --teacher-weights "$work/skin/teacher.safetensors" --teacher-spec "$work/teacher.yaml")
table=$work/skin/cases.csv

[ -e "$work/skin/teacher.safetensors" ] ||
  python "$here/segmentation_teacher.py" "$study" "$encoder" "$work/skin" --small-epochs 6 --epochs 3
cat > "$work/teacher.yaml" <<'Y'
{height_px: 256, width_px: 256, colour: rgb, mean: [0.498, 0.498, 0.498], std: [0.502, 0.502, 0.502], resize: stretch,
 filter: bicubic, labels: [lesion], architecture: {arguments: {decoder_channels: [512, 256, 128, 64, 32]}}}
Y
[ -e "$work/student/model.json" ] ||
  medfm-compress distill "${teacher[@]}" --student smp:unet/tu-tf_efficientnet_lite0 --weights "$encoder" \
    --study "$table" --out "$work/student" --epochs 10 --batch-size 16 --views 3 --modality dermoscopy
[ -e "$work/pruned/model.json" ] ||
  medfm-compress prune "$work/student" --max-macs 0.5 --teacher "$work/student" --study "$table" --out "$work/pruned" \
    --epochs 2 --steps 1 --batch-size 16 --views 1 --modality dermoscopy
for name in student pruned; do
  medfm-compress export "$work/$name" --study "$table" --intended-use "an experiment" --out "$work/$name.medfm"
  medfm-compress quantize "$work/$name.medfm" --study "$table" --keep-fp32 --time-budget 40 --out "$work/$name-int8.medfm"
  medfm-compress bench "$work/$name-int8.medfm" --teacher "${teacher[@]}" --study "$table" \
    --policy "$here/segmentation_policy.yaml" --out "$work/$name-report"
  medfm-compress gate "$work/$name-report/report.json" --policy "$here/segmentation_policy.yaml" --bundle "$work/$name-int8.medfm" || true
done
