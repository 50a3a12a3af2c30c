"""The demo request beside other engines: same shapes, same prompt length, in turns, each in its own process.

    python benchmarks/make_checkpoint.py OUT --tokenizer T
    python benchmarks/make_checkpoint.py OUT4 --tokenizer T --quantize int4
    python benchmarks/peers.py OUT --int4 OUT4 --picture assets/vita_logo.png --tokens 48

T is a folder with the tokenizer.json of Qwen/Qwen2.5-7B-Instruct, which is the released model's vocabulary: with it the
request has 1,435 positions. A made-up tokenizer gives another length, and is refused.

Contenders: `vita` and `vita-int4`, and, where their packages are installed (they are no part of the product):
`reference`, a ViT with plain attention and transformers' Qwen2 (eager); `transformers-sdpa`, the same with SDPA;
`llama-q4_0` and `llama-q4_k_m`, llama.cpp on random GGUFs of the same shape, written beside the checkpoint, at its best
settings (`run_llama`).

Each contender first runs one whole request that is not timed. There are at least three rounds, and the tables give
minimum, median and maximum. Beside each run are what the memory could read just before it (GB/s) and the cores that
other processes or tenants took meanwhile. A run is marked * as disturbed where those were more than 0.2 cores, or the
read was 15 % off its median; medians of undisturbed runs are given too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

# As a script it finds its neighbours too.
if __package__ is None and str(Path(__file__).parents[1]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.random_gguf import Format, write_gguf
from benchmarks.rounds import Figures, mark_disturbed, table

TILES, PROMPT = 5, 1435  # the thumbnail is one of the tiles
QUESTION = "Describe this images."
PEERS = ("vita", "reference", "transformers-sdpa", "vita-int4", "llama-q4_0", "llama-q4_k_m")
MIN_ROUNDS = 3


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came out."""
    start = time.perf_counter()
    out = run()
    return time.perf_counter() - start, out


def run_vita(args: argparse.Namespace, folder: Path) -> Figures:
    """The whole request through the public API."""
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
    if result.usage.prompt_tokens != args.positions:
        raise SystemExit(
            f"the request has {result.usage.prompt_tokens} positions, not {args.positions}: make the checkpoint with a "
            "Qwen2.5 tokenizer, or pass --positions"
        )
    return {"load": load, "vision": t.vision, "prefill": t.prefill, "step": t.decode / t.decode_tokens}


def run_transformers(args: argparse.Namespace, attention: str) -> Figures:
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
        embeds = torch.randn(1, args.positions, d.hidden_size, dtype=torch.bfloat16) * 0.02

        def decode(last: Any, tokens: int) -> None:
            for _ in range(tokens - 1):
                token = last.logits[:, -1].argmax(-1)[None]
                last = model(input_ids=token, past_key_values=last.past_key_values, use_cache=True, logits_to_keep=1)

        for tokens in (2, args.tokens):
            prefill, out = timed(lambda: model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1))
            seconds, _ = timed(partial(decode, out, tokens))
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
    projector(vision(pixels))  # not timed
    return timed(lambda: projector(vision(pixels)))[0]


def run_llama(args: argparse.Namespace, form: Format) -> Figures:
    """llama.cpp through llama-cpp-python, whose defaults are not its best settings; vision is left out.

    Flash attention: llama.cpp's own default is "auto", which turns it on for a CPU; the binding has on and off, and off
    is its default. Threads: all for both stages; its default is half of them while decoding. Memory-mapping: off, since
    it repacks weights while loading and mapped pages would be counted a second time.
    """
    from llama_cpp import Llama

    from vita.checkpoint.open import open_checkpoint

    file = args.checkpoint.with_suffix(f".{form}.gguf")
    if not file.exists():
        write_gguf(open_checkpoint(str(args.checkpoint), offline=True).config.decoder, file, form)
    threads = len(os.sched_getaffinity(0))
    context = args.positions + args.tokens + 1
    load, model = timed(
        lambda: Llama(
            str(file), n_ctx=context, n_batch=context, n_ubatch=512, n_threads=threads, n_threads_batch=threads,
            flash_attn=True, use_mmap=False, verbose=False,
        )
    )  # fmt: skip
    prompt = [7 + k % 200 for k in range(args.positions)]

    def decode(tokens: int) -> None:
        for k in range(tokens - 1):
            model.eval([k % 200 + 11])

    for tokens in (2, args.tokens):
        model.reset()
        prefill, _ = timed(lambda: model.eval(prompt))
        seconds, _ = timed(partial(decode, tokens))
    return {"load": load, "vision": 0.0, "prefill": prefill, "step": seconds / (args.tokens - 1)}


def measure(args: argparse.Namespace) -> None:
    """One contender once, as a line of JSON."""
    runs: dict[str, Callable[[], Figures]] = {
        "vita": lambda: run_vita(args, args.checkpoint),
        "vita-int4": lambda: run_vita(args, args.int4),
        "reference": lambda: run_transformers(args, "eager"),
        "transformers-sdpa": lambda: run_transformers(args, "sdpa"),
        "llama-q4_0": lambda: run_llama(args, "q4_0"),
        "llama-q4_k_m": lambda: run_llama(args, "q4_k_m"),
    }
    figures = runs[args.one]()
    figures["whole"] = figures["vision"] + figures["prefill"] + (args.answer - 1) * figures["step"]
    figures["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps(figures))


def run_once(name: str) -> Figures | str:
    """A contender in its own process, with `read` (GB/s before it) and `others` (cores taken meanwhile); or why not."""
    from vita.runtime.bandwidth import measure_bandwidth

    read = measure_bandwidth()
    busy, mine, start = busy_seconds(), child_seconds(), time.perf_counter()
    command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    others = max(0.0, busy_seconds() - busy - (child_seconds() - mine)) / wall
    return figures | {"read": read, "others": others}


def busy_seconds() -> float:
    """CPU seconds of the whole machine that were not idle, those taken by other virtual machines among them."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def child_seconds() -> float:
    """CPU seconds of the contenders that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def compare(args: argparse.Namespace) -> None:
    """All contenders in turns; one line a run, then the tables."""
    runs: dict[str, list[Figures]] = {}
    for number in range(args.rounds):
        for name in args.peers:
            figures = run_once(name)
            if isinstance(figures, str):
                print(f"{name} cannot run here: {figures}", file=sys.stderr)
                continue
            print(f"round {number + 1} {name}: {json.dumps({k: round(v, 3) for k, v in figures.items()})}", flush=True)
            runs.setdefault(name, []).append(figures)
    marked = mark_disturbed(runs)
    print(table(marked, args.answer))
    print(json.dumps(marked))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--int4", type=Path, help="the same, converted")
    parser.add_argument("--picture", type=Path, required=True, help="of five tiles")
    parser.add_argument("--tokens", type=int, default=48, help="decoded by each")
    parser.add_argument("--answer", type=int, default=256, help="tokens for which the whole request is given")
    parser.add_argument("--positions", type=int, default=PROMPT, help="of the prompt")
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help=f"{MIN_ROUNDS} or more")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--one", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < MIN_ROUNDS:
        parser.error(f"--rounds: a median needs {MIN_ROUNDS} or more, not {args.rounds}")
    if args.tokens < 2:
        parser.error("--tokens: 2 or more")
    if args.int4 is None and "vita-int4" in args.peers:
        parser.error("--int4 is needed for vita-int4; name the folder, or leave that contender out with --peers")
    (measure if args.one else compare)(args)


if __name__ == "__main__":
    main()
