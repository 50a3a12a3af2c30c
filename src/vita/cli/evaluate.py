"""`vita eval`: measure the embedded model's table again, on held-out data that is drawn here.

The recipe that draws the data, asks and scores is the folder `recipes/nano` of the repository. A wheel brings
a copy along.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

TILE = 224  # pixels: side of the images that the recipe draws
# Samples of each kind in a full run; fewer images shorten the others in proportion.
IMAGES, TILED, NATURAL, SPOKEN, AUDIOS, VIDEOS = 420, 60, 60, 70, 100, 60
HOMES = (Path(__file__).parents[3], Path(__file__).parents[1] / "_recipe")  # of a checkout, and of a wheel


def run_eval(model: str, images: int, out: Path, quantize: str | None = None) -> int:
    """Say what is needed and how long it takes, then run the recipe's evaluation in this process.

    Raises:
        VitaError: no checkpoint, or another model than the recipe's.
    """
    from vita.checkpoint.files import DEFAULT
    from vita.checkpoint.open import open_checkpoint
    from vita.errors import RequestError
    from vita.options import parse_quantize

    checkpoint = open_checkpoint(DEFAULT if model == "default" else model, offline=True)
    if checkpoint.config.vision.image_size != TILE:
        raise RequestError(
            "vita eval measures what the embedded model was trained on, and this checkpoint is another model",
            where=str(model), fix="use vita verify, or vita eval default",
        )  # fmt: skip
    home = next((h for h in HOMES if (h / "recipes" / "nano" / "evaluate.py").is_file()), None)
    if home is None:
        raise RequestError("the recipe that draws the data is not installed", fix="install the package again")
    folder = _make_folder(out)
    if str(home) not in sys.path:
        sys.path.insert(0, str(home))
    evaluate: Callable[[Sequence[str]], int] = import_module("recipes.nano.evaluate").main
    return evaluate(arguments(checkpoint.folder, images, folder, parse_quantize(quantize)))


def _make_folder(out: Path) -> Path:
    """Make the folder of the report; a symbolic link is followed.

    Raises:
        RequestError: it cannot be made.
    """
    from vita.errors import RequestError

    try:
        folder = out.resolve()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself, before Python 3.13
        reason = "it is no folder" if isinstance(error, FileExistsError) else getattr(error, "strerror", None) or error
        raise RequestError(f"cannot be written to ({reason})", where=out, fix="name another folder") from error
    return folder


def arguments(folder: Path, images: int, out: Path, scheme: str | None) -> list[str]:
    """The recipe's command line."""
    flags = {"--pictures": images}
    parts = (
        ("--wide", TILED), ("--natural", NATURAL), ("--spoken", SPOKEN), ("--sounds", AUDIOS), ("--clips", VIDEOS),
    )  # fmt: skip
    for flag, full in parts:
        flags[flag] = max(1, round(full * images / IMAGES))
    line = [str(folder.absolute()), "--out", str(out.absolute()), "--any-fonts"]
    line += [text for flag, count in flags.items() for text in (flag, str(count))]
    return line + (["--quantize", scheme] if scheme else [])
