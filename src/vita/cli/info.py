"""`vita info`: the parts of a checkpoint and the memory it needs, from its headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vita.cli.output import print_json
from vita.errors import CheckpointError, ResourceError

if TYPE_CHECKING:
    from vita.checkpoint.open import Checkpoint
    from vita.model.vita import VitaModel
    from vita.options import EngineOptions, Quantize
    from vita.planning.memory_plan import MemoryPlan, Placement


WITH_VOICE = "a voice of its own, vita"
WITHOUT_VOICE = "no voice of its own; vita doctor lists those that are installed"


def run_info(model: str | None, options: EngineOptions, *, positions: int, as_json: bool) -> int:
    """Print the facts; 2 if the checkpoint is incomplete."""
    facts = collect(model, options, positions)
    if as_json:
        print_json(facts)
    else:
        for line in describe(facts):
            print(line)
    return 2 if facts["problem"] else 0


def collect(model: str | None, options: EngineOptions, positions: int) -> dict[str, Any]:
    """Everything as plain data.

    Args:
        model: a checkpoint folder or hub id; None: the embedded model.
        options: how it would be loaded.
        positions: of the KV cache in the memory figure.

    Raises:
        CheckpointError: the folder is not a checkpoint at all.
    """
    from vita.checkpoint.locate import find_folder

    local = find_folder(model) is not None  # before torch is imported
    from vita.checkpoint.load import check_tensors
    from vita.checkpoint.open import open_checkpoint
    from vita.model.vita import VitaModel
    from vita.prompt.tokenizer import Tokenizer

    checkpoint = open_checkpoint(model, offline=options.offline, weights=local)
    vocabulary = Tokenizer.load(checkpoint.folder).size
    meta = VitaModel.on_meta(checkpoint.config, vocabulary, checkpoint.quantized)
    problem = None
    try:
        if checkpoint.store.entries:
            check_tensors(checkpoint, meta)
    except CheckpointError as error:
        problem = str(error)
    facts: dict[str, Any] = {"model": model or "default"}
    facts |= _contents(checkpoint, meta) | _execution(checkpoint, meta, options, positions)
    return facts | {"vocabulary": vocabulary, "problem": problem}


def _contents(checkpoint: Checkpoint, meta: VitaModel) -> dict[str, Any]:
    """What the checkpoint holds: parts, sizes, what it can do."""
    from vita.checkpoint.locate import find_speech

    config, counts = checkpoint.config, meta.parameter_counts()
    return {
        "layout": config.layout,
        "parameters": counts,
        "total": sum(counts.values()),
        "stored_bytes": sum(e.bytes for e in checkpoint.store.entries.values()),  # 0: not downloaded
        "stored_dtypes": sorted({str(e.dtype).removeprefix("torch.") for e in checkpoint.store.entries.values()}),
        "context": config.context,
        "tile": config.vision.image_size,
        "tokens_per_tile": config.vision.tokens_per_tile,
        "most_tiles": config.tiling.max_tiles,
        "untrained": list(checkpoint.untrained),
        "speech_output": find_speech(checkpoint.folder) is not None,
    }


def _execution(checkpoint: Checkpoint, meta: VitaModel, options: EngineOptions, positions: int) -> dict[str, Any]:
    """How this machine would run it: device, dtype, memory."""
    from vita.layers.linear import choose_route
    from vita.planning.memory_plan import Placement, predict_memory
    from vita.planning.residency import is_mapped
    from vita.runtime.device import choose_device, choose_dtype
    from vita.runtime.memory import available_memory

    total = sum(meta.parameter_counts().values())
    device = choose_device(options.device, total)
    dtype, why = choose_dtype(options.dtype, checkpoint.config, total, device)
    mapped = is_mapped(checkpoint, dtype, device)
    if not checkpoint.store.entries:  # not downloaded: taken to be stored as the configuration says
        mapped = device.type == "cpu" and str(dtype) == f"torch.{checkpoint.config.dtype}"
    placement = Placement(
        device=device, dtype=dtype, mapped=mapped,
        quantized_kv_cache=options.quantized_kv_cache,
    )  # fmt: skip
    plan, shortage = _plan(meta, placement, options, checkpoint.quantized)
    scheme = plan.scheme if plan else checkpoint.quantized or options.scheme
    route, route_why = choose_route(device, dtype)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "dtype_reason": why,
        "device": str(device),
        "linears": f"{route}: {route_why}",
        "quantized": scheme,
        "memory": predict_memory(meta, placement, scheme, positions),
        "memory_context": positions,
        "memory_limit": options.memory,
        "available": available_memory(device),
        "kv_budget": plan.kv_budget if plan else None,
        "streamed_layers": plan.streamed_layers if plan else 0,
        "bytes_needed": plan.bytes_needed if plan else None,
        "shortage": shortage,
    }


def _plan(
    meta: VitaModel, placement: Placement, options: EngineOptions, stored: Quantize | None
) -> tuple[MemoryPlan | None, str | None]:
    """The memory plan, or the sentence that says why there is none on this machine."""
    from vita.planning.memory_plan import plan_memory

    try:
        return plan_memory(meta, placement, options, stored), None
    except ResourceError as error:
        return None, str(error)


def cut_into(most: int, side: int) -> str:
    """How many tiles of `side` pixels an image becomes, as text."""
    return f"1 to {most} tiles of {side} px and a thumbnail" if most > 1 else f"one tile of {side} px"


def describe(facts: dict[str, Any]) -> list[str]:
    """The facts as lines of text."""
    lines = [f"{facts['model']} ({facts['layout']} layout)", ""]
    for part, count in facts["parameters"].items():
        lines.append(f"  {part:12} {count / 1e6:12,.3f} M {count / 2**20:12,.3f} Mi")
    total = facts["total"]
    lines.append(f"  {'total':12} {total / 1e6:12,.3f} M {total / 2**20:12,.3f} Mi")
    audio = facts["memory"].get("audio encoder", 0)
    need = sum(facts["memory"].values()) - audio
    more = f", {audio / 1e9:.2f} GB more with audio" if audio else ""
    lines += [
        "",
        _stored_line(facts),
        f"runs        in {facts['dtype']} on {facts['device']} ({facts['dtype_reason']})",
        f"linears     {facts['linears']}" + (f"; weights in {facts['quantized']}" if facts["quantized"] else ""),
        f"memory      about {need / 1e9:.2f} GB at a context of {facts['memory_context']:,}{more}; "
        f"{facts['available'] / 1e9:.2f} GB are available",
        *_memory_lines(facts),
        f"context     {facts['context']:,} tokens",
        f"vocabulary  {facts['vocabulary']:,} tokens",
        f"images      {cut_into(facts['most_tiles'], facts['tile'])}, {facts['tokens_per_tile']} tokens each",
        f"speech out  {WITH_VOICE if facts['speech_output'] else WITHOUT_VOICE}",
    ]
    if facts["untrained"]:
        lines.append(f"untrained   {', '.join(facts['untrained'])}: requests that need it are refused")
    lines.append(f"missing     {facts['problem'] or 'nothing'}")
    return lines


def _stored_line(facts: dict[str, Any]) -> str:
    if not facts["stored_bytes"]:
        return f"stored      not downloaded, or not all of it; vita pull {facts['model']} says the size and fetches it"
    return f"stored      {facts['stored_bytes'] / 1e9:.3f} GB as {', '.join(facts['stored_dtypes'])}"


def _memory_lines(facts: dict[str, Any]) -> list[str]:
    """KV cache budget, and what a memory limit changes."""
    if facts["shortage"]:
        return [f"KV cache    no budget: {facts['shortage']}"]
    lines = [f"KV cache    budget {facts['kv_budget'] / 1e9:.2f} GB for all requests"]
    if facts["memory_limit"]:
        variant = facts["quantized"] or facts["dtype"]
        lines.append(
            f"limit       {facts['memory_limit']}: {variant} needs about {facts['bytes_needed'] / 1e9:.2f} GB; "
            "encoders and decoder run in turn"
        )
    if facts["streamed_layers"]:
        lines.append(f"streamed    {facts['streamed_layers']} decoder layers are read from disk for every token")
    return lines
