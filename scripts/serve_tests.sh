#!/usr/bin/env bash
# Tests `vita serve` with the clients of others: makes their environment, then runs the tests that use it. Arguments go
# to pytest as they are.
set -eu
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$ROOT/scripts/serve_env.sh" >/dev/null
. "$ROOT/scripts/env.sh"
vita_env "[dev,serve]" # as in test.sh, so that pip does not run again; the voices are part of dev
cd "$ROOT"
exec "$PYTHON" -m pytest tests/serve/test_clients.py tests/serve/test_serving_docs.py tests/serve/realtime/test_clients.py "$@"
