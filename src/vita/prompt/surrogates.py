"""Surrogates in texts: JSON and file names can hold halves of characters, which cannot be encoded."""

from __future__ import annotations


def replace_surrogates(text: str) -> str:
    """The text as valid Unicode: a surrogate pair becomes its character, a lone surrogate becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
