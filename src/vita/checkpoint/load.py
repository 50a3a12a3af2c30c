"""Load weights: check every name and shape first, then map, cast and assign.

Loading is strict: a missing, unexpected or mis-shaped tensor is named and the load fails; no weight stays random.
Modules come from the meta device (`VitaModel.on_meta`), and their tensors become views of the mapped file where the
working dtype is the stored one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from vita.checkpoint.names import IGNORED, checkpoint_name
from vita.checkpoint.open import Checkpoint
from vita.checkpoint.settings import show_name
from vita.errors import CheckpointError
from vita.kernels.weight import BLOCK_CHANNELS
from vita.layers.linear import choose_route, set_route
from vita.model.decoder import Decoder
from vita.model.vita import PartName, VitaModel
from vita.options import Quantize
from vita.quant.scheme import STORED, quantize_weight

HOST = torch.device("cpu")
Part = TypeVar("Part", bound=nn.Module)
Progress = Callable[[str, int, int], None]  # part, tensors done, tensors in total


def check_tensors(checkpoint: Checkpoint, model: VitaModel) -> None:
    """Compare every expected name, shape and dtype with the file headers.

    Args:
        checkpoint: opened.
        model: on the meta device, in the scheme that the checkpoint is stored in.

    Raises:
        CheckpointError: one sentence that lists all that is missing, unexpected or of another shape.
    """
    found = checkpoint.store.entries
    missing: list[str] = []
    misshaped: list[str] = []
    expected: set[str] = set()
    for part, module in model.parts():
        for ours, parameter in module.state_dict().items():
            name = checkpoint_name(part, ours)
            expected.add(name)
            if name not in found:
                if not _has_other_source(checkpoint, part, ours):
                    missing.append(name)
            elif not _shape_matches(found[name].shape, tuple(parameter.shape), _is_vocabulary(part, ours)):
                misshaped.append(f"{name} {list(found[name].shape)} instead of {list(parameter.shape)}")
            elif not _dtype_matches(found[name].dtype, parameter.dtype, ours):
                misshaped.append(f"{name} {found[name].dtype} instead of {parameter.dtype}")
    unexpected = [n for n in found if n not in expected and not IGNORED.fullmatch(n)]
    problems = [
        f"{len(names)} {kind} ({'; '.join(map(show_name, names))})"
        for kind, names in (("missing", missing), ("of another shape or type", misshaped), ("unexpected", unexpected))
        if names
    ]
    if problems:
        raise CheckpointError(
            "its tensors do not match its config.json: " + ", ".join(problems), where=checkpoint.folder,
            fix="download the folder again, or check that config.json belongs to these weights",
        )  # fmt: skip


def load_model(
    checkpoint: Checkpoint, vocab_size: int, dtype: torch.dtype, device: torch.device,
    quantize: Quantize | None = None,
) -> VitaModel:  # fmt: skip
    """The complete model with its weights, in evaluation mode.

    Args:
        checkpoint: opened.
        vocab_size: rows of embedding and head that stay (spec section 1.6).
        dtype, device: as in `load_part`.
        quantize: quantise linear layers while loading, if the checkpoint is not stored quantised.

    Raises:
        CheckpointError: the tensors do not match the configuration.
    """
    model = VitaModel.on_meta(checkpoint.config, vocab_size, checkpoint.quantized)
    check_tensors(checkpoint, model)
    if quantize and not checkpoint.quantized:
        model.quantize(quantize)
    for part, module in model.parts():
        load_part(part, module, checkpoint, dtype, device)
    return model


def load_part(
    part: PartName, module: Part, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device,
    progress: Progress | None = None,
) -> Part:  # fmt: skip
    """Give a module its weights, in place; returns it in evaluation mode.

    Args:
        part: the module's name in `VitaModel`.
        module: on the meta device. Linear layers that are quantised in it and not in the checkpoint are quantised
            while they are read.
        checkpoint: approved by `check_tensors`.
        dtype: of the floating-point weights; quantised weights, scales and the audio statistics keep theirs.
        device: of the weights; the embedding table, of which only rows are read, stays in the mapped file unless it
            is the head too.
        progress: called after every tensor.
    """
    tied = isinstance(module, Decoder) and _is_tied(module, checkpoint)
    wanted = module.state_dict()
    state: dict[str, Tensor] = {}
    for ours in wanted:
        if ours in state:  # a scale that was made with its weights
            continue
        tensor = _read(checkpoint, part, ours)
        if _is_vocabulary(part, ours):
            tensor = tensor[: wanted[ours].shape[0]]
        if wanted[ours].dtype in STORED and tensor.is_floating_point():
            original = tensor
            tensor, scale = quantize_weight(original.to(device), wanted[ours].dtype)
            _release(checkpoint, part, ours, original)  # so that the peak stays near the quantised size
            state[ours.removesuffix("weight") + "scale"] = scale
        target = HOST if part == "decoder" and ours == "embed.weight" and not tied else device
        kept = _dtype_of(ours, tensor.dtype, dtype)
        padded = device.type == "cuda" and ours == "head.weight" and tensor.is_floating_point()
        state[ours] = with_padding(tensor, device, kept) if padded else tensor.to(device=target, dtype=kept)
        if progress is not None:
            progress(part, len(state), len(wanted))
    module.load_state_dict(state, strict=True, assign=True)
    if isinstance(module, Decoder) and tied:
        module.head.weight = module.embed.weight
    set_route(module, choose_route(device, dtype)[0])
    return module.eval().requires_grad_(False)


def with_padding(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy of `[rows, in]` whose memory ends with zeros, up to a multiple of 64 rows: GEMM libraries are slow at odd
    widths, and the head has as many channels as the vocabulary has tokens (`model.fused_weights`)."""
    rows = -(-len(tensor) // BLOCK_CHANNELS) * BLOCK_CHANNELS
    memory = torch.empty(rows, tensor.shape[1], dtype=dtype, device=device)
    memory[len(tensor) :] = 0
    return memory[: len(tensor)].copy_(tensor)


def _is_tied(decoder: Decoder, checkpoint: Checkpoint) -> bool:
    """Whether head and embedding share one tensor: a quantised head is a tensor of its own."""
    return checkpoint.config.decoder.tie_word_embeddings and isinstance(decoder.head, nn.Linear)


def _release(checkpoint: Checkpoint, part: str, ours: str, tensor: Tensor) -> None:
    name = checkpoint_name(part, ours)
    if name in checkpoint.store:
        checkpoint.store.release(name, tensor)


def _dtype_of(ours: str, stored: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """The dtype that a tensor is held in: the working one, but for quantised weights, scales and audio statistics."""
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
        return torch.tensor(0)  # a training counter that inference does not read
    raise CheckpointError(f"the tensor {name!r} is missing", where=checkpoint.folder)


def _has_other_source(checkpoint: Checkpoint, part: str, ours: str) -> bool:
    if part == "audio" and ours.startswith("cmvn_"):
        return checkpoint.cmvn is not None
    if part == "adapter" and ours.endswith("num_batches_tracked"):
        return True
    return part == "decoder" and ours == "head.weight" and checkpoint.config.decoder.tie_word_embeddings


def _is_vocabulary(part: str, ours: str) -> bool:
    return part == "decoder" and ours in ("embed.weight", "head.weight", "head.scale")


def _dtype_matches(found: torch.dtype, wanted: torch.dtype, ours: str) -> bool:
    """Floating-point weights are cast to the working dtype. Quantised weights and scales are not: the kernels read
    their memory as it is stored."""
    if wanted in STORED or ours.endswith(".scale"):
        return found == wanted
    return found.is_floating_point == wanted.is_floating_point


def _shape_matches(found: tuple[int, ...], wanted: tuple[int, ...], vocabulary: bool) -> bool:
    """Vocabulary tables may hold more rows than the tokenizer has ids; the rest is cut off."""
    if vocabulary and len(found) == len(wanted):
        return found[0] >= wanted[0] and found[1:] == wanted[1:]
    return found == wanted
