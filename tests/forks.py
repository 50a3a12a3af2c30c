"""Start Python programs as forks of a process that has imported torch and vita: a start without the imports.

`Forks.popen` and `Forks.run` take the command lines and the keywords of `subprocess` that the tests need. A fork gets
its own streams, environment, folder, arguments, search path and `__main__`, and ends as an interpreter ends. Where the
start of a process is what is tested (imports, encodings, Ctrl-C while it imports), `subprocess` is right, not this.

Run as a program, this file is the process that forks. Its standard input is a socket.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import pkgutil
import re
import resource
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

CLOSED = -9  # as stdin, stdout or stderr: closed, as `<&-` and `>&-` of a shell
LENGTH, NUMBER = struct.Struct("!I"), struct.Struct("!i")
# What the interpreter, the C library and torch read once, when they start, cannot be changed in a fork.
READ_ONCE = ("PYTHON", "LC_", "LANG", "OMP_", "MKL_", "KMP_", "GOMP_", "LD_", "TORCH_", "CUDA_")
READ_AGAIN = ("PYTHONPATH", "PYTHONIOENCODING")
NOT_IMPORTED = re.compile(
    r"vita\.(plugins\b|train\b|kernels\.(triton|humming)|engine\.\w+_graphs|model\.fused_)|.*__main__$"
)


@dataclass
class Job:
    """A program to start.

    Args:
        command: its command line, whose first word is the interpreter.
        closed: numbers of the streams that are closed.
        file_limit: bytes that a file may have; 0: any.
        session: whether it leads a session, whose controlling terminal is its stdin if `terminal`.
    """

    command: list[str]
    env: dict[str, str]
    cwd: str
    closed: list[int]
    file_limit: int
    session: bool
    terminal: bool


class Forked:
    """A started program; its attributes and methods are those of `subprocess.Popen`."""

    def __init__(self, args: Sequence[str], report: socket.socket, pipes: Sequence[IO[Any] | None]) -> None:
        self.args, self._report = args, report
        self.stdin, self.stdout, self.stderr = pipes
        self.returncode: int | None = None
        self._used: dict[IO[Any], threading.Thread] = {}
        self.pid = self._number()

    def _number(self) -> int:
        data = b""
        while len(data) < NUMBER.size:
            more = self._report.recv(NUMBER.size - len(data))
            if not more:
                raise ChildProcessError("the process that forks has ended")
            data += more
        return int(NUMBER.unpack(data)[0])

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._number()
            self._report.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        end = None if timeout is None else time.monotonic() + timeout
        read: dict[IO[Any], Any] = {}
        started: dict[IO[Any], threading.Thread] = {}
        if self.stdin is not None:
            started[self.stdin] = threading.Thread(target=self._write, args=(input,), daemon=True)
        for stream in (self.stdout, self.stderr):
            if stream is not None and not stream.closed:
                started[stream] = threading.Thread(target=self._read, args=(stream, read), daemon=True)
        self._used |= started
        for thread in started.values():
            thread.start()
        for thread in started.values():
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if end is None else max(0.0, end - time.monotonic()))
        return tuple(None if s is None else read.get(s) for s in (self.stdout, self.stderr))  # type: ignore[return-value]

    def _write(self, data: Any) -> None:
        assert self.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # as subprocess: it may end without reading all
            if data:
                self.stdin.write(data)
            self.stdin.close()

    @staticmethod
    def _read(stream: IO[Any], read: dict[IO[Any], Any]) -> None:
        with stream:
            read[stream] = stream.read()

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            # What a thread reads or writes cannot be closed before it is done, and a process that the program left may
            # hold the other end. The thread closes it.
            if stream is not None and not (stream in self._used and self._used[stream].is_alive()):
                stream.close()
        self.wait()


class Forks:
    """The process that forks."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        env = {k: v for k, v in os.environ.items() if k not in READ_AGAIN}
        command = [sys.executable, __file__, os.environ.get("PYTHONPATH", "")]
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=theirs, stdout=subprocess.DEVNULL, env=env, start_new_session=True
            )

    def close(self) -> None:
        """End it; forks that still run are left alone."""
        self._control.close()
        self._process.wait(60)

    def popen(
        self, command: Sequence[str | Path], *, stdin: Any = None, stdout: Any = None, stderr: Any = None,
        env: Mapping[str, str] | None = None, cwd: Path | str | None = None, bufsize: int = -1, text: bool = False,
        start_new_session: bool = False, terminal: bool = False, file_limit: int = 0,
    ) -> Forked:  # fmt: skip
        """As `subprocess.Popen`; a stream may be CLOSED, too.

        Raises:
            ValueError: the environment has a variable that is read only once, by the process that forks.
        """
        words, variables = [str(word) for word in command], dict(os.environ if env is None else env)
        if words[0] != sys.executable:
            raise ValueError(f"{words[0]} is not this interpreter")
        for name in variables.keys() | os.environ.keys():
            if name.startswith(READ_ONCE) and name not in READ_AGAIN and variables.get(name) != os.environ.get(name):
                raise ValueError(f"{name} is read only once: this needs a process of its own")
        with contextlib.ExitStack() as theirs:
            streams = [stdin, stdout, stderr]
            pipes = [_pipe(number, stream, bufsize, text, theirs) for number, stream in enumerate(streams)]
            sent = [_descriptor(number, streams, pipes, theirs) for number in range(3)]
            closed = [number for number, stream in enumerate(streams) if stream == CLOSED]
            job = Job(words, variables, str(cwd or Path.cwd()), closed, file_limit, start_new_session, terminal)
            report, their_report = socket.socketpair()
            theirs.enter_context(their_report)
            data = json.dumps(asdict(job)).encode()
            socket.send_fds(self._control, [LENGTH.pack(len(data))], [their_report.fileno(), *sent])
            self._control.sendall(data)
        return Forked(words, report, [pipe[0] if pipe else None for pipe in pipes])

    def in_terminal(
        self, command: Sequence[str], terminal: int, env: Mapping[str, str], cwd: Path | None
    ) -> Forked:  # fmt: skip
        """Start a program in a terminal; for `scripts.terminal.Terminal`."""
        return self.popen(
            command, stdin=terminal, stdout=terminal, stderr=terminal, env=env, cwd=cwd, start_new_session=True,
            terminal=True,
        )  # fmt: skip

    def run(
        self, command: Sequence[str | Path], *, input: Any = None, capture_output: bool = False,
        timeout: float | None = None, check: bool = False, **keywords: Any,
    ) -> subprocess.CompletedProcess[Any]:  # fmt: skip
        """As `subprocess.run`."""
        if capture_output:
            keywords |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if input is not None:
            keywords["stdin"] = subprocess.PIPE
        with self.popen(command, **keywords) as process:
            try:
                out, error = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(list(command), process.wait(), out, error)
        if check:
            done.check_returncode()
        return done


def _pipe(
    number: int, stream: Any, bufsize: int, text: bool, theirs: contextlib.ExitStack
) -> tuple[IO[Any], int] | None:
    """Our end of a pipe, and the fork's descriptor of the other one."""
    if not isinstance(stream, int) or stream != subprocess.PIPE:
        return None
    reading, writing = os.pipe()
    ours, other = (writing, reading) if number == 0 else (reading, writing)
    theirs.callback(os.close, other)
    mode = "w" if number == 0 else "r"
    return (os.fdopen(ours, mode, encoding="utf-8") if text else os.fdopen(ours, mode + "b", bufsize)), other


def _descriptor(number: int, streams: list[Any], pipes: list[Any], theirs: contextlib.ExitStack) -> int:
    """The descriptor that becomes a fork's stream."""
    stream, pipe = streams[number], pipes[number]
    if pipe is not None:
        return int(pipe[1])
    if stream == subprocess.STDOUT:
        return _descriptor(1, streams, pipes, theirs)
    if stream is None:
        return number
    if stream in (subprocess.DEVNULL, CLOSED):
        null = os.open(os.devnull, os.O_RDWR)
        theirs.callback(os.close, null)
        return null
    return stream if isinstance(stream, int) else int(stream.fileno())


# The process that forks


def _import_all() -> None:
    import vita

    for found in pkgutil.walk_packages(vita.__path__, "vita."):
        if not NOT_IMPORTED.match(found.name):
            with contextlib.suppress(ImportError):  # a package of an extra that is not installed
                importlib.import_module(found.name)
    assert "huggingface_hub" not in sys.modules, "it reads HF_HUB_CACHE when it is imported"
    assert "triton" not in sys.modules, "it prints what it leaks when the interpreter ends"
    assert threading.active_count() == 1, "a fork has one thread only"


def _serve(control: socket.socket) -> tuple[Job, list[int]]:
    """Fork a child for each job; returns in a child. A job's socket gets its process id, and then its exit code."""
    reports: dict[int, socket.socket] = {}
    woken, waking = socket.socketpair()
    for end in (woken, waking):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking.fileno())
    while True:
        ready = select.select([control, woken], [], [])[0]
        if woken in ready:
            woken.recv(4096)
            for pid in list(reports):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    with reports.pop(pid) as report, contextlib.suppress(OSError):  # nobody waits for it any more
                        report.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))
        if control not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(control, LENGTH.size, 4)
        if not data:
            raise SystemExit
        (length,) = LENGTH.unpack(data)
        job = Job(**json.loads(control.recv(length, socket.MSG_WAITALL)))
        report = socket.socket(fileno=descriptors[0])
        if pid := os.fork():
            reports[pid] = report
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            with contextlib.suppress(OSError):
                report.sendall(NUMBER.pack(pid))
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (control, woken, waking, report, *reports.values()):
            end.close()
        return job, descriptors[1:]


def _become(job: Job, descriptors: list[int], installed: list[str]) -> None:
    """Turn this fork into the process of a job, as it is before its program begins; `installed`: its search path
    without PYTHONPATH."""
    if job.session:
        os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if job.terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
    for number in job.closed:
        os.close(number)
    os.environ.clear()
    os.environ.update(job.env)
    os.chdir(job.cwd)
    if job.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job.file_limit, job.file_limit))
    sys.stdin = sys.__stdin__ = _stream(0, sys.stdin, job)  # type: ignore[assignment,misc]
    sys.stdout = sys.__stdout__ = _stream(1, sys.stdout, job)  # type: ignore[assignment,misc]
    sys.stderr = sys.__stderr__ = _stream(2, sys.stderr, job)  # type: ignore[assignment,misc]
    own = [entry for entry in job.env.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [*own, *(entry for entry in installed if entry not in own)]
    importlib.invalidate_caches()


def _stream(number: int, ours: Any, job: Job) -> io.TextIOWrapper | None:
    """A stream as the interpreter opens it; what it takes from the locale is that of the process that forks."""
    if number in job.closed:
        return None
    encoding, _, errors = job.env.get("PYTHONIOENCODING", "").partition(":")
    mode = "r" if number == 0 else "w"
    raw = io.FileIO(number, mode, closefd=False)
    raw.name = ("<stdin>", "<stdout>", "<stderr>")[number]
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    buffer: Any = io.BufferedReader(raw) if number == 0 else raw if unbuffered else io.BufferedWriter(raw)
    text = io.TextIOWrapper(
        buffer, codecs.lookup(encoding).name if encoding else ours.encoding,
        ours.errors if number == 2 else errors or ours.errors, newline="\n",
        line_buffering=not unbuffered and (number == 2 or raw.isatty()), write_through=unbuffered,
    )  # fmt: skip
    text.mode = mode  # type: ignore[attr-defined]
    return text


def _execute(job: Job) -> None:
    """Run the program as `python -c`, `python -m` or `python FILE` does."""
    how, *rest = job.command[1:]
    if how == "-m":
        sys.argv = rest
        sys.path.insert(0, job.cwd)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if how == "-c":  # without a file: a process that multiprocessing starts does not import it
        sys.argv, source, name = ["-c", *rest[1:]], rest[0], "<string>"
        sys.path.insert(0, "")
    else:
        sys.argv, file = [how, *rest], Path(how).absolute()
        source, name = file.read_text(encoding="utf-8"), str(file)
        main.__file__ = name
        sys.path.insert(0, str(file.resolve().parent))
    exec(compile(source, name, "exec"), main.__dict__)


if __name__ == "__main__":
    del sys.path[0]  # the folder of the tests
    without = list(sys.path)
    sys.path[:0] = filter(None, sys.argv[1].split(os.pathsep))
    _import_all()
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page
    with socket.socket(fileno=os.dup(0)) as listening:
        started = _serve(listening)
    _become(*started, without)
    _execute(started[0])
