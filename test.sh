#!/usr/bin/env bash
# Sets up and runs every check: style, types, tests. All of them run; the exit code is 0 only if all passed.
# The tests are the default tier (under 5 minutes on two cores); `./test.sh --slow` runs all of them. Other arguments
# go to pytest as they are. `./test.sh --vllm` runs the tests of the vLLM plugin instead, in an environment that it makes.
set -eu
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$ROOT/scripts/env.sh"
if [ "${1:-}" = --vllm ]; then
    shift
    export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
    PYTHON=$("$ROOT/scripts/vllm_env.sh")
    cd "$ROOT"
    exec "$PYTHON" -m pytest tests/vllm "$@"
fi
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
# Two processes of tests with one compute thread each: faster than one process with two threads. Tests of the kernels set
# two threads themselves; waiting threads must not spin then, since they share the cores.
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
# Bytecode is kept: hundreds of tests start a process that would compile the package, and each of the two processes would
# compile all tests.
unset PYTHONDONTWRITEBYTECODE
check tests "$PYTHON" -m pytest -n 2 --dist loadfile --max-worker-restart 0 "$@"
if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    exit 1
fi
