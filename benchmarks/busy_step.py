"""Decode steps of one stream on quiet cores and beside one busy process, in turns.

    python benchmarks/make_checkpoint.py OUT
    python -m benchmarks.busy_step OUT --quantize int4 [--rounds 5] [--tokens 24]

Only the public API is used; the engine chooses threads and helpers by itself. Each round answers twice on quiet cores
and three times beside a process that spins, of which the first is left out: within it the engine notices. A step is the
time between two pieces of text. The mark is 1.6 (docs/benchmarks.md).
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from statistics import median

from benchmarks.latency import busy

import vita


def steps(model: vita.Vita, tokens: int) -> list[float]:
    """Seconds between the pieces of text of one answer."""
    params = vita.SamplingParams(max_tokens=tokens, ignore_eos=True)
    events = model.submit(vita.user("Hello there"), params)
    times = [time.perf_counter() for event in events if isinstance(event, vita.TextDelta)]
    return [after - before for before, after in pairwise(times)]


def answers(model: vita.Vita, count: int, tokens: int) -> float:
    """The median step of some answers, in seconds."""
    return median([step for _ in range(count) for step in steps(model, tokens)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a folder; default: the embedded model")
    parser.add_argument("--quantize", choices=("int8", "int4"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24, help="of an answer")
    flags = parser.parse_args()
    rounds = []
    with vita.load(flags.model, device="cpu", quantize=flags.quantize) as model:
        model.warm_up()
        answers(model, 2, flags.tokens)
        for number in range(flags.rounds):
            quiet = answers(model, 2, flags.tokens)
            with busy(1):
                answers(model, 1, flags.tokens)
                beside = answers(model, 2, flags.tokens)
            answers(model, 1, flags.tokens)  # the engine notices that the cores are free
            rounds.append((quiet, beside))
            times = f"{quiet * 1e3:.1f} ms quiet, {beside * 1e3:.1f} ms busy, {beside / quiet:.2f} times"
            print(f"round {number + 1}: {times}", flush=True)
    ratios = [beside / quiet for quiet, beside in rounds]
    print(f"median {median(ratios):.2f} times, {min(ratios):.2f} to {max(ratios):.2f}")
    print(json.dumps({"rounds": rounds, "median": median(ratios)}))


if __name__ == "__main__":
    main()
