"""scripts/env.sh: what is downloaded is named before it is, PyTorch fits the machine, and one that is there stays."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Stands for the environment's Python: notes every call, in order with what the script says, and installs nothing. The
# notes go to a file, since the script hides the output of some calls.
PYTHON = """#!/bin/sh
echo "call: $*" >>"$LOG"
case "$*" in
*"import torch"*) exit $HAS_TORCH ;;
*find_spec*) exit $HAS_VOICE ;;
*"[piper]"*) exit $VOICE_WORKS ;;
*--no-index*) exit $IN_FOLDER ;;
*--target*) [ "$HAS_UV" = 0 ] || exit 1
    for last; do folder=$previous previous=$last; done
    mkdir -p "$folder/bin" && printf '#!/bin/sh\\necho "call: uv $*" >>"$LOG"\\nexit $UV_WORKS\\n' >"$folder/bin/uv"
    chmod +x "$folder/bin/uv" ;;
esac
"""
NVIDIA_SMI = "#!/bin/sh\necho 'GPU 0: a GPU'\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A checkout with an active environment that notes what is run in it."""
    for name, text in (("env/bin/python", PYTHON), ("gpu/nvidia-smi", NVIDIA_SMI)):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
        file.chmod(0o755)
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


def set_up(
    machine: Path,
    *,
    gpu: bool = False,
    torch: bool = False,
    folder: bool = False,
    uv: bool = True,
    works: bool = True,
    voice: bool = False,
    voice_works: bool = True,
    then: str = "",
) -> list[str]:
    """What the script says and calls, in order."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "PATH": f"{machine / 'gpu'}:/usr/bin:/bin" if gpu else "/usr/bin:/bin", "VIRTUAL_ENV": str(machine / "env"),
        "HAS_TORCH": str(int(not torch)), "IN_FOLDER": str(int(not folder)), "HAS_UV": str(int(not uv)),
        "UV_WORKS": str(int(not works)), "HAS_VOICE": str(int(not voice)), "VOICE_WORKS": str(int(not voice_works)),
        "LOG": str(machine / "log"),
    }  # fmt: skip
    says = 'echo() { builtin echo "$*" >>"$LOG"; }'
    script = f'set -eu; {says}; ROOT="{machine}"; . "{ROOT}/scripts/env.sh"; vita_env ""; {then}'
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    log = machine / "log"
    return log.read_text().splitlines() if log.is_file() else []


def position(lines: list[str], words: str) -> int:
    return next((k for k, line in enumerate(lines) if words in line), -1)


def test_without_a_gpu_the_build_for_cpus_is_taken_and_its_size_is_said_first(machine: Path) -> None:
    lines = set_up(machine)
    said, done = position(lines, "PyTorch for CPUs: a download of about 210 MB"), position(lines, "--torch-backend cpu")
    assert 0 <= said < done
    assert position(lines, "pip --disable-pip-version-check install torch") == -1


def test_with_a_gpu_the_build_with_cuda_is_taken(machine: Path) -> None:
    lines = set_up(machine, gpu=True)
    said = position(lines, "PyTorch with CUDA, a download of about 2.7 GB")
    assert 0 <= said < position(lines, "install torch==")
    assert position(lines, "uv") == -1


@pytest.mark.parametrize("missing", [{"uv": False}, {"works": False}])
def test_a_build_for_cpus_that_cannot_be_had_is_said_before_the_larger_one(
    machine: Path, missing: dict[str, bool]
) -> None:
    lines = set_up(machine, **missing)
    said = position(
        lines, "The CPU build could not be fetched. PyTorch with CUDA works too: a download of about 2.7 GB"
    )
    assert 0 <= said < position(lines, "install torch==")


def test_a_folder_of_pips_configuration_comes_first(machine: Path) -> None:
    lines = set_up(machine, folder=True)
    assert 0 <= position(lines, "from a folder") < position(lines, "install --no-index --no-deps torch==")
    assert position(lines, "PyTorch for CPUs") == position(lines, "PyTorch with CUDA") == -1


def test_a_pytorch_that_is_there_stays(machine: Path) -> None:
    lines = set_up(machine, torch=True)
    assert not [line for line in lines if "torch==" in line or "PyTorch" in line]
    assert 0 <= position(lines, "a download of up to 90 MB") < position(lines, "install -e")


def test_nothing_is_done_twice(machine: Path) -> None:
    set_up(machine, torch=True)
    (machine / "log").unlink()
    assert set_up(machine, torch=True) == []


def test_the_server_gets_a_voice_and_its_size_and_licence_are_said_first(machine: Path) -> None:
    lines = set_up(machine, torch=True, then="vita_voice; echo goes on")
    said = position(lines, "a voice for spoken answers, piper (GPL-3.0-or-later), a download of about 130 MB")
    assert 0 <= said < position(lines, "install -q -e") < position(lines, "goes on")
    (machine / "log").unlink()
    lines = set_up(machine, torch=True, voice=True, then="vita_voice; echo goes on")
    assert position(lines, "[piper]") == -1 < position(lines, "goes on"), "one is there"


def test_a_voice_that_cannot_be_installed_does_not_end_the_set_up(machine: Path) -> None:
    lines = set_up(machine, torch=True, voice_works=False, then="vita_voice; echo goes on")
    assert 0 <= position(lines, "no voice could be installed, so answers are in writing") < position(lines, "goes on")
