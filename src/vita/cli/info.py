"""`vita info`: what a checkpoint holds and what it will need, from its headers alone."""

from __future__ import annotations

import json
from typing import Any

from vita.errors import CheckpointError


def run_info(
    model: str | None, device_name: str, dtype_name: str, quantize: str | None, kv_cache: str, context: int, *,
    as_json: bool, offline: bool,
) -> int:  # fmt: skip
    """Print the facts; 2 if the checkpoint is incomplete."""
    facts = collect(model, device_name, dtype_name, quantize, kv_cache, context, offline)
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
    else:
        for line in describe(facts):
            print(line)
    return 2 if facts["problem"] else 0


def collect(
    model: str | None, device_name: str, dtype_name: str, quantize: str | None, kv_cache: str, context: int,
    offline: bool,
) -> dict[str, Any]:  # fmt: skip
    """Everything as plain data.

    Raises:
        CheckpointError: the folder is no checkpoint at all.
    """
    from vita.checkpoint.load import check_tensors, parameter_counts
    from vita.checkpoint.open import open_checkpoint
    from vita.layers.linear import choose_route
    from vita.options import choose_kv_cache, choose_quantize
    from vita.planning.memory_plan import predict_memory
    from vita.planning.residency import is_mapped
    from vita.prompt.tokenizer import Tokenizer
    from vita.runtime.device import choose_device, choose_dtype
    from vita.runtime.memory import available_memory

    checkpoint = open_checkpoint(model, offline=offline)
    config = checkpoint.config
    tokenizer = Tokenizer.load(checkpoint.folder)
    problem = None
    try:
        check_tensors(checkpoint, tokenizer.size)
    except CheckpointError as error:
        problem = str(error)
    counts = parameter_counts(config, tokenizer.size)
    total = sum(counts.values())
    device = choose_device(device_name, total)
    dtype, why = choose_dtype(dtype_name, config, total, device)
    scheme = checkpoint.quantized or choose_quantize(quantize)
    route, route_why = choose_route(device, dtype)
    stored = sorted({str(e.dtype).removeprefix("torch.") for e in checkpoint.store.entries.values()})
    return {
        "model": model or "default",
        "layout": config.layout,
        "parameters": counts,
        "total": total,
        "stored_bytes": sum(e.bytes for e in checkpoint.store.entries.values()),
        "stored_dtypes": stored,
        "dtype": str(dtype).removeprefix("torch."),
        "dtype_reason": why,
        "device": str(device),
        "linears": f"{route}: {route_why}",
        "quantized": scheme,
        "memory": predict_memory(
            config, tokenizer.size, dtype, context, scheme, device=device,
            mapped=is_mapped(checkpoint, dtype, device), quantized_kv_cache=choose_kv_cache(kv_cache),
        ),
        "memory_context": context,
        "available": available_memory(device),
        "context": config.context,
        "vocabulary": tokenizer.size,
        "tile": config.vision.image_size,
        "tokens_per_tile": config.vision.tokens_per_tile,
        "most_tiles": config.tiling.max_tiles,
        "untrained": list(checkpoint.untrained),
        "speech_output": (checkpoint.folder / "vita_tts_ckpt").is_dir(),
        "problem": problem,
    }  # fmt: skip


def cut_into(most: int, side: int) -> str:
    """How many tiles of `side` pixels a picture becomes, for people."""
    return f"1 to {most} tiles of {side} px and a thumbnail" if most > 1 else f"one tile of {side} px"


def describe(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for people."""
    lines = [f"{facts['model']} ({facts['layout']} layout)", ""]
    for part, count in facts["parameters"].items():
        lines.append(f"  {part:12} {count / 1e6:12,.3f} M {count / 2**20:12,.3f} Mi")
    total = facts["total"]
    lines.append(f"  {'total':12} {total / 1e6:12,.3f} M {total / 2**20:12,.3f} Mi")
    need = sum(facts["memory"].values())
    lines += [
        "",
        f"stored      {facts['stored_bytes'] / 1e9:.3f} GB as {', '.join(facts['stored_dtypes'])}",
        f"runs        in {facts['dtype']} on {facts['device']} ({facts['dtype_reason']})",
        f"linears     {facts['linears']}" + (f"; weights in {facts['quantized']}" if facts["quantized"] else ""),
        f"memory      about {need / 1e9:.2f} GB at a context of {facts['memory_context']:,}; "
        f"{facts['available'] / 1e9:.2f} GB are available",
        f"context     {facts['context']:,} tokens",
        f"vocabulary  {facts['vocabulary']:,} tokens",
        f"pictures    {cut_into(facts['most_tiles'], facts['tile'])}, {facts['tokens_per_tile']} tokens each",
        f"speech out  {'its files are there; this version answers in text' if facts['speech_output'] else 'no'}",
    ]
    if facts["untrained"]:
        lines.append(f"untrained   {', '.join(facts['untrained'])}: the engine refuses requests that need it")
    lines.append(f"missing     {facts['problem'] or 'nothing'}")
    return lines
