"""A newcomer: `./demo.sh --serve` in a checkout that is set up, the page, a talk about what the camera sees."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.test_demo_script import environment, make_environment
from tests.serve.web.test_talk import ANSWERS, talk

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "my vita"
    root.mkdir()
    for name in ("demo.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "scripts", root / "scripts")
    make_environment(root / ".venv", root)
    (root / ".venv" / ".vita-installed").rename(root / ".venv" / ".vita-installed[serve]")
    return root


@pytest.mark.slow
def test_a_newcomer_talks_about_an_image(checkout: Path, program: str, tmp_path: Path) -> None:
    command = [str(checkout / "demo.sh"), "--serve", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            url = next(line for line in process.stderr if "page: " in line).split("page: ")[1].strip().rstrip("/")
            served = SimpleNamespace(url=url)
            with talk(program, tmp_path, served, quiet=15, textOnly=True) as page:  # type: ignore[arg-type]
                page.click("#talk-camera")
                page.until("!document.querySelector('#preview').hidden")
                page.until(f"{ANSWERS}.length === 1")
                assert len(page.text(".assistant .text")) > 10
                assert "of images" in page.text(".assistant .facts")
                assert page.js("!!document.querySelector('.user img')")
        finally:
            process.send_signal(signal.SIGTERM)
            process.stderr.close()
        assert process.wait(60) == 0
