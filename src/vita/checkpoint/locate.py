"""Where a checkpoint that a user names is. Imports no torch, so that a wrong name is told at once."""

from __future__ import annotations

from pathlib import Path

from vita.checkpoint.files import DEFAULT, SPEECH_FOLDER, expand_user, is_file, is_folder
from vita.checkpoint.hub import is_hub_id
from vita.errors import CheckpointError


def find_folder(name: str | Path | None) -> Path | None:
    """The folder on disk for a path or None (the embedded checkpoint); None for a hub id.

    Raises:
        CheckpointError: no such folder, and not a hub id.
    """
    if name is None or str(name) == "default":
        return DEFAULT
    path = expand_user(Path(name))
    if is_folder(path):
        return path
    if is_file(path):
        raise CheckpointError("is a file, not a checkpoint folder", where=name, fix="pass the folder around it")
    if isinstance(name, str) and is_hub_id(name):
        return None
    raise CheckpointError("no such folder", where=name, fix="pass a checkpoint folder or a hub id like owner/name")


def find_speech(folder: Path) -> Path | None:
    """The speech checkpoint of a model's folder; None if it has none."""
    speech = folder / SPEECH_FOLDER
    return speech if is_folder(speech) else None
