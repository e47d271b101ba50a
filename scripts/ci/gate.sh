#!/usr/bin/env bash
# Judge a report by the policy of the base branch, so that a change cannot widen its own margin. Run it in the root of
# the repository: by action.yml, by another CI service, or by hand. Settings come by environment and are never evaluated.
#
#   MEDFM_REPORT    report.json that bench wrote
#   MEDFM_POLICY    path of the policy in the repository (policy.yaml if unset)
#   MEDFM_BASE_REF  name of the branch whose policy counts, e.g. main
#   MEDFM_BUNDLE    optional: the report must be of this bundle; a copy in MEDFM_OUT carries the verdict
#   MEDFM_BASELINE  optional: an earlier report to show beside this one
#   MEDFM_OUT       folder for gate.md, gate.xml (JUnit), gate.sarif (gate-out if unset)
#   MEDFM_PYTHON    a Python that has medfm-compress (python3 if unset)
#   MEDFM_REMOTE    git remote of the base branch (origin if unset)
#   MEDFM_FETCH     0 where the base branch was fetched already
#
# Exit code: the gate's own. 0 pass, 1 fail, 2 unusable input, 3 inconclusive, 4 a damaged bundle, 70 internal error.
set -euo pipefail

report=${MEDFM_REPORT:-}
policy=${MEDFM_POLICY:-policy.yaml}
base=${MEDFM_BASE_REF:-}
bundle=${MEDFM_BUNDLE:-}
baseline=${MEDFM_BASELINE:-}
out=${MEDFM_OUT:-gate-out}
python=${MEDFM_PYTHON:-python3}
remote=${MEDFM_REMOTE:-origin}

# $1: exit code, $2: what happened, in one sentence.
not_judged() {
  printf 'error: %s\n' "$2" >&2
  # Indented by four, no line of it is anything but text.
  { printf '<!-- medfm-compress gate -->\n\n## ⛔ Not judged\n\nThe gate could not give a verdict:\n\n'
    printf '%s\n' "$2" | sed 's/^/    /'; } >"$out/gate.md"
  finish "$1" none
}

# $1: exit code, $2: outcome.
finish() {
  if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then cat "$out/gate.md" >>"$GITHUB_STEP_SUMMARY"; fi
  if [ -n "${GITHUB_OUTPUT:-}" ]; then printf 'outcome=%s\nexit-code=%s\n' "$2" "$1" >>"$GITHUB_OUTPUT"; fi
  exit "$1"
}

# A path in the repository may not lead out of it, as a link that a change brings could.
check_file() {
  [ -f "$2" ] || not_judged 2 "there is no $1 at $2; give the path of one"
  case $2 in
    /*) ;;
    *) case $(realpath -- "$2") in
         "$root"/*) ;;
         *) not_judged 2 "$1 $2 leads out of the repository; give the file itself" ;;
       esac ;;
  esac
}

mkdir -p -- "$out"
rm -f -- "$out/gate.md" "$out/gate.xml" "$out/gate.sarif" "$out/policy" "$out/error" "$out/judged.medfm"
[ -n "$report" ] || not_judged 2 "MEDFM_REPORT is not set; name the report.json that bench wrote"
[ -n "$base" ] || not_judged 2 "MEDFM_BASE_REF is not set; name the branch whose policy counts, e.g. main"
root=$(git rev-parse --show-toplevel 2>/dev/null) || not_judged 2 "this is no git repository; run it in the root of one"
[ "$root" = "$(pwd -P)" ] || not_judged 2 "run it in the root of the repository, $root"
git check-ref-format "refs/heads/$base" || not_judged 2 "'$base' is no branch name; give one without refs/heads/"
git remote | grep -Fxq -- "$remote" || not_judged 2 "the repository has no remote '$remote'; set MEDFM_REMOTE"
case $policy in
  /* | ./* | ../* | */../*) not_judged 2 "policy $policy must be a path from the root of the repository, e.g. ml/policy.yaml" ;;
esac

at="refs/remotes/$remote/$base"
if [ "${MEDFM_FETCH:-1}" != 0 ]; then
  depth=()
  [ "$(git rev-parse --is-shallow-repository)" = false ] || depth=(--depth=1)
  git fetch --quiet --no-tags ${depth[@]+"${depth[@]}"} "$remote" "+refs/heads/$base:$at" ||
    not_judged 2 "branch $base cannot be fetched from $remote; check its name and the job's right to read"
fi
git rev-parse --quiet --verify "$at^{commit}" >/dev/null || not_judged 2 "there is no branch $base of $remote here; fetch it"
[ "$(git cat-file -t "$at:$policy" 2>/dev/null)" = blob ] ||
  not_judged 2 "branch $base has no policy at $policy; commit one there first, in a change of its own"
git show "$at:$policy" >"$out/policy"

check_file report "$report"
arguments=(--policy "$out/policy" --policy-name "$policy")
arguments+=(--junit "$out/gate.xml" --markdown "$out/gate.md" --sarif "$out/gate.sarif" --overwrite)
# The report may have been made under the policy of this branch; the base branch's holds, and the verdict says so.
arguments+=(--accept-changed-policy)
if ! cmp -s -- "$policy" "$out/policy"; then
  arguments+=(--note "this branch's $policy differs from the one of $base; it was judged by the one of $base")
fi
if [ -n "$bundle" ]; then
  check_file bundle "$bundle"
  cp -- "$bundle" "$out/judged.medfm"
  arguments+=(--bundle "$out/judged.medfm")
fi
if [ -n "$baseline" ]; then
  check_file "baseline report" "$baseline"
  arguments+=(--baseline-report "$baseline")
fi

# -I: nothing in the repository may stand in for a module of the gate.
code=0
"$python" -I -m medfm_compress gate "${arguments[@]}" -- "$report" 2>"$out/error" || code=$?
cat -- "$out/error" >&2
case $code in
  0) finish 0 pass ;;
  1) if [ -f "$out/gate.md" ]; then finish 1 fail; fi
     not_judged 70 "$(cat -- "$out/error")" ;; # Python itself could not start: that says nothing of the model
  3) finish 3 inconclusive ;;
  *) message=$(cat -- "$out/error"); not_judged "$code" "${message#error: }" ;;
esac
