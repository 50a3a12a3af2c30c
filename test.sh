#!/usr/bin/env bash
# Sets up and runs every check: style, types, tests. All of them run; the exit code is 0 only if all passed.
# The tests are the default tier (under 5 minutes on two cores); `./test.sh --slow` runs all of them. Other arguments
# go to pytest as they are.
set -eu
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$ROOT/scripts/env.sh"
vita_env "[dev,serve]"
cd "$ROOT"
failed=""
check() {
    local name="$1"
    shift
    echo "== $name"
    "$@" || failed="$failed $name"
}
check style "$PYTHON" -m ruff check .
check format "$PYTHON" -m ruff format --check .
check types "$PYTHON" -m mypy
check tests "$PYTHON" -m pytest "$@"
if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    exit 1
fi
