"""`./demo.sh` in a copy of the repository: its answer, and the line to type next, typed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tests.cli.commands import reader_at

from vita.cli.demo import next_line

ROOT = Path(__file__).parents[2]
HINT = "To talk to the model, type:"
ASK = ("--image_path", str(ROOT / "assets" / "vita_logo.png"), "--question", "What does the logo say?")


def environment(path: str = "/usr/local/bin:/usr/bin:/bin", **more: str) -> dict[str, str]:
    """A user's shell without anything activated."""
    gone = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "SHELL")
    return {k: v for k, v in os.environ.items() if k not in gone} | {"PATH": path, "HF_HUB_OFFLINE": "1"} | more


def make_environment(folder: Path, root: Path) -> None:
    """A virtual environment that demo.sh takes as set up: it borrows what this one has installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    borrowed = next((folder / "lib").glob("python*")) / "site-packages" / "borrowed.pth"
    borrowed.write_text(f"{ROOT / 'src'}\n{sysconfig.get_paths()['purelib']}\n{sysconfig.get_paths()['platlib']}\n")
    command = folder / "bin" / "vita"
    command.write_text(f"#!{folder}/bin/python\nfrom vita.cli import main\nmain()\n")
    if " " in str(folder):  # as pip does where a path does not fit into such a line
        command.write_text(
            f"#!/bin/sh\n'''exec' \"{folder}/bin/python\" \"$0\" \"$@\"\n' '''\nfrom vita.cli import main\nmain()\n"
        )
    command.chmod(0o755)
    sums = subprocess.run(["cksum"], input=(root / "pyproject.toml").read_bytes(), capture_output=True, check=True)
    (folder / ".vita-installed").write_text(f"{root} {sums.stdout.decode().strip()}")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as a user has it after the first run, in a folder whose name needs quotes."""
    root = tmp_path_factory.mktemp("user's folder") / "my vita"
    root.mkdir()
    for name in ("demo.sh", "video_audio_demo.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "scripts", root / "scripts")
    (root / "assets").symlink_to(ROOT / "assets")
    (root / "docs").mkdir()
    make_environment(root / ".venv", root)
    return root


def demo(
    checkout: Path, here: Path, *flags: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [str(checkout / "demo.sh"), *flags]
    return subprocess.run(
        command, cwd=here, env=env or environment(), capture_output=True, text=True, timeout=120, check=False
    )


def typed(line: str, here: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The line in an interactive user's shell, the end of input after it."""
    return subprocess.run(
        ["bash", "-c", line], cwd=here, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        pytest.param(".", "source .venv/bin/activate && vita chat", marks=pytest.mark.slow),
        pytest.param("docs", "source ../.venv/bin/activate && vita chat", marks=pytest.mark.slow),
        ("..", "source 'my vita/.venv/bin/activate' && vita chat"),
    ],
)
def test_it_ends_with_the_line_to_type_and_the_line_works(checkout: Path, folder: str, line: str) -> None:
    here = checkout / folder
    done = demo(checkout, here, *ASK)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-2:] == [HINT, f"  {line}"]
    assert HINT not in done.stdout and "activate" not in done.stdout
    answered = typed(done.stderr.splitlines()[-1], here, environment())
    assert answered.returncode == 0, answered.stderr
    assert "not found" not in answered.stderr and "Traceback" not in answered.stderr


@pytest.mark.slow
def test_an_active_environment_needs_no_activation(checkout: Path, tmp_path: Path) -> None:
    active = tmp_path / "active"
    make_environment(active, checkout)
    env = environment(f"{active / 'bin'}:/usr/bin:/bin", VIRTUAL_ENV=str(active))
    done = demo(checkout, tmp_path, *ASK, env=env)
    assert done.stderr.splitlines()[-2:] == [HINT, "  vita chat"]
    assert typed("vita chat", tmp_path, env).returncode == 0


@pytest.mark.slow
def test_no_line_after_a_failure(checkout: Path) -> None:
    done = demo(checkout, checkout, "--image_path", "nowhere.png", "--question", "What is this?")
    assert done.returncode == 2 and done.stdout == ""
    assert "nowhere.png: no such file" in done.stderr and HINT not in done.stderr
    helped = demo(checkout, checkout, "--help")
    assert helped.returncode == 0 and HINT not in helped.stderr and "say_next" not in helped.stdout


@pytest.mark.parametrize("whom", ["the group, as Ctrl-C does", "the process"])
@pytest.mark.slow
def test_an_interrupt_ends_it_with_130(checkout: Path, tmp_path: Path, whom: str) -> None:
    pipe = tmp_path / "image"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [str(checkout / "demo.sh"), "--image_path", str(pipe)], cwd=checkout, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        writer = reader_at(pipe)  # the process now waits for an image that never comes
        send = os.killpg if whom.startswith("the group") else os.kill
        send(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        os.close(writer)
    finally:
        process.kill()
    assert process.returncode == 130
    assert HINT.encode() not in said and b"Traceback" not in said


class TestNextLine:
    @pytest.fixture
    def prefix(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        scripts = tmp_path / "env" / "bin"
        scripts.mkdir(parents=True)
        for name in ("activate", "activate.fish", "activate.csh", "vita"):
            (scripts / name).write_text("")
            (scripts / name).chmod(0o755)
        monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        monkeypatch.setenv("SHELL", "/bin/bash")
        monkeypatch.chdir(tmp_path)
        return tmp_path / "env"

    @pytest.mark.parametrize(
        ("shell", "start"),
        [
            ("/bin/bash", "source env/bin/activate "), ("/usr/bin/zsh", "source env/bin/activate "),
            ("/usr/bin/fish", "source env/bin/activate.fish "), ("/bin/tcsh", "source env/bin/activate.csh "),
            ("/bin/dash", ". env/bin/activate "), ("", "source env/bin/activate "),
        ],
    )  # fmt: skip
    def test_the_shell_is_spoken_to_in_its_words(
        self, prefix: Path, monkeypatch: pytest.MonkeyPatch, shell: str, start: str
    ) -> None:
        monkeypatch.setenv("SHELL", shell)
        assert next_line(None, None) == start + "&& vita chat"

    def test_the_model_is_the_one_that_answered(self, prefix: Path) -> None:
        assert next_line("my model", "base").endswith("&& vita chat --model 'my model' --base base")

    def test_another_vita_on_the_path_is_not_ours(
        self, prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other"
        other.mkdir()
        shutil.copy(prefix / "bin" / "vita", other)
        monkeypatch.setenv("PATH", str(other))
        assert next_line(None, None).startswith("source ")
        monkeypatch.setenv("PATH", str(prefix / "bin"))
        assert next_line(None, None) == "vita chat"

    def test_an_environment_without_activate_is_named_by_its_program(
        self, prefix: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (prefix / "bin" / "activate").unlink()
        assert next_line(None, None) == "env/bin/vita chat"
        monkeypatch.chdir(prefix / "bin")
        assert next_line(None, None) == "./vita chat"
