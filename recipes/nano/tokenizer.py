"""The embedded model's tokenizer: whole pieces for the recipe's own sentences, single bytes for everything else.

The pieces are chosen in `recipes.nano.data.pieces`. There are no merges: a piece of the pre-split text is either in the
vocabulary as a whole (`ignore_merges`) or falls apart into bytes, so a quoted word is always spelled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recipes.nano.data.pieces import whole_pieces
from recipes.nano.look import END_THINK, THINK
from vita.prompt.tokenizer import Tokenizer

PRE_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
STATE_TOKENS = ("☜", "☞", "☟")
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINK_TOKENS = (THINK, END_THINK)  # special: a user who types one types plain text
SYSTEM_TEXTS = (
    "You are an AI robot and your name is VITA. \n- You are a multimodal large language model developed by the open "
    "source community. Your aim is to be helpful, honest and harmless. \n- You support the ability to communicate "
    "fluently and answer user questions in multiple languages of the user's choice. \n- If the user corrects the wrong "
    "answer you generated, you will apologize and discuss the correct answer with the user.",
    " \n- You must answer the question strictly according to the content of the image given by the user, and it is "
    "strictly forbidden to answer the question without the content of the image. Please note that you are seeing the "
    "image, not the video.",
    " \n- You must answer the question strictly according to the content of the video given by the user, and it is "
    "strictly forbidden to answer the question without the content of the video. Please note that you are seeing the "
    "video, not the image.",
)


def byte_characters() -> dict[int, str]:
    """GPT-2's table from bytes to printable characters, in vocabulary order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + k) for k, b in enumerate(rest)}


def build_tokenizer(out: Path) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` into the folder `out`."""
    table = byte_characters()
    vocabulary = {char: k for k, char in enumerate(table.values())}
    for piece in whole_pieces():
        vocabulary.setdefault("".join(table[b] for b in piece.encode()), len(vocabulary))
    added = [(text, True) for text in (*SPECIALS, *THINK_TOKENS)]
    added += [(text, False) for text in (*STATE_TOKENS, *SYSTEM_TEXTS)]
    tokens = {
        len(vocabulary) + k: {
            "content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": special,
        }
        for k, (text, special) in enumerate(added)
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "tokenizer.json", _tokenizer_file(vocabulary, tokens))
    _write(out / "tokenizer_config.json", _config_file(tokens))


def tokenizer_in(run: Path) -> Tokenizer:
    """The tokenizer of a run's folder, which is made with its first start and stays."""
    folder = run / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        build_tokenizer(folder)
    return Tokenizer.load(folder)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _tokenizer_file(vocabulary: dict[str, int], tokens: dict[int, dict[str, Any]]) -> dict[str, Any]:
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PRE_SPLIT}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": k, **token} for k, token in tokens.items()],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytewise]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
            "vocab": vocabulary, "merges": [],
        },
    }  # fmt: skip


def _config_file(tokens: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(k): token for k, token in tokens.items()},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 8192,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
