"""Texts of spoken answers, kept for a while: history refers to them by the id of their audio."""

from __future__ import annotations

import time
from collections.abc import Callable

from vita.serve.auth import Tenant
from vita.serve.errors import invalid

KEEP_SECONDS = 3600
MAX_TRANSCRIPTS = 4096
MAX_CHARACTERS = 16_000_000  # of all of them


class Transcripts:
    """Texts by id. The oldest are forgotten first.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._texts: dict[str, tuple[float, str, str]] = {}  # by id: when it expires, the tenant's salt, the text
        self._characters = 0

    def keep(self, id: str, text: str, tenant: Tenant) -> int:
        """Keep a text; returns when it expires, in seconds since the epoch."""
        expires = self._clock() + KEEP_SECONDS
        self._texts[id] = (expires, tenant.salt, text)
        self._characters += len(text)
        while len(self._texts) > MAX_TRANSCRIPTS or self._characters > MAX_CHARACTERS or self._oldest_has_expired():
            self._characters -= len(self._texts.pop(next(iter(self._texts)))[2])
        return int(expires)

    def _oldest_has_expired(self) -> bool:
        return bool(self._texts) and next(iter(self._texts.values()))[0] <= self._clock()

    def find(self, id: str, tenant: Tenant, param: str) -> str:
        """The text of this id.

        Raises:
            ApiError: 400, there is none, it has expired, or it is another tenant's.
        """
        expires, salt, text = self._texts.get(id, (0.0, "", ""))
        if expires <= self._clock() or salt != tenant.salt:
            raise invalid(f"{param}: there is no such audio, or it has expired; send its transcript as content.", param)
        return text
