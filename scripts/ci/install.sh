#!/usr/bin/env bash
# Install medfm-compress for the gate, without PyTorch, into an environment of its own; prints its Python.
#
#   MEDFM_VENV     where to make the environment
#   MEDFM_VERSION  optional: a released version, e.g. 0.1.0
#   MEDFM_SOURCE   optional: what else pip can install; by default the tree that this script is in
#   MEDFM_PYTHON   interpreter to make it with, 3.10 or later (python3 if unset)
set -euo pipefail

version=${MEDFM_VERSION:-}
what=${MEDFM_SOURCE:-}
if [ -n "$version" ] && [ -n "$what" ]; then
  echo "error: give a version or a source to install, not both" >&2
  exit 2
fi
if [ -n "$version" ]; then
  case $version in
    *[!0-9A-Za-z.]*) echo "error: '$version' is no version; write e.g. 0.1.0" >&2; exit 2 ;;
  esac
  what="medfm-compress==$version"
fi
[ -n "$what" ] || what=$(cd -- "$(dirname -- "$0")/../.." && pwd)

# -I: nothing in the working folder may stand in for venv or pip.
"${MEDFM_PYTHON:-python3}" -I -m venv "$MEDFM_VENV"
"$MEDFM_VENV/bin/python" -I -m pip install --quiet --disable-pip-version-check -- "$what" >&2
printf '%s\n' "$MEDFM_VENV/bin/python"
