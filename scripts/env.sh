# Sets up the Python environment; source it with ROOT set to the repository's folder.
# vita_env EXTRAS makes sure the package is installed with these extras and sets PYTHON.

TORCH="torch==2.13.0"

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

vita_run() { # what is installed, and the command; a terminal shows the command's own progress
    local what="$1" log
    shift
    if [ -t 2 ]; then
        "$@" >&2 && return
        vita_fail "installing $what failed; check the network and the disk, then run the same command again."
    fi
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        echo "vita: installing $what failed; check the network and the disk, then run the same command again. It said:" >&2
        grep -v '^WARNING' "$log" | tail -n 12 >&2
        rm -f "$log"
        exit 2
    fi
    rm -f "$log"
}

vita_pip() { # pip with these arguments
    "$PYTHON" -m pip --disable-pip-version-check "$@"
}

vita_has_gpu() {
    nvidia-smi -L 2>/dev/null | grep -q '^GPU'
}

# uv knows the index of PyTorch's CPU builds; it is put into a folder of its own, and deleted afterwards.
vita_cpu_torch() {
    local folder code=0
    folder=$(mktemp -d)
    if vita_pip install -q --target "$folder" uv >/dev/null 2>&1; then
        if [ -t 2 ]; then
            "$folder/bin/uv" pip install --python "$PYTHON" --torch-backend cpu "$TORCH" >&2 || code=$?
        else
            "$folder/bin/uv" pip install -q --python "$PYTHON" --torch-backend cpu "$TORCH" >/dev/null 2>&1 || code=$?
        fi
    else
        code=1
    fi
    rm -rf "$folder"
    return "$code"
}

# Installs PyTorch and says before how much is downloaded. The sizes are those of $TORCH on x86-64 Linux and on macOS.
vita_torch() {
    # A wheel in a folder that pip's configuration names (find-links) comes first: nothing is downloaded.
    if vita_pip install -q --dry-run --no-index --no-deps "$TORCH" >/dev/null 2>&1; then
        echo "Setting up (once): PyTorch, from a folder that pip's configuration names …" >&2
        vita_run PyTorch vita_pip install --no-index --no-deps "$TORCH"
        return
    fi
    if [ "$(uname -s)" != Linux ]; then
        echo "Setting up (once): PyTorch, a download of about 110 MB …" >&2
    elif vita_has_gpu; then
        echo "Setting up (once): PyTorch with CUDA, a download of about 2.7 GB …" >&2
    else
        echo "Setting up (once): no NVIDIA GPU here, so PyTorch for CPUs: a download of about 210 MB …" >&2
        vita_cpu_torch && return
        echo "The CPU build could not be fetched. PyTorch with CUDA works too: a download of about 2.7 GB …" >&2
    fi
    vita_run PyTorch vita_pip install "$TORCH"
}

vita_env() {
    local extras="$1" stamp want base size
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
            vita_torch
        fi
        case "$extras" in
        "") size="90 MB" ;;
        *) size="400 MB" ;;
        esac
        echo "Setting up (once): the package and what it needs, a download of up to $size …" >&2
        vita_run "the package" vita_pip install -e "$ROOT$extras"
        printf '%s' "$want" >"$stamp"
    fi
}

# A voice for the server's answers. Without one they are in writing, so a failure does not end the set-up.
vita_voice() {
    "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(not any(map(u.find_spec, ("piper", "espeakng_loader"))))' && return
    echo "Setting up (once): a voice for spoken answers, piper (GPL-3.0-or-later), a download of about 130 MB …" >&2
    vita_pip install -q -e "$ROOT[piper]" >/dev/null 2>&1 ||
        echo "vita: no voice could be installed, so answers are in writing; run the same command again to try once more." >&2
}
