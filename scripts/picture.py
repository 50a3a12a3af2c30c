"""Draw docs/demo.svg: the image, and below it what `./demo.sh` really prints.

python scripts/picture.py
"""

from __future__ import annotations

import base64
import io
import os
import pty
import re
import subprocess
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
SHOWN = "assets/vita_logo.png"  # what ./demo.sh describes
WIDTH = 100  # characters
IMAGE_HEIGHT, GAP = 150, 24  # in units of the drawing


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


def draw(image: Path, terminal: str, alt: str) -> str:
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


def main() -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ ./demo.sh", style="bold"))
    said = final_lines(record(["./demo.sh"]))
    console.print(Text.from_ansi(said))
    answer = next(line for line in Text.from_ansi(said).plain.splitlines() if line.startswith("The image"))
    drawing = draw(
        ROOT / SHOWN, console.export_svg(title="VITA engine"), f"The image {SHOWN}, and the answer: {answer}"
    )
    (ROOT / "docs" / "demo.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main()
