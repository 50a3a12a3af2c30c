"""Streams that cannot hold every character: `?` instead of an error, and JSON in ASCII."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.checkpoints import VISION, copy_mini
from tests.cli.commands import ENV
from tests.forks import Forks

NAME = "m\u00fc\u261c"  # a letter of Latin-1, and a character that only Unicode has
STREAMS = {
    "LANG=C": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "cp1252": {"PYTHONIOENCODING": "cp1252:strict"},
}
# Both replace what they cannot hold in the same way; what differs, arguments as surrogates, is in the test of JSON.
ONE_STREAM = pytest.mark.parametrize("stream", ["cp1252", pytest.param("LANG=C", marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def folder(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini checkpoint in a folder whose name is not ASCII; `vita info` prints it."""
    place = copy_mini(mini, tmp_path_factory.mktemp("names") / NAME)
    assert (place.parent / VISION).is_dir()
    return place


def vita(
    *arguments: str, env: dict[str, str], forks: Forks | None = None
) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
    """`vita` with these variables; those of the locale need a process of its own."""
    command = [sys.executable, "-m", "vita", *arguments]
    if forks is not None:
        return forks.run(command, capture_output=True, env=ENV | env, timeout=120)
    clean = {k: v for k, v in ENV.items() if not k.startswith(("LC_", "PYTHONIOENCODING", "PYTHONUTF8"))}
    return subprocess.run(command, capture_output=True, env=clean | env, timeout=120, check=False)


@pytest.mark.slow
@ONE_STREAM
def test_text_is_printed_with_question_marks(stream: str, folder: Path) -> None:
    done = vita("info", str(folder), env=STREAMS[stream])
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert b"?" in first and first.endswith(b"/mini_ckpt (main layout)"), first


@pytest.mark.slow
@pytest.mark.parametrize("stream", STREAMS)
def test_json_is_ascii(stream: str, folder: Path) -> None:
    done = vita("info", str(folder), "--json", env=STREAMS[stream])
    assert done.returncode == 0 and done.stdout.isascii(), done.stderr
    shown = json.loads(done.stdout)["model"]
    # With LANG=C, Python decodes an argument of bytes outside ASCII to surrogates.
    assert shown.encode(errors="surrogateescape").decode() == str(folder)


@ONE_STREAM
def test_errors_are_one_sentence(stream: str) -> None:
    done = vita("info", f"/nowhere/{NAME}", env=STREAMS[stream])
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(b"vita: /nowhere/m") and b"no such folder" in line


def test_utf8_is_printed_as_it_is(forks: Forks, folder: Path) -> None:
    done = vita("info", str(folder), "--json", env={"PYTHONIOENCODING": "utf-8"}, forks=forks)
    assert NAME.encode() in done.stdout and json.loads(done.stdout)["model"] == str(folder)


def test_help_is_shown() -> None:
    done = vita("ask", "--help", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stdout.isascii() and b"--quantize" in done.stdout
