"""List and remove checkpoints in the local cache of the hub's client.

Other programs keep their models in the same cache, so only VITA checkpoints are listed and removed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from vita.checkpoint import hub, read_config
from vita.checkpoint.files import expand_user, is_file, is_folder, read_json
from vita.checkpoint.settings import Settings
from vita.errors import CheckpointError, ResourceError

PREFIX = "models--"


@dataclass(frozen=True)
class CachedModel:
    """A checkpoint in the cache.

    Attributes:
        repo: `owner/name`.
        folder: of the cache, with all revisions.
        bytes: on disk.
        complete: every file of weights is there.
        modified: time of the last download, in seconds since 1970.
    """

    repo: str
    folder: Path
    bytes: int
    complete: bool
    modified: float


def cache_folder() -> Path:
    """The cache's folder; HF_HOME or HF_HUB_CACHE set it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repo_folder(repo: str) -> Path:
    """Where the cache keeps the repository `owner/name`."""
    return cache_folder() / (PREFIX + repo.replace("/", "--"))


def cached_models() -> list[CachedModel]:
    """Every VITA checkpoint in the cache, complete or not, by name."""
    folders = sorted(cache_folder().glob(f"{PREFIX}*")) if is_folder(cache_folder()) else []
    found = (_read(folder) for folder in folders if is_folder(folder) and not folder.is_symlink())
    return [model for model in found if model is not None]


def check_downloadable(repo: str, fix: str) -> None:
    """Refuse what never is in the cache.

    Args:
        repo: as the user named it.
        fix: what to do instead, for the embedded model and a folder.

    Raises:
        CheckpointError: it is the embedded model, a folder, or no hub id.
    """
    if repo == "default":
        raise CheckpointError("is the embedded model, a part of the package", where=repo, fix=fix)
    if hub.is_hub_id(repo):
        return
    if repo and is_folder(expand_user(Path(repo))):
        raise CheckpointError("is a folder and not in the hub cache", where=repo, fix=fix)
    raise CheckpointError("is no hub id", where=repo or "''", fix="pass one like owner/name")


def remove(repo: str) -> CachedModel:
    """Remove a checkpoint from the cache, all its revisions; returns what it was.

    Raises:
        CheckpointError: the cache has no such checkpoint, or it is not in the cache. ResourceError: a file cannot be
        removed.
    """
    check_downloadable(repo, "vita list shows what can be removed")
    model = next((m for m in cached_models() if m.repo == repo), None)
    if model is None:
        if is_folder(repo_folder(repo)):
            raise CheckpointError(
                "is in the hub cache but is no VITA checkpoint", where=repo, fix="remove it with 'hf cache'"
            )
        raise CheckpointError("is not in the hub cache", where=repo, fix="see vita list")
    try:
        shutil.rmtree(model.folder)
    except OSError as error:
        raise ResourceError(f"could not be removed ({error.strerror})", where=error.filename or model.folder) from error
    locks = cache_folder() / ".locks" / model.folder.name
    if is_folder(locks):
        shutil.rmtree(locks)
    return model


def _read(folder: Path) -> CachedModel | None:
    """The checkpoint in a repository's folder; None if it is another program's model."""
    snapshots = sorted(folder.glob("snapshots/*/config.json"))
    if not snapshots:
        return None
    main = folder / "refs" / "main"
    chosen = snapshots[-1].parent
    try:
        if is_file(main):
            chosen = folder / "snapshots" / main.read_text(encoding="utf-8").strip()
        read_config.check_model_type(Settings(read_json(chosen / "config.json"), chosen / "config.json"))
    except (CheckpointError, OSError, ValueError):  # unreadable, or not UTF-8
        return None
    files = [f for f in folder.rglob("*") if f.is_file() and not f.is_symlink()]
    return CachedModel(
        repo=folder.name.removeprefix(PREFIX).replace("--", "/", 1),
        folder=folder,
        bytes=sum(f.stat().st_size for f in files),
        complete=_has_weights(chosen),
        modified=max(f.stat().st_mtime for f in files),
    )


def _has_weights(snapshot: Path) -> bool:
    """Whether every file of weights that the index names is there, or one file without an index."""
    index = snapshot / "model.safetensors.index.json"
    if not is_file(index):
        return any(is_file(f) for f in snapshot.glob("*.safetensors"))
    try:
        names = read_json(index).get("weight_map")
    except CheckpointError:
        return False
    return isinstance(names, dict) and all(is_file(snapshot / str(name)) for name in set(names.values()))
