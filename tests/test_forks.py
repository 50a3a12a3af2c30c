"""A fork of `tests.forks` is to its program what a fresh process is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.forks import CLOSED, Forks

SHOW = """
import atexit, os, resource, signal, sys, threading
atexit.register(print, "the end")
numbers = signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE
handlers = [str(signal.getsignal(number)) for number in numbers]
streams = [
    (s.encoding, s.errors, s.line_buffering, s.write_through, s.newlines, s.fileno(), s.name, s.mode, s.isatty())
    for s in (sys.stdin, sys.stdout, sys.stderr)
]
print(__name__, sys.argv, sys.path, sys.modules["__main__"].__dict__ is globals(), handlers, streams)
print(sorted(os.environ.items()), os.getcwd(), threading.active_count(), signal.pthread_sigmask(signal.SIG_BLOCK, []))
print(sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else "")
print(sys.stdin.read(), file=sys.stderr)
"""
ENDS = ["pass", "import sys; sys.exit()", "import sys; sys.exit(7)", "import sys; sys.exit('why')",
        "import os; os._exit(3)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "import sys; sys.stdout.write('no line end')",
        "import threading; threading.Thread(target=print, args=('late',)).start()"]  # fmt: skip


def both(forks: Forks, command: list[str], **how: object) -> tuple[subprocess.CompletedProcess[bytes], ...]:
    how = {"capture_output": True, "timeout": 60} | how
    return forks.run(command, **how), subprocess.run(command, check=False, **how)  # type: ignore[call-overload]


@pytest.mark.parametrize("more", [{}, {"PYTHONIOENCODING": "latin-1:replace", "PYTHONPATH": "/nowhere", "HERE": "ü"}])
def test_it_sees_what_a_process_sees(forks: Forks, tmp_path: Path, more: dict[str, str]) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | more
    command = [sys.executable, "-c", SHOW, "one", "two words"]
    fork, process = both(forks, command, env=environment, cwd=tmp_path, input=b"typed \xc3\xbc\r\n")
    assert fork.stdout.decode("latin-1") == process.stdout.decode("latin-1"), fork.stderr
    assert (fork.returncode, fork.stderr) == (process.returncode, process.stderr) == (0, process.stderr)


@pytest.mark.parametrize("code", ENDS)
def test_it_ends_as_a_process_ends(forks: Forks, code: str) -> None:
    fork, process = both(forks, [sys.executable, "-c", code])
    assert (fork.returncode, fork.stdout, fork.stderr) == (process.returncode, process.stdout, process.stderr)


def test_modules_and_files_run_as_programs(forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text("import sys; print(__name__, __file__, sys.argv, sys.path[0])")
    for how in (["-m", "shown"], ["shown.py"]):
        fork, process = both(forks, [sys.executable, *how, "--flag"], cwd=tmp_path)
        assert fork.stdout == process.stdout and fork.returncode == process.returncode == 0, fork.stderr


def test_closed_streams_are_none(forks: Forks) -> None:
    code = "import sys; print(sys.stdin, sys.stdout, file=sys.stderr)"
    done = forks.run([sys.executable, "-c", code], stdin=CLOSED, stdout=CLOSED, stderr=subprocess.PIPE)
    assert done.stderr == b"None None\n"


def test_signals_sessions_and_time_limits(forks: Forks) -> None:
    code = "import os, time; print(os.getsid(0) == os.getpid(), flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code]
    with forks.popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline() == b"True\n" and process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        forks.run(command, stdout=subprocess.DEVNULL, timeout=0.2)
    assert time.monotonic() - began < 30


def test_a_process_that_the_program_left_does_not_hold_the_time_limit_up(forks: Forks) -> None:
    code = """
import os, time
print(os.fork(), flush=True) or time.sleep(60)
"""
    with forks.popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = int(process.stdout.readline())
        process.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=0.2)
    os.kill(left, signal.SIGKILL)


def test_what_is_read_only_once_needs_a_process(forks: Forks) -> None:
    with pytest.raises(ValueError, match="OMP_NUM_THREADS is read only once"):
        forks.run([sys.executable, "-c", "pass"], env=os.environ | {"OMP_NUM_THREADS": "17"})
