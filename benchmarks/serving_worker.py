"""A server process for benchmarks/serving.py: serves a model, and answers the engine alone on stdin.

    python -m benchmarks.serving_worker '{"voice": "espeak", "switch": 0.0002, "endless": false, "model": null}'

Prints the port. Then each line of stdin is a question and a number of tokens as JSON; it is answered by the engine
without the server, and the seconds to the first and to the last token are printed.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import vita
from vita.serve.app import create_app
from vita.serve.listen import open_socket, serve
from vita.serve.options import ServeOptions


def alone(model: vita.Vita, question: str, tokens: int) -> tuple[float, float]:
    """Seconds to the first text and to the end of an answer of exactly so many tokens, by the engine itself."""
    bias = {token: -100.0 for token in model.engine.model.stop_ids}
    params = vita.SamplingParams(max_tokens=tokens, logit_bias=bias)
    began, first = time.perf_counter(), 0.0
    for event in model.submit([vita.user(question)], params):
        if not first and isinstance(event, vita.TextDelta):
            first = time.perf_counter() - began
    return first, time.perf_counter() - began


def main() -> None:
    options = json.loads(sys.argv[1])
    with vita.load(options.get("model"), device="cpu") as model:
        model.warm_up()
        if options.get("endless"):  # answers go on to their limit, so that every point lies within one
            model.engine.core.model.stop_ids = frozenset()
        serving = ServeOptions(port=0, voice=options.get("voice"))
        listening = open_socket(serving)
        threading.Thread(target=serve, args=(create_app(model, serving), listening), daemon=True).start()
        if options.get("switch"):
            sys.setswitchinterval(options["switch"])
        ends = sorted(model.engine.model.stop_ids)
        print(json.dumps({"port": listening.getsockname()[1], "stop_ids": ends}), flush=True)
        for line in sys.stdin:
            print(json.dumps(alone(model, *json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
