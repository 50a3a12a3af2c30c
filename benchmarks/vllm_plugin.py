"""Throughput of vLLM with the plugin beside this package's engine, at 1, 8 and 16 requests.

    PYTHON=$(scripts/vllm_env.sh)  # makes the environment
    $PYTHON -m benchmarks.vllm_plugin [CHECKPOINT] [--dtype float32] [--threads 2] [--rounds 20] [--text]

Both engines load the same checkpoint in the same dtype, compute with the same number of threads, and run in processes
of their own. They answer in turns, and who begins changes from round to round. A round sends N requests at once, each
with an image of its own and the same question (`--text`: a question of its own), and waits until all answers are
complete: greedy, of a fixed length, so that both compute the same tokens. No request is met twice. Before the rounds of
a number of requests, each engine answers as many to warm up, which is not counted.

Printed are generated tokens a second of each engine (encoders and prefill included), the median of all rounds; the
median of the rounds' ratios, vLLM's rate over this engine's, with its 95 % interval (order statistics): above 1, vLLM
is faster; and how many answers were equal, id for id.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmarks.alternate import interval
from PIL import Image

from vita.checkpoint.files import DEFAULT

REQUESTS = (1, 8, 16)
Request = tuple[str, bytes | None]  # the question, and a PNG file
Answers = list[list[int]]  # ids of each answer
Ask = Callable[[list[Request], int], Answers]  # requests and tokens an answer


def requests(count: int, seed: int, text: bool) -> list[Request]:
    """Requests that no other round has."""
    if text:
        return [(f"{1000 * seed + number}: what is in an image?", None) for number in range(count)]
    noise = np.random.default_rng(seed)
    out: list[Request] = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (224, 224, 3), np.uint8)).save(buffer, "PNG")
        out.append(("Describe the picture.", buffer.getvalue()))
    return out


def ask_vita(options: argparse.Namespace) -> Ask:
    """This package's engine."""
    import vita
    from vita.types import SamplingParams

    engine = vita.load(options.model, dtype=options.dtype, threads=options.threads, device="cpu")
    engine.warm_up()

    def ask(requests: list[Request], tokens: int) -> Answers:
        params = SamplingParams(max_tokens=tokens, ignore_eos=True)
        handles = [engine.submit(vita.user(question, image=image), params) for question, image in requests]
        return [list(handle.result().token_ids) for handle in handles]

    return ask


def ask_vllm(options: argparse.Namespace) -> Ask:
    """vLLM with the plugin, in this process."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        options.model, dtype=options.dtype, max_num_seqs=max(REQUESTS), kv_cache_memory_bytes=512 << 20, seed=0,
        enforce_eager=options.eager,
    )  # fmt: skip

    def ask(requests: list[Request], tokens: int) -> Answers:
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        conversations: list[Any] = []
        for question, image in requests:
            parts: list[dict[str, Any]] = [{"type": "text", "text": question}]
            if image is not None:
                url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
                parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
            conversations.append([{"role": "user", "content": parts}])
        return [list(one.outputs[0].token_ids) for one in llm.chat(conversations, params, use_tqdm=False)]

    return ask


def serve_rounds(make: Callable[[argparse.Namespace], Ask], options: argparse.Namespace) -> None:
    """Answer lines of standard input, `N SEED`, with the seconds and ids of that round."""
    import torch

    ask = make(options)
    print("ready", torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        count, seed = map(int, line.split())
        sent = requests(count, seed, options.text)
        start = time.perf_counter()
        answers = ask(sent, options.tokens)
        print("round", json.dumps([time.perf_counter() - start, answers]), flush=True)


class Engine:
    """An engine in a process of its own."""

    def __init__(self, name: str, arguments: list[str], threads: int) -> None:
        self.name = name
        variables = os.environ | {
            "OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.vllm_plugin", *arguments, "--engine", name],
            env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def _line(self, wanted: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # vLLM logs there too
            if line.startswith(wanted):
                return line.removeprefix(wanted)
        raise SystemExit(f"{self.name} ended with {self._process.wait()}; run with --engine {self.name} to see why")

    def wait(self) -> int:
        """Until it is loaded; the threads that it computes with."""
        return int(self._line("ready "))

    def round(self, count: int, seed: int) -> tuple[float, Answers]:
        """Tokens a second of one round, and its answers."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count} {seed}\n")
        self._process.stdin.flush()
        seconds, answers = json.loads(self._line("round "))
        return sum(map(len, answers)) / seconds, answers

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def compare(engines: list[Engine], count: int, rounds: int) -> str:
    """Rounds of `count` requests in turns; a line of the table."""
    rates: list[dict[str, float]] = []
    equal = 0
    for number in range(-1, rounds):  # one round to warm up
        seed = 1000 * count + number + 1
        order = engines if number % 2 else engines[::-1]
        found = {engine.name: engine.round(count, seed) for engine in order}
        if number >= 0:
            rates.append({name: rate for name, (rate, _) in found.items()})
            equal += sum(a == b for a, b in zip(found["vita"][1], found["vllm"][1], strict=True))
    ratios = [rate["vllm"] / rate["vita"] for rate in rates]
    low, high = interval(ratios)
    vita_rate, vllm_rate = (median(rate[name] for rate in rates) for name in ("vita", "vllm"))
    shares = f"{equal} of {count * rounds}"
    return f"{count:8d}  {vita_rate:8.1f}  {vllm_rate:8.1f}  {median(ratios):.2f} ({low:.2f} to {high:.2f})  {shares}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(DEFAULT), type=str)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each engine")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--text", action="store_true", help="questions without images")
    parser.add_argument("--eager", action="store_true", help="vLLM does not compile the model")
    parser.add_argument("--engine", choices=("vita", "vllm"), help="answer rounds of standard input")
    options = parser.parse_args()
    if options.engine:
        serve_rounds({"vita": ask_vita, "vllm": ask_vllm}[options.engine], options)
        return
    arguments = [
        str(Path(options.model)), "--dtype", options.dtype, "--tokens", str(options.tokens),
        "--threads", str(options.threads), *(["--eager"] if options.eager else []),
        *(["--text"] if options.text else []),
    ]  # fmt: skip
    engines = [Engine(name, arguments, options.threads) for name in ("vita", "vllm")]
    threads = ", ".join(f"{engine.name} {engine.wait()}" for engine in engines)
    print(f"threads: {threads}; {options.dtype}, {options.tokens} tokens an answer, {options.rounds} rounds")
    print("tokens/s: vita, vllm; vllm / vita with its 95 % interval; equal answers", flush=True)
    for count in REQUESTS:
        print(compare(engines, count, options.rounds), flush=True)
    for engine in engines:
        engine.close()


if __name__ == "__main__":
    main()
