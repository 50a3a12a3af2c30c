"""The flags people know from the reference's `video_audio_demo.py`, over the same engine."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from vita.errors import RequestError

SUPPORTED = "qwen2p5_instruct"
OTHERS = ("mixtral-8x7b", "mixtral_two", "nemo", "qwen2p5_fo_instruct", "plain")


class _Parser(argparse.ArgumentParser):
    """Words its complaints as our other errors are worded."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(message, fix="see --help")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags, checked.

    Raises:
        RequestError: unknown, contradictory or missing.
    """
    parser = _Parser(prog="video_audio_demo.py", description="Ask VITA about a picture, a video or a sound.")
    parser.add_argument("--model_path", help="checkpoint folder or hub id; default: the embedded model")
    parser.add_argument("--model_base", help="base checkpoint, when --model_path is a LoRA folder")
    parser.add_argument("--image_path")
    parser.add_argument("--video_path")
    parser.add_argument("--audio_path")
    parser.add_argument("--question", default="")
    parser.add_argument("--model_type", default=SUPPORTED)
    parser.add_argument("--conv_mode", default=SUPPORTED)
    parser.add_argument("--frameCat", action="store_true")
    flags = parser.parse_args(arguments)
    for name in ("model_type", "conv_mode"):
        value = getattr(flags, name)
        if value != SUPPORTED:
            known = "is another model family's" if value in OTHERS else "is unknown"
            raise RequestError(f"{value!r} {known}", where=f"--{name}", fix=f"only {SUPPORTED} is supported")
    if flags.frameCat:
        raise RequestError(
            "belongs to checkpoints whose projector takes five tiles side by side, and none is released",
            where="--frameCat", fix="leave it out",
        )  # fmt: skip
    if flags.model_base and not flags.model_path:
        raise RequestError("needs --model_path, the LoRA folder", where="--model_base")
    if not flags.question and not flags.audio_path:
        raise RequestError("there is no question", fix="pass --question, or --audio_path with a spoken one")
    return flags


def run_demo(arguments: list[str]) -> int:
    """Answer, printing the text as it is made, then the table and the time.

    Raises:
        VitaError: anything a user can mend.
    """
    flags = parse(arguments)
    from vita.cli.ask import explain, show_answer
    from vita.cli.loading import load_model
    from vita.cli.report import print_timings
    from vita.types import user

    def some(value: str | None) -> list[str]:
        return [value] if value else []

    message = user(
        flags.question, images=some(flags.image_path), videos=some(flags.video_path), audios=some(flags.audio_path)
    )
    model = load_model(flags.model_path, base=flags.model_base, device="auto", dtype="auto", offline=False)
    done = show_answer(model.stream(message), stream=True)
    explain(done)
    sys.stderr.write("\n")
    print_timings(done)
    print(f"Time consume: {done.timings.total:.2f}")
    return 0
