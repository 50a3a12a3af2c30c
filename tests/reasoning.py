"""A checkpoint that says what it is told: every token has one follower, whatever the prompt.

Its blocks pass their input on and its embeddings are unit vectors, so that the logits depend on the last token alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from recipes.nano.export import export
from recipes.nano.model import Learner, sizes
from recipes.nano.tokenizer import build_tokenizer

from vita.prompt.tokenizer import Tokenizer

LOOK, ANSWER = ("a", " red", " star"), ("Yes", ",", " blue", ".")
SCRIPT = ("☜", "<think>", *LOOK, "</think>", *ANSWER, "<|im_end|>")


def scripted(out: Path, script: Sequence[str] = SCRIPT, *, endless: bool = False) -> Path:
    """Write the checkpoint and return its folder.

    Args:
        out: an empty folder.
        script: the pieces of the answer, each one token and different from the others.
        endless: the last token before `</think>` is followed by itself.
    """
    build_tokenizer(out / "tokenizer")
    tokenizer = Tokenizer.load(out / "tokenizer")
    torch.manual_seed(0)
    model = Learner(sizes("tiny", tokenizer.size))
    (header,) = tokenizer.encode("\n")  # what a prompt ends with
    chain = [header, *(tokenizer.token_id(piece.replace(" ", "Ġ")) for piece in script)]
    assert len(set(chain)) == len(chain)
    with torch.no_grad():
        for block in model.decoder.layers:
            block.attn.o.weight.zero_()
            block.mlp.down.weight.zero_()
        embed, head = model.decoder.embed.weight.zero_(), model.decoder.head.weight.zero_()
        model.decoder.norm.weight.fill_(1.0)
        embed[:, 0] = 1.0  # of tokens that the script does not hold
        for place, (token, follower) in enumerate(pairwise(chain), start=1):
            embed[token] = torch.nn.functional.one_hot(torch.tensor(place), embed.shape[1]).float()
            head[follower, place] = 4.0
            if endless and tokenizer.reasoning is not None and follower == tokenizer.reasoning.end:
                head[follower, place], head[token, place] = 0.0, 4.0
    export(model, out / "tokenizer", out / "checkpoint")
    return out / "checkpoint"
