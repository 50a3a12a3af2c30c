"""Draws docs/demo.svg from what `./demo.sh` really prints: `python scripts/picture.py`."""

from __future__ import annotations

import io
import os
import pty
import subprocess
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
WIDTH = 100


def record(command: list[str]) -> str:
    """Everything a terminal would show, colours included."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    pieces: list[bytes] = []
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux ends a closed terminal with an error
            break
        if not piece:
            break
        pieces.append(piece)
    if process.wait():
        raise SystemExit(f"{command[0]} failed")
    return b"".join(pieces).decode(errors="replace")


def settled(text: str) -> str:
    """The lines as they stand in the end: what a progress bar drew over is gone."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        lines.append(line.split("\r")[-1])
    return "\n".join(line for line in lines if "loading the" not in line).strip("\n")


def main() -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ ./demo.sh", style="bold"))
    console.print(Text.from_ansi(settled(record(["./demo.sh"]))))
    (ROOT / "docs" / "demo.svg").write_text(console.export_svg(title="VITA engine"), encoding="utf-8")


if __name__ == "__main__":
    main()
