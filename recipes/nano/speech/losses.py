"""What a batch of sounds teaches: letters, words, their numbers, and the answers.

Does not know about time, files or phases.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recipes.nano.model import MOST_WORDS, Heard, Learner, ctc_loss
from recipes.nano.pack import ROWS_PER_TILE
from recipes.nano.senses import word_errors
from recipes.nano.speech.rows import Sounds, SpeechBatch
from recipes.nano.tiles import normalise
from vita.train.losses import grouped_answer_loss
from vita.train.packing import IGNORE

CTC_BESIDE = 0.3  # weight of what is written down, once answers are taught


def losses(model: Learner, batch: SpeechBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """CTC of letters, words and their numbers alone, or with the answers once the batch has rows."""
    pairs = heard_sounds(model, batch)
    letters = _mean([(ctc_loss(h.letters, h.mask, g.letters, g.spelled), g.spelled) for h, g in pairs])
    words = _mean([(ctc_loss(h.words, h.mask, g.words, g.worded), g.worded) for h, g in pairs])
    # While answers are not taught, what says a word stays as it is: rows come to it, not it to the rows.
    head = model.decoder.head.weight if batch.rows else model.decoder.head.weight.detach()
    reading = _mean([(reading_loss(model, h, g, head), g.worded) for h, g in pairs])
    written = letters + words + reading
    measured = {"letters": letters.detach(), "words": words.detach(), "reading": reading.detach()}
    if not batch.rows:
        return written, measured
    seen = torch.zeros(0, ROWS_PER_TILE, model.size.decoder.hidden_size)
    if len(batch.tiles):
        with torch.no_grad():
            seen = model.rows(model.patches(normalise(batch.tiles)))[batch.shown]
    part, share = grouped_answer_loss(model.decoder, batch.rows, seen, in_rows(model, batch, pairs))
    return part + CTC_BESIDE * written, measured | {"answer": part.detach(), "token": share}


def heard_sounds(model: Learner, batch: SpeechBatch) -> list[tuple[Heard, Sounds]]:
    """What the ears make of each group of sounds."""
    return [(model.hear(group.banks, group.frames), group) for group in batch.sounds]


def in_rows(model: Learner, batch: SpeechBatch, pairs: Sequence[tuple[Heard, Sounds]]) -> Tensor:
    """What the decoder hears, in the order of the batch's rows: `[tokens, H]`."""
    heard = [rows for h, g in pairs for rows in model.heard(h, g.frames)]
    none = torch.zeros(0, model.size.decoder.hidden_size)
    return torch.cat([none, *(heard[k] for k in batch.place.tolist())])


def numbers(written: Tensor, mask: Tensor, words: Tensor, worded: Tensor) -> Tensor:
    """Which word of its sentence stands in each frame: int64 `[sounds, T']`, 0 where none does.

    CTC writes a word wherever it likes, so the frames are those where it does write now (`written`, int64
    `[sounds, T']`), of the sounds that it writes without a mistake.
    """
    target = torch.zeros_like(mask, dtype=torch.long)
    truths = words.split(worded.tolist())
    for row, line, real, truth in zip(target, written, mask, truths, strict=True):
        said = torch.where(real, line, 0)
        begins = (said != 0) & (said != torch.nn.functional.pad(said[:-1], (1, 0)))
        if len(truth) <= MOST_WORDS and torch.equal(said[begins], truth):
            row.copy_(torch.where(said != 0, begins.cumsum(0), 0))
    return target


def reading_loss(model: Learner, heard: Heard, sounds: Sounds, head: Tensor) -> Tensor:
    """What makes words easy to read off for the decoder, where they are written down now.

    Each has its number in the sentence, so that one can be asked for after the other; and its decoder row looks like
    the output that says it, so that saying it is copying, for words that are seldom said as for any other.
    """
    target = numbers(heard.words.argmax(-1), heard.mask, sounds.words, sounds.worded)
    return numbers_loss(model, heard, target, sounds.tokens, sounds.worded, head)


def numbers_loss(
    model: Learner, heard: Heard, target: Tensor, all_tokens: Tensor, worded: Tensor, head: Tensor
) -> Tensor:
    """`reading_loss` where each frame's number is known; `target` and `worded` are on the host."""
    there = target > 0
    if not there.any():
        return heard.rows.new_zeros(())
    device = heard.rows.device
    line, frame = there.nonzero(as_tuple=True)
    before = worded.cumsum(0) - worded
    tokens = all_tokens[(before[line] + target[there] - 1).to(all_tokens.device)]
    numbered = torch.nn.functional.cross_entropy(
        heard.places[line.to(device), frame.to(device)].float(), target[there].to(device)
    )
    line, frame = line.to(device), frame.to(device)
    norm = model.decoder.norm
    rows = torch.nn.functional.rms_norm(heard.rows[line, frame // 2].float(), norm.weight.shape, norm.weight.detach())
    logits = torch.nn.functional.linear(rows, head).float()
    named = torch.nn.functional.cross_entropy(logits, tokens, ignore_index=IGNORE, reduction="sum")
    return numbered + named / (tokens != IGNORE).sum().clamp(min=1)


def _mean(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Of the groups' losses, by the sounds in each that say something."""
    said = torch.tensor([int((counts > 0).sum()) for _, counts in parts])
    if not said.any():
        return torch.zeros(())
    return torch.stack([loss * n for (loss, _), n in zip(parts, said, strict=True) if n]).sum() / said.sum()


def word_errors_of(model: Learner, batch: SpeechBatch) -> float:
    """Word error rate of what the audio encoder itself writes down, greedily."""
    errors = words = 0
    for group in batch.sounds:
        sounds = model.hear(group.banks, group.frames)
        truths = group.words.split(group.worded.tolist())
        for line, mask, truth in zip(sounds.words.argmax(-1), sounds.mask, truths, strict=True):
            said = [int(k) for k in line[mask].unique_consecutive() if k] if len(truth) else []
            errors += word_errors(" ".join(map(str, truth.tolist())), " ".join(map(str, said)))
            words += len(truth)
    return errors / max(1, words)
