"""README and docs: every command that needs no download runs and prints what the page says; Python code runs."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from tests.cli.commands import ENV
from tests.cli.test_demo_script import environment, make_environment
from tests.docs.blocks import PAGES, ROOT, Command, blocks, commands

from vita.cli.app import app

# Why a command is not run here. What it names must exist all the same.
NOT_RUN = {
    r"benchmarks\.vllm_plugin": "needs vLLM; tests/vllm/test_scaling_docs.py runs it",
    r"VITA-MLLM": "downloads the released model",
    r"\b(MODEL|FOLDER|COMMAND|OUT4?|SMALL|T)\b": "a placeholder",
    r"^(pip|python -m pip|pipx|uv|docker|sudo) ": "installs",
    r"^(\./test\.sh|ruff|mypy|pytest|scripts/docs\.sh)": "the checks that run this test",
    r"^python -m (recipes|tests)|^(PYTHONPATH=src )?python benchmarks/": "takes minutes or hours",
    r"^vita eval": "takes minutes",
    r"^vita serve|^\./demo\.sh --serve": "runs until it is stopped; tests/serve runs it",
    r"^vita .*--(play|listen)|^vita chat --speak": "needs an audio device",
    r"\.\./shared|…": "needs files beside the repository",
}
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(400)


def planned(page: Path) -> list[tuple[Command, str | None]]:
    """The page's commands, each with the reason why it is not run."""
    out: list[tuple[Command, str | None]] = []
    for command in commands(page):
        bare = command.line.split("  #")[0]
        why = next((why for pattern, why in NOT_RUN.items() if re.search(pattern, bare)), None)
        if why is None and out and out[-1][0].block == command.block and "download" in (out[-1][1] or ""):
            why = "uses what the command before it downloads"
        out.append((command, why))
    return out


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The repository after ./demo.sh has set it up."""
    root = tmp_path / "vita"
    root.mkdir()
    for name in ("demo.sh", "video_audio_demo.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "scripts", root / "scripts")
    (root / "assets").symlink_to(ROOT / "assets")
    make_environment(root / ".venv", root)
    return root


def prepared(condition: str, root: Path) -> dict[str, str] | None:
    """The environment of a command; None where the condition of its block does not hold on this machine."""
    programs = str(root / ".venv" / "bin")
    if condition == "without vita on PATH":
        return None if shutil.which("vita", path="/usr/bin:/bin") else environment("/usr/bin:/bin")
    if condition == "without a GPU" and torch.cuda.is_available():
        return None
    if condition == "without a C compiler":
        return environment(programs, VITA_KERNELS=str(root / "no kernels"))
    if condition == "with phone.heic, without pillow-heif":
        if importlib.util.find_spec("pillow_heif"):
            return None
        (root / "phone.heic").write_bytes(HEIC)
    return environment(f"{programs}:/usr/bin:/bin")


def run(command: Command, root: Path) -> None:
    """Run it; a command whose output is shown prints exactly that, any other ends with 0."""
    env = prepared(command.condition, root)
    if env is None:
        return
    done = subprocess.run(
        ["bash", "-c", command.line], executable=shutil.which("bash"), cwd=root, env=env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip
    if command.output is None:
        assert done.returncode == 0, f"{command.line}\n{done.stdout}"
    else:
        assert done.stdout.strip() == command.output.strip(), command.line


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_without_a_download_runs(page: Path, checkout: Path) -> None:
    for command, why_not in planned(page):
        if why_not is None:
            run(command, checkout)


LINES = sorted({(page.name, command.line) for page in PAGES for command, why in planned(page) if why})


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line[:60]}" for page, line in LINES])
def test_what_is_not_run_exists(page: str, line: str) -> None:
    words = shlex.split(line.replace("…", ""), comments=True)
    for word in words:
        if re.fullmatch(r"(\./)?[a-z_/]+\.(py|sh|png|mp4|flac|txt)", word) and word != "sheet.png":
            assert (ROOT / word).is_file(), word
    if words[0] == "vita" and words[1] in typer.main.get_group(app).commands:
        command = typer.main.get_group(app).commands[words[1]]
        command.make_context(words[1], words[2:])  # raises for an argument or a flag that does not exist
    if words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), words[2]


def test_most_of_what_a_newcomer_types_is_run() -> None:
    """A reason that matches too much would leave nothing to run."""
    ran = {page.name: sum(why is None for _, why in planned(page)) for page in PAGES}
    assert ran["README.md"] >= 10 and ran["index.md"] >= 6 and ran["troubleshooting.md"] >= 13, ran


# serving.md needs a server and the clients of others: tests/serve/test_serving_docs.py runs its code. scaling.md needs
# vLLM: tests/vllm/test_scaling_docs.py runs its code.
PYTHON = [
    (page, block.text)
    for page in PAGES
    for block in blocks(page)
    if block.language == "python" and page.name not in ("serving.md", "scaling.md")
]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[f"{page.name} {k}" for k, (page, _) in enumerate(PYTHON)])
def test_python_code_runs(page: Path, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """In the repository; links between the site's pages, with their headings, are checked by its strict build."""
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).is_file(), link
