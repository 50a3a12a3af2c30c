"""docs/serving.md: its examples run, and its table of limits is the code's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import vita
from tests.serve.running import Running, running
from tests.serve.test_clients import PYTHON
from tests.voices import espeak, voices_are_declared  # noqa: F401  fixtures
from vita.serve.options import Limits, ServeOptions
from vita.speech.voice import Voice

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"
SHELL = [block for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if "curl" in block]
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def documented(embedded: vita.Vita, espeak: Voice) -> Iterator[Running]:  # noqa: F811
    with running(embedded, ServeOptions(port=0, voice="espeak")) as served:
        yield served


def run(command: list[str], folder: Path) -> str:
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=folder, env=env, check=False)
    assert done.returncode == 0 and '"error"' not in done.stdout, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    return tmp_path


@pytest.mark.skipif(shutil.which("curl") is None, reason="SKIPPED LOUDLY: curl is not installed")
@pytest.mark.parametrize("block", SHELL)
def test_the_curl_examples_run(documented: Running, folder: Path, block: str) -> None:
    out = run(["bash", "-euo", "pipefail", "-c", block.replace(ADDRESS, documented.url)], folder)
    assert "can" in out or "can you do" in out or "color" in out or "[DONE]" in out
    if "hello.wav" in block:
        assert (folder / "hello.wav").read_bytes()[:4] == b"RIFF" and "can you do" in out


@pytest.mark.skipif(not PYTHON.exists(), reason="SKIPPED LOUDLY: run scripts/serve_env.sh first")
@pytest.mark.parametrize("block", CODE)
def test_the_python_examples_run(documented: Running, folder: Path, block: str) -> None:
    socket = documented.url.replace("http", "ws", 1)
    code = block.replace(ADDRESS, documented.url).replace(ADDRESS.replace("http", "ws"), socket)
    assert run([str(PYTHON), "-c", code], folder).strip()


def test_the_page_has_examples_and_names_the_limits() -> None:
    assert len(SHELL) == 3 and len(CODE) == 5
    limits = Limits()
    for text in (
        f"| {limits.body_bytes >> 20} MB, {limits.buffered_bytes >> 20} MB |",
        f"| {limits.parts}, {limits.messages:,}, {limits.text_characters:,} |",
        f"| {limits.pixels // 10**6} million, {limits.audio_seconds:g} |", f"| {limits.media_seconds:g} s |",
        f"| {limits.requests} |", f"| {limits.sockets} |", f"| {limits.idle_seconds:g} s |",
        f"| {limits.request_seconds:g} s |",
    ):  # fmt: skip
        assert text in PAGE, text


def test_every_route_of_the_page_is_served(documented: Running) -> None:
    paths = documented.client.get("/openapi.json").json()["paths"]
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/audio/transcriptions", "/v1/audio/speech", "/v1/models"):
        assert path in paths and path in PAGE
