"""Time to the first token of a second question about the same picture, against the first.

python benchmarks/second_question.py CHECKPOINT --picture assets/vita_logo.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import vita

QUESTIONS = ("Describe this images.", "Describe this images.", "What does the logo say?", "And which colors are there?")

PARAMS = vita.SamplingParams(max_tokens=4)
FIVE_TILES = vita.MediaOptions(max_tiles=4)  # of the demo's picture, the thumbnail among them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--quantize")
    args = parser.parse_args()
    model = vita.load(args.checkpoint, quantize=args.quantize)
    rows = []
    for number, question in enumerate(QUESTIONS):
        if number < 2:
            model.engine.clear_caches()  # twice from nothing: the first one also reads the files
        result = model.ask(question, images=[args.picture], params=PARAMS, options=FIVE_TILES)
        t, u = result.timings, result.usage
        rows.append({"first_token_s": t.first_token, "vision_s": t.vision, "prefill_s": t.prefill,
                     "prompt": u.prompt_tokens, "reused": u.reused_tokens})  # fmt: skip
        print(f"{question:30} {t.first_token:7.3f} s to the first token, {u.reused_tokens} of {u.prompt_tokens} reused")
    print(f"ratio {rows[2]['first_token_s'] / rows[1]['first_token_s']:.3f}")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
