#!/usr/bin/env bash
# Builds the documentation site into build/site; a broken link or a page without its place is an error.
set -eu
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$ROOT/scripts/env.sh"
vita_env "[docs]"
cd "$ROOT"
exec "$PYTHON" -m mkdocs build --strict "$@"
