"""The opened checkpoint behind a vLLM model name, and the placeholder ids of its media."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vita.checkpoint.open import Checkpoint, open_checkpoint
from vita.errors import CheckpointError
from vita.prompt.tokenizer import STATE_TOKENS, Tokenizer

# Written out in prompts that are text. In token ids they are the first ids behind the vocabulary, whose rows are never
# embedded nor predicted (spec section 1.6).
PLACEHOLDERS = {"image": "<|vita_image|>", "video": "<|vita_video|>", "audio": "<|vita_audio|>"}


@dataclass(frozen=True)
class OpenedModel:
    """A checkpoint with its tokenizer, without weights.

    Attributes:
        name: as vLLM names the model.
        checkpoint: opened; its configuration was checked.
        tokenizer: of prompts.
        placeholders: token id of each kind of media.
        stop_ids: token ids that end an answer.
    """

    name: str
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    placeholders: dict[str, int]
    stop_ids: frozenset[int]

    def state_ids(self) -> dict[int, str]:
        """The response state token of each id. A checkpoint without such tokens has none."""
        found: dict[int, str] = {}
        for text in STATE_TOKENS:
            ids = self.tokenizer.encode(text)
            if len(ids) == 1:
                found[ids[0]] = text
        return found


@lru_cache(maxsize=4)
def opened_model(name: str) -> OpenedModel:
    """The checkpoint of a path or hub id; the same object for the same name.

    Raises:
        CheckpointError: not a VITA-1.5 checkpoint, damaged, or stored in this engine's own quantisation.
        DownloadError: a hub id that cannot be fetched.
    """
    checkpoint = open_checkpoint(name)
    if checkpoint.quantized:
        raise CheckpointError(
            f"is stored in {checkpoint.quantized}, which vLLM does not read", where=checkpoint.folder,
            fix="pass the original checkpoint",
        )  # fmt: skip
    tokenizer = Tokenizer.load(checkpoint.folder)
    ids = {kind: tokenizer.size + index for index, kind in enumerate(PLACEHOLDERS)}
    stops = frozenset({*checkpoint.config.generation.eos_ids, tokenizer.im_end, tokenizer.im_start})
    return OpenedModel(name, checkpoint, tokenizer, ids, stops)
