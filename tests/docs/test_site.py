"""The documentation site builds strictly: every page has its place, every link and reference leads somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="SKIPPED LOUDLY: mkdocs is not installed; pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)], cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_reference_shows_the_docstrings(site: Path) -> None:
    text = (site / "python.html").read_text(encoding="utf-8")
    for shown in ("max_tokens", "QueueFull", "deadline", "first_token", "allow_private_hosts"):
        assert shown in text, shown


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    import vita

    text = (site / "python.html").read_text(encoding="utf-8")
    missing = [name for name in vita.__all__ if f">{name}<" not in text and name != "Event"]
    assert not missing, f"add to docs/python.md: {missing}"


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        for mark in ('src="http', "@import", 'rel="stylesheet" href="http'):
            assert mark not in text, f"{page.name}: {mark}"
