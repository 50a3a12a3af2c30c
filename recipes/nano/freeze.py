"""Freezes held-out data for the test suite: `python -m recipes.nano.freeze sounds --out tests/default/heldout`.

The suite must run on machines without the recipe's fonts and speech engine, so it brings pictures, sounds and clips
along. They are drawn with a seed that neither training nor the card's evaluation uses.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

from recipes.nano.data import QA, Stage, render_sample
from recipes.nano.data.clips import render_clip
from recipes.nano.look import visible
from recipes.nano.score import fine_kind, known_words
from recipes.nano.speech.room import RATE
from recipes.nano.speech.sample import render_utterance, say
from recipes.nano.speech.texts import REPEAT_HELD_OUT, sentence_to_repeat, spoken

SEED = 4711
MIX, WIDE, CLIPS = 72, 6, 14
QUESTIONS, SENTENCES, IGNORED = 36, 14, 16


def pictures(out: Path) -> list[dict[str, Any]]:
    """Pictures as WebP, with every question about them."""
    dictionary, asked = known_words(), []
    wanted: list[tuple[Stage, int]] = [("mix", MIX), ("tiles", WIDE)]
    for stage, count in wanted:
        for index in range(count):
            sample = render_sample(index, "heldout", stage, SEED)
            name = None
            if sample.picture is not None:
                name = f"{stage}{index:02}.webp"
                Image.fromarray(sample.picture).save(out / name, quality=88, method=6)
            asked += [
                {"picture": name, **_of(qa), "kind": fine_kind(qa, dictionary), "stage": stage}
                for qa in sample.qa
                if qa.after is None  # a conversation's second question means nothing alone
            ]
    return asked


def sounds(out: Path) -> list[dict[str, Any]]:
    """Questions of `questions.json` asked aloud, sentences to repeat, and what gets no answer, as Opus."""
    asked = json.loads((out / "questions.json").read_text(encoding="utf-8"))
    fit = [q for q in asked if q["stage"] == "mix" and spoken(QA(q["question"], "", "", ""))]
    made = []
    for k, q in enumerate(fit[:: len(fit) // QUESTIONS][:QUESTIONS]):
        name = _write_sound(out / f"question{k:02}.ogg", say(q["question"], "heldout", _dice("q", k)).samples)
        made.append({"sound": name, "use": "question", **{key: q[key] for key in q if key != "stage"}})
    for k in range(SENTENCES):
        text = sentence_to_repeat(_dice("r", k))
        name = _write_sound(out / f"repeat{k:02}.ogg", say(text, "heldout", _dice("s", k), "repeat").samples)
        made.append({"sound": name, "use": "repeat", "question": REPEAT_HELD_OUT[0], "answer": text})
    index = 0
    while sum(m["use"] == "ignore" for m in made) < IGNORED:
        heard = render_utterance(index, "heldout", SEED)
        index += 1
        if heard.kind != "repeat":
            name = _write_sound(out / f"ignore{index:02}.ogg", heard.samples)
            made.append({"sound": name, "use": "ignore", "kind": heard.kind})
    return made


def clips(out: Path) -> list[dict[str, Any]]:
    """Clips as MP4 of one frame a second, which is how densely the engine looks."""
    made = []
    for index in range(CLIPS):
        clip = render_clip(index, "heldout", SEED)
        name = f"clip{index:02}.mp4"
        write_clip(out / name, clip.frames, 1)
        made += [{"clip": name, **_of(qa), "kind": qa.kind} for qa in clip.qa]
    return made


def write_clip(path: Path, frames: np.ndarray, rate: int) -> None:
    """uint8 `[n, height, width, 3]` as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "17", "preset": "veryslow"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _of(qa: QA) -> dict[str, str]:
    return {"question": qa.question, "answer": visible(qa.answer), "key": qa.key}


def _dice(kind: str, k: int) -> Random:
    return Random(f"{SEED}/{kind}/{k}")


def _write_sound(path: Path, samples: np.ndarray) -> str:
    soundfile.write(path, samples, RATE, format="OGG", subtype="OPUS")
    return path.name


WHAT: dict[str, tuple[Callable[[Path], list[dict[str, Any]]], str]] = {
    "pictures": (pictures, "questions.json"), "sounds": (sounds, "sounds.json"), "clips": (clips, "clips.json"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*WHAT])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    make, name = WHAT[options.what]
    made = make(options.out)
    (options.out / name).write_text(json.dumps(made, indent=0, ensure_ascii=False) + "\n", "utf-8")
    size = sum(f.stat().st_size for f in options.out.iterdir())
    print(f"{len(made)} entries in {name}, {size / 1e3:.0f} kB in {options.out}")


if __name__ == "__main__":
    main()
