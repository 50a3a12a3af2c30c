"""`video_audio_demo.py`: the command line of the reference implementation's demo."""

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


EPILOG = """\
examples:
  python video_audio_demo.py --image_path assets/vita_logo.png --question "What does the logo say?"
  python video_audio_demo.py --audio_path assets/what_can_you_do.flac"""


class _Parser(argparse.ArgumentParser):
    """Reports a wrong flag as `RequestError`."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(message, fix="see --help")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags, checked.

    Raises:
        RequestError: unknown, contradictory or missing.
    """
    parser = _Parser(
        prog="video_audio_demo.py",
        description="Ask VITA about an image, a video or audio.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model_path", metavar="MODEL", help="checkpoint folder or hub id; default: the embedded model")
    add("--model_base", metavar="MODEL", help="base checkpoint, when --model_path is a LoRA folder")
    add("--image_path", metavar="FILE", help="image to ask about: a file or URL")
    add("--video_path", metavar="FILE", help="video to ask about: a file or URL")
    add("--audio_path", metavar="FILE", help="spoken question: a file or URL")
    add("--question", metavar="TEXT", default="", help="typed question; not needed with --audio_path")
    add("--max_tiles", "--max-tiles", metavar="COUNT", type=int,
        help="most tiles to cut an image into, 1 to 12; default: the checkpoint's own")  # fmt: skip
    add("--model_type", metavar="NAME", default=SUPPORTED, help=f"family of the decoder; only {SUPPORTED}")
    add("--conv_mode", metavar="NAME", default=SUPPORTED, help=f"prompt template; only {SUPPORTED}")
    add("--frameCat", action="store_true",
        help="for checkpoints that join five tiles into one; none is released, so it is refused")  # fmt: skip
    # demo.sh passes it. A user who runs Python directly has an environment and needs no hint.
    add("--say_next", action="store_true", help=argparse.SUPPRESS)
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


def flag_names() -> dict[str, str]:
    """The option's name in Python to its flag: `max_tiles` to `--max_tiles`."""
    return {"max_tiles": "--max_tiles"}


def run_demo(arguments: list[str]) -> int:
    """Print the answer while it is generated, then the table of timings and the total time.

    Raises:
        VitaError: anything a user can fix.
    """
    flags = parse(arguments)
    from vita.cli.ask import explain, show_answer
    from vita.cli.loading import load_model
    from vita.cli.report import print_timings
    from vita.options import EngineOptions
    from vita.types import MediaOptions, user

    message = user(
        flags.question, image=flags.image_path or None, video=flags.video_path or None, audio=flags.audio_path or None
    )
    model = load_model(flags.model_path, EngineOptions(), base=flags.model_base)
    done = show_answer(model.stream(message, options=MediaOptions(max_tiles=flags.max_tiles)), stream=True)
    explain(done)
    sys.stderr.write("\n")
    print_timings(done)
    print(f"Time consume: {done.timings.total:.2f}")
    if flags.say_next:
        sys.stdout.flush()  # the line to type comes last, even if both streams go to one file
        sys.stderr.write(f"\nTo talk to the model, type:\n  {next_line(flags.model_path, flags.model_base)}\n")
    return 0


def next_line(model: str | None, base: str | None) -> str:
    """The command line that starts `vita chat` with this model from the current folder.

    `vita chat` alone if the shell finds this environment's `vita`; otherwise it activates the environment first.
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
    # POSIX shells have no `source`.
    source = "." if shell in ("sh", "dash", "ksh") else "source"
    return f"{source} {shlex.quote(_from_here(activate))} && {shlex.join(command)}"


def _from_here(path: Path) -> str:
    """The path relative to the current folder, with a slash in it: a shell looks up names without one in PATH."""
    relative = os.path.relpath(path)
    return relative if os.sep in relative else os.path.join(os.curdir, relative)  # noqa: PTH118
