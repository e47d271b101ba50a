#!/usr/bin/env bash
# Everything that needs a GPU, in parts that can be repeated one by one; each writes one small file into OUT.
#
#   bash experiments/gpu/run.sh OUT [PART…]  (default: all)
#       parts: environment graphs acceptance tensorrt turns torch bench training tests
#   bash experiments/gpu/run.sh OUT --dry-run          small networks on a CPU; TensorRT says what it lacks
#
#   PYTHON          with PyTorch, timm, onnx, onnxruntime, onnx-ir and this project's requirements (python3)
#   TENSORRT_ROOT   an unpacked TensorRT 8.6 for CPython 3.10: python/, site/, stub/; without it that part is left out
#   RTX_ROOT        a folder with libtensorrt_rtx.so.* and libtensorrt_onnxparser_rtx.so.*; it builds on a CPU
#   WORK            what is large and need not be kept: graphs, engines, weights (OUT.work)
#   SECONDS_TRT, SECONDS_TURNS, SECONDS_TORCH    after which no further engine or network is begun (300, 60, 120)
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
dry=
[ "${1:-}" = --dry-run ] && dry=1 && shift
[ $# -gt 0 ] || set -- environment graphs acceptance tensorrt turns torch bench training tests environment
python=${PYTHON:-python3}
work=${WORK:-$out.work}
mkdir -p "$work"
export PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE PYTHONPATH="${PACKAGE:-$here/../../.typing}:$here:$here/..${PYTHONPATH:+:$PYTHONPATH}"

part_environment() { "$python" -W ignore "$here/environment.py" "$out/environment.json"; }
part_graphs() { "$python" -W ignore "$here/graphs.py" "$work/graphs" "$out/graphs.json" ${dry:+--tiny}; }
part_acceptance() {
  if [ -z "${RTX_ROOT:-}" ]; then echo "RTX_ROOT is not set: left out"; return; fi
  "$python" -W ignore "$here/rtx_build.py" "$RTX_ROOT" "$work/graphs" "$out/acceptance.json"
}
part_training() {
  if [ -n "$dry" ]; then
    "$python" -W ignore "$here/train_cuda.py" "$work/training" "$out/training.json" --devices cpu --image-size 64 --patients 40
  else
    "$python" -W ignore "$here/train_cuda.py" "$work/training" "$out/training.json"
  fi
}
part_torch() {
  "$python" -W ignore "$here/torch_latency.py" "$work/graphs" "$out/torch.json" --seconds "${SECONDS_TORCH:-120}" ${dry:+--device cpu --tiny}
}
part_bench() { "$python" -W ignore "$here/bench_targets.py" "$work/bench" "$out/bench.json" ${dry:+--tiny}; }
in_tensorrt_python() {
  local root=${TENSORRT_ROOT:-} driver
  if [ -z "$root" ]; then echo "TENSORRT_ROOT is not set: left out"; return; fi
  driver=$(ldconfig -p | awk '/libcuda\.so\.1 / {print $NF; exit}')
  PYTHONHOME=$root/python PYTHONPATH=$root/site:$here \
    LD_LIBRARY_PATH=$root/stub:$root/site/tensorrt:$root/python/lib${driver:+:$(dirname "$driver")} \
    "$root/python/bin/python3.10" "$@"
}
part_tensorrt() {
  in_tensorrt_python "$here/trt_run.py" "$work/graphs" "$work/engines" "$out/tensorrt.json" \
    --seconds "${SECONDS_TRT:-300}" --level "${LEVEL:-3}" ${dry:+--dry}
}
part_turns() {
  in_tensorrt_python "$here/trt_turns.py" "$work/engines" "$work/graphs/cases.npy" "$out/turns.json" \
    --seconds "${SECONDS_TURNS:-60}"
}
# The marked files alone, since others need packages that a GPU machine may lack. The root is kept off the path: its
# medfm_compress/ lacks the rooms, which an installed package or .typing/ has.
part_tests() (
  cd "$here/../.." || exit
  grep -rl --include='test_*.py' 'mark\.gpu' tests | PYTHONSAFEPATH=1 xargs "$python" -m pytest -q -m gpu 2>&1 | tail -n 40 | tee "$out/tests.txt"
)

status=0
for part; do
  echo "== $part"
  start=$SECONDS
  "part_$part" || { echo "$part failed"; status=1; }
  echo "== $part: $((SECONDS - start)) s"
done
exit $status
