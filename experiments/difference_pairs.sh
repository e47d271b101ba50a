#!/usr/bin/env bash
# What docs/results/explain-difference.md shows. difference_pairs.sh BUNDLE.medfm STUDY OUT_FOLDER
set -euo pipefail
bundle=$1 study=$2 out=$3
mkdir -p "$out"
explain() { # NAME A B
    medfm-compress explain-difference "$bundle" --variant "$2" --variant "$3" --study "$study" --cases 4 >"$out/$1.txt"
}
explain two-placements onnxruntime-cpu-int8 openvino-cpu-int8
explain one-graph onnxruntime-cpu-int8 openvino-cpu-int8-same-graph
explain bf16 openvino-cpu-int8 openvino-cpu-int8-bf16
explain fp32 onnxruntime-cpu-fp32 openvino-cpu-fp32
