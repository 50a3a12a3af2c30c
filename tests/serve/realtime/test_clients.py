"""Ten spoken turns each with the official client, LiveKit's and Pipecat's, unmodified.

They run in an environment of their own, which scripts/realtime_env.sh makes.
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
from tests.serve.realtime.client import question, silence
from tests.serve.running import Running, running
from vita.serve.options import ServeOptions
from vita.speech.voice import Voice

ROOT = Path(__file__).parents[3]
SCRIPTS = Path(__file__).parent / "clients"
TURNS = 10


@pytest.fixture(scope="module")
def python() -> Path:
    """Of the clients' environment."""
    path = Path(os.environ.get("VITA_REALTIME_ENV", ROOT / ".realtime-env")) / "bin" / "python"
    if not path.exists():
        pytest.skip("SKIPPED LOUDLY: the realtime clients are not installed; scripts/realtime_env.sh installs them")
    return path


@pytest.fixture(scope="module")
def talking(embedded: vita.Vita, espeak: Voice) -> Iterator[Running]:
    with running(embedded, ServeOptions(port=0, voice="espeak")) as server:
        yield server


def run(python: Path, script: str, served: Running, speech: Path) -> Any:
    done = subprocess.run(
        [python, SCRIPTS / script, served.url, speech, str(TURNS)],
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


@pytest.mark.slow
def test_official_client(python: Path, talking: Running, speech: Path) -> None:
    found = run(python, "openai_turns.py", talking, speech)
    assert len(found["answers"]) == TURNS and all(found["answers"])
    assert all("what can you do" in text.lower() for text in found["transcripts"])


@pytest.mark.slow
def test_livekit(python: Path, talking: Running, speech: Path) -> None:
    found = run(python, "livekit_turns.py", talking, speech)
    assert len(found["answers"]) == TURNS + 1 and all(found["answers"]) and min(found["samples"]) > 12_000
    assert sum("what can you do" in text.lower() for text in found["transcripts"]) >= TURNS - 1  # the last may be late


@pytest.mark.slow
def test_pipecat(python: Path, talking: Running, speech: Path) -> None:
    found = run(python, "pipecat_turns.py", talking, speech)
    assert found["seen"]["TTSStoppedFrame"] == TURNS + 1 and found["seen"]["samples"] > TURNS * 12_000
