"""Voices that are installed, found by the entry points of pyproject.toml."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from vita.errors import ResourceError
from vita.speech.voice import GROUP, Voice, choose_voice

if sys.version_info >= (3, 11):
    import tomllib

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def voices_are_declared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The checkout's entry points, where an older version of the package, or none, is installed."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    if {entry.name for entry in entry_points(group=GROUP)} >= {"espeak", "piper"} or sys.version_info < (3, 11):
        yield
        return
    voices = tomllib.loads(declared)["project"]["entry-points"][GROUP]
    info = tmp_path_factory.mktemp("metadata") / "vita_voices-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vita-voices\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "\n".join([f"[{GROUP}]", *(f"{name} = {value}" for name, value in voices.items())])
    )
    sys.path.append(str(info.parent))
    importlib.invalidate_caches()
    yield
    sys.path.remove(str(info.parent))


def installed(name: str) -> Voice:
    try:
        return choose_voice(name)
    except ResourceError as error:
        pytest.skip(f"SKIPPED LOUDLY: {error}")


@pytest.fixture(scope="session")
def espeak(voices_are_declared: None) -> Voice:
    return installed("espeak")


@pytest.fixture(scope="session")
def piper(voices_are_declared: None) -> Voice:
    return installed("piper")
