"""Errors that users can understand and fix, each one clear sentence.

The command line prints the sentence and exits with code 2; HTTP answers with a status of 4xx.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vita.events import Done

_OPTION = re.compile(r"`([a-z][a-z_]*)`")


class VitaError(Exception):
    """Something a user can understand and fix.

    Library code names options as Python does, in `where` alone or in `what` and `fix` between backticks. The surface
    that shows the sentence may have other names for them, see `sentence`.

    Args:
        what: what is wrong, as a clause without a final full stop.
        where: the file, URL, tensor or option it is about.
        fix: what to do, as a clause without a final full stop.
    """

    about_options = False  # whether `where` may be the name of an option

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        super().__init__(self.sentence())

    def sentence(self, names: Mapping[str, str] | None = None) -> str:
        """The whole message: `where: what; fix.`

        Args:
            names: what a surface calls the options, by their names in Python, such as `{"top_p": "--top-p"}`. Options
                that it does not name keep their names in Python.
        """
        names = names or {}
        where = names.get(self.where, self.where) if self.where and self.about_options else self.where
        text = f"{self.what}; {self.fix}." if self.fix else f"{self.what}."
        text = _OPTION.sub(lambda option: names.get(option[1], option[1]), text)
        return f"{where}: {text}" if where else text


class MediaError(VitaError):
    """An image, video or audio clip that cannot be used."""


class CheckpointError(VitaError):
    """A model folder that cannot be used."""


class RequestError(VitaError):
    """A question, option or parameter that cannot be used."""

    about_options = True


class ResourceError(VitaError):
    """The machine lacks something: memory, a device, disk space."""

    about_options = True


class QueueFull(ResourceError):
    """Too many requests wait already; over HTTP this is status 429."""


class SpeechError(ResourceError):
    """An answer whose text is complete, and whose speech is not.

    It is raised in place of the request's last `Done`, after all events of the text.

    Attributes:
        done: that `Done`.
    """

    def __init__(self, what: str, *, done: Done, where: object = None, fix: str | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.done = done


class DownloadError(VitaError):
    """A hub or URL that could not be fetched."""


class Cancelled(Exception):
    """The caller no longer wants the result. Not a `VitaError`: nothing went wrong."""
