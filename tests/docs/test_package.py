"""What a package index and Docker see: metadata, the readme outside the repository, the Dockerfile."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="SKIPPED LOUDLY: Python 3.10 has no tomllib")
    loaded: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return loaded


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: name and arguments, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line)]


def copied() -> list[str]:
    return [word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]]


def test_classifiers_exist(project: dict[str, Any]) -> None:
    known = pytest.importorskip("trove_classifiers", reason="SKIPPED LOUDLY: trove-classifiers is not installed")
    assert project["classifiers"] and project["keywords"]
    assert set(project["classifiers"]) <= known.classifiers


def test_no_public_address_is_claimed(project: dict[str, Any]) -> None:
    assert "urls" not in project


def test_the_readme_of_the_package_needs_no_file_beside_it() -> None:
    pytest.importorskip("hatch_fancy_pypi_readme", reason="SKIPPED LOUDLY: hatch-fancy-pypi-readme is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "hatch_fancy_pypi_readme", "pyproject.toml"], cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert "# VITA engine" in done.stdout and "`docs/media.md`" in done.stdout
    links = re.findall(r"!?\[[^\]]*\]\(([^)]*)\)", done.stdout)
    assert all(link.startswith("https://") for link in links), links


def test_the_dockerfile_has_no_findings() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("SKIPPED LOUDLY: hadolint is not installed")
    done = subprocess.run([linter, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_image_copies_exists_and_is_sent_to_docker() -> None:
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert copied() and sent[0] == "*"
    for name in copied():
        assert (ROOT / name).exists() and f"!{name}" in sent, name


def test_the_image_runs_as_a_user_and_starts_vita() -> None:
    last = dict(instructions())
    assert last["USER"] != "0" and shlex.split(last["ENTRYPOINT"].strip("[]")) == ["vita"]
    torch = re.search(r"torch==[\d.]+", " ".join(rest for _, rest in instructions()))
    script = (ROOT / "scripts" / "env.sh").read_text(encoding="utf-8")
    assert torch and f'TORCH="{torch[0]}"' in script, "the image and demo.sh install the same PyTorch"


@pytest.mark.slow
def test_what_the_image_copies_is_enough_to_build_and_run(tmp_path: Path) -> None:
    """`pip install .` of the Dockerfile, as a wheel unpacked beside this environment's packages."""
    pytest.importorskip("hatchling", reason="SKIPPED LOUDLY: hatchling is not installed")
    source, wheels, here = tmp_path / "src", tmp_path / "wheels", tmp_path / "installed"
    source.mkdir()
    for name in copied():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(wheels), "."]
    subprocess.run(build, cwd=source, check=True, timeout=170, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(here)
    code = (
        "import vita, sys; from pathlib import Path; "
        f"assert Path(vita.__file__).is_relative_to({str(here)!r}), vita.__file__; "
        f"print(vita.load().ask('What does the logo say?', images=[{str(ROOT / 'assets' / 'vita_logo.png')!r}]).text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(here), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert "VITA" in done.stdout, done.stderr
    (metadata,) = here.glob("*.dist-info/METADATA")
    assert "Description-Content-Type: text/markdown" in metadata.read_text(encoding="utf-8")
