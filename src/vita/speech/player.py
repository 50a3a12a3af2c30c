"""Player: audio at 24 kHz onto the loudspeaker, and how much of it was heard."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from vita.errors import ResourceError
from vita.speech.device import OutputDevice, open_output
from vita.speech.voice import PIECE, SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

POLL_SECONDS = 0.2  # Ctrl-C is noticed so often on every system


class Player:
    """A loudspeaker. `write` never blocks, so that a text is not printed at the pace of its speech.

    Args:
        device: started, for mono audio at 24 kHz; None: the system's default.

    Raises:
        ResourceError: sounddevice is not installed, or there is no device.
    """

    def __init__(self, device: OutputDevice | None = None) -> None:
        self._device = open_output(SAMPLE_RATE) if device is None else device
        self._queue: queue.SimpleQueue[NDArray[np.float32] | None] = queue.SimpleQueue()
        self._stopped = False
        self._written = 0  # samples that the device has taken
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._play, name="vita-play", daemon=True)
        self._thread.start()

    def _play(self) -> None:
        try:
            while (samples := self._queue.get()) is not None and not self._stopped:
                self._device.write(samples[:, None])
                self._written += len(samples)
        except BaseException as error:
            self._error = error

    def write(self, samples: NDArray[np.float32]) -> None:
        """Play mono audio, [n] float32, after what was written before.

        Raises:
            ResourceError: the device is gone.
        """
        self._check()
        for start in range(0, len(samples), PIECE):
            self._queue.put(samples[start : start + PIECE])

    def _check(self) -> None:
        if self._error is not None:
            raise ResourceError(
                f"the loudspeaker has failed ({self._error})", fix="attach it and start again"
            ) from self._error

    @property
    def heard(self) -> int:
        """Samples that were heard so far, never too many; the pieces in the device's buffer do not count."""
        return max(0, self._written - round(self._device.latency * SAMPLE_RATE))

    def wait(self) -> None:
        """Block until the device has taken all that was written; nothing can be written after it.

        Raises:
            ResourceError: the device is gone.
        """
        self._queue.put(None)
        while self._thread.is_alive():
            self._thread.join(POLL_SECONDS)
        self._check()

    def stop(self) -> int:
        """Drop what is not played yet; a piece of 80 ms may still be heard. Returns `heard`, the samples until now."""
        self._stopped = True
        self._queue.put(None)
        return self.heard

    def __enter__(self) -> Player:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all is played; after an error, stop at once.

        Raises:
            ResourceError: the device is gone, unless the block ends by another error.
        """
        try:
            if kind is None and not self._stopped:
                self.wait()
        except BaseException:
            self._end(at_once=True)
            raise
        self._end(at_once=self._stopped or kind is not None)
        if kind is None and not self._stopped:
            self._check()

    def _end(self, *, at_once: bool) -> None:
        if at_once:
            self.stop()
            self._thread.join()  # a stream of PortAudio is used by one thread at a time
        for call in (self._device.abort if at_once else self._device.stop, self._device.close):
            try:
                call()
            except Exception as error:  # whatever the device's library raises; `__exit__` tells
                self._error = self._error or error
