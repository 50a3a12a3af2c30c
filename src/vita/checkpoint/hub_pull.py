"""Download a checkpoint into the cache of the hub's client, resuming partial files.

The client keeps whole files only: what an interrupted process has downloaded of a file is lost. Weights are files of
gigabytes, so they are downloaded here, to `blobs/HASH.partial`, and moved to where the client looks for them.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vita.checkpoint import hub
from vita.checkpoint.files import exists
from vita.checkpoint.hub_cache import cache_folder, check_downloadable, repo_folder
from vita.errors import CheckpointError, DownloadError, ResourceError

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo
    from typing_extensions import Buffer  # of the standard library from Python 3.12 on

SPARE_BYTES = 64 << 20  # left free on the disk
HASH_BLOCK = 8 << 20


class HubClient(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    endpoint: str

    def model_info(self, repo_id: str, *, files_metadata: bool = False) -> ModelInfo: ...


@dataclass(frozen=True)
class PullFile:
    """A file of a repository.

    Attributes:
        name: path in the repository.
        size: in bytes.
        sha256: of a large file; None for a small one, which the client downloads.
        blob: where the cache keeps it.
    """

    name: str
    size: int
    sha256: str | None
    blob: Path

    @property
    def partial(self) -> Path:
        return self.blob.with_name(self.blob.name + ".partial")

    @property
    def present_bytes(self) -> int:
        """Bytes that are in the cache."""
        file = self.blob if exists(self.blob) else self.partial
        return min(self.size, file.stat().st_size) if exists(file) else 0


@dataclass(frozen=True)
class PullPlan:
    """What a download consists of.

    Attributes:
        repo: `owner/name`.
        commit: hash of the revision.
        files: needed ones, the smallest first.
        free_bytes: on the disk of the cache.
    """

    repo: str
    commit: str
    files: tuple[PullFile, ...]
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(f.size for f in self.files)

    @property
    def missing_bytes(self) -> int:
        return sum(f.size - f.present_bytes for f in self.files)


def plan_pull(repo: str, client: HubClient | None = None) -> PullPlan:
    """Ask the hub what there is to download; downloads nothing.

    Args:
        repo: `owner/name`.
        client: of the hub; None: the default one, for the endpoint of HF_ENDPOINT.

    Raises:
        DownloadError: no such repository, or the hub cannot be reached. CheckpointError: it holds no safetensors, or
        the name is not one of the hub.
    """
    check_downloadable(repo, "there is nothing to download")
    with hub.hub_errors(repo):
        info = (client or _default_client()).model_info(repo, files_metadata=True)
    siblings = {s.rfilename: s for s in info.siblings or ()}
    folder, files = repo_folder(repo), []
    for name, file in siblings.items():
        if not any(fnmatch(name, pattern) for pattern in hub.SMALL_FILES + hub.WEIGHTS):
            continue
        sha256 = file.lfs.sha256 if file.lfs is not None else None
        files.append(PullFile(name, file.size or 0, sha256, folder / "blobs" / (sha256 or file.blob_id or name)))
    if not any(f.name.endswith(".safetensors") for f in files):
        raise CheckpointError("holds no weights in safetensors files", where=repo, fix="check the spelling")
    existing = next(p for p in (cache_folder(), *cache_folder().parents) if exists(p))
    files.sort(key=lambda f: (f.size, f.name))
    return PullPlan(repo, info.sha or "main", tuple(files), shutil.disk_usage(existing).free)


def pull(
    plan: PullPlan,
    tell: Callable[[PullFile, int, int], None],
    progress: Callable[[int], None] | None = None,
    client: HubClient | None = None,
) -> Path:
    """Download what is missing and return the snapshot's folder; may be interrupted and called again.

    The HTTP client writes pieces of 10 MB, so that much of a file is lost at most.

    Args:
        plan: of `plan_pull`.
        tell: called before a large file is downloaded, with the file, its number from 1, and their count.
        progress: called during the download with the bytes of all files that are here.
        client: as in `plan_pull`.

    Raises:
        ResourceError: the disk has too little free space; nothing is downloaded. CheckpointError: the repository is no
        VITA checkpoint; only its small files are downloaded. DownloadError: the network failed.
    """
    from vita.checkpoint.open import open_checkpoint  # imports hub

    need = plan.missing_bytes
    if need and need + SPARE_BYTES > plan.free_bytes:
        raise ResourceError(
            f"needs {need / 1e9:.2f} GB more in {cache_folder()}, and {plan.free_bytes / 1e9:.2f} GB are free",
            where=plan.repo, fix="free some space, or set HF_HOME to a folder on another disk",
        )  # fmt: skip
    _check_config(hub.fetch(plan.repo, weights=False))
    missing = [f for f in plan.files if f.sha256 is not None and not exists(f.blob)]
    for number, file in enumerate(missing, start=1):
        tell(file, number, len(missing))
        _download(plan, file, (client or _default_client()).endpoint, progress)
    hub.fetch(plan.repo)
    return open_checkpoint(plan.repo).folder  # also fetches the vision encoder's configuration


def _default_client() -> HubClient:
    from huggingface_hub import HfApi

    return HfApi()


def _check_config(folder: Path) -> None:
    """Refuse another model before its weights are downloaded."""
    from vita.checkpoint import read_config
    from vita.checkpoint.files import is_file, read_json
    from vita.checkpoint.settings import Settings

    file = folder / "config.json"
    if not is_file(file):
        raise CheckpointError("is not a checkpoint, it has no config.json", where=file.parent)
    read_config.check_model_type(Settings(read_json(file), file))


class _CountingWriter(io.BufferedWriter):
    """Appends to a file and reports its size.

    Args:
        path: of the file.
        report: called with the size after each write.
    """

    def __init__(self, path: Path, report: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._report = report

    def write(self, data: Buffer, /) -> int:
        count = super().write(data)
        self._report(self.tell())
        return count


def _download(plan: PullPlan, file: PullFile, endpoint: str, progress: Callable[[int], None] | None) -> None:
    """Append to the partial file from where it ends, check the hash, and move it to its place."""
    from filelock import FileLock
    from huggingface_hub import get_token, hf_hub_url
    from huggingface_hub.file_download import http_get

    token = get_token()
    url = hf_hub_url(plan.repo, file.name, revision=plan.commit, endpoint=endpoint)
    lock = cache_folder() / ".locks" / repo_folder(plan.repo).name / f"{file.blob.name}.lock"
    with hub.hub_errors(plan.repo):
        for folder in (lock.parent, file.blob.parent):
            folder.mkdir(parents=True, exist_ok=True)
    with hub.hub_errors(plan.repo), FileLock(lock):
        if file.blob.exists():  # another process was faster
            return
        others = plan.total_bytes - plan.missing_bytes - file.present_bytes

        def report(size: int) -> None:
            if progress is not None:
                progress(others + size)

        with _CountingWriter(file.partial, report) as out:
            if out.tell() > file.size:
                out.seek(0)  # truncating leaves the position, where the rest would be asked for
                out.truncate()
            headers = {"authorization": f"Bearer {token}"} if token else {}
            http_get(
                url, out, resume_size=out.tell(), headers=headers, expected_size=file.size, displayed_filename=file.name
            )
        if _sha256(file.partial) != file.sha256:
            file.partial.unlink()
            raise DownloadError("arrived damaged", where=f"{plan.repo}/{file.name}", fix="run the same command again")
        file.partial.replace(file.blob)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while block := data.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
