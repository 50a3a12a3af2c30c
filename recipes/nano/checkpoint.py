"""The weights that a run begins with: another run's, the shipped model's, grown or carried to another vocabulary.

Owns the names of what a checkpoint has no place for. A run's state on disk is `vita.train.checkpoint`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.nano.data.pieces import words_of_pieces
from recipes.nano.model import Learner, sizes
from vita.checkpoint.load import load_model
from vita.checkpoint.open import open_checkpoint
from vita.prompt.tokenizer import Tokenizer
from vita.train.checkpoint import has_shards, read_shards, read_state

HEADS = Path(__file__).parent / "heads.safetensors"  # of the shipped model; the checkpoint has no place for them
_WRITE = ("ctc.", "words.", "places.")  # heads that write down sounds
EARS, LEARNT_BY = ("audio.", "adapter.", *_WRITE), ("dense.", *_WRITE)


def read_run(folder: Path) -> dict[str, Any]:
    """A run's state, in one file or in several."""
    return read_shards(folder) if has_shards(folder) else read_state(folder)


_OUTPUTS = ("attn.o.weight", "mlp.down.weight")  # of a decoder's block: zeros make it pass its input on


def grow(weights: dict[str, Tensor], layers: int, kv_rows: int, width: int) -> dict[str, Tensor]:
    """The same decoder with more blocks and more key/value heads: it answers exactly as before.

    New blocks are copies of the one before them with silent outputs, in the deeper half; key/value heads are repeated.

    Args:
        weights: by the learner's names.
        layers: blocks wanted.
        kv_rows: key/value heads wanted, times their width.
        width: of a head.
    """
    pattern = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
    old: dict[int, dict[str, Tensor]] = {}
    grown = {}
    for name, tensor in weights.items():
        if found := pattern.match(name):
            old.setdefault(int(found[1]), {})[found[2]] = tensor
        else:
            grown[name] = tensor
    new = layers - len(old)
    at = 0
    for index, block in sorted(old.items()):
        for name, tensor in block.items():
            if name.startswith(("attn.k.", "attn.v.")):
                block[name] = _repeat_heads(tensor, kv_rows, width)
        copies = 1 + int(len(old) - 2 - new < index <= len(old) - 2)
        for copy in range(copies):
            for name, tensor in block.items():
                silent = copy > 0 and name in _OUTPUTS
                grown[f"decoder.layers.{at}.{name}"] = torch.zeros_like(tensor) if silent else tensor
            at += 1
    return grown


def _repeat_heads(tensor: Tensor, rows: int, width: int) -> Tensor:
    """Each key/value head as often as needed, copies side by side: query heads share them in blocks."""
    if rows % tensor.shape[0]:
        raise ValueError(f"{tensor.shape[0] // width} key/value heads cannot become {rows // width}")
    heads = tensor.view(tensor.shape[0] // width, width, *tensor.shape[1:])
    return heads.repeat_interleave(rows // tensor.shape[0], 0).flatten(0, 1)


def read_shipped(folder: Path, heads: Path = HEADS) -> dict[str, Tensor]:
    """An exported checkpoint and its heads, in float32 by the learner's names.

    Lets a run go on from it. Ears that were never trained, or are built unlike ours, are left out.

    Args:
        folder: of the checkpoint.
        heads: written with it by `recipes.nano.export --heads`; by default those of the shipped model.
    """
    checkpoint = open_checkpoint(folder, offline=True)
    size, cpu = Tokenizer.load(folder).size, torch.device("cpu")
    deaf = "audio" in checkpoint.untrained or checkpoint.config.audio != sizes("hearing", size).audio
    weights = {
        name: tensor.float() for name, tensor in load_file(heads).items() if not (deaf and name.startswith(EARS))
    }
    for part, module in load_model(checkpoint, size, torch.float32, cpu).parts():
        if not (deaf and f"{part}.".startswith(EARS)):
            weights |= {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
    return weights


TABLES = ("decoder.embed.weight", "decoder.head.weight")
WORDS = ("words.weight", "words.bias")
_NEW = 0.02  # deviation of a new row's noise
_SHY = 2.0  # how much less likely a new word is written down than "some other word"


def carried(weights: dict[str, Tensor], old: Tokenizer, new: Tokenizer) -> dict[str, Tensor]:
    """Weights for another vocabulary: rows of the embedding, the head and the words heard go by text, not by id.

    What both vocabularies hold keeps its rows. A new piece begins as the mean of its variants (with a space before it,
    without) in the embedding, else of its characters; a new special token as noise. A new heard word begins as a less
    likely "other word".

    Args:
        weights: by the learner's names.
        old, new: tokenizers of the recipe.
    """
    names = {text: k for k, text in pieces_of(old).items()}
    dice = torch.Generator().manual_seed(0)
    changed = dict(weights)
    for table in TABLES:
        rows = weights[table]
        made = _NEW * torch.randn(new.size, rows.shape[1], generator=dice)
        for k, text in pieces_of(new).items():
            if text in names:
                made[k] = rows[names[text]]
            elif k not in new.special:
                variants = [t for t in (" " + text, text.strip(), text.strip().capitalize()) if t in names]
                like = variants if variants and table == TABLES[0] else list(text)
                made[k] += rows[[names[t] for t in like]].mean(0)
        changed[table] = made
    if WORDS[0] in weights:
        before, now = (words_of_pieces(pieces_of(tokenizer, added=False).values()) for tokenizer in (old, new))
        at = {word: k for k, word in enumerate(before, start=1)}
        for name in WORDS:
            rows = weights[name]
            if len(rows) != len(before) + 2:
                raise ValueError(f"{name} has {len(rows)} rows; the tokenizer has {len(before)} words")
            fresh = rows[-1] - _SHY if rows.dim() == 1 else rows[-1]
            changed[name] = torch.stack([rows[0], *(rows[at[w]] if w in at else fresh for w in now), rows[-1]])
    return changed


def pieces_of(tokenizer: Tokenizer, *, added: bool = True) -> dict[int, str]:
    """The text of every id; bytes that are no text by themselves have their escape."""
    count = tokenizer.size if added else tokenizer.backend.get_vocab_size(with_added_tokens=False)
    return {k: tokenizer.token_bytes(k).decode("utf-8", "backslashreplace") for k in range(count)}


def save_heads(model: Learner, path: Path) -> None:
    """The heads that only training needs, in bfloat16; the one for sounds only if it was taught."""
    wanted = LEARNT_BY if hears(model.state_dict()) else LEARNT_BY[:1]
    heads = {n: t.detach().bfloat16().contiguous() for n, t in model.state_dict().items() if n.startswith(wanted)}
    save_file(heads, path)


def hears(weights: Mapping[str, Tensor]) -> bool:
    """Whether sounds were taught to weights by the learner's names: only then were their statistics taken."""
    return "audio.cmvn_mean" in weights and bool(weights["audio.cmvn_mean"].any())


def load_weights(model: Learner, weights: dict[str, Tensor]) -> None:
    """Fills the model; only what hears, which some runs do not have, may stay as it is.

    Raises:
        ValueError: other weights are missing, or some are unknown.
    """
    blocks = model.decoder.layers
    decoder = model.size.decoder
    weights = grow(weights, len(blocks), decoder.num_kv_heads * decoder.head_dim, decoder.head_dim)
    missing, unknown = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.startswith(EARS)]
    if missing or unknown:
        raise ValueError(f"missing {missing}, unknown {unknown}")
