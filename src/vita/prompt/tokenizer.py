"""The checkpoint's tokenizer, over the `tokenizers` library.

Owns ids and text. User text is encoded literally: a special token or a placeholder that somebody types is just
characters. Special tokens are looked up by content, since checkpoints number them differently.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from vita.errors import CheckpointError
from vita.events import State

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
STATE_TOKENS: dict[str, State] = {"☜": "typed", "☞": "spoken", "☟": "noise"}

PRE_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Text to ids and back.

    Args:
        backend: a loaded tokenizer; it is switched to take special tokens in text literally and every text whole.
        folder: where it came from, for error sentences.
    """

    def __init__(self, backend: Backend, folder: Path) -> None:
        _forget_training_state(backend)
        backend.encode_special_tokens = True
        self.backend = backend
        self.folder = folder
        self.size = max(backend.get_vocab(with_added_tokens=True).values()) + 1  # rows kept by the vocabulary cut
        self.special = {i: token.content for i, token in backend.get_added_tokens_decoder().items() if token.special}

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """From `tokenizer.json`, or from `vocab.json` and `merges.txt`.

        Raises:
            CheckpointError: neither is there, or a file is damaged.
        """
        whole = folder / "tokenizer.json"
        try:
            if whole.is_file():
                return cls(Backend.from_file(str(whole)), folder)
            if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
                return cls(_from_parts(folder), folder)
        except Exception as error:  # the library raises bare Exception for every kind of damage
            raise CheckpointError("its tokenizer files are damaged", where=folder, fix="download it again") from error
        raise CheckpointError(
            "the tokenizer is missing", where=folder, fix="put tokenizer.json (or vocab.json and merges.txt) there"
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text taken literally; nothing is added around it."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_with_specials(self, text: str) -> list[int]:
        """Ids of a text in which special tokens written out count as such: for reference prompts only."""
        return list(self._parsing.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int], *, skip_special: bool = False) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD."""
        return str(self.backend.decode(ids, skip_special_tokens=skip_special))

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
        """A second instance, because the switch is a property of the whole object and threads share it."""
        other = Backend.from_str(self.backend.to_str())
        other.encode_special_tokens = False
        return other


def _forget_training_state(backend: Backend) -> None:
    """Turn off what a file saved after training brings along and `encode` would obey without a word: truncation,
    padding, and BPE dropout, with which the same text has other ids each time."""
    backend.no_truncation()
    backend.no_padding()
    model = backend.model  # shares its state with the backend
    if getattr(model, "dropout", None) is not None:
        model.dropout = None


def _from_parts(folder: Path) -> Backend:
    """A Qwen2 tokenizer from its older file pair."""
    import json

    backend = Backend(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
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
