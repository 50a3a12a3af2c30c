"""Compare two versions of the engine in alternation: first token, prefill and single-stream decode speed.

    python -m benchmarks.alternate OLD/src NEW/src [--rounds 30] [--busy 1] [--model FOLDER]

One process for each version loads the model once. They then answer in turns, one request at a time, so that both meet
the machine in the same state. The ratio of each round is NEW over OLD; the table gives the median of the ratios with
the 95 % interval of that median (order statistics), and the median of each version. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from contextlib import ExitStack
from statistics import median

from benchmarks.latency import busy

WORKER = """
import json, sys, time
import vita
import numpy as np
model = vita.load(sys.argv[1] or None)
params = lambda n: vita.SamplingParams(max_tokens=n, ignore_eos=True)
try:
    params(1)
except TypeError:  # an engine without ignore_eos
    model.engine.stop_ids = frozenset()
    params = lambda n: vita.SamplingParams(max_tokens=n)
def decode(number, tokens):
    for event in model.stream(vita.user(f"{number}: describe an image with many shapes."), params(tokens)):
        last = event
    return last.timings.decode_tokens / last.timings.decode
def whole(number, tokens):
    start = time.perf_counter()
    model.ask(f"{number}: what is in an image?", params=params(tokens))
    return time.perf_counter() - start
def first(message, options):
    start = time.perf_counter()
    seconds = None
    for event in model.stream(message, params(4), options=options):
        if seconds is None and isinstance(event, (vita.TextDelta, vita.Done)):
            seconds = time.perf_counter() - start
    return seconds
def text(number, tokens):
    return first(vita.user(f"{number}: what is in an image?"), vita.MediaOptions())
def prefill(number, tokens):
    asked = vita.user(f"{number}: " + " ".join(f"line {k} has {k * number} shapes." for k in range(80)))
    for event in model.stream(asked, params(1)):
        last = event
    return last.timings.prefill
def image(number, tokens):
    pixels = np.random.default_rng(number).integers(0, 255, (896, 896, 3), dtype=np.uint8)
    return first(vita.user("What is it?", image=pixels), vita.MediaOptions(max_tiles=4))
names = {"decode": decode, "prefill": prefill, "whole": whole, "first_text": text, "first_image": image}
print("ready", flush=True)
for line in sys.stdin:
    name, number, tokens = json.loads(line)
    print(json.dumps(names[name](number, tokens)), flush=True)
"""
MEASURES = {"decode": "tokens/s", "prefill": "s", "whole": "s", "first_text": "s", "first_image": "s"}


class Version:
    """A process that answers requests with one version of the engine."""

    def __init__(self, source: str, model: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, model], env={**os.environ, "PYTHONPATH": source}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        if self._read().strip() != "ready":
            raise RuntimeError(f"the engine in {source} did not start")

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def measure(self, name: str, number: int, tokens: int) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, number, tokens]) + "\n")
        self._process.stdin.flush()
        if not (line := self._read()):
            raise RuntimeError("a version of the engine ended")
        return float(json.loads(line))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def interval(values: list[float]) -> tuple[float, float]:
    """95 % interval of the median, by order statistics."""
    ordered, n = sorted(values), len(values)
    reach = math.ceil(0.98 * math.sqrt(n))
    return ordered[max(0, n // 2 - reach)], ordered[min(n - 1, n // 2 + reach)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--model", default="", help="checkpoint folder; default: the embedded model")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--busy", type=int, default=0, help="processes that spin beside")
    args = parser.parse_args()
    with ExitStack() as stack:
        versions = []
        for source in (args.old, args.new):
            versions.append(Version(source, args.model))
            stack.callback(versions[-1].close)
        stack.enter_context(busy(args.busy))
        for name in args.only:
            rows: list[list[float]] = []
            for number in range(-2, args.rounds):  # two rounds to warm up
                order = versions if number % 2 else versions[::-1]
                figures = {version: version.measure(name, number + 10, args.tokens) for version in order}
                if number >= 0:
                    rows.append([figures[version] for version in versions])
            ratios = [new / old for old, new in rows]
            low, high = interval(ratios)
            old, new = (median(column) for column in zip(*rows, strict=True))
            print(
                f"{name:12} old {old:.4g} {MEASURES[name]}, new {new:.4g} {MEASURES[name]}, "
                f"new/old {median(ratios):.3f} ({low:.3f} to {high:.3f}), {args.rounds} rounds, {args.busy} busy",
                flush=True,
            )


if __name__ == "__main__":
    main()
