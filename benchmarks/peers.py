"""The demo request beside other engines: same shapes, same prompt length, in turns (A B A B), each in its own process.

    python benchmarks/peers.py CHECKPOINT --int4 CONVERTED --picture assets/vita_logo.png

Contenders: `vita` and `vita-int4`, and, where their packages are installed (they are no part of the product):
`reference`, a ViT with plain attention and transformers' Qwen2 (eager), `transformers-sdpa`, the same with SDPA, and
`llama-q4_0`, llama.cpp on a random GGUF of the same shape, written beside the checkpoint. Every contender decodes
`--tokens` tokens behind 1,435 positions; the time of the whole request is given for `--answer` tokens.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TILES, PROMPT = 5, 1435  # the thumbnail is one of the tiles
QUESTION = "Describe this images."
PEERS = ("vita", "reference", "transformers-sdpa", "vita-int4", "llama-q4_0")


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came out."""
    start = time.perf_counter()
    out = run()
    return time.perf_counter() - start, out


def run_vita(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """The whole request through the public API, twice: the first one also touches the files."""
    import vita

    load, model = timed(lambda: vita.load(folder))
    for tokens in (2, args.tokens):
        model.engine.clear_caches()
        params, options = (
            vita.SamplingParams(max_tokens=tokens, ignore_eos=True),
            vita.MediaOptions(max_tiles=TILES - 1),
        )
        result = model.ask(QUESTION, images=[args.picture], params=params, options=options)
    t = result.timings
    assert result.usage.prompt_tokens == PROMPT, result.usage
    return {"load": load, "vision": t.vision, "prefill": t.prefill, "step": t.decode / t.decode_tokens}


def run_transformers(args: argparse.Namespace, attention: str) -> dict[str, float]:
    """Vision with plain attention, then transformers' Qwen2 on the same mapped weights.

    No engine of ours is made in its process: what one sets for itself (threads, the heap) must not be the peer's.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    from vita.checkpoint.load import load_part
    from vita.checkpoint.names import checkpoint_name
    from vita.checkpoint.open import open_checkpoint
    from vita.model.vita import PartName, VitaModel
    from vita.prompt.tokenizer import Tokenizer

    checkpoint = open_checkpoint(str(args.checkpoint), offline=True)
    size, d, cpu = Tokenizer.load(args.checkpoint).size, checkpoint.config.decoder, torch.device("cpu")

    ours = VitaModel.on_meta(checkpoint.config, size)

    def loaded_part(name: PartName, module: torch.nn.Module) -> torch.nn.Module:
        return load_part(name, module, checkpoint, torch.bfloat16, cpu)

    def load() -> Any:
        config = Qwen2Config(
            vocab_size=size, hidden_size=d.hidden_size, intermediate_size=d.intermediate_size,
            num_hidden_layers=d.num_layers, num_attention_heads=d.num_heads, num_key_value_heads=d.num_kv_heads,
            rms_norm_eps=d.rms_norm_eps, rope_theta=d.rope_theta, tie_word_embeddings=False,
            attn_implementation=attention,
        )  # fmt: skip
        with torch.device("meta"):
            model = Qwen2ForCausalLM(config)
        decoder = loaded_part("decoder", ours.decoder)
        state = {checkpoint_name("decoder", name): value for name, value in decoder.state_dict().items()}
        model.load_state_dict(state, strict=True, assign=True)
        model.model.rotary_emb = Qwen2RotaryEmbedding(config)
        return model.eval()

    loaded, model = timed(load)
    with torch.inference_mode():
        vision = plain_vision(loaded_part("vision", ours.vision), loaded_part("projector", ours.projector))
        embeds = torch.randn(1, PROMPT, d.hidden_size, dtype=torch.bfloat16) * 0.02
        model(inputs_embeds=embeds[:, :64], logits_to_keep=1)  # warm
        prefill, out = timed(lambda: model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1))

        def decode() -> None:
            last = out
            for _ in range(args.tokens - 1):
                token = last.logits[:, -1].argmax(-1)[None]
                last = model(input_ids=token, past_key_values=last.past_key_values, use_cache=True, logits_to_keep=1)

        seconds, _ = timed(decode)
    return {"load": loaded, "vision": vision, "prefill": prefill, "step": seconds / (args.tokens - 1)}


def plain_vision(vision: Any, projector: Any) -> float:
    """Seconds of the ViT as it is usually written: scores, softmax and weighted sum as three operations."""
    import torch

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v

    for layer in vision.layers:
        layer.attn.attend = plain
        layer.mlp.fc1.with_activation = lambda x, _, fc1=layer.mlp.fc1: torch.nn.functional.gelu(fc1(x))
    size = vision.config.image_size
    pixels = torch.randn(TILES, 3, size, size)
    projector(vision(pixels[:1]))
    return timed(lambda: projector(vision(pixels)))[0]


def run_llama(args: argparse.Namespace) -> dict[str, float]:
    """llama.cpp through llama-cpp-python; vision is left out."""
    from llama_cpp import Llama

    file = args.checkpoint.with_suffix(".q4_0.gguf")
    if not file.exists():
        write_gguf(args.checkpoint, file)
    load, model = timed(lambda: Llama(str(file), n_ctx=2048, n_batch=2048, n_ubatch=512, n_threads=2, verbose=False))
    model.eval([5] * 64)
    model.reset()
    prefill, _ = timed(lambda: model.eval([7 + k % 1000 for k in range(PROMPT)]))

    def decode() -> None:
        for k in range(args.tokens - 1):
            model.eval([k + 11])

    seconds, _ = timed(decode)
    return {"load": load, "vision": 0.0, "prefill": prefill, "step": seconds / (args.tokens - 1)}


def write_gguf(checkpoint: Path, file: Path) -> None:
    """A random GGUF of the decoder's shape: Q4_0, the head in Q6_K as llama.cpp's own converter has it."""
    import gguf
    import numpy as np

    from vita.checkpoint.open import open_checkpoint

    d = open_checkpoint(str(checkpoint), offline=True).config.decoder
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_context_length(32768)
    writer.add_embedding_length(d.hidden_size)
    writer.add_block_count(d.num_layers)
    writer.add_feed_forward_length(d.intermediate_size)
    writer.add_head_count(d.num_heads)
    writer.add_head_count_kv(d.num_kv_heads)
    writer.add_rope_freq_base(d.rope_theta)
    writer.add_layer_norm_rms_eps(d.rms_norm_eps)
    writer.add_vocab_size(d.vocab_size)
    # Any vocabulary will do, but without one llama.cpp crashes at the first step.
    letters = bytes_to_unicode()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*letters, *(f"<{k}>" for k in range(d.vocab_size - len(letters)))])
    writer.add_token_types([1] * d.vocab_size)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(d.vocab_size - 1)

    def vector(name: str, size: int) -> None:
        writer.add_tensor(name, np.ones(size, np.float32))

    def blocks(name: str, rows: int, width: int, kind: gguf.GGMLQuantizationType) -> None:
        values, size = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, (rows * width // values, size), np.uint8)
        scale = np.array([0.005], np.float16).view(np.uint8)
        at = 0 if kind == gguf.GGMLQuantizationType.Q4_0 else size - 2
        raw[:, at : at + 2] = scale
        writer.add_tensor(name, raw.reshape(rows, -1), raw_dtype=kind)

    q4, q6 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q6_K
    wide, kv = d.hidden_size, d.num_kv_heads * d.head_dim
    blocks("token_embd.weight", d.vocab_size, wide, q4)
    blocks("output.weight", d.vocab_size, wide, q6)
    vector("output_norm.weight", wide)
    for k in range(d.num_layers):
        for name, rows, width in (
            ("attn_q", wide, wide), ("attn_k", kv, wide), ("attn_v", kv, wide), ("attn_output", wide, wide),
            ("ffn_gate", d.intermediate_size, wide), ("ffn_up", d.intermediate_size, wide),
            ("ffn_down", wide, d.intermediate_size),
        ):  # fmt: skip
            blocks(f"blk.{k}.{name}.weight", rows, width, q4)
        for name, size in (("attn_q.bias", wide), ("attn_k.bias", kv), ("attn_v.bias", kv)):
            vector(f"blk.{k}.{name}", size)
        vector(f"blk.{k}.attn_norm.weight", wide)
        vector(f"blk.{k}.ffn_norm.weight", wide)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def bytes_to_unicode() -> list[str]:
    """The 256 characters by which byte-level vocabularies write bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def measure(args: argparse.Namespace) -> None:
    """One contender once, as a line of JSON."""
    runs: dict[str, Callable[[], dict[str, float]]] = {
        "vita": lambda: run_vita(args, args.checkpoint),
        "vita-int4": lambda: run_vita(args, args.int4),
        "reference": lambda: run_transformers(args, "eager"),
        "transformers-sdpa": lambda: run_transformers(args, "sdpa"),
        "llama-q4_0": lambda: run_llama(args),
    }
    figures = runs[args.one]()
    figures["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps(figures))


def compare(args: argparse.Namespace) -> None:
    """All contenders in turns; a table of the best of each, and their ratios to ours."""
    best: dict[str, dict[str, float]] = {}
    for number in range(args.rounds):
        for name in args.peers:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name} cannot run here: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                continue
            figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            print(f"round {number + 1} {name}: {json.dumps({k: round(v, 3) for k, v in figures.items()})}", flush=True)
            old = best.get(name, figures)
            best[name] = {key: min(old[key], value) for key, value in figures.items()}
    print(f"\n| | vision | prefill | a token | {args.answer} tokens in all | peak memory |\n|" + "---|" * 6)
    for name, f in best.items():
        whole = f["vision"] + f["prefill"] + (args.answer - 1) * f["step"]
        print(
            f"| {name} | {f['vision']:.2f} s | {f['prefill']:.2f} s | {f['step'] * 1e3:.0f} ms | {whole:.0f} s "
            f"| {f['peak_gb']:.2f} GB |"
        )
    print(json.dumps(best))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--int4", type=Path, help="the same, converted")
    parser.add_argument("--picture", type=Path, required=True, help="of five tiles")
    parser.add_argument("--tokens", type=int, default=24, help="decoded by each")
    parser.add_argument("--answer", type=int, default=256, help="tokens for which the whole request is given")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--one", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    (measure if args.one else compare)(args)


if __name__ == "__main__":
    main()
