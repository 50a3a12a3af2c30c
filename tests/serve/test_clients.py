"""Clients of others against the server, in the environment that scripts/serve_env.sh makes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import vita
from tests.serve.conftest import ASSETS
from tests.serve.running import Running, running
from vita.serve.options import Limits, ServeOptions
from vita.speech.voice import Voice

ROOT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"
PYTHON = Path(os.environ.get("VITA_SERVE_ENV", ROOT / ".venv-serve")) / "bin" / "python"
KEY = "key-of-the-client-tests"
pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="SKIPPED LOUDLY: scripts/serve_env.sh makes the environment"
)


@pytest.fixture(scope="module")
def keyed(embedded: vita.Vita, espeak: Voice) -> Iterator[Running]:
    options = ServeOptions(port=0, api_keys=(KEY,), limits=Limits(tokens=24), voice="espeak")
    with running(embedded, options) as served:
        yield served


def run_client(name: str, *arguments: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.endswith("_proxy") and k != "PYTHONPATH"}
    done = subprocess.run(
        [str(PYTHON), str(CLIENTS / name), *arguments],
        capture_output=True,
        text=True,
        timeout=170,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_the_official_client(keyed: Running) -> None:
    image, audio = ASSETS / "vita_logo.png", ASSETS / "what_can_you_do.flac"
    assert "all passed" in run_client(
        "openai_http.py", f"{keyed.url}/v1", KEY, "vita", str(image), str(audio), "espeak"
    )


def test_no_request_of_the_schema_gives_a_server_error(keyed: Running) -> None:
    assert "operations passed" in run_client("schema.py", keyed.url, KEY)
