#!/usr/bin/env bash
# Everything that needs a GPU, in parts that can be repeated one by one; each writes one small file into OUT.
#
#   bash experiments/gpu/run.sh OUT [PART…]            parts: environment graphs training torch tensorrt tests (default: all)
#   bash experiments/gpu/run.sh OUT --dry-run          small networks on a CPU; TensorRT says what it lacks
#
#   PYTHON          with PyTorch, timm, onnx, onnxruntime, onnx-ir and this project's requirements (python3)
#   TENSORRT_ROOT   an unpacked TensorRT 8.6 for CPython 3.10: python/, site/, stub/; without it that part is left out
#   SECONDS_TRT, SECONDS_TORCH    after which no further engine or network is begun (300, 120)
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
dry=
[ "${1:-}" = --dry-run ] && dry=1 && shift
[ $# -gt 0 ] || set -- environment graphs training torch tensorrt tests
python=${PYTHON:-python3}
work=${WORK:-$out/work}
mkdir -p "$work"
export PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE PYTHONPATH="${PACKAGE:-$here/../../.typing}:$here${PYTHONPATH:+:$PYTHONPATH}"

part_environment() {
  {
    nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total,clocks.sm,clocks.max.sm,power.draw,power.limit,temperature.gpu --format=csv 2>&1
    nproc
    "$python" -c 'import sys, torch, timm, onnx, onnxruntime; print(sys.version.split()[0], torch.__version__, torch.version.cuda, timm.__version__, onnx.__version__, onnxruntime.__version__, torch.cuda.is_available())' 2>&1
  } >"$out/environment.txt"
  cat "$out/environment.txt"
}
part_graphs() { "$python" -W ignore "$here/graphs.py" "$work/graphs" ${dry:+--tiny}; }
part_training() {
  if [ -n "$dry" ]; then
    "$python" -W ignore "$here/train_cuda.py" "$work/training" "$out/training.json" --devices cpu --image-size 64 --patients 40
  else
    "$python" -W ignore "$here/train_cuda.py" "$work/training" "$out/training.json"
  fi
}
part_torch() {
  "$python" -W ignore "$here/torch_latency.py" "$out/torch.json" --seconds "${SECONDS_TORCH:-120}" ${dry:+--device cpu --tiny}
}
part_tensorrt() {
  local root=${TENSORRT_ROOT:-} driver
  if [ -z "$root" ]; then echo "TENSORRT_ROOT is not set: left out"; return; fi
  driver=$(dirname "$(ldconfig -p | awk '/libcuda\.so\.1/ {print $NF; exit}')" 2>/dev/null)
  PYTHONHOME=$root/python PYTHONPATH=$root/site:$here LD_LIBRARY_PATH=$root/stub:$root/site/tensorrt:$root/python/lib${driver:+:$driver} \
    "$root/python/bin/python3.10" "$here/trt_run.py" "$work/graphs" "$out/tensorrt.json" --seconds "${SECONDS_TRT:-300}" --level "${LEVEL:-3}" ${dry:+--dry}
}
part_tests() { (cd "$here/../.." && "$python" -m pytest -q -m gpu tests 2>&1 | tail -n 15) >"$out/tests.txt"; cat "$out/tests.txt"; }

status=0
for part; do
  echo "== $part"
  start=$SECONDS
  "part_$part" || { echo "$part failed"; status=1; }
  echo "== $part: $((SECONDS - start)) s"
done
exit $status
