"""Greedy answers to many questions at once, with the parts of a checkpoint.

Owns batching for evaluation: one vision pass a picture, prompts of like length side by side. The engine answers one
request at a time; both build the same prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from recipes.pack import TYPED_MARK, Packer
from recipes.tiles import normalise, tiles_of
from vita.decoder.kv_cache import KVCache
from vita.decoder.qwen2 import Decoder
from vita.encoders.project import Projector
from vita.encoders.vision import VisionEncoder
from vita.fusion import fuse
from vita.prompt.tokenizer import Tokenizer
from vita.weights.find import open_checkpoint
from vita.weights.load import check_tensors, load_part

MOST_TOKENS = 140
TILES_AT_ONCE = 16


@dataclass(frozen=True)
class Asked:
    """A question, the number of the picture it is about (None: no picture), and what was said before."""

    question: str
    picture: int | None
    before: tuple[tuple[str, str], ...] = ()  # questions and answers


@dataclass(frozen=True)
class Answerer:
    """The parts that answer typed questions about pictures."""

    vision: VisionEncoder
    projector: Projector
    decoder: Decoder
    packer: Packer

    @classmethod
    def load(cls, folder: Path) -> Answerer:
        """From an exported checkpoint, in float32, its names and shapes checked as the engine checks them."""
        checkpoint = open_checkpoint(folder, offline=True)
        tokenizer = Tokenizer.load(folder)
        check_tensors(checkpoint, tokenizer.size)

        def part(name: str) -> torch.nn.Module:
            return load_part(name, checkpoint, tokenizer.size, torch.float32, torch.device("cpu"))

        return cls(
            cast(VisionEncoder, part("vision")), cast(Projector, part("projector")), cast(Decoder, part("decoder")),
            Packer(tokenizer),
        )  # fmt: skip

    @torch.inference_mode()
    def see(self, pictures: Sequence[np.ndarray]) -> list[Tensor]:
        """The decoder rows of each picture, `[tiles, 64, H]`."""
        stacks = [torch.tensor(tiles_of(picture)) for picture in pictures]
        counts = [len(stack) for stack in stacks]
        if not counts:
            return []
        chunks = torch.cat(stacks).split(TILES_AT_ONCE)
        rows = torch.cat([self.projector(self.vision(normalise(chunk))) for chunk in chunks])
        return list(rows.split(counts))

    @torch.inference_mode()
    def answer(self, asked: Sequence[Asked], seen: Sequence[Tensor], batch: int = 64) -> list[str]:
        """One answer for each question, the mark and the end cut off."""
        prompts = [self._prompt(one, seen) for one in asked]
        order = sorted(range(len(asked)), key=lambda k: len(prompts[k]))
        answers = [""] * len(asked)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            for k, ids in zip(chosen, self._decode([prompts[k] for k in chosen]), strict=True):
                answers[k] = self.packer.tokenizer.decode(ids).removeprefix(TYPED_MARK)
        return answers

    def _prompt(self, one: Asked, seen: Sequence[Tensor]) -> Tensor:
        """Embedding rows of the whole prompt, `[n, H]`."""
        rows = seen[one.picture] if one.picture is not None else None
        tiles = 0 if rows is None else len(rows)
        ids = self.packer.prefix(tiles)
        turns = [*one.before, (one.question, "")]
        for turn, (question, said) in enumerate(turns):
            ids = ids + self.packer.question(question, tiles, follow_up=turn > 0)
            if turn < len(turns) - 1:
                ids += self.packer.answer(said)
        # `fuse` takes one slot a picture row.
        flat = [] if rows is None else list(rows.reshape(-1, 1, rows.shape[-1]))
        return fuse(ids, self.decoder.embed.weight, flat, [])

    def _decode(self, prompts: list[Tensor]) -> list[list[int]]:
        """Greedy ids of each prompt up to its end, all padded on the left to one length."""
        count, longest, width = len(prompts), max(len(p) for p in prompts), prompts[0].shape[-1]
        capacity = longest + MOST_TOKENS
        embeds = torch.zeros(count, longest, width)
        pad = torch.tensor([longest - len(p) for p in prompts])
        for line, prompt in zip(embeds, prompts, strict=True):
            line[longest - len(prompt) :] = prompt
        cache = KVCache(self.decoder.config, capacity, batch=count, dtype=torch.float32, device=embeds.device)
        places = torch.arange(capacity)
        real = places[None, :] >= pad[:, None]  # [count, capacity]
        now = places[:longest]
        causal = now[None, :] <= now[:, None]
        mask = causal[None] & real[:, None, :longest] | torch.eye(longest, dtype=torch.bool)
        hidden = self.decoder(embeds, cache, (now[None] - pad[:, None]).clamp(min=0), mask[:, None])
        said: list[list[int]] = [[] for _ in prompts]
        going = torch.ones(count, dtype=torch.bool)
        for step in range(MOST_TOKENS):
            token = self.decoder.logits(hidden[:, -1]).argmax(-1)
            going &= token != self.packer.tokenizer.im_end
            for k in torch.nonzero(going)[:, 0].tolist():
                said[k].append(int(token[k]))
            if not going.any() or step == MOST_TOKENS - 1:
                break
            at = longest + step
            hidden = self.decoder(
                self.decoder.embed(token)[:, None], cache, (at - pad)[:, None], real[:, None, None, : at + 1]
            )
        return said
