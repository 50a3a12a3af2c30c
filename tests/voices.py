"""Voices that are installed, found by the entry points of pyproject.toml."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from vita.errors import ResourceError
from vita.speech.voice import GROUP, Voice, choose_voice

if sys.version_info >= (3, 11):
    import tomllib

ROOT = Path(__file__).parents[1]
TONE = {"tone": "tests.speech.tone:ToneVoice"}


@pytest.fixture(scope="session")
def voices_are_declared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The checkout's entry points, where an older version of the package, or none, is installed."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    if {entry.name for entry in entry_points(group=GROUP)} >= {"espeak", "piper"} or sys.version_info < (3, 11):
        yield
        return
    voices = tomllib.loads(declared)["project"]["entry-points"][GROUP]
    with on_path(declare_voices(tmp_path_factory.mktemp("metadata"), voices)):
        yield


@pytest.fixture(scope="module")
def tone_is_declared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The voice `tone` of the tests, by an entry point like those of other packages."""
    with on_path(declare_voices(tmp_path_factory.mktemp("tone"), TONE)):
        yield


def declare_voices(folder: Path, voices: Mapping[str, str]) -> Path:
    """Make a folder, on sys.path, that of a package with these entry points."""
    name = "_".join(["vita_voices", *voices])  # of two packages of one name only the first is seen
    info = folder / f"{name}-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "\n".join([f"[{GROUP}]", *(f"{voice} = {value}" for voice, value in voices.items())])
    )
    return folder


@contextlib.contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """With a folder on sys.path."""
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        importlib.invalidate_caches()


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
