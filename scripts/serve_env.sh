#!/usr/bin/env bash
# Makes the environment of the clients that `vita serve` is tested with: the official openai client, LiveKit's and
# Pipecat's plugins, schemathesis. Prints the path of its Python. It takes about 90 s and 750 MB, without PyTorch.
set -eu
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$ROOT/scripts/env.sh"
folder=${VITA_SERVE_ENV:-$ROOT/.venv-serve}
wanted="$ROOT/tests/serve/clients/requirements.txt"
PYTHON="$folder/bin/python"
stamp="$folder/.installed"
if [ ! -f "$stamp" ] || ! cmp -s "$wanted" "$stamp"; then
    base=$(vita_find_python) || vita_fail "Python 3.10 or newer is needed; install it and run this again."
    [ -x "$PYTHON" ] || "$base" -m venv "$folder" || vita_fail "could not make $folder; is the venv module installed?"
    vita_run "the clients" vita_pip install -r "$wanted"
    cp "$wanted" "$stamp"
fi
echo "$PYTHON"
