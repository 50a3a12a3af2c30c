"""How many times as long a token and a prompt take without our own CPU kernels, per format of weights.

    python benchmarks/own_kernels.py [--positions 512] [--rounds 3]

Two of the 28 decoder blocks and as large a share of the head, at released widths with random weights. Each measurement
is a process of its own, with and without `VITA_KERNELS=off` in turns; the least of all rounds counts. One thread's CPU
time is measured, not the clock: what else the machine does then hardly matters.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch

from make_checkpoint import RELEASED, STORED_VOCAB
from vita.bench.decode import prefill
from vita.engine.decode import EagerDecode
from vita.kernels.cpu.bindings import prepare_kernels
from vita.layers.linear import choose_route, set_route
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache
from vita.model.vita import VitaModel
from vita.options import Quantize

FORMATS = ("bfloat16", "int8", "int4")
LAYERS, STEPS = 2, 3
CPU = torch.device("cpu")


def decoder_of(form: str) -> Decoder:
    """Random weights: small numbers, or whole ones with a small scale."""
    config = replace(RELEASED, decoder=replace(RELEASED.decoder, num_layers=LAYERS))
    scheme = None if form == "bfloat16" else cast(Quantize, form)
    vocab = STORED_VOCAB * LAYERS // RELEASED.decoder.num_layers
    decoder = VitaModel.on_meta(config, vocab, scheme).decoder.to_empty(device=CPU)
    for name, value in decoder.state_dict().items():
        if value.is_floating_point():
            value.fill_(0.005) if name.endswith("scale") else value.normal_(0, 0.02)
        else:
            value.random_(0, 100)
    for module in decoder.modules():  # rounded weights keep their dtypes
        for kind in (module._parameters, module._buffers):
            for key, value in kind.items():
                if value is not None and value.dtype == torch.float32:
                    kind[key] = cast(torch.nn.Parameter, torch.nn.Parameter(value.bfloat16(), requires_grad=False))
    set_route(decoder, choose_route(CPU, torch.bfloat16)[0])
    return decoder.eval()


@torch.inference_mode()
def measure(form: str, positions: int) -> dict[str, float]:
    """Seconds of one decode step behind a prompt, and of the prompt."""
    prepare_kernels(CPU, torch.bfloat16, None if form == "bfloat16" else form)
    decoder = decoder_of(form)
    embeds = torch.randn(positions, RELEASED.decoder.hidden_size).bfloat16()
    cache = KVCache(decoder.config, positions + 4 * STEPS, dtype=torch.bfloat16, device=CPU)
    tokens, steps = torch.zeros(1, dtype=torch.int64), EagerDecode(decoder)
    prompts = [timed(lambda: prefill(decoder, embeds, emptied(cache))) for _ in range(2)]
    answers = [timed(lambda: steps(tokens, [cache])) for _ in range(STEPS)]
    return {"prompt": min(prompts), "token": min(answers)}


def emptied(cache: KVCache) -> KVCache:
    cache.length = 0
    return cache


def timed(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=FORMATS, action="append", help="may be given several times")
    parser.add_argument("--measure", choices=FORMATS, help="one measurement in this process, as JSON")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.positions)))
        return
    for form in args.only or FORMATS:
        best: dict[str, dict[str, float]] = {"with": {}, "without": {}}
        for which in ["with", "without"] * args.rounds:
            env = {k: v for k, v in os.environ.items() if k != "VITA_KERNELS"} | {"OMP_NUM_THREADS": "1"}
            if which == "without":
                env["VITA_KERNELS"] = "off"
            command = [sys.executable, __file__, "--measure", form, "--positions", str(args.positions)]
            said = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True).stdout
            for name, seconds in json.loads(said).items():
                best[which][name] = min(seconds, best[which].get(name, seconds))
        for name, seconds in best["with"].items():
            other = best["without"][name]
            print(f"{form:9} {name:7} {seconds * 1e3:8.1f} ms, without {other * 1e3:8.1f} ms: {other / seconds:.1f}")


if __name__ == "__main__":
    main()
