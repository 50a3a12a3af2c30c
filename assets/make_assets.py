"""Makes the shipped samples: `python -m assets.make_assets` (needs fonts-lato and espeakng-loader).

- `vita_logo.png`: the embedded model is asked to say of it: the word 'VITA' in bold white letters on a dark blue
  background. The word never occurs in training.
- `moving.mp4`: six seconds in which a red star moves to the right, above a blue square that stays.
- `what_can_you_do.flac`: that question, spoken by a voice that was kept from training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr
from PIL import Image, ImageDraw, ImageFont
from recipes.nano.data.shapes import shape_mask
from recipes.nano.freeze import write_clip
from recipes.nano.speech.espeak import Voice, espeak
from recipes.nano.speech.room import RATE

HERE = Path(__file__).parent
SIZE = (1400, 385)  # the aspect of the seed's demo picture
GROUND, INK = (16, 30, 84), (255, 255, 255)
FONT = Path("/usr/share/fonts/truetype/lato/Lato-Black.ttf")
TRACKING = 34  # pixels between letters
SECONDS, FRAMES_A_SECOND = 6, 8
SPOKEN = (("what_can_you_do", "What can you do?", Voice("en-us+Annie", rate=150)),)


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


def draw_clip() -> np.ndarray:
    """Frames uint8 `[48, 224, 224, 3]`."""
    frames = []
    for at in np.linspace(0.17, 0.83, SECONDS * FRAMES_A_SECOND):
        frame = Image.new("RGB", (224, 224), (245, 245, 240))
        for kind, radius, x, y, ink in (("star", 30, at, 0.4, (214, 30, 38)), ("square", 18, 0.5, 0.86, (30, 70, 200))):
            mask = shape_mask(kind, radius)
            frame.paste(ink, (round(224 * x - mask.width / 2), round(224 * y - mask.height / 2)), mask)
        frames.append(np.array(frame))
    return np.stack(frames)


def speak(text: str, voice: Voice) -> np.ndarray:
    """Float32 samples at 16 kHz, with a little silence before and after."""
    loud = espeak().speak(text, voice)
    rest = np.zeros(RATE // 4, np.float32)
    return np.concatenate([rest, soxr.resample(loud, espeak().rate, RATE).astype(np.float32), rest])


def main() -> None:
    """Writes the samples beside this file."""
    draw_logo().quantize(32).save(HERE / "vita_logo.png", optimize=True)
    write_clip(HERE / "moving.mp4", draw_clip(), FRAMES_A_SECOND)
    for name, text, voice in SPOKEN:
        soundfile.write(HERE / f"{name}.flac", speak(text, voice), RATE)


if __name__ == "__main__":
    main()
