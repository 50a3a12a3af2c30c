#!/usr/bin/env bash
# Makes the environment of the clients that `vita serve` is tested with: the official openai client, LiveKit's and
# Pipecat's plugins, schemathesis, and the realtime code of Open WebUI without its 80 dependencies. Prints the path of
# its Python. It takes about 90 s and 860 MB, without PyTorch.
set -eu
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$ROOT/scripts/env.sh"
folder=${VITA_SERVE_ENV:-$ROOT/.venv-serve}
wanted="$ROOT/tests/serve/clients/requirements.txt"
PYTHON="$folder/bin/python"
stamp="$folder/.installed"
OPEN_WEBUI=0.12.4
if [ ! -f "$stamp" ] || ! cmp -s "$wanted" "$stamp"; then
    base=$(vita_find_python) || vita_fail "Python 3.10 or newer is needed; install it and run this again."
    [ -x "$PYTHON" ] || "$base" -m venv "$folder" || vita_fail "could not make $folder; is the venv module installed?"
    vita_run "the clients" vita_pip install -r "$wanted"
    cp "$wanted" "$stamp"
fi
web="$folder/open-webui"
if [ ! -f "$web/.$OPEN_WEBUI" ]; then
    rm -rf "$web"
    mkdir "$web"
    vita_run "Open WebUI's code" vita_pip download -q --no-deps --only-binary :all: -d "$web" "open-webui==$OPEN_WEBUI"
    "$PYTHON" - "$web" <<'END'
import sys, zipfile
from pathlib import Path

folder = Path(sys.argv[1])
[wheel] = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    names = ("config.py", "routers/audio/__init__.py", "routers/audio/realtime.py")
    archive.extractall(folder, [f"open_webui/{name}" for name in names])
wheel.unlink()
END
    touch "$web/.$OPEN_WEBUI"
fi
echo "$PYTHON"
