"""Filling the modules: check every name and shape first, then map, cast and assign.

Owns the strictness: a missing, unexpected or mis-shaped tensor is named and the load fails; nothing stays random.
A module is built on the meta device (no memory), and its tensors are views of the mapped file wherever the asked
dtype is the stored one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vita.checkpoint.names import IGNORED, PARTS, checkpoint_name
from vita.checkpoint.open import Checkpoint
from vita.config import VitaConfig
from vita.errors import CheckpointError
from vita.layers.linear import choose_route, set_route
from vita.model.audio import AudioEncoder
from vita.model.decoder import Decoder
from vita.model.projectors import AudioAdapter, Projector
from vita.model.vision import VisionEncoder
from vita.options import Quantize
from vita.quant.scheme import STORED, quantize_modules, quantize_weight, scheme_of

HOST = torch.device("cpu")
Progress = Callable[[str, int, int], None]  # part, tensors done, tensors in all


def build_part(part: str, config: VitaConfig, vocab_size: int, quantize: Quantize | None = None) -> nn.Module:
    """One part of the model on the meta device: names and shapes, no memory.

    Encoders and projectors keep their precision unless the scheme names them.
    """
    with torch.device("meta"):
        module = _unrounded(part, config, vocab_size)
        scheme = scheme_of(part, quantize)
        if scheme:
            quantize_modules(module, scheme)
        return module


def _unrounded(part: str, config: VitaConfig, vocab_size: int) -> nn.Module:
    if part == "decoder":
        return Decoder(config.decoder, vocab_size)
    if part == "vision":
        return VisionEncoder(config.vision)
    if part == "projector":
        return Projector(4 * config.vision.hidden_size, config.decoder.hidden_size, config.projector_layers)
    if part == "audio":
        return AudioEncoder(config.audio)
    return AudioAdapter(config.audio, config.decoder.hidden_size)


def parameter_counts(config: VitaConfig, vocab_size: int) -> dict[str, int]:
    """Learned values of each part; the two normalisation vectors of the audio part are statistics, not parameters."""
    counts = {}
    for part in PARTS:
        module = build_part(part, config, vocab_size)
        counts[part] = sum(p.numel() for n, p in module.named_parameters() if not n.startswith("cmvn_"))
    if config.decoder.tie_word_embeddings:
        counts["decoder"] -= vocab_size * config.decoder.hidden_size
    return counts


def check_tensors(checkpoint: Checkpoint, vocab_size: int) -> None:
    """Hold every expected name and shape against the file headers.

    Raises:
        CheckpointError: one sentence that lists all that is missing, unexpected or of another shape.
    """
    found = checkpoint.store.entries
    missing: list[str] = []
    misshaped: list[str] = []
    expected: set[str] = set()
    for part in PARTS:
        module = build_part(part, checkpoint.config, vocab_size, checkpoint.quantized)
        for ours, parameter in module.state_dict().items():
            name = checkpoint_name(part, ours)
            expected.add(name)
            if name not in found:
                if not _has_other_source(checkpoint, part, ours):
                    missing.append(name)
            elif not _shape_fits(found[name].shape, tuple(parameter.shape), _is_vocabulary(part, ours)):
                misshaped.append(f"{name} {list(found[name].shape)} instead of {list(parameter.shape)}")
            elif found[name].dtype.is_floating_point != parameter.dtype.is_floating_point:
                misshaped.append(f"{name} {found[name].dtype} instead of {parameter.dtype}")
    unexpected = [n for n in found if n not in expected and not IGNORED.fullmatch(n)]
    problems = [
        f"{len(names)} {kind} ({'; '.join(names)})"
        for kind, names in (("missing", missing), ("of another shape or type", misshaped), ("unexpected", unexpected))
        if names
    ]
    if problems:
        raise CheckpointError(
            "its tensors do not fit its config.json: " + ", ".join(problems), where=checkpoint.folder,
            fix="download the folder again, or check that config.json belongs to these weights",
        )  # fmt: skip


def load_part(
    part: str, checkpoint: Checkpoint, vocab_size: int, dtype: torch.dtype, device: torch.device,
    progress: Progress | None = None, quantize: Quantize | None = None,
) -> nn.Module:  # fmt: skip
    """One part with its weights, in evaluation mode.

    Args:
        part: a key of `PARTS`.
        checkpoint: what `check_tensors` approved.
        vocab_size: rows of embedding and head that stay (spec section 1.6).
        dtype: of the floating-point weights; the audio statistics stay float32.
        device: where they go, but for the embedding table, of which only rows are read: it stays in the file's map,
            unless it is the head too.
        progress: called after every tensor.
        quantize: round linear layers while they are read, if the checkpoint does not bring them so.
    """
    module = build_part(part, checkpoint.config, vocab_size, checkpoint.quantized or quantize)
    tied = checkpoint.config.decoder.tie_word_embeddings and not (checkpoint.quantized or quantize)
    wanted = module.state_dict()
    state: dict[str, Tensor] = {}
    for done, ours in enumerate(wanted, start=1):
        if ours in state:  # a scale that came with its weights
            continue
        tensor = _read(checkpoint, part, ours)
        if _is_vocabulary(part, ours):
            tensor = tensor[:vocab_size]
        if wanted[ours].dtype in STORED and tensor.is_floating_point():
            whole = tensor
            tensor, scale = quantize_weight(whole.to(device), wanted[ours].dtype)
            _release(checkpoint, part, ours, whole)  # so that the peak stays near the rounded size
            state[ours.removesuffix("weight") + "scale"] = scale
        there = HOST if part == "decoder" and ours == "embed.weight" and not tied else device
        state[ours] = tensor.to(device=there, dtype=_kept(ours, tensor.dtype, dtype))
        if progress is not None:
            progress(part, done, len(wanted))
    module.load_state_dict(state, strict=True, assign=True)
    if part == "decoder" and tied and isinstance(module, Decoder):
        module.head.weight = module.embed.weight
    set_route(module, choose_route(device, dtype)[0])
    return module.eval().requires_grad_(False)


def _release(checkpoint: Checkpoint, part: str, ours: str, tensor: Tensor) -> None:
    name = checkpoint_name(part, ours)
    if name in checkpoint.store:
        checkpoint.store.release(name, tensor)


def _kept(ours: str, stored: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """In which dtype a tensor is held: rounded weights, their scales and the audio statistics as they are stored."""
    if ours.startswith("cmvn_"):
        return torch.float32
    return stored if ours.endswith(".scale") or not stored.is_floating_point else dtype


def _read(checkpoint: Checkpoint, part: str, ours: str) -> Tensor:
    name = checkpoint_name(part, ours)
    if name in checkpoint.store:
        return checkpoint.store.get(name)
    if ours.startswith("cmvn_") and checkpoint.cmvn is not None:
        return checkpoint.cmvn[0 if ours == "cmvn_mean" else 1]
    if ours == "head.weight" and checkpoint.config.decoder.tie_word_embeddings:
        return checkpoint.store.get(checkpoint_name("decoder", "embed.weight"))
    if ours.endswith("num_batches_tracked"):
        return torch.tensor(0)  # a counter of training, read by nobody
    raise CheckpointError(f"the tensor {name!r} is missing", where=checkpoint.folder)


def _has_other_source(checkpoint: Checkpoint, part: str, ours: str) -> bool:
    if part == "audio" and ours.startswith("cmvn_"):
        return checkpoint.cmvn is not None
    if part == "adapter" and ours.endswith("num_batches_tracked"):
        return True
    return part == "decoder" and ours == "head.weight" and checkpoint.config.decoder.tie_word_embeddings


def _is_vocabulary(part: str, ours: str) -> bool:
    return part == "decoder" and ours in ("embed.weight", "head.weight", "head.scale")


def _shape_fits(found: tuple[int, ...], wanted: tuple[int, ...], vocabulary: bool) -> bool:
    """Vocabulary tables may hold more rows than the tokenizer has ids; the rest is cut off."""
    if vocabulary and len(found) == len(wanted):
        return found[0] >= wanted[0] and found[1:] == wanted[1:]
    return found == wanted
