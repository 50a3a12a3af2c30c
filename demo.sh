#!/usr/bin/env bash
# Sets itself up and answers a question about an image. Flags pass through to video_audio_demo.py; an image or a
# video without a question is described. After the answer, stderr ends with the line to type next.
# `./demo.sh --serve` starts the server instead; further flags are those of `vita serve`.
set -eu
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$ROOT/scripts/env.sh"
if [ "${1:-}" = "--serve" ]; then
    shift
    vita_env "[serve]"
    vita_voice
    exec "$PYTHON" -m vita serve "$@"
fi
vita_env ""
if [ $# -eq 0 ]; then
    image="$ROOT/assets/vita_logo.png"
    question="Describe this images."
    printf 'image:    %s\nquestion: %s\n\n' "assets/vita_logo.png" "$question" >&2
    set -- --image_path "$image" --question "$question"
fi
case " $* " in
*" --question"* | *" --audio_path"* | *" --help"* | *" -h "*) ;;
*" --video_path"*) set -- "$@" --question "Describe the video." ;;
*" --image_path"*) set -- "$@" --question "Describe the image." ;;
esac
# exec: Ctrl-C, kill and the exit code are the answering process's own, with no shell between.
exec "$PYTHON" "$ROOT/video_audio_demo.py" --say_next "$@"
