#!/usr/bin/env bash
# Make an environment of its own with the clients of the Realtime API: the official one, LiveKit's and Pipecat's.
# 90 s, 750 MB, no PyTorch. The tests in tests/serve/realtime/test_clients.py run in it.
#
#     scripts/realtime_env.sh [FOLDER]        default: .realtime-env in the checkout
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${1:-.realtime-env}"
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet 'openai[realtime]==3.57.0' livekit-plugins-openai==1.8.9 pipecat-ai==1.14.0
echo "ready: VITA_REALTIME_ENV=$folder python -m pytest tests/serve/realtime/test_clients.py"
