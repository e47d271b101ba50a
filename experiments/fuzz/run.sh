#!/usr/bin/env bash
# The whole attack, then the tables of docs/results/robustness.md. Run again, it goes on where it was.
#
#   bash experiments/fuzz/run.sh OUT [OPTION of fuzz.py…]
#
#   PYTHON         with the toolchain (python3)
#   MEDFM_SHARED   optional: a folder whose data/ holds real images, of which small ones become seeds
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1
shift
export OMP_NUM_THREADS=1
"${PYTHON:-python3}" "$here/fuzz.py" "$out" "$@"
"${PYTHON:-python3}" "$here/robustness_tables.py" "$out"
