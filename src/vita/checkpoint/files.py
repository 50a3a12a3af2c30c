"""The embedded checkpoint's folder, existence checks, and JSON that raises nothing but `CheckpointError`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vita.errors import CheckpointError

DEFAULT = Path(__file__).parents[1] / "default"  # the embedded checkpoint
SPEECH_FOLDER = "vita_tts_ckpt"  # inside a model's folder: its speech decoder and codec


def exists(path: Path) -> bool:
    """Whether there is anything. Where the system cannot say, since the name is too long or a folder is closed to this
    user, it is not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(file: Path) -> bool:
    """Whether a regular file is there. Names that the system cannot hold (too long, with NUL) are not."""
    try:
        return file.is_file()
    except (OSError, ValueError):
        return False


def is_folder(folder: Path) -> bool:
    """The same for a folder."""
    try:
        return folder.is_dir()
    except (OSError, ValueError):
        return False


def expand_user(path: Path) -> Path:
    """The path with `~` replaced; unchanged if there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_utf8(path: Path) -> bool:
    """Whether the path is valid UTF-8; on Linux and macOS it may be any bytes."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: missing, unreadable, or not an object.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError("is missing", where=file, fix="pass the folder of a VITA-1.5 checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=file) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError("is not valid JSON", where=file, fix="download it again") from error
    if not isinstance(data, dict):
        raise CheckpointError("is not a JSON object", where=file)
    return data
