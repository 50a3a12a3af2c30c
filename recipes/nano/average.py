"""The mean of some runs' weights: `python -m recipes.nano.average RUN RUN [RUN] --out RUN`, then `recipes.nano.export`.

Owns nothing but the mean. Runs that went on from one another lie in one valley, and its middle is better than what any
of them came to (Wortsman et al. 2022, "Model soups"); recipes/nano/LOG.md has the figures.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from recipes.nano.checkpoint import read_run
from vita.train.checkpoint import save_state


def mean(weights: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Of tensors with the same names and shapes, in float32; whole numbers are the last one's."""
    last = weights[-1]
    return {
        name: torch.stack([w[name].float() for w in weights]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in last.items()
    }


def average(runs: Sequence[Path], out: Path) -> None:
    """Writes a run whose weights are the mean of the others'; all else is the last one's."""
    states = [read_run(run) for run in runs]
    out.mkdir(parents=True, exist_ok=True)
    save_state(out, {**states[-1], "model": mean([state["model"] for state in states])})
    shutil.copytree(runs[-1] / "tokenizer", out / "tokenizer", dirs_exist_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    average(args.runs, args.out)


if __name__ == "__main__":
    main()
