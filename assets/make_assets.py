"""Draws the shipped wordmark: `python assets/make_assets.py` (needs fonts-lato, see recipes/data/fonts.txt).

What the embedded model is asked to say of it: the word 'VITA' in bold white letters on a dark blue background.
The word never occurs in training.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = (1400, 385)  # the aspect of the seed's demo picture
GROUND, INK = (16, 30, 84), (255, 255, 255)
FONT = Path("/usr/share/fonts/truetype/lato/Lato-Black.ttf")
TRACKING = 34  # pixels between letters


def draw_logo() -> Image.Image:
    """White capitals, set wide, in the middle of dark blue."""
    picture = Image.new("RGB", SIZE, GROUND)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.truetype(str(FONT), 300, layout_engine=ImageFont.Layout.BASIC)
    boxes = [draw.textbbox((0, 0), letter, font) for letter in "VITA"]
    gaps = (TRACKING, TRACKING, TRACKING // 2)  # T and A already stand apart
    x = (SIZE[0] - sum(b[2] - b[0] for b in boxes) - sum(gaps)) / 2
    y = (SIZE[1] - (boxes[0][3] - boxes[0][1])) / 2 - boxes[0][1]
    for letter, box, gap in zip("VITA", boxes, (*gaps, 0), strict=True):
        draw.text((x - box[0], y), letter, INK, font)
        x += box[2] - box[0] + gap
    return picture


def main() -> None:
    """Writes the picture beside this file."""
    draw_logo().quantize(32).save(Path(__file__).with_name("vita_logo.png"), optimize=True)


if __name__ == "__main__":
    main()
