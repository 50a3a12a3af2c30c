"""The decode process: reads jobs from a socket, decodes media within limits, sends arrays back.

Started by `media_process`. It imports neither torch nor the web framework.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import time
from typing import Any

from vita.errors import Cancelled, VitaError
from vita.media.policy import ReadGuard
from vita.prompt.template import Media
from vita.prompt.turn_reader import PreparedTurn, TurnReader
from vita.runtime.clock import Stopwatch

SPARE_CPU_SECONDS = 5
PARENT_SECONDS = 1.0  # between two looks whether the server still lives


def main() -> None:
    """Serve jobs until the server closes the socket."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group, and requests in progress go on
        signal.signal(number, signal.SIG_IGN)
    descriptor, server = map(int, sys.argv[1:])
    connection = socket.socket(fileno=descriptor)
    first = _receive(connection)
    if first is None:
        return
    config, limits = pickle.loads(first)  # from the server: its own objects
    _warm_up()
    resource.setrlimit(resource.RLIMIT_AS, (limits.media_bytes, limits.media_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with, args=(server,), daemon=True).start()
    reader = TurnReader(config)
    while (job := _receive(connection)) is not None:
        message, options, seconds = pickle.loads(job)
        _limit_cpu(limits.media_seconds if seconds is None else seconds)
        _answer(connection, reader, message, options, seconds)


def _warm_up() -> None:
    """Import what decoding imports on first use, before memory is limited."""
    import av
    import soundfile
    import soxr
    from PIL import Image

    from vita.media import fetch, video_frames

    Image.init()
    assert av and soundfile and soxr and fetch and video_frames


def _answer(connection: socket.socket, reader: TurnReader, message: Any, options: Any, seconds: float | None) -> None:
    watch = Stopwatch()
    try:
        prepared = reader.read_turn(message, options, watch, ReadGuard.start(seconds))
        head, buffers = _described(prepared, watch)
    except VitaError as error:
        head, buffers = _error(type(error).__name__, error.what, error.where, error.fix), []
    except (MemoryError, Cancelled):
        head, buffers = _error("MediaError", "does not fit in memory", None, "send a smaller file"), []
    except Exception as error:  # a decoder's own kind of error: a damaged file
        head, buffers = _error("MediaError", f"cannot be decoded ({type(error).__name__})", None, None), []
    packed = json.dumps(head).encode()
    size = sum(len(buffer) for buffer in buffers)
    connection.sendall(len(packed).to_bytes(8, "little") + size.to_bytes(8, "little") + packed)
    for buffer in buffers:
        connection.sendall(buffer)


def _described(prepared: PreparedTurn, watch: Stopwatch) -> tuple[dict[str, Any], list[memoryview]]:
    """A turn as JSON, and the bytes of its arrays in order."""
    buffers: list[memoryview] = []
    pieces: list[dict[str, Any]] = []
    for piece in prepared.pieces:
        if not isinstance(piece, Media):
            pieces.append({"kind": "text"})
            continue
        spans = []
        for span in piece.spans:
            spans.append([{"dtype": str(array.dtype), "shape": list(array.shape)} for array in span.data])
            buffers += [memoryview(array.tobytes()) for array in span.data]
        size = {"width": piece.width, "height": piece.height, "seconds": piece.seconds}
        pieces.append({"kind": piece.kind, "spans": spans, **size})
    head = {
        "pieces": pieces, "images": prepared.images, "audio_seconds": prepared.audio_seconds,
        "notes": list(prepared.notes), "seconds": watch.seconds,
    }  # fmt: skip
    return head, buffers


def _error(kind: str, what: str, where: str | None, fix: str | None) -> dict[str, Any]:
    return {"error": {"class": kind, "what": what, "where": where, "fix": fix}}


def _limit_cpu(seconds: float) -> None:
    """The kernel ends the process if one job takes more CPU time than this: the server may be gone by then."""
    used = int(time.process_time()) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = used + int(seconds) + SPARE_CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def _end_with(server: int) -> None:
    """End when the server has ended, also in the middle of a job."""
    while os.getppid() == server:
        time.sleep(PARENT_SECONDS)
    os._exit(0)


def _receive(connection: socket.socket) -> bytes | None:
    """One message; None at the end."""
    size = _exactly(connection, 8)
    return None if size is None else _exactly(connection, int.from_bytes(size, "little"))


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            return None
        view = view[count:]
    return bytes(data)
