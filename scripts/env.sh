# Sets up the Python environment; source it with ROOT set to the repository's folder.
# vita_env EXTRAS makes sure the package is installed with these extras and sets PYTHON.

vita_fail() {
    echo "vita: $1" >&2
    exit 2
}

vita_find_python() {
    local name
    for name in "${PYTHON_BIN:-}" python3 python3.13 python3.12 python3.11 python3.10 python; do
        [ -n "$name" ] && command -v "$name" >/dev/null 2>&1 || continue
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    return 1
}

vita_install() { # pip arguments; quiet, its own words are shown only if it fails
    local log
    log=$(mktemp)
    if ! "$PYTHON" -m pip install --disable-pip-version-check -q "$@" >"$log" 2>&1; then
        echo "vita: installing $* failed; check the network and the disk, then run the same command again. pip said:" >&2
        grep -v '^WARNING' "$log" | tail -n 12 >&2
        rm -f "$log"
        exit 2
    fi
    rm -f "$log"
}

vita_env() {
    local extras="$1" stamp want base
    if [ -n "${VIRTUAL_ENV:-}" ] && [ -x "$VIRTUAL_ENV/bin/python" ]; then
        PYTHON="$VIRTUAL_ENV/bin/python" # an active environment brings its own PyTorch
        stamp="$VIRTUAL_ENV/.vita-installed$extras"
    else
        PYTHON="$ROOT/.venv/bin/python"
        stamp="$ROOT/.venv/.vita-installed$extras"
        if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
            base=$(vita_find_python) || vita_fail "Python 3.10 or newer is needed; install it and run this again."
            echo "Setting up (once): a virtual environment in .venv …" >&2
            rm -rf "$ROOT/.venv"
            "$base" -m venv "$ROOT/.venv" || vita_fail "could not make $ROOT/.venv; is the venv module installed?"
        fi
    fi
    # The stamp is written last, so that an interrupted set-up starts over.
    want="$ROOT $(cksum <"$ROOT/pyproject.toml")"
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$want" ]; then
        if ! "$PYTHON" -c 'import torch, sys; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6))' \
            >/dev/null 2>&1; then
            echo "Setting up (once): PyTorch …" >&2
            vita_install torch==2.13.0
        fi
        echo "Setting up (once): the package …" >&2
        vita_install -e "$ROOT$extras"
        printf '%s' "$want" >"$stamp"
    fi
}
