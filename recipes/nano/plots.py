"""The curves of a run as a PNG, drawn with Pillow alone.

Owns the drawing. Knows of a run only its `curves.jsonl`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_SIZE = (900, 260)
_EDGE = (60, 24, 170, 28)  # left, top, right, bottom
_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("losses", ("dense", "answer")),
    ("share right", ("char", "shape", "color", "token")),
)
_INKS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189))
_GRAY = (120, 120, 120)
Record = dict[str, Any]


def draw_curves(source: Path, out: Path) -> None:
    """Losses above, accuracies below; lines for training, dots for held-out checks."""
    records: list[Record] = []
    if source.exists():
        records = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    picture = Image.new("RGB", (_SIZE[0], _SIZE[1] * len(_PANELS)), "white")
    draw = ImageDraw.Draw(picture)
    for k, (title, keys) in enumerate(_PANELS):
        _panel(draw, k * _SIZE[1], title, keys, records)
    picture.save(out)


def _panel(draw: ImageDraw.ImageDraw, top: int, title: str, keys: tuple[str, ...], records: list[Record]) -> None:
    font = ImageFont.load_default(12)
    left, right = _EDGE[0], _SIZE[0] - _EDGE[2]
    high, low = top + _EDGE[1], top + _SIZE[1] - _EDGE[3]
    values = [r[k] for r in records for k in keys if k in r]
    most = 1.0 if title == "share right" else max([*values, 1e-9])
    draw.rectangle((left, high, right, low), outline=_GRAY)
    draw.text((left, top + 6), title, (0, 0, 0), font)
    draw.text((8, high), f"{most:.2g}", _GRAY, font)
    draw.text((8, low - 12), "0", _GRAY, font)
    draw.text((left, low + 6), "share of the budget, 0 to 1; dots: held out", _GRAY, font)
    for ink, (n, key) in zip(_INKS, enumerate(keys), strict=False):
        draw.text((right + 10, high + 18 * n), key, ink, font)
        for kind in ("train", "heldout"):
            points = [
                (left + r["share"] * (right - left), low - min(1.0, r[key] / most) * (low - high))
                for r in records
                if r["kind"] == kind and key in r
            ]
            if kind == "train" and len(points) > 1:
                draw.line(points, fill=ink, width=2)
            elif kind == "heldout":
                for x, y in points:
                    draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=ink)
