#!/usr/bin/env bash
# An environment for each peer, because their requirements contradict each other.
#
#   bash experiments/peers/setup.sh FOLDER [ENVIRONMENT…]
#
# FOLDER/<environment>/bin/python then runs that peer's script. PyTorch's CUDA build takes 5.5 GB; TORCH_FROM=/path/to/venv
# lends the packages of an environment that has it, instead of a copy for each; requirements/<environment>.lent.txt, where
# there is one, then lists all that is needed beside them, so that no tool fetches the PyTorch that it would rather have.
set -euo pipefail
folder=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || set -- onnxruntime nncf optimum modelopt torchao executorch litert olive
mkdir -p "$folder"
for name; do
  if [ -e "$folder/$name/done" ]; then continue; fi
  "${PYTHON:-python3.11}" -m venv "$folder/$name"
  if [ -n "${TORCH_FROM:-}" ]; then
    "$TORCH_FROM/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
      > "$("$folder/$name/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lent.pth"
  fi
  if [ -n "${TORCH_FROM:-}" ] && [ -e "$here/requirements/$name.lent.txt" ]; then
    "$folder/$name/bin/pip" install --quiet --no-deps -r "$here/requirements/$name.lent.txt"
  else
    "$folder/$name/bin/pip" install --quiet -r "$here/requirements/$name.txt"
  fi
  touch "$folder/$name/done"
done
