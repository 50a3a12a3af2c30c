"""`vita eval`: measure the embedded model's table again.

The recipe that draws the held-out data is part of the repository, not of the package.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TILE = 224  # pixels: side of the images that the recipe draws
REPOSITORY = Path(__file__).parents[3]


def run_eval(model: str, images: int, out: Path, quantize: str | None = None) -> int:
    """Run the recipe's evaluation in another process and show its table.

    Raises:
        VitaError: no checkpoint, or no repository around this package.
    """
    from vita.checkpoint.open import DEFAULT, open_checkpoint
    from vita.errors import RequestError
    from vita.options import parse_quantize

    checkpoint = open_checkpoint(DEFAULT if model == "default" else model, offline=True)
    if checkpoint.config.vision.image_size != TILE:
        raise RequestError(
            "vita eval measures what the embedded model was trained on, and this checkpoint is another model",
            where=str(model), fix="use vita verify, or vita eval default",
        )  # fmt: skip
    if not (REPOSITORY / "recipes" / "evaluate.py").is_file():
        raise RequestError(
            "vita eval draws its images with the recipe, which is in the repository and not in the package",
            fix="clone the repository and run it there",
        )
    command = [
        sys.executable,
        "-m",
        "recipes.evaluate",
        str(checkpoint.folder.absolute()),
        "--out",
        str(out.absolute()),
    ]
    command += ["--pictures", str(images), "--wide", str(max(1, images // 7))]
    scheme = parse_quantize(quantize)
    command += ["--quantize", scheme] if scheme else []
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode
