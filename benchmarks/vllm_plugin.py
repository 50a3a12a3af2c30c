"""Throughput of vLLM with the plugin beside this package's engine, at 1, 8 and 16 requests.

    scripts/vllm_env.sh            # makes the environment and prints its Python
    .venv-vllm/bin/python benchmarks/vllm_plugin.py [CHECKPOINT] [--dtype bfloat16] [--rounds 3]

Each engine has a process of its own and takes its turn, so that both see the same machine. A round sends N requests at
once, each with a picture of its own and a question, and waits for all answers of a fixed length. No prefix, picture or
answer is met twice. Printed: generated tokens a second, prefill and encoders included, the median of the rounds, and
the ratio.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vita.checkpoint.files import DEFAULT

REQUESTS = (1, 8, 16)
Ask = Callable[[list[bytes], int], int]  # pictures and tokens an answer to tokens generated


def pictures(count: int, seed: int) -> list[bytes]:
    """PNG files that no other round has."""
    noise = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (224, 224, 3), np.uint8)).save(buffer, "PNG")
        out.append(buffer.getvalue())
    return out


def ask_vita(model: str, dtype: str) -> Ask:
    """This package's engine."""
    import vita
    from vita.types import SamplingParams

    engine = vita.load(model, dtype=dtype)
    engine.warm_up()

    def ask(images: list[bytes], tokens: int) -> int:
        params = SamplingParams(max_tokens=tokens, ignore_eos=True)
        handles = [engine.submit(vita.user("Describe the picture.", image=image), params) for image in images]
        return sum(len(handle.result().token_ids) for handle in handles)

    return ask


def ask_vllm(model: str, dtype: str) -> Ask:
    """vLLM with the plugin, in this process."""
    from vllm import LLM, SamplingParams

    llm = LLM(model, dtype=dtype, max_num_seqs=max(REQUESTS), kv_cache_memory_bytes=512 << 20, seed=0)

    def ask(images: list[bytes], tokens: int) -> int:
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        conversations: list[Any] = []
        for image in images:
            url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
            text = {"type": "text", "text": "Describe the picture."}
            parts = [{"type": "image_url", "image_url": {"url": url}}, text]
            conversations.append([{"role": "user", "content": parts}])
        return sum(len(one.outputs[0].token_ids) for one in llm.chat(conversations, params, use_tqdm=False))

    return ask


def serve_rounds(make: Callable[[str, str], Ask], model: str, dtype: str, tokens: int) -> None:
    """Answer lines of standard input, `N SEED`, with the seconds and tokens of that round."""
    ask = make(model, dtype)
    ask(pictures(1, 0), 4)
    print("ready", flush=True)
    for line in sys.stdin:
        count, seed = map(int, line.split())
        images = pictures(count, seed)
        start = time.perf_counter()
        generated = ask(images, tokens)
        print("round", json.dumps([time.perf_counter() - start, generated]), flush=True)


class Engine:
    """An engine in a process of its own."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        self.name = name
        variables = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments, "--engine", name],
            env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def _line(self, wanted: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # vLLM logs there too
            if line.startswith(wanted):
                return line
        raise SystemExit(f"{self.name} ended with {self._process.wait()}; run with --engine {self.name} to see why")

    def wait(self) -> None:
        """Until it is loaded."""
        self._line("ready")

    def round(self, count: int, seed: int) -> float:
        """Tokens a second of one round."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count} {seed}\n")
        self._process.stdin.flush()
        seconds, generated = json.loads(self._line("round ").removeprefix("round "))
        return float(generated / seconds)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(DEFAULT), type=str)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", choices=("vita", "vllm"), help="answer rounds of standard input")
    options = parser.parse_args()
    if options.engine:
        made = {"vita": ask_vita, "vllm": ask_vllm}[options.engine]
        serve_rounds(made, options.model, options.dtype, options.tokens)
        return
    arguments = [str(Path(options.model)), "--dtype", options.dtype, "--tokens", str(options.tokens)]
    engines = [Engine("vita", arguments), Engine("vllm", arguments)]
    for engine in engines:
        engine.wait()
    print(f"{'requests':>8}  {'vita':>8}  {'vllm':>8}  vllm/vita   (tokens/s, median of {options.rounds})")
    seed = 1
    for count in REQUESTS:
        rates: dict[str, list[float]] = {"vita": [], "vllm": []}
        for _ in range(options.rounds):
            seed += 1
            for engine in engines:
                rates[engine.name].append(engine.round(count, seed))
        vita_rate, vllm_rate = (statistics.median(rates[name]) for name in ("vita", "vllm"))
        print(f"{count:8d}  {vita_rate:8.1f}  {vllm_rate:8.1f}  {vllm_rate / vita_rate:.2f}", flush=True)
    for engine in engines:
        engine.close()


if __name__ == "__main__":
    main()
