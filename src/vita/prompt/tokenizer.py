"""The checkpoint's tokenizer, over the `tokenizers` library.

User text is encoded literally: a special token or a placeholder that a user types is ordinary text. Special tokens
are looked up by content, since checkpoints number them differently.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from vita.errors import CheckpointError
from vita.events import State
from vita.prompt.surrogates import replace_surrogates

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
STATE_TOKENS: dict[str, State] = {"☜": "typed", "☞": "spoken", "☟": "noise"}
THINK, END_THINK = "<think>", "</think>"
LONG_TEXT = 4000  # characters

PRE_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class ReasoningTokens(NamedTuple):
    """Ids of the added tokens `<think>` and `</think>`, between which a model reasons before it answers."""

    begin: int
    end: int


class Tokenizer:
    """Text to ids and back.

    Args:
        backend: a loaded tokenizer. Its saved truncation, padding and dropout are turned off, and special tokens in
            text are encoded literally.
        folder: where it came from, for error sentences.

    Attributes:
        size: ids are below this; also the rows of embedding and head that are kept (spec section 1.6).
        special: id and content of each special token.
        reasoning: the tokens around a reasoning; None: the vocabulary has no such added tokens.
        byte_level: whether a token stands for bytes, so that `token_bytes` can be used.
    """

    def __init__(self, backend: Backend, folder: Path) -> None:
        _disable_saved_state(backend)
        backend.encode_special_tokens = True
        self.backend = backend
        self.folder = folder
        self.size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        added = backend.get_added_tokens_decoder()
        self.special = {i: token.content for i, token in added.items() if token.special}
        self.byte_level = _is_byte_level(backend)
        self._added = {i: token.content.encode() for i, token in added.items()}
        ids = {token.content: i for i, token in added.items()}
        both = THINK in ids and END_THINK in ids
        self.reasoning = ReasoningTokens(ids[THINK], ids[END_THINK]) if both else None

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """From `tokenizer.json`, or from `vocab.json` and `merges.txt`.

        Raises:
            CheckpointError: neither is there, or a file cannot be read or is damaged.
        """
        single = folder / "tokenizer.json"
        try:
            if single.is_file():
                # The library opens a path only if it is UTF-8.
                return cls(Backend.from_buffer(single.read_bytes()), folder)
            if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
                return cls(_from_parts(folder), folder)
        except OSError as error:
            raise CheckpointError(f"cannot be read ({error.strerror})", where=error.filename or folder) from error
        except BaseException as error:
            # The library raises plain Exception for damage; a panic of its Rust code is a BaseException.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise CheckpointError("its tokenizer files are damaged", where=folder, fix="download it again") from error
        raise CheckpointError(
            "the tokenizer is missing", where=folder, fix="put tokenizer.json (or vocab.json and merges.txt) there"
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text taken literally; nothing is added around it. Lone surrogates become U+FFFD."""
        text = replace_surrogates(text)
        if len(text) < LONG_TEXT:
            return list(self.backend.encode(text, add_special_tokens=False).ids)
        # `encode` keeps the GIL: 0.1 s for 100,000 characters, in which nobody decodes. `encode_batch` releases it.
        return list(self.backend.encode_batch([text], add_special_tokens=False)[0].ids)

    def encode_with_specials(self, text: str) -> list[int]:
        """Ids of a text in which written-out special tokens are recognised; for reference prompts only."""
        return list(self._parsing.encode(replace_surrogates(text), add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Text of ids; invalid UTF-8 becomes U+FFFD."""
        if not self.byte_level:
            return str(self.backend.decode(list(ids), skip_special_tokens=skip_special))
        data = b"".join(self.token_bytes(i) for i in ids if not (skip_special and i in self.special))
        return data.decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """Bytes of one token of a byte-level vocabulary: an added token is UTF-8, an unknown id is empty."""
        if token in self._added:
            return self._added[token]
        name = self.backend.id_to_token(token)
        if name is None:
            return b""
        try:
            return bytes(BYTE_OF[character] for character in name)
        except KeyError:  # not spelt in the byte alphabet
            return str(name).encode()

    def token_id(self, content: str) -> int:
        """The id of one vocabulary item.

        Raises:
            CheckpointError: the vocabulary has no such item.
        """
        found = self.backend.token_to_id(content)
        if found is None:
            raise CheckpointError(f"the tokenizer has no {content!r}", where=self.folder)
        return int(found)

    @cached_property
    def im_start(self) -> int:
        return self.token_id(IM_START)

    @cached_property
    def im_end(self) -> int:
        return self.token_id(IM_END)

    @cached_property
    def _parsing(self) -> Backend:
        """A second backend: recognising special tokens is a property of the object, which threads share."""
        other = Backend.from_str(self.backend.to_str())
        other.encode_special_tokens = False
        return other


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2's table, spec section 2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + k): byte for k, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


def _is_byte_level(backend: Backend) -> bool:
    """Whether the decoder only maps the byte alphabet to bytes and joins them."""
    if backend.decoder is None:
        return False
    state = json.loads(backend.decoder.__getstate__())
    steps = [step["type"] for step in state.get("decoders", [state])]
    return steps.count("ByteLevel") == 1 and set(steps) <= {"ByteLevel", "Fuse"}


def _disable_saved_state(backend: Backend) -> None:
    """Turn off truncation, padding and BPE dropout, which a file saved after training may bring along and `encode`
    would apply."""
    backend.no_truncation()
    backend.no_padding()
    model = backend.model  # shares its state with the backend
    if getattr(model, "dropout", None) is not None:
        model.dropout = None


def _read_merges(file: Path) -> list[tuple[str, str]]:
    """One pair a line; a line that begins with #version is none.

    Raises:
        ValueError: a line that is no pair, or no UTF-8.
    """
    lines = file.read_bytes().decode("utf-8").removesuffix("\n").split("\n")  # a token may hold other line ends
    pairs = [line.removesuffix("\r").split(" ") for line in lines if not line.startswith("#version")]
    return [(left, right) for left, right in pairs]


def _from_parts(folder: Path) -> Backend:
    """A Qwen2 tokenizer from the older file pair `vocab.json` and `merges.txt`.

    The files are read here since the library opens a path only if it is UTF-8.
    """
    vocab: dict[str, int] = json.loads((folder / "vocab.json").read_bytes())
    backend = Backend(models.BPE(vocab, _read_merges(folder / "merges.txt")))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for _, token in sorted(settings.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0])):
        added = AddedToken(
            token["content"], single_word=token["single_word"], lstrip=token["lstrip"], rstrip=token["rstrip"],
            normalized=token["normalized"],
        )  # fmt: skip
        if token["special"]:
            backend.add_special_tokens([added])
        else:
            backend.add_tokens([added])
    return backend
