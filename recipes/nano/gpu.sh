#!/bin/bash
# Trains on a machine that has a GPU, PyTorch, Pillow, NumPy, safetensors and tokenizers, in one call: unpack, train,
# evaluate, copy to $OUT. Made by `python -m recipes.nano.pack_folder`; goes on if $STATE names an earlier $OUT.
#   MINUTES of the whole run (8), LIMIT minutes of this call (MINUTES), TRIAL seconds of measuring (30, so that a
#   compiler may be done), further options of recipes.nano.train as "$@"
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/out}
run=${RUN:-/tmp/nano-run}
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 TORCHINDUCTOR_CACHE_DIR=/tmp/nano-inductor
[ -d /tmp/nano ] || tar -xJf "$here/nano.tar.xz" -C /tmp || exit
cd /tmp/nano || exit
export PYTHONPATH=/tmp/nano/src:/tmp/nano VITA_RECIPE_FONTS=/tmp/nano/fonts
[ -z "$(ls voices/*.tsv 2>/dev/null)" ] || export VITA_BAKED_VOICES=/tmp/nano/voices
mkdir -p "$out" "$run"
go_on=()
if [ -n "${STATE:-}" ] && [ ! -d "$run/state" ]; then  # weights of an earlier call; its moments stayed there
    mkdir -p "$run/state"
    cp "$STATE"/weights-* "$STATE"/small-* "$STATE"/manifest.json "$run/state/"
    tar -xf "$STATE/rest.tar" -C "$run"  # plan, tokenizer and curves
fi
[ ! -f "$run/state/manifest.json" ] || go_on=(--resume)
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
df -h /dev/shm /tmp | tail -2
python3 -m recipes.nano.train --device "${DEVICE:-cuda}" --out "$run" --minutes "${MINUTES:-8}" \
    --limit "${LIMIT:-${MINUTES:-8}}" --trial "${TRIAL:-20}" "${go_on[@]}" "$@" 2>&1 | tee "$run/log.txt"
code=${PIPESTATUS[0]}
# At most eight files under 16 MB come back: the moments (two thirds of the state) stay.
cp "$run"/state/weights-* "$run"/state/small-* "$run"/state/manifest.json "$out/" 2>/dev/null
tar -cf "$out/rest.tar" -C "$run" $(cd "$run" && ls -d plan.json tokenizer curves.jsonl curves.png eval.md eval.json log.txt 2>/dev/null)
ls -l "$out"
exit "$code"
