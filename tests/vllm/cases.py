"""Conversations in every modality, for the embedded model."""

from __future__ import annotations

from pathlib import Path

import vita
from vita.plugins.vllm.checkpoint import opened_model
from vita.prompt.processor import Processor
from vita.runtime.clock import Stopwatch
from vita.types import MediaOptions, Message, TextSpan

HELD_OUT = Path(__file__).parents[1] / "default" / "heldout"
PICTURES = sorted(HELD_OUT.glob("mix*.webp"))
CLIPS = sorted(HELD_OUT.glob("clip*.mp4"))
SOUNDS = sorted(HELD_OUT.glob("*.ogg"))
LOOK = "What do you see in the picture?"


def cases(inputs: Path) -> dict[str, list[Message]]:
    """Name and messages; `inputs` is the folder of the mini set's media."""
    frames = [inputs / f"hframe{n}.png" for n in range(9)]
    wav = inputs / "fm22k.wav"
    return {
        "text": [vita.user("Hello, who are you?")],
        "text that looks like markup": [vita.user("Say <|im_end|> and <image> and <|vita_image|> and ☞.")],
        "system text": [vita.system("You are brief."), vita.user("Who are you?")],
        "image": [vita.user(LOOK, image=PICTURES[0])],
        "image alone": [vita.user(image=PICTURES[1])],
        "several images": [vita.user("Which is larger?", images=[PICTURES[0], PICTURES[1], inputs / "heldA.png"])],
        "the same image twice": [vita.user("Are they the same?", images=[PICTURES[0], PICTURES[0]])],
        "video": [vita.user("Describe the video.", video=CLIPS[0])],
        "frames": [vita.user("Describe the video.", video=frames)],
        "image and video": [vita.user("What do they have in common?", image=PICTURES[2], video=CLIPS[1])],
        "audio": [vita.user(audio=SOUNDS[0])],
        "audio at 22 kHz": [vita.user("Write it down.", audio=wav)],
        "two clips": [vita.user("Who speaks?", audios=[SOUNDS[1], SOUNDS[2]])],
        "image and audio": [vita.user(image=PICTURES[3], audio=SOUNDS[3])],
        "video and audio": [vita.user(video=CLIPS[2], audio=wav)],
        "turns": [
            vita.user(LOOK, image=PICTURES[4]),
            vita.assistant("I see a red circle."),
            vita.user("And what is beside it?"),
        ],
        "turns with speech": [
            vita.user(audio=SOUNDS[4]),
            vita.assistant("Hello."),
            vita.user("Thank you. Now look.", image=PICTURES[5]),
            vita.assistant("I see two shapes."),
            vita.user(audio=SOUNDS[5]),
        ],
        "two turns of one role": [vita.user("Look at this.", image=PICTURES[6]), vita.user("What is it?")],
    }


def engine_prompt(folder: str, messages: list[Message], options: MediaOptions | None = None) -> tuple[int, ...]:
    """The engine's prompt as ids, with placeholders in place of encoder rows."""
    opened = opened_model(folder)
    inputs = Processor(opened.checkpoint.config, opened.tokenizer)(messages, options or MediaOptions(), Stopwatch())
    video = any(isinstance(part, vita.Video) for message in messages for part in message.parts)
    image = any(isinstance(part, vita.Image) for message in messages for part in message.parts)
    assert not (video and image) or len(messages) == 1, "which spans are frames is told by the order in one message"
    ids: list[int] = []
    images = [part for m in messages for part in m.parts if isinstance(part, vita.Image)]
    left = _image_spans(folder, images, options or MediaOptions())
    for span in inputs.spans:
        if isinstance(span, TextSpan):
            ids += span.ids
            continue
        kind = "audio" if span.kind == "audio" else "image" if left > 0 else "video"
        left -= span.kind == "image"
        ids += [opened.placeholders[kind]] * span.rows
    return tuple(ids)


def _image_spans(folder: str, images: list[vita.Image], options: MediaOptions) -> int:
    """Tiles of all images; images stand before videos in a message."""
    opened = opened_model(folder)
    if not images:
        return 0
    processor = Processor(opened.checkpoint.config, opened.tokenizer)
    inputs = processor([Message("user", tuple(images))], options, Stopwatch())
    return len(inputs.media("image"))
