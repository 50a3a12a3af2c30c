"""Draw docs/demo.svg and docs/chat.svg from what the programs print.

python scripts/picture.py [demo|chat]
"""

from __future__ import annotations

import base64
import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from recording import Recorder, draw
from rich.console import Console
from rich.text import Text
from terminal import Terminal

ROOT = Path(__file__).parents[1]
SHOWN = "assets/vita_logo.png"  # what ./demo.sh describes
WIDTH = 100  # characters
IMAGE_HEIGHT, GAP = 150, 24  # in units of the drawing
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


def final_lines(text: str) -> str:
    """The lines as they are at the end, without what a progress bar drew over."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        lines.append(line.split("\r")[-1])
    return "\n".join(line for line in lines if "loading the" not in line).strip("\n")


def compose(image: Path, terminal: str, alt: str) -> str:
    """One SVG: the image with its name beside it, the terminal below. It loads nothing from elsewhere."""
    terminal = re.sub(r"@font-face \{.*?\}", "", terminal, flags=re.DOTALL)  # Rich's, from a host on the internet
    box = re.search(r'viewBox="0 0 (\S+) (\S+)"', terminal)
    assert box is not None
    width, height = float(box[1]), float(box[2])
    with Image.open(image) as pixels:
        image_width = IMAGE_HEIGHT * pixels.width / pixels.height
        size = f"{pixels.width} × {pixels.height} pixels"
    data = base64.b64encode(image.read_bytes()).decode()
    top = IMAGE_HEIGHT + GAP
    inner = terminal.replace("<svg ", f'<svg x="0" y="{top}" width="{width}" height="{height}" ', 1)
    return f"""<svg viewBox="0 0 {width} {height + top}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>{alt}</title>
<image width="{image_width:.1f}" height="{IMAGE_HEIGHT}" href="data:image/png;base64,{data}"/>
<g font-family="monospace" font-size="20" fill="#868887">
<text x="{image_width + GAP:.1f}" y="{IMAGE_HEIGHT / 2 - 6}">◂ {image.relative_to(ROOT)}</text>
<text x="{image_width + GAP:.1f}" y="{IMAGE_HEIGHT / 2 + 24}">  {size}</text>
</g>
{inner}
</svg>
"""


def draw_demo() -> None:
    """docs/demo.svg: the image, and below it what ./demo.sh prints."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ ./demo.sh", style="bold"))
    record(["./demo.sh"])  # sets up what is missing: what that prints names this machine
    said = final_lines(record(["./demo.sh"]))
    console.print(Text.from_ansi(said))
    answer = next(line for line in Text.from_ansi(said).plain.splitlines() if line.startswith("The image"))
    drawing = compose(
        ROOT / SHOWN, console.export_svg(title="VITA engine"), f"The image {SHOWN}, and the answer: {answer}"
    )
    (ROOT / "docs" / "demo.svg").write_text(drawing, encoding="utf-8")


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
