"""The flags people know from the reference's `video_audio_demo.py`, over the same engine."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path
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
    # demo.sh passes it: whoever runs Python themselves has an environment and needs no hint.
    parser.add_argument("--say_next", action="store_true", help=argparse.SUPPRESS)
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
    from vita.options import EngineOptions
    from vita.types import user

    def some(value: str | None) -> list[str]:
        return [value] if value else []

    message = user(
        flags.question, images=some(flags.image_path), videos=some(flags.video_path), audios=some(flags.audio_path)
    )
    model = load_model(flags.model_path, EngineOptions(), base=flags.model_base)
    done = show_answer(model.stream(message), stream=True)
    explain(done)
    sys.stderr.write("\n")
    print_timings(done)
    print(f"Time consume: {done.timings.total:.2f}")
    if flags.say_next:
        sys.stdout.flush()  # the line to type comes last, where both streams go to one place
        sys.stderr.write(f"\nTo talk to the model, type:\n  {next_line(flags.model_path, flags.model_base)}\n")
    return 0


def next_line(model: str | None, base: str | None) -> str:
    """What a shell in the current folder needs to start `vita chat` with this model.

    `vita chat` alone where the shell finds this environment's `vita`; else the environment is activated first.
    """
    scripts = Path(sys.prefix) / "bin"
    command = ["vita", "chat"]
    command += ["--model", model] if model else []
    command += ["--base", base] if base else []
    found = shutil.which("vita")
    if found and (scripts / "vita").exists() and Path(found).samefile(scripts / "vita"):
        return shlex.join(command)
    shell = Path(os.environ.get("SHELL", "")).name
    suffix = {"fish": ".fish", "csh": ".csh", "tcsh": ".csh"}.get(shell, "")
    activate = scripts / f"activate{suffix}"
    if not activate.exists():
        return shlex.join([_from_here(scripts / "vita"), *command[1:]])
    # POSIX's own shells know the command only as a dot.
    source = "." if shell in ("sh", "dash", "ksh") else "source"
    return f"{source} {shlex.quote(_from_here(activate))} && {shlex.join(command)}"


def _from_here(path: Path) -> str:
    """The path relative to the current folder, with a slash in it, since a shell looks other names up in PATH."""
    relative = os.path.relpath(path)
    return relative if os.sep in relative else os.path.join(os.curdir, relative)  # noqa: PTH118
