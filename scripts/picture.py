"""Draws docs/demo.svg and docs/chat.svg from what the programs print: `python scripts/picture.py [demo|chat]`."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import tempfile
from pathlib import Path

from recording import Recorder, draw
from rich.console import Console
from rich.text import Text
from terminal import Terminal

ROOT = Path(__file__).parents[1]
WIDTH = 100
CHAT_COLUMNS, CHAT_ROWS = 94, 15
SECONDS_A_KEY = 0.05
# The chat that is shown. An answer without its word would show something untrue: then nothing is drawn.
IMAGE_KEYS = ("/im", "\t", "as", "\t", "v", "\t")
QUESTIONS = {
    "What does the logo say?": "VITA",
    "What colour is the text?": "white",
    "What is the background colour?": "dark blue",
    "How many words are there?": "1 word",
}


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


def draw_demo() -> None:
    """docs/demo.svg: what ./demo.sh prints."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ ./demo.sh", style="bold"))
    console.print(Text.from_ansi(settled(record(["./demo.sh"]))))
    (ROOT / "docs" / "demo.svg").write_text(console.export_svg(title="VITA engine"), encoding="utf-8")


def type_slowly(terminal: Terminal, *keys: str) -> None:
    """As somebody types it: character by character, with a pause before and after a key such as Tab."""
    for text in keys:
        special = not text.isprintable()
        terminal.read(0.35 * special)
        for key in [text] if special else text:
            terminal.type(key)
            terminal.read(SECONDS_A_KEY)
        terminal.read(0.35 * special)


def draw_chat() -> None:
    """docs/chat.svg: a chat in a shell, from the command to the last answer."""
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {
            "TERM": "xterm-256color", "PS1": "$ ", "VITA_HISTORY": f"{home}/history",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        shell = ["bash", "--norc", "--noprofile", "-i"]
        with Terminal(
            shell, columns=CHAT_COLUMNS, rows=CHAT_ROWS, env=environment, cwd=ROOT, changed=recorder
        ) as terminal:
            terminal.wait("$")
            terminal.read(0.5)
            type_slowly(terminal, "vita chat", "\r")
            terminal.wait(lambda screen: screen.endswith("\n>"))
            type_slowly(terminal, *IMAGE_KEYS, "\r")
            terminal.wait(lambda screen: screen.endswith("[image] >"))
            for question, word in QUESTIONS.items():
                type_slowly(terminal, question, "\r")
                screen = terminal.wait(lambda screen: screen.endswith("\n>"))
                answer = screen.split("\n")[-2]
                if word not in answer:
                    raise SystemExit(f"{question} {answer} The answer should say {word!r}; nothing was drawn.")
                terminal.read(1.2)
    svg = draw(recorder.frames, CHAT_COLUMNS, CHAT_ROWS, "vita chat")
    (ROOT / "docs" / "chat.svg").write_text(svg, encoding="utf-8")


def main() -> None:
    drawings = {"demo": draw_demo, "chat": draw_chat}
    for name in sys.argv[1:] or drawings:
        drawings[name]()


if __name__ == "__main__":
    main()
