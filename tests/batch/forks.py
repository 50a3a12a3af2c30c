"""A process that has imported everything and forks a child for each run of `vita`: a start without the imports.

Run as a program, it reads one JSON array of arguments a line, starts `vita` with them in a child, and prints the
child's process id. An empty line waits for the child and prints its exit code, negative for a signal.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Forks:
    """The starting process.

    Args:
        errors: file that stderr of the children is appended to.
    """

    def __init__(self, errors: Path) -> None:
        self.errors = errors
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors.open("ab"),
            env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}, text=True, bufsize=1,
        )  # fmt: skip

    def start(self, *arguments: str, file_limit: int = 0) -> int:
        """Start `vita` with these arguments; its process id. `file_limit`: bytes that a file may have, 0: any."""
        return self._ask(json.dumps([file_limit, *arguments]))

    def wait(self) -> int:
        """Wait for the child; its exit code."""
        return self._ask("")

    def _ask(self, line: str) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        answer = self._process.stdout.readline()
        assert answer, self.errors.read_text()
        return int(answer)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@contextlib.contextmanager
def forks(errors: Path) -> Iterator[Forks]:
    started = Forks(errors)
    try:
        yield started
    finally:
        started.close()


def _run(file_limit: int, arguments: list[str]) -> None:
    import resource

    from vita.cli import main

    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    sys.argv = ["vita", *arguments]
    main()


def _serve() -> None:
    import vita.api
    import vita.batch.run
    import vita.cli.app  # noqa: F401

    child = 0
    for line in sys.stdin:
        if line.strip():
            file_limit, *arguments = json.loads(line)
            child = os.fork()
            if not child:
                _run(file_limit, arguments)
            print(child, flush=True)
        else:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
