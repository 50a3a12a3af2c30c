"""Downloading checkpoints from the hub with `huggingface_hub`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from vita.checkpoint.files import SPEECH_FOLDER
from vita.errors import DownloadError, ResourceError
from vita.runtime.disk import is_full

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", f"{SPEECH_FOLDER}/*")
SMALL_FILES = ("*.json", "*.yaml", "*global_cmvn", "merges.txt", "vocab.json")


def is_hub_id(name: str) -> bool:
    """Whether the text has the form `owner/name` and cannot be a path."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def fetch(repo: str, *, weights: bool = True, offline: bool = False) -> Path:
    """The local folder of a hub repository; what is not in the cache is downloaded, resuming earlier attempts.

    Args:
        repo: `owner/name`.
        weights: download the tensors too, not only the configuration files.
        offline: use only the cache.

    Raises:
        DownloadError: no network, no such repository, or offline and not cached.
        ResourceError: the disk is full.
    """
    from huggingface_hub import snapshot_download

    patterns = list(SMALL_FILES + (WEIGHTS if weights else ()))
    with hub_errors(repo, offline=offline):
        return Path(snapshot_download(repo, allow_patterns=patterns, local_files_only=offline))


@contextmanager
def hub_errors(repo: str, *, offline: bool = False) -> Iterator[None]:
    """Turn errors of the hub's client into `DownloadError` or `ResourceError`.

    Args:
        repo: `owner/name`, for the message.
        offline: the network was not to be used.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    # Base class of the errors of the HTTP library that this version of the client uses.
    transport_error = cast(type[BaseException], HfHubHTTPError.__bases__[0])
    try:
        yield
    except GatedRepoError as error:
        raise DownloadError("asks for a login", where=repo, fix="run 'hf auth login' first") from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            "is neither a folder here nor a repository on the hub", where=repo, fix="check the spelling"
        ) from error
    except OfflineModeIsEnabled as error:
        raise DownloadError("offline mode is on", where=repo, fix="unset HF_HUB_OFFLINE") from error
    except LocalEntryNotFoundError as error:
        reason = "offline mode is on" if offline else "the hub cannot be reached"
        raise DownloadError(
            f"is not in the local cache and {reason}", where=repo,
            fix="connect to the network, or pass the path of a folder you have",
        ) from error  # fmt: skip
    except HfHubHTTPError as error:
        raise DownloadError(f"the hub answered with an error ({error.response.status_code})", where=repo) from error
    except HFValidationError as error:
        raise DownloadError("is no valid name on the hub", where=repo, fix="check the spelling") from error
    except (OSError, transport_error) as error:
        if is_full(error):
            raise ResourceError(
                "the disk is full", where=repo, fix="free some space and try again: it resumes"
            ) from error
        if isinstance(error, OSError) and error.filename is not None:  # a file here, not the network
            raise ResourceError(
                f"the hub's cache cannot be used ({error.strerror})", where=error.filename,
                fix="set HF_HOME to a folder you may write to",
            ) from error  # fmt: skip
        raise DownloadError(
            f"could not be downloaded ({type(error).__name__})", where=repo,
            fix="check the network, or pass the path of a folder you have",
        ) from error  # fmt: skip
