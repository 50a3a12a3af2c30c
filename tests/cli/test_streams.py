"""Standard streams that the shell closed: one sentence and an exit code, never a traceback."""

from __future__ import annotations

import errno
import io
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.commands import COMMANDS, ENV, MINI, ROOT, assert_sentence, run
from tests.forks import CLOSED as SHUT
from tests.forks import Forks

from vita.cli.chat.reader import PlainReader
from vita.errors import RequestError
from vita.types import MediaOptions, MediaPolicy

CLOSED = "vita: stdout is closed; redirect it to a file or to /dev/null.\n"
# Arguments with which a command reaches its first output soon; the others are covered by their help.
SOON = {
    "info": ("info", MINI), "list": ("list",), "list --json": ("list", "--json"), "doctor": ("doctor",),
    "ask": ("ask", "Hello", "--model", MINI, "--max-tokens", "2"),
    "ask --json": ("ask", "Hello", "--model", MINI, "--max-tokens", "2", "--json"),
    "verify": ("verify", str(Path(MINI).parent)), "version": ("-V",), "vita": (), "help": ("--help",),
}  # fmt: skip


def shell(
    *arguments: str, streams: str, forks: Forks | None = None, stdin: bytes = b"",
    program: tuple[str, ...] = ("-m", "vita"),
) -> tuple[int, bytes, bytes]:  # fmt: skip
    """Exit code, stdout and stderr of `vita ARGUMENTS`, started by a shell with these redirections.

    With `forks`, the same without the start: the streams that the shell would have closed are closed in a fork.
    """
    command = [sys.executable, *program, *arguments]
    if forks is None:
        line = f"exec {shlex.join(command)} {streams}"
        done = subprocess.run(
            ["bash", "-c", line], input=stdin, capture_output=True, env=ENV, cwd=ROOT, timeout=120, check=False
        )
    else:
        kept = {name: subprocess.PIPE for name in ("stdout", "stderr")}
        shut = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-"}
        kept |= {name: SHUT for name, word in shut.items() if word in streams.split()}
        done = forks.run(command, input=None if "stdin" in kept else stdin, env=ENV, cwd=ROOT, timeout=120, **kept)
    return done.returncode, done.stdout or b"", done.stderr or b""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ("doctor", "verify") else name for name in SOON]
)
def test_a_closed_stdout_is_one_sentence(forks: Forks, name: str) -> None:
    """Two of them are started by a shell: this is about the start, too."""
    code, out, error = shell(*SOON[name], streams=">&-", forks=None if name in ("info", "vita") else forks)
    *before, last = error.decode().splitlines(keepends=True)
    assert (code, out, last) == (2, b"", CLOSED)
    assert all(line.startswith(("vita: note: ", "vita: nothing is in the hub cache")) for line in before), before


@pytest.mark.parametrize("arguments", [("ask", "-"), ("ask", "Hello", "--video", "-")])
def test_a_stdin_that_cannot_be_read_is_one_sentence(arguments: tuple[str, ...]) -> None:
    code, out, error = shell(*arguments, streams="0>/dev/null")
    assert (code, out) == (2, b"")
    assert error.decode().startswith("vita: standard input: cannot be read to its end (") and error.count(b"\n") == 1


def test_a_chat_whose_stdin_cannot_be_read_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreadable(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object, /) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Unreadable()), "utf-8"))
    with pytest.raises(RequestError, match=r"standard input: cannot be read \(Input/output error\)"):
        PlainReader().read("> ")


@pytest.mark.parametrize("arguments", [("ask", "-"), ("ask", "Hello", "--video", "-")])
def test_an_endless_stdin_is_given_up(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = MediaPolicy(max_bytes=100)
    monkeypatch.setattr("vita.cli.ask.MediaOptions", lambda **_: MediaOptions(policy=policy))
    done = run(*arguments, stdin=b"x" * 101)
    assert_sentence(done, "standard input: is larger than the limit of 100 bytes")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_without_stdout(name: str) -> None:
    assert shell(name, "--help", streams=">&-") == (2, b"", CLOSED.encode())


def test_a_chat_without_stdout_ends_with_the_first_answer(forks: Forks) -> None:
    chat = ("chat", "--model", MINI, "--max-tokens", "2")
    code, _, error = shell(*chat, streams=">&-", stdin=b"Hello\nHello\n", forks=forks)
    assert (code, error.decode()) == (2, CLOSED)


def test_the_demo_without_stdout_is_one_sentence(forks: Forks) -> None:
    arguments = ("--model_path", MINI, "--question", "Hello")
    code, _, error = shell(*arguments, streams=">&-", program=("video_audio_demo.py",), forks=forks)
    assert (code, error.decode()) == (2, CLOSED)


@pytest.mark.slow
def test_a_command_that_prints_nothing_needs_no_stdout(tmp_path: Path) -> None:
    """Files opened later do not become stdout: the output is whole."""
    out = tmp_path / "small"
    code, _, error = shell("convert", MINI, str(out), "--quantize", "int8", streams=">&-")
    assert (code, error.decode()) == (2, CLOSED) and (out / "config.json").is_file()
    assert shell("info", str(out), streams="")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code"), [(("info", MINI), 0), (("info", "/nowhere"), 2), (("-V",), 0), (("ask",), 2)]
)
@pytest.mark.slow
def test_a_closed_stderr_changes_no_exit_code(arguments: tuple[str, ...], code: int) -> None:
    done = shell(*arguments, streams="2>&-")
    assert done[0] == code and done[2] == b""
    assert shell(*arguments, streams=">&- 2>&-") == (2, b"", b"")


@pytest.mark.slow
def test_a_closed_stdin_is_an_empty_one() -> None:
    code, out, error = shell("ask", "-", "--model", MINI, streams="<&-")
    assert (code, out) == (2, b"") and error.startswith(b"vita: there is no question; ") and error.count(b"\n") == 1
    assert shell("chat", "--model", MINI, streams="<&-") == (0, b"", b"")
    assert shell("info", MINI, streams="<&-")[0] == 0
