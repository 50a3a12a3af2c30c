"""A host name whose address changes between two look-ups, as in DNS rebinding."""

from __future__ import annotations

import socket

import pytest


def change_address(monkeypatch: pytest.MonkeyPatch, name: str, first: str, later: str) -> list[str]:
    """Resolve a name to `first` once and to `later` from then on; returns the list of its look-ups."""
    real, asked = socket.getaddrinfo, list[str]()

    def resolver(host: str, *args: object, **named: object) -> object:
        if host != name:
            return real(host, *args, **named)  # type: ignore[arg-type]
        asked.append(host)
        return real(first if len(asked) == 1 else later, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    return asked
