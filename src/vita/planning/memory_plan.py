"""How much memory a model needs, which variant of it a limit allows, and the KV budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from vita.config import VitaConfig
from vita.errors import ResourceError
from vita.kernels.cpu.bindings import GROUP_SIZE
from vita.model.kv_cache import KVCache
from vita.model.vita import VitaModel
from vita.options import EngineOptions, Quantize, parse_size
from vita.quant.linear import dequantize_block_size
from vita.quant.scheme import STORED, is_four_bit, scheme_of
from vita.runtime.memory import available_memory

# Prompts are cut at multiples of it: enough to amortise reading the weights, few enough to pause between layers.
CPU_PREFILL_CHUNK, GPU_PREFILL_CHUNK = 512, 2048

TILE_BATCH = 4  # tiles of one ViT forward: enough to fill a CPU, few enough to cancel between
GPU_TILE_BATCH = 13  # the most tiles of one image: done before anybody could cancel
BASE_BYTES = 350 << 20  # the process itself: Python, PyTorch, media libraries
GPU_BYTES = 600 << 20  # the CUDA context
PLANNED_POSITIONS = 2048  # positions of one conversation for which memory must suffice
BUDGET_CONTEXTS = 16  # full contexts that the automatic KV budget holds at most
SCALE_BYTES = 2  # scales are bfloat16
AUDIO = "audio encoder"
GRAPH_POSITIONS = 512  # of the longest prefill that is recorded as a CUDA graph, whose memory is its own
PREFERRED: tuple[Quantize | None, ...] = (None, "int8", "int4")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and in which formats a model is held.

    Attributes:
        device: it computes on.
        dtype: working dtype.
        mapped: the weights are views of the checkpoint's files (`residency.is_mapped`). Pages of the embedding table
            are read on demand, and the encoders' pages are released after use. Otherwise all weights stay in memory.
        quantized_kv_cache: keys and values are held in eight bits.
    """

    device: torch.device
    dtype: torch.dtype
    mapped: bool = False
    quantized_kv_cache: bool = False


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What is loaded, and the memory that it needs.

    Attributes:
        scheme: quantisation of the decoder's linear layers; None: none.
        bytes_needed: predicted peak with a KV cache of `PLANNED_POSITIONS`, or of the KV budget that was asked for.
        kv_budget: bytes for the KV caches of all requests.
        streamed_layers: decoder layers whose weights are streamed from disk for every token.
    """

    scheme: Quantize | None
    bytes_needed: int
    kv_budget: int
    streamed_layers: int = 0


def plan_memory(
    model: VitaModel, placement: Placement, options: EngineOptions, stored: Quantize | None = None
) -> MemoryPlan:
    """Choose what is loaded.

    Without a memory limit that is the scheme of the options or the checkpoint. With one it is the least quantised
    variant within the limit; if there is none and the weights are mapped, the smallest one, with some of its layers
    streamed from disk.

    Args:
        model: on the meta device; not quantised, or in the stored scheme.
        placement: where it is held.
        options: `quantize`, `memory` and `kv_budget` are read.
        stored: the checkpoint's own scheme, which leaves no choice.

    Raises:
        ResourceError: not even the smallest variant is within the limit, or the machine has less memory available.
    """
    available = available_memory(placement.device)
    limit = None if options.memory is None else parse_size(options.memory) or available
    minimum = _planned(model.config) * _position_bytes(model.config, placement)
    if limit is None:
        schemes: tuple[Quantize | None, ...] = (stored or options.scheme,)
    else:
        schemes = PREFERRED if stored is None else (stored,)
    need, streamed, scheme = 0, 0, schemes[0]
    for scheme in schemes:
        released = limit is not None and scheme == stored  # weights that are quantised while loading are not mapped
        parts = predict_memory(model, placement, scheme, _planned(model.config), decoder_released=released)
        parts["kv cache"] = options.kv_budget or minimum
        need = sum(parts.values())
        if limit is None or need <= limit:
            break
    if limit is not None and need > limit:
        streamed = _streamed_layers(model, placement, stored, need - limit)
        if not streamed:
            raise ResourceError(
                f"the smallest variant ({schemes[-1] or 'as stored'}) needs about {need / 1e9:.1f} GB and "
                f"{limit / 1e9:.1f} GB are allowed", where="memory", fix="allow more, or use a smaller model",
            )  # fmt: skip
        need -= (streamed - 1) * layer_bytes(model, scheme, placement.dtype)
    check_memory(need, available, placement.device)
    budget = options.kv_budget
    if budget is None:
        released = limit is not None and placement.mapped and scheme == stored
        fixed = _fixed_bytes(model, placement, scheme, streamed, decoder_released=released)
        if limit is None:
            most = BUDGET_CONTEXTS * model.config.context * _position_bytes(model.config, placement)
            budget = max(minimum, min(most, (available - fixed) // 2))
        else:
            budget = max(minimum, min(limit, available) - fixed)
    return MemoryPlan(scheme=scheme, bytes_needed=need, kv_budget=budget, streamed_layers=streamed)


def predict_memory(
    model: VitaModel, placement: Placement, scheme: Quantize | None, positions: int, *, decoder_released: bool = False
) -> dict[str, int]:
    """Bytes at the peak of one conversation with images, by purpose; the sum is the peak.

    On a GPU, which keeps every encoder that was used, the audio encoder is counted apart (`AUDIO`): a conversation
    without audio does not load it.

    Args:
        model: on the meta device; not quantised, or in `scheme`.
        placement: where it is held.
        scheme: quantisation of linear layers.
        positions: of the conversation.
        decoder_released: the decoder's weights are mapped, and their pages are released while an encoder runs.
    """
    config, dtype, mapped = model.config, placement.dtype, placement.mapped
    sizes = part_bytes(model, scheme, dtype)
    on_cpu = placement.device.type == "cpu"
    cache = positions * _position_bytes(config, placement)
    workspace = _prefill_bytes(model, placement, positions, quantized=scheme is not None)
    encoders = sizes["vision"] + sizes["projector"]
    if on_cpu and mapped:
        encoders += _vision_bytes(config, dtype.itemsize)
        # Released pages make space: encoding and decoding do not overlap.
        encoders = max(0, encoders - cache - workspace - (sizes["decoder"] if decoder_released else 0))
    return {
        "decoder": sizes["decoder"],
        "embedding": _table_bytes(model, placement, scheme),
        "encoders": encoders,
        "kv cache": cache,
        "workspace": workspace,
        "process": BASE_BYTES if on_cpu else GPU_BYTES,
    } | ({} if on_cpu else {AUDIO: sizes["audio"] + sizes["adapter"]})


def _fixed_bytes(
    model: VitaModel, placement: Placement, scheme: Quantize | None, streamed: int, *, decoder_released: bool
) -> int:
    """Peak bytes of everything but KV caches, with every encoder counted, loaded or not."""
    config, dtype = model.config, placement.dtype
    sizes = part_bytes(model, scheme, dtype)
    on_cpu = placement.device.type == "cpu"
    decoder = sizes["decoder"] - max(0, streamed - 1) * layer_bytes(model, scheme, dtype)
    decoder += _prefill_bytes(model, placement, _planned(config), quantized=scheme is not None)
    image, audio = sizes["vision"] + sizes["projector"], sizes["audio"] + sizes["adapter"]
    if on_cpu and placement.mapped:
        encoders = max(image + _vision_bytes(config, dtype.itemsize), audio)  # pages are released after use
    else:
        encoders = image + audio
    fixed = _table_bytes(model, placement, scheme) + (BASE_BYTES if on_cpu else GPU_BYTES)
    return fixed + (max(decoder, encoders) if decoder_released else decoder + encoders)


def _streamed_layers(model: VitaModel, placement: Placement, stored: Quantize | None, excess: int) -> int:
    """Decoder layers to stream from disk so that `excess` bytes are saved; 0 if that is not possible."""
    if stored is None or not placement.mapped:  # weights that are quantised while loading are in no file
        return 0
    layers = -(-excess // layer_bytes(model, stored, placement.dtype)) + 1  # one of them is in memory while it is used
    return layers if layers <= model.config.decoder.num_layers else 0


def part_bytes(model: VitaModel, scheme: Quantize | None, dtype: torch.dtype) -> dict[str, int]:
    """Bytes of weights of each part under a scheme, derived from shapes; without the embedding table."""
    return {name: _module_bytes(part, scheme_of(name, scheme), dtype) for name, part in model.parts()}


def layer_bytes(model: VitaModel, scheme: Quantize | None, dtype: torch.dtype) -> int:
    """Bytes of weights of one decoder layer."""
    return _module_bytes(model.decoder.layers[0], scheme, dtype)


def _module_bytes(module: nn.Module, scheme: Quantize | None, dtype: torch.dtype) -> int:
    """Bytes of a module's weights; linear layers that are not quantised yet count as the scheme would hold them."""
    total = 0
    for path, layer in module.named_modules():
        tensors = dict(layer.named_parameters(recurse=False)) | dict(layer.named_buffers(recurse=False))
        if path == "embed" and "weight" in tensors:
            continue
        if scheme is not None and isinstance(layer, nn.Linear):
            del tensors["weight"]
            values, in_features = layer.in_features * layer.out_features, layer.in_features
            four = is_four_bit(path, in_features, scheme)
            scales = values // GROUP_SIZE if four else layer.out_features
            total += (values // 2 if four else values) + SCALE_BYTES * scales
        for name, tensor in tensors.items():
            kept = tensor.dtype in STORED or name == "scale"
            total += tensor.nbytes if kept else tensor.numel() * dtype.itemsize
    return total


def _planned(config: VitaConfig) -> int:
    return min(PLANNED_POSITIONS, config.context)


def _position_bytes(config: VitaConfig, placement: Placement) -> int:
    return KVCache.bytes_per_position(config.decoder, placement.dtype, quantized=placement.quantized_kv_cache)


def _table_bytes(model: VitaModel, placement: Placement, scheme: Quantize | None) -> int:
    """Bytes of the embedding table where it is held apart from the head and not mapped.

    A GPU holds none of it: rows are read from host memory, pinned where that is possible.
    """
    config = model.config.decoder
    tied = config.tie_word_embeddings and scheme is None
    if placement.mapped or tied or placement.device.type != "cpu":
        return 0
    return model.vocab_size * config.hidden_size * placement.dtype.itemsize


def _prefill_bytes(model: VitaModel, placement: Placement, positions: int, *, quantized: bool) -> int:
    """Activations of the largest chunk of a prompt.

    Up to three tensors of the MLP's intermediate size (two where a native kernel computes SwiGLU) and some of the
    layer's hidden size live at once; then the next token's logits in two dtypes, and a block of dequantised weights.
    Prefills that are recorded as CUDA graphs have memory of their own.
    """
    d, itemsize = model.config.decoder, placement.dtype.itemsize
    rows = min(positions, prefill_chunk(placement.device))
    recorded = GRAPH_POSITIONS if placement.device.type == "cuda" else 0
    block = min(dequantize_block_size(placement.device), d.intermediate_size * d.hidden_size) * itemsize
    blocks = 0 if not quantized else 2 if recorded else 1
    return (
        (rows + recorded) * (3 * d.intermediate_size + 8 * d.hidden_size) * itemsize
        + model.vocab_size * (itemsize + 4)
        + blocks * block
    )


def _vision_bytes(config: VitaConfig, itemsize: int) -> int:
    """Activations of one ViT forward."""
    v = config.vision
    return TILE_BATCH * (1 + v.grid**2) * (v.intermediate_size + 8 * v.hidden_size) * itemsize


def prefill_chunk(device: torch.device) -> int:
    """Positions of one prefill forward."""
    return CPU_PREFILL_CHUNK if device.type == "cpu" else GPU_PREFILL_CHUNK


def tile_batch(device: torch.device) -> int:
    """Tiles of one ViT forward."""
    return TILE_BATCH if device.type == "cpu" else GPU_TILE_BATCH


def check_memory(need: int, available: int, device: torch.device) -> None:
    """Refuse a model that is larger than the available memory, before loading it.

    Raises:
        ResourceError: with both figures.
    """
    if need > available:
        raise ResourceError(
            f"the model needs about {need / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are available",
            where=str(device), fix="close other programs, use a smaller dtype, quantise, or use another machine",
        )  # fmt: skip
