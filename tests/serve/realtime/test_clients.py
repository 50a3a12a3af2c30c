"""Ten spoken turns each with the official client, LiveKit's, Pipecat's and Open WebUI's, unmodified.

They run in an environment of their own, which scripts/serve_env.sh makes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vita
from tests.serve.realtime.client import is_question, question, silence
from tests.serve.running import Running, running
from tests.serve.test_clients import CLIENTS, PYTHON
from vita.serve.options import ServeOptions
from vita.speech.voice import Voice

TURNS = 10
OPEN_WEBUI = Path(os.environ.get("VITA_OPEN_WEBUI", PYTHON.parents[1] / "open-webui"))
pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="SKIPPED LOUDLY: scripts/serve_env.sh makes the environment of the clients"
)


@pytest.fixture(scope="module")
def talking(embedded: vita.Vita, espeak: Voice) -> Iterator[Running]:
    with running(embedded, ServeOptions(port=0, voice="espeak")) as server:
        yield server


def run(script: str, served: Running, speech: Path, *arguments: Path) -> Any:
    done = subprocess.run(
        [PYTHON, CLIENTS / script, *arguments, served.url, speech, str(TURNS)],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["failures"], found["failures"]
    return found


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spoken question, and silence that ends the turn in every mode."""
    path = tmp_path_factory.mktemp("speech") / "question.raw"
    path.write_bytes(np.concatenate([silence(0.2), question(), silence(1.8)]).astype("<i2").tobytes())
    return path


def test_official_client(talking: Running, speech: Path) -> None:
    found = run("openai_turns.py", talking, speech)
    assert len(found["answers"]) == TURNS and all(found["answers"])
    assert all(is_question(text) for text in found["transcripts"])


def test_livekit(talking: Running, speech: Path) -> None:
    found = run("livekit_turns.py", talking, speech)
    assert len(found["answers"]) == TURNS + 1 and all(found["answers"]) and min(found["samples"]) > 12_000
    assert sum(is_question(text) for text in found["transcripts"]) >= TURNS - 1  # the last may be late


def test_pipecat(talking: Running, speech: Path) -> None:
    found = run("pipecat_turns.py", talking, speech)
    assert found["seen"]["TTSStoppedFrame"] == TURNS + 1 and found["seen"]["samples"] > TURNS * 12_000


@pytest.mark.skipif(
    not (OPEN_WEBUI / "open_webui").is_dir(), reason="SKIPPED LOUDLY: scripts/serve_env.sh fetches Open WebUI's code"
)
def test_open_webui(talking: Running, speech: Path) -> None:
    """Calls wait for the transcript and ask for the answer then; a text is spoken as it stands."""
    found = run("open_webui_turns.py", talking, speech, OPEN_WEBUI)
    # Its instructions are longer than any text the embedded model has learned from: some answers are a word only.
    assert len(found["answers"]) == TURNS and all(found["answers"]) and min(found["samples"]) > 2_400
    assert all(is_question(text) for text in found["transcripts"])
    assert 0.8 < found["seconds"] < 5
