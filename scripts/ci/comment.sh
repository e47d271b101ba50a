#!/usr/bin/env bash
# Put the gate's Markdown on a pull request, in place of the comment of an earlier run. Needs gh and GH_TOKEN.
#
#   MEDFM_COMMENT       the Markdown file
#   MEDFM_PULL_REQUEST  number
#   GITHUB_REPOSITORY   owner/name
#
# A token without the right to write, as for a pull request from a fork, is a warning: the verdict is in the summary too.
set -euo pipefail

marker='<!-- medfm-compress gate -->'
number=${MEDFM_PULL_REQUEST:?}
case $number in
  *[!0-9]*) echo "error: '$number' is no number of a pull request" >&2; exit 2 ;;
esac
comments="repos/$GITHUB_REPOSITORY/issues/$number/comments"
own=".[] | select(.user.type == \"Bot\" and (.body | startswith(\"$marker\"))) | .id"
if ! found=$(gh api --paginate "$comments" --jq "$own"); then
  echo "::warning::the gate's comment could not be written; its verdict is in the summary of the job"
  exit 0
fi
earlier=$(printf '%s\n' "$found" | tail -n 1)
if [ -n "$earlier" ]; then
  set -- --method PATCH "repos/$GITHUB_REPOSITORY/issues/comments/$earlier"
else
  set -- --method POST "$comments"
fi
gh api "$@" --field "body=@$MEDFM_COMMENT" --silent ||
  echo "::warning::the gate's comment could not be written; its verdict is in the summary of the job"
