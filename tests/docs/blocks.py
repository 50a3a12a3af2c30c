"""Commands and code of a Markdown page, as a reader would type them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"(?:<!-- run: ([^>]*) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
_PROGRAMS = ("vita", "python", "pip", "pipx", "uv", "docker", "source", "sudo", "ruff", "mypy", "pytest", "PYTHONPATH")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: after the fence; "console" shows commands after "$ " with their output.
        condition: of the comment `<!-- run: … -->` before it.
    """

    language: str
    text: str
    condition: str = ""


@dataclass(frozen=True)
class Command:
    """A command line of one of the page's blocks, and what it prints if the page shows that."""

    line: str
    output: str | None = None
    condition: str = ""
    block: int = 0


def blocks(page: Path) -> list[Block]:
    return [Block(language, text, run) for run, language, text in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def commands(page: Path) -> Iterator[Command]:
    """Every command of the page, in order."""
    for number, block in enumerate(blocks(page)):
        if block.language == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                line, _, output = part.partition("\n")
                yield Command(line, output, block.condition, number)
        elif not block.language:
            for line in block.text.replace("\\\n", "").splitlines():
                if line.startswith(("./", "scripts/")) or line.split(" ")[0].split("=")[0] in _PROGRAMS:
                    yield Command(line, block=number)
