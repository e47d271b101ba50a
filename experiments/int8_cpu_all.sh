#!/usr/bin/env bash
# Everything of docs/results/int8-cpu/, on a machine that does nothing else; what is in WORK already is kept.
#
#   bash experiments/int8_cpu_all.sh MODELS WORK ENVIRONMENTS [NAME,NAME…]
#
# First all artefacts, peers beside ours on two cores (about 3 minutes a network); then errors; then the clock,
# alone (about 3 minutes a network); then what quantizing ViT-S costs. AGAIN=ours,timing repeats those stages.
set -euo pipefail
models=$1 work=$2 environments=$3 names=${4:-}
here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1 TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$work/inductor}

run() { # run STAGES [OPTION…]
  local stages=$1
  shift
  python "$here/int8_cpu.py" "$models" --work "$work" --environments "$environments" --stages "$stages" ${RESULTS:+--results "$RESULTS"} \
    ${names:+--names "$names"} ${AGAIN:+--again "$AGAIN"} --time-budget "${BUDGET:-30}" "$@"
}

run prepare
run peers &
peers=$!
run ours
wait "$peers"
run errors
run timing,tables
[ -n "$names" ] || python "$here/int8_cpu_cost.py" "$models" vit_small_patch16_224 --work "$work" --environments "$environments"
run tables
