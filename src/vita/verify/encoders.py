"""Verify the stages of the vision and audio encoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vita.engine.loaded import LoadedModel
from vita.model.audio import frame_mask, position_table
from vita.types import MediaKind, MediaSpan
from vita.verify.rows import Reference, Row


def verify_vision(model: LoadedModel, tile: Tensor, numbers: Reference) -> Iterator[Row]:
    """Compare embeddings, first and last layer, features and projector, for the first tile `[1, 3, S, S]`."""
    vision, projector = model.vision, model.projector
    states = list(vision.hidden_states(tile.to(model.device)))
    yield numbers.compare("ViT embeddings", "tile 0", "vit_hidden0_tile0_every16", states[0][0, ::16])
    yield numbers.compare("ViT layer 0", "tile 0", "vit_hidden1_tile0_every16", states[1][0, ::16])
    yield numbers.compare("ViT last layer", "tile 0", "vit_hidden_last_tile0", states[-1][0])
    features = vision.extract_features(states[-1])
    yield numbers.compare("tower", "tile 0", "vit_tower_out_tile0", features[0])
    yield numbers.compare("projector", "tile 0", "mm_projector_out_tile0", projector(features)[0])
    zero = projector(vision(torch.zeros_like(tile, device=model.device)))
    yield numbers.compare("projector", "zero tile", "mm_projector_out_zero_image_every16", zero[0, ::16])


def verify_audio(model: LoadedModel, banks: dict[str, Tensor], numbers: Reference) -> Iterator[Row]:
    """Compare every stage for each audio clip alone, then for all of them in one padded batch.

    Args:
        engine: to verify.
        banks: filterbanks, float32 `[T, 80]`, by name.
        numbers: the reference.
    """
    if not banks:
        return
    for key, bank in banks.items():
        yield from _stages(model, key, bank[None], torch.tensor([bank.shape[0]]), numbers)
    longest = max(b.shape[0] for b in banks.values())
    batch = torch.stack([functional.pad(b, (0, 0, 0, longest - b.shape[0])) for b in banks.values()])
    lengths = torch.tensor([b.shape[0] for b in banks.values()])
    yield from _stages(model, "audiobatch", batch, lengths, numbers)


def _stages(model: LoadedModel, key: str, bank: Tensor, lengths: Tensor, numbers: Reference) -> Iterator[Row]:
    """Compare every stage for a batch of filterbanks `[batch, T, 80]` of these lengths `[batch]`."""
    encoder, adapter = model.audio, model.adapter
    case = "padded batch" if key == "audiobatch" else key
    bank, lengths = bank.to(model.device), lengths.to(model.device)
    x = encoder.normalize(bank)
    yield numbers.compare("cmvn", case, f"{key}_cmvn_every8", x[:, ::8])
    x = encoder.subsample(x)
    yield numbers.compare("subsampling", case, f"{key}_conv_sub", x)
    x = encoder.embed(x)
    yield numbers.compare("embed", case, f"{key}_embed", x)
    table = position_table(x.shape[1], encoder.config.dim, x.device)
    x = encoder.add_positions(x, table.to(x.dtype))
    yield numbers.compare("embed, scaled", case, f"{key}_embed_scaled", x)
    if key == "audio1":
        yield numbers.compare("position table", case, "whale_pos_table_first64", table[0, :64])
    mask = frame_mask(bank.shape[1], lengths)
    yield numbers.compare("encoder mask", case, f"{key}_encoder_mask", mask, tolerance=0.0)
    allowed = encoder.attention_mask(mask)
    for index, layer in enumerate(encoder.layers):
        x = layer(x, table.to(x.dtype), allowed)
        if index == 0:
            yield numbers.compare("encoder layer 0", case, f"{key}_layer0", x)
    x = encoder.final_norm(x)
    yield numbers.compare("encoder", case, f"{key}_encoder_out", x)
    rows, adapter_mask = adapter(x, mask)
    yield numbers.compare("adapter", case, f"{key}_adapter_out", rows)
    yield numbers.compare("adapter mask", case, f"{key}_adapter_mask", adapter_mask, tolerance=0.0)


def encode(
    model: LoadedModel, images: Sequence[Tensor], filterbanks: Sequence[Tensor]
) -> tuple[list[MediaSpan], dict[bytes, Tensor]]:
    """Run the encoders on the media of a case.

    Args:
        model: to verify.
        images: float32 `[tiles or frames, 3, S, S]` each.
        filterbanks: float32 `[T, 80]` each.

    Returns:
        A span for every tile, then for every filterbank, and rows `[rows, H]` by the spans' digests.
    """
    spans: list[MediaSpan] = []
    features: dict[bytes, Tensor] = {}

    def add(kind: MediaKind, rows: Tensor) -> None:
        span = MediaSpan(kind, f"{kind} {len(spans)}".encode(), len(rows))
        spans.append(span)
        features[span.digest] = rows

    for tiles in images:
        for rows in model.projector(model.vision(tiles.to(model.device))):
            add("image", rows)
    for bank in filterbanks:
        lengths = torch.tensor([len(bank)], device=model.device)
        out, mask = model.adapter(*model.audio(bank[None].to(model.device), lengths))
        add("audio", out[0, : int(mask.sum()) + model.config.audio.prompt_tokens])
    return spans, features
