"""Decode media in two child processes with a memory limit and a deadline.

A decoder that hangs, takes too much memory or crashes ends its process and one request, not the server. The child is
another program (`media_child`): it shares no memory with the server and has no API key in its environment. What it
sends back is data only (JSON and raw arrays), and is checked.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import queue
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from vita.config import VitaConfig
from vita.errors import MediaError, RequestError, VitaError
from vita.media.digest import digest
from vita.media.policy import ReadGuard
from vita.prompt.template import Media, Piece
from vita.prompt.turn_reader import PreparedTurn, TurnReader
from vita.runtime.clock import Stopwatch
from vita.serve.options import KEY_VARIABLE, Limits
from vita.sources import Array
from vita.types import MediaOptions, MediaSpan, Message, Text

PROCESSES = 2
POLL_SECONDS = 0.05  # between two checks of deadline and cancel
BLOCK = 1 << 20  # bytes
MAX_HEAD = 8 << 20  # bytes of the JSON of an answer
MAX_ANSWER = 1 << 30  # bytes of its arrays
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # one each: threads take address space
ERRORS: dict[str, type[VitaError]] = {"MediaError": MediaError, "RequestError": RequestError}

log = logging.getLogger("vita.serve")


class MediaProcesses:
    """Two decode processes, used by the engine's media workers.

    Args:
        config: of the checkpoint.
        limits: memory and CPU time of a process.
        on_kill: called when a process was ended.
    """

    def __init__(self, config: VitaConfig, limits: Limits, on_kill: Callable[[], None] = lambda: None) -> None:
        self._reader, self._limits, self._on_kill = TurnReader(config), limits, on_kill
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self._children: set[_Child] = set()
        self._lock = threading.Lock()
        self._closed = True

    def start(self) -> None:
        """Start the processes; they load their libraries while the server goes on."""
        with self._lock:
            self._closed = False
        for _ in range(PROCESSES):
            self._start_one()

    def close(self) -> None:
        """Kill the processes. What they decode ends with an error."""
        with self._lock:
            self._closed = True
            children, self._children = self._children, set()
        for child in children:
            child.kill()

    @property
    def pids(self) -> list[int]:
        """Process ids."""
        with self._lock:
            return [child.pid for child in self._children]

    def read_turn(self, message: Message, options: MediaOptions, watch: Stopwatch, guard: ReadGuard) -> PreparedTurn:
        """As `TurnReader.read_turn`, in a decode process unless there is nothing to decode.

        Raises:
            MediaError: a file that cannot be used, or whose decoder hung, crashed or took too much memory.
            RequestError, Cancelled: as there.
        """
        if all(isinstance(part, Text) or isinstance(part.source, Array) for part in message.parts):
            return self._reader.read_turn(message, options, watch, guard)
        child = self._take(guard)
        answer: _Answer | None = None
        try:
            answer = child.ask(pickle.dumps((message, options, guard.remaining())), guard)
        except _ChildEnded:
            raise MediaError(
                "could not be decoded: the decoder crashed or took too much memory", where="the media of the request",
                fix="send a smaller or undamaged file",
            ) from None  # fmt: skip
        finally:
            self._give_back(child, usable=answer is not None)
        try:
            return self._read_answer(answer, message, watch)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # not from our own child code
            raise MediaError("was decoded to something else than media", where="the media of the request") from error

    def _take(self, guard: ReadGuard) -> _Child:
        while True:
            guard.check("the media of the request")
            if self._closed:
                raise MediaError("the server is stopping", where="the media of the request")
            try:
                return self._idle.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue

    def _give_back(self, child: _Child, *, usable: bool) -> None:
        if usable:
            self._idle.put(child)
            return
        with self._lock:
            self._children.discard(child)
            closed = self._closed
        child.kill()
        self._on_kill()
        if not closed:
            self._start_one()

    def _start_one(self) -> None:
        child = _Child(pickle.dumps((self._reader.config, self._limits)))
        with self._lock:
            if not self._closed:
                self._children.add(child)
                self._idle.put(child)
                return
        child.kill()

    def _read_answer(self, answer: _Answer, message: Message, watch: Stopwatch) -> PreparedTurn:
        """The turn of an answer; lengths, types and digests are not taken from the child."""
        head = answer.head
        if "error" in head:
            error = head["error"]
            raise ERRORS.get(error["class"], MediaError)(error["what"], where=error["where"], fix=error["fix"])
        for stage, seconds in head["seconds"].items():
            watch.add(str(stage), float(seconds))
        pieces: list[Piece] = []
        for piece, part in zip(head["pieces"], message.parts, strict=True):
            if isinstance(part, Text):
                pieces.append(part.text)
                continue
            kind = cast(Any, piece["kind"])
            spans = tuple(self._span(kind, arrays) for arrays in answer.take(piece["spans"]))
            pieces.append(Media(kind, spans, int(piece["width"]), int(piece["height"]), float(piece["seconds"])))
        return PreparedTurn(
            message.role, tuple(pieces), int(head["images"]), float(head["audio_seconds"]),
            tuple(str(note) for note in head["notes"]),
        )  # fmt: skip

    def _span(self, kind: str, arrays: tuple[np.ndarray[Any, Any], ...]) -> MediaSpan:
        config = self._reader.config
        if kind == "audio":
            if not arrays or any(a.dtype != np.float32 or a.ndim != 1 for a in arrays):
                raise MediaError("was decoded to something else than audio", where="the media of the request")
            return MediaSpan("audio", digest(*arrays), self._reader.audio_rows(arrays), arrays)
        side = config.image.crop
        if len(arrays) != 1 or arrays[0].dtype != np.uint8 or arrays[0].shape != (side, side, 3):
            raise MediaError("was decoded to something else than an image", where="the media of the request")
        return MediaSpan("image", digest(arrays[0]), config.vision.tokens_per_tile, arrays)


class _ChildEnded(Exception):
    """The process is gone, or says something that it should not."""


class _Answer:
    """JSON of a child, and its arrays in order."""

    def __init__(self, head: dict[str, Any], data: bytearray) -> None:
        self.head, self._data, self._at = head, data, 0

    def take(self, spans: list[list[dict[str, Any]]]) -> list[tuple[np.ndarray[Any, Any], ...]]:
        """The arrays of spans, read-only views."""
        return [tuple(self._array(array) for array in span) for span in spans]

    def _array(self, described: dict[str, Any]) -> np.ndarray[Any, Any]:
        dtype = {"uint8": np.uint8, "float32": np.float32}[described["dtype"]]
        shape = [int(n) for n in described["shape"]]
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(self._data, dtype, count, self._at).reshape(shape)
        self._at += array.nbytes
        return array


class _Child:
    """One process and the socket to it. Used by one thread at a time; `kill` may be called from any."""

    def __init__(self, hello: bytes) -> None:
        self._socket, theirs = socket.socketpair()
        environment = {k: v for k, v in os.environ.items() if k != KEY_VARIABLE}
        environment |= dict.fromkeys(THREADS, "1") | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        program = "from vita.serve.media_child import main; main()"
        command = [sys.executable, "-c", program, str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self._process = subprocess.Popen(
                command, env=environment, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._hello: bytes | None = hello
        self._socket.setblocking(False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, job: bytes, guard: ReadGuard) -> _Answer:
        """Send a job and wait for its answer; the guard is checked every 50 ms.

        Raises:
            _ChildEnded: the process crashed. MediaError, Cancelled: by the guard.
        """
        try:
            hello, self._hello = self._hello, None
            if hello is not None:
                self._send(hello, guard)
            self._send(job, guard)
            head_size, data_size = (int.from_bytes(self._receive(8, guard), "little") for _ in range(2))
            if head_size > MAX_HEAD or data_size > MAX_ANSWER:
                raise _ChildEnded
            head = json.loads(bytes(self._receive(head_size, guard)))
            return _Answer(head, self._receive(data_size, guard))
        except (OSError, ValueError) as error:
            raise _ChildEnded from error

    def _send(self, data: bytes, guard: ReadGuard) -> None:
        view = memoryview(len(data).to_bytes(8, "little") + data)
        while view:
            guard.check("the media of the request")
            if select.select([], [self._socket], [], POLL_SECONDS)[1]:
                view = view[self._socket.send(view[:BLOCK]) :]

    def _receive(self, size: int, guard: ReadGuard) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            guard.check("the media of the request")
            if select.select([self._socket], [], [], POLL_SECONDS)[0]:
                count = self._socket.recv_into(view[:BLOCK])
                if not count:
                    raise _ChildEnded
                view = view[count:]
        return data

    def kill(self) -> None:
        """End the process at once and collect it."""
        self._process.kill()
        self._process.wait()
        self._socket.close()
