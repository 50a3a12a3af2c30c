"""Greedy answers to many questions at once, with the parts of a checkpoint.

Owns batching for evaluation: one vision pass a picture, prompts of like length side by side, 64 at a time. Modules, KV
cache and the fusion of prompts are the engine's. Its scheduler is not used: it takes files and messages, decodes up to
16 rows, and needs the packages that read media, which a machine that only trains has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.nano.pack import TYPED_MARK, Packer
from recipes.nano.speech.rows import SpeechPacker, bank_of
from recipes.nano.tiles import normalise, tiles_of
from vita.checkpoint.load import load_model
from vita.checkpoint.open import open_checkpoint
from vita.engine.fusion import fuse
from vita.media.filterbank import token_count
from vita.model.audio import AudioEncoder
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache
from vita.model.projectors import AudioAdapter, Projector
from vita.model.vision import VisionEncoder
from vita.options import Quantize
from vita.prompt.template import spans_of_ids
from vita.prompt.tokenizer import Tokenizer
from vita.types import MediaSpan

MOST_TOKENS = 180
TILES_AT_ONCE = 16


@dataclass(frozen=True)
class Asked:
    """A question, the number of the picture or clip it is about (None: of none), and what was said before."""

    question: str
    picture: int | None
    before: tuple[tuple[str, str], ...] = ()  # questions and answers
    sound: int | None = None  # the number of the sound that comes after the question, which may be empty
    video: bool = False  # the picture is a clip


@dataclass(frozen=True)
class Answerer:
    """The modules that answer typed and spoken questions about pictures and clips."""

    vision: VisionEncoder
    projector: Projector
    decoder: Decoder
    packer: Packer
    audio: AudioEncoder
    adapter: AudioAdapter

    @classmethod
    def load(cls, folder: Path, quantize: Quantize | None = None) -> Answerer:
        """From an exported checkpoint, in float32, its names and shapes checked as the engine checks them;
        with linear layers quantised, if asked for."""
        checkpoint = open_checkpoint(folder, offline=True)
        tokenizer = Tokenizer.load(folder)
        model = load_model(checkpoint, tokenizer.size, torch.float32, torch.device("cpu"), quantize)
        return cls(
            vision=model.vision, projector=model.projector, decoder=model.decoder, packer=Packer(tokenizer),
            audio=model.audio, adapter=model.adapter,
        )  # fmt: skip

    @torch.inference_mode()
    def see(self, pictures: Sequence[np.ndarray]) -> list[Tensor]:
        """The decoder rows of each picture or clip (uint8 `[n, S, S, 3]`), `[tiles or frames, 64, H]`."""
        stacks = [torch.tensor(picture if picture.ndim == 4 else tiles_of(picture)) for picture in pictures]
        counts = [len(stack) for stack in stacks]
        if not counts:
            return []
        chunks = torch.cat(stacks).split(TILES_AT_ONCE)
        rows = torch.cat([self.projector(self.vision(normalise(chunk.to(self.decoder.device)))) for chunk in chunks])
        return list(rows.split(counts))

    @torch.inference_mode()
    def hear(self, sounds: Sequence[np.ndarray]) -> list[Tensor]:
        """The decoder rows of each sound (float32 samples at 16 kHz), `[tokens, H]`."""
        rows = []
        for samples in sounds:
            bank = bank_of(samples)
            device = self.decoder.device
            encoded, mask = self.audio(bank[None].to(device), torch.tensor([len(bank)], device=device))
            rows.append(self.adapter(encoded, mask)[0][0, : token_count(len(bank))])
        return rows

    @torch.inference_mode()
    def answer(
        self, asked: Sequence[Asked], seen: Sequence[Tensor], heard: Sequence[Tensor] = (), batch: int = 64
    ) -> list[str]:
        """One answer for each question with its look, the end and the mark of typed questions cut off."""
        prompts = [self._prompt(one, seen, heard) for one in asked]
        order = sorted(range(len(asked)), key=lambda k: len(prompts[k]))
        answers = [""] * len(asked)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            for k, ids in zip(chosen, self._decode([prompts[k] for k in chosen]), strict=True):
                answers[k] = self.packer.tokenizer.decode(ids).removeprefix(TYPED_MARK)
        return answers

    def _prompt(self, one: Asked, seen: Sequence[Tensor], heard: Sequence[Tensor]) -> Tensor:
        """Embedding rows of the whole prompt, `[n, H]`."""
        rows = seen[one.picture] if one.picture is not None else None
        tiles = 0 if rows is None else len(rows)
        ids = self.packer.prefix(tiles, video=one.video)
        if one.sound is not None:
            spoken = heard[one.sound]
            ids = ids + SpeechPacker(self.packer).heard(one.question, len(spoken), tiles)
            return self._fused(ids, rows, spoken)
        turns = [*one.before, (one.question, "")]
        for turn, (question, said) in enumerate(turns):
            ids = ids + self.packer.question(question, tiles, follow_up=turn > 0)
            if turn < len(turns) - 1:
                ids += self.packer.answer(said)
        return self._fused(ids, rows, None)

    def _fused(self, ids: list[int], rows: Tensor | None, spoken: Tensor | None) -> Tensor:
        # The ids hold one placeholder for every row.
        flat = [] if rows is None else list(rows.reshape(-1, 1, rows.shape[-1]))
        media = [MediaSpan("image", f"image {k}".encode(), 1) for k in range(len(flat))]
        heard = [] if spoken is None else list(spoken[:, None])
        media += [MediaSpan("audio", f"audio {k}".encode(), 1) for k in range(len(heard))]
        features = {span.digest: row for span, row in zip(media, [*flat, *heard], strict=True)}
        return fuse(spans_of_ids(ids, media), self.decoder.embed_tokens, features)

    def _decode(self, prompts: list[Tensor]) -> list[list[int]]:
        """Greedy ids of each prompt up to its end, all padded on the left to one length."""
        count, longest, width = len(prompts), max(len(p) for p in prompts), prompts[0].shape[-1]
        capacity = longest + MOST_TOKENS
        device = self.decoder.device
        embeds = torch.zeros(count, longest, width, device=device)
        pad = torch.tensor([longest - len(p) for p in prompts], device=device)
        for line, prompt in zip(embeds, prompts, strict=True):
            line[longest - len(prompt) :] = prompt
        cache = KVCache(self.decoder.config, capacity, batch=count, dtype=torch.float32, device=device)
        places = torch.arange(capacity, device=device)
        real = places[None, :] >= pad[:, None]  # [count, capacity]
        now = places[:longest]
        causal = now[None, :] <= now[:, None]
        mask = causal[None] & real[:, None, :longest] | torch.eye(longest, dtype=torch.bool, device=device)
        hidden = self.decoder(embeds, cache, (now[None] - pad[:, None]).clamp(min=0), mask[:, None])
        said: list[list[int]] = [[] for _ in prompts]
        going = torch.ones(count, dtype=torch.bool, device=device)
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
