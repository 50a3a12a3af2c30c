"""The loss of a batch of everything, without waiting for the device but once: for what the ears write down.

Owns how a packed batch (`recipes.nano.everything`) goes through the model. Does not know about time or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.nano.everything import Everything
from recipes.nano.model import Heard, Learner, ctc_loss
from recipes.nano.speech.losses import CTC_BESIDE, numbers, numbers_loss
from recipes.nano.tiles import normalise
from vita.model.audio import frame_mask
from vita.train.feed import Drawn
from vita.train.losses import weighted_cross_entropy
from vita.train.packing import segment_mask

ON_HOST = ("frames", "spelled", "worded", "samples")  # lengths that decide shapes


@dataclass(frozen=True)
class Batch:
    """A batch on its device.

    Attributes:
        index, phase: of the feed.
        tensors: by the builder's names; lengths stay on the host.
    """

    index: int
    phase: int
    tensors: Mapping[str, Tensor]

    @property
    def samples(self) -> int:
        """Rows of pictures, clips and sounds, or pictures and sounds where nothing is answered."""
        return int(self.tensors["samples"][0])


def on_device(drawn: Iterator[Drawn], device: torch.device) -> Iterator[Batch]:
    """Batches on the device; on CUDA the next one is copied while this one is trained."""
    if device.type != "cuda":
        for one in drawn:
            yield Batch(one.index, one.phase, {k: tensor_of(v) for k, v in one.arrays.items()})
        return
    side, ready = torch.cuda.Stream(device), None
    for one in drawn:
        with torch.cuda.stream(side):
            tensors = {
                k: tensor_of(v).clone() if k in ON_HOST else copied(tensor_of(v), device) for k, v in one.arrays.items()
            }
        for name, tensor in tensors.items():
            if name not in ON_HOST:  # freed while kernels of this stream still read it
                tensor.record_stream(torch.cuda.current_stream(device))
        before, ready = ready, Batch(one.index, one.phase, tensors)
        side.synchronize()  # of the copy alone: the ring's entry may be drawn over from here on
        if before is not None:
            yield before


def copied(tensor: Tensor, device: torch.device) -> Tensor:
    """On a GPU, by way of pinned memory."""
    return (tensor.pin_memory() if tensor.numel() else tensor).to(device, non_blocking=True)


def tensor_of(array: np.ndarray) -> Tensor:
    """In the memory of the array."""
    return torch.from_numpy(array)


def losses(model: Learner, batch: Batch, phase: Everything, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and what was measured on the way, scalars on the device."""
    t = batch.tensors
    measured: dict[str, Tensor] = {}
    loss = torch.zeros((), device=device)
    answered = "ids" in t
    heard = None
    if "banks" in t:
        heard = model.hear(t["banks"].float(), t["frames"].to(device))
        written, measured = ears_loss(model, heard, t, answered=answered)
        loss = loss + written * (CTC_BESIDE if answered else 1.0)
    patches = model.patches(normalise(t["tiles"]))
    seen = model.rows(patches)  # [tiles, 64, H]
    if len(t["labelled"]) and phase.seen.dense:
        part, right = model.dense_loss(patches[t["labelled"]], t["labels"])
        loss = loss + phase.seen.dense * part
        measured |= {"dense": part.detach(), **dict(zip(("char", "shape", "color", "place"), right, strict=True))}
    if answered:
        part, share = answer_loss(model, t, seen, heard)
        loss = loss + part
        measured |= {"answer": part.detach(), "token": share}
    return loss, measured


def answer_loss(model: Learner, t: Mapping[str, Tensor], seen: Tensor, heard: Heard | None) -> tuple[Tensor, Tensor]:
    """Of the packed rows: media rows are fetched by their number, so that no shape depends on the batch."""
    decoder = model.decoder
    both = (seen,) if heard is None else (seen, heard.rows)
    media = torch.cat([rows.flatten(0, 1).float() for rows in both])
    source = t["source"]
    embeds = torch.where((source >= 0)[..., None], media[source.clamp(min=0)], decoder.embed(t["ids"].long()).float())
    hidden = decoder(embeds, None, t["position"].long(), segment_mask(t["segment"], t["row"]))
    logits = decoder.logits(hidden)
    target = t["target"].long()
    return weighted_cross_entropy(logits.flatten(0, 1), target.flatten(), t["weight"].flatten())


def ears_loss(
    model: Learner, heard: Heard, t: Mapping[str, Tensor], *, answered: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Letters, words and the words' numbers, as in `recipes.nano.speech.losses`."""
    mask = frame_mask(t["banks"].shape[1], t["frames"])  # on the host
    letters = ctc_loss(heard.letters, mask, t["letters"], t["spelled"])
    words = ctc_loss(heard.words, mask, t["words"], t["worded"])
    said = heard.words.detach().argmax(-1).cpu()  # the one wait
    target = numbers(said, mask, t["words"].cpu(), t["worded"])
    head = model.decoder.head.weight if answered else model.decoder.head.weight.detach()
    reading = numbers_loss(model, heard, target, t["tokens"], t["worded"], head)
    measured = {"letters": letters.detach(), "words": words.detach(), "reading": reading.detach()}
    return letters + words + reading, measured
