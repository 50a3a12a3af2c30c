"""The checkpoint's tokenizer as vLLM's: for prompts that are text, and for the text of answers.

Prompts of conversations are encoded by `vita.prompt` (see `renderer`).
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer as Backend
from transformers import TokenizersBackend
from vllm.tokenizers.hf import get_cached_tokenizer

from vita.plugins.vllm.checkpoint import PLACEHOLDERS, OpenedModel, opened_model
from vita.prompt.tokenizer import END_OF_TEXT, IM_END


class VitaTokenizer:
    """Loads the tokenizer for vLLM's registry."""

    @classmethod
    def from_pretrained(cls, path_or_repo_id: str | Path, *args: object, **kwargs: object) -> TokenizersBackend:
        """A fast tokenizer with the checkpoint's ids, and placeholders behind them.

        Response state tokens are special in it, so that no text of an answer holds them unless the request asks for
        special tokens.

        Raises:
            CheckpointError: the tokenizer's files are missing or damaged.
        """
        opened = opened_model(str(path_or_repo_id))
        backend = Backend.from_str(with_special_tokens(opened))
        vocabulary = backend.get_vocab(with_added_tokens=True)
        pad = END_OF_TEXT if END_OF_TEXT in vocabulary else IM_END
        tokenizer = TokenizersBackend(
            tokenizer_object=backend, eos_token=IM_END, pad_token=pad, clean_up_tokenization_spaces=False,
            name_or_path=str(path_or_repo_id), truncation_side=str(kwargs.get("truncation_side", "left")),
        )  # fmt: skip
        return get_cached_tokenizer(tokenizer)


def with_special_tokens(opened: OpenedModel) -> str:
    """The tokenizer's state in JSON, with response state tokens and placeholders as special tokens."""
    backend = opened.tokenizer.backend
    state = json.loads(backend.to_str())
    added = {token["id"]: token for token in state["added_tokens"]}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for token in opened.state_ids():
        # A byte-level vocabulary spells the character in its alphabet: the token is added under that spelling, which
        # is how a decoder finds it.
        added[token] = {"id": token, "content": backend.id_to_token(token), **plain}
    for kind, token in opened.placeholders.items():
        added[token] = {"id": token, "content": PLACEHOLDERS[kind], **plain}
    state["added_tokens"] = [added[token] for token in sorted(added)]
    return json.dumps(state)
