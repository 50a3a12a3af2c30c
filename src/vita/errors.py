"""Errors that users can understand and fix, each one clear sentence.

The command line prints the sentence and exits with code 2; HTTP answers with a status of 4xx.
"""

from __future__ import annotations


class VitaError(Exception):
    """Something a user can understand and fix.

    Args:
        what: what is wrong, as a clause without a final full stop.
        where: the file, URL, tensor or flag it is about.
        fix: what to do, as a clause without a final full stop.
    """

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        super().__init__(self.sentence())

    def sentence(self) -> str:
        """The whole message: `where: what; fix.`"""
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.fix}." if self.fix else f"{text}."


class MediaError(VitaError):
    """A picture, video or sound that cannot be used."""


class CheckpointError(VitaError):
    """A model folder that cannot be used."""


class RequestError(VitaError):
    """A question, flag or parameter that cannot be used."""


class ResourceError(VitaError):
    """The machine lacks something: memory, a device, disk space."""


class QueueFull(ResourceError):
    """Too many requests wait already; over HTTP this is status 429."""


class DownloadError(VitaError):
    """A hub or URL that could not be fetched."""


class Cancelled(Exception):
    """The caller no longer wants the result. Not a `VitaError`: nothing went wrong."""
