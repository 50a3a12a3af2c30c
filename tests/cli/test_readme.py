"""README: its commands exist with these flags, its Python example runs, its links lead to files."""

from __future__ import annotations

import re
import shlex
import sys

import pytest
import typer
from tests.cli.commands import ENV, ROOT
from tests.forks import Forks

from vita.cli.app import app

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for _, block in BLOCKS for line in block.splitlines() if line.startswith("vita ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_have_these_flags(line: str) -> None:
    words = shlex.split(line, comments=True)
    command = typer.main.get_group(app).commands[words[1]]
    command.make_context(words[1], words[2:])  # raises for an argument or a flag that does not exist


def test_every_command_is_shown() -> None:
    assert {line.split()[1] for line in COMMANDS} == set(typer.main.get_group(app).commands)


def test_the_python_example_runs(forks: Forks) -> None:
    (code,) = (block for language, block in BLOCKS if language == "python")
    done = forks.run([sys.executable, "-c", code], cwd=ROOT, env=ENV, capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    said = done.stdout.decode().splitlines()
    assert "VITA" in said[0] and "VITA" in said[1] and said[-1].startswith("Stats(submitted=4, finished=4,")


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links and all((ROOT / link).exists() for link in links)
