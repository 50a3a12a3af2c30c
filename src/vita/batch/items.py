"""Items of a batch: what one is asked, what names it, and which shard it belongs to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from vita.errors import RequestError
from vita.serve.errors import ApiError
from vita.types import Message, SamplingParams

if TYPE_CHECKING:
    from vita.api import Vita

DIGEST_BYTES = 16
_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True)
class Asked:
    """One request, read.

    Attributes:
        custom_id: the caller's name for it; None if the input has none that can be read.
        messages: of the conversation.
        params: how tokens are chosen.
        top_logprobs: alternatives that were asked for; None: no log-probabilities.
        error: why the request cannot be asked; the other fields mean nothing then.
    """

    custom_id: str | None
    messages: tuple[Message, ...] = ()
    params: SamplingParams = field(default_factory=SamplingParams)
    top_logprobs: int | None = None
    error: ApiError | None = None


Read: TypeAlias = "Callable[[Vita], Asked]"


@dataclass(frozen=True)
class Item:
    """One line, row or file of the input.

    Attributes:
        digest: of its content, 16 bytes. Equal items have equal digests.
        shard_digest: decides the shard. The same on every machine, whatever its file times.
        read: makes the request; called when the item is about to be asked.
    """

    digest: bytes
    shard_digest: bytes
    read: Read


def digest_of(*parts: bytes) -> bytes:
    """Digest of byte strings, each with its length, so that no two lists of parts have the same."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.digest()[:DIGEST_BYTES]


def digest_of_values(*values: str | int | None) -> bytes:
    """Digest of text and numbers; a file name that is not UTF-8 is allowed."""
    return digest_of(json.dumps(values).encode())  # ASCII: lone surrogates are escaped


def key_of(digest: bytes, ordinal: int) -> str:
    """The id of an item's result.

    Args:
        digest: of the item.
        ordinal: 1 for the first item of this digest in the input, 2 for the second, and so on.
    """
    return f"batch_req_{digest.hex()}" + (f"_{ordinal}" if ordinal > 1 else "")


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of the input.

    Attributes:
        number: of this part, 1 to `count`.
        count: parts, 1 or more.

    Raises:
        RequestError: the number is out of range.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            what = f"{self.number}/{self.count} is no shard"
            raise RequestError(what, where="shard", fix="write 1/4 for the first of four")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard "2/8" means.

        Raises:
            RequestError: the text is none.
        """
        found = _SHARD.fullmatch(text.strip())
        if found is None:
            raise RequestError(f"{text!r:.60} is no shard", where="shard", fix="write 1/4 for the first of four")
        return cls(int(found[1]), int(found[2]))

    def holds(self, item: Item) -> bool:
        """Whether the item belongs to this part. Equal items belong to the same part."""
        return int.from_bytes(item.shard_digest, "big") % self.count == self.number - 1


def with_keys(items: Iterable[Item], shard: Shard) -> Iterator[tuple[str, Item]]:
    """The items of one shard, each with its key. Holds one digest for each item that has passed."""
    seen: set[bytes] = set()
    repeats: dict[bytes, int] = {}
    for item in items:
        if not shard.holds(item):
            continue
        ordinal = 1
        if item.digest in seen:
            ordinal = repeats[item.digest] = repeats.get(item.digest, 1) + 1
        seen.add(item.digest)
        yield key_of(item.digest, ordinal), item
