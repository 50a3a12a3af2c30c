"""The reference demo's command line: `python video_audio_demo.py --image_path a.png --question "What is this?"`."""

import sys

from vita.cli.guard import end_process, run_guarded


def start() -> int:
    from vita.cli.demo import run_demo

    return run_demo(sys.argv[1:])


def flags() -> dict[str, str]:
    from vita.cli.demo import flag_names

    return flag_names()


if __name__ == "__main__":
    end_process(lambda: run_guarded(start, flags))
