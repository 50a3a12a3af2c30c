"""Play audio on the default output device, by the optional package sounddevice."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from vita.errors import ResourceError
from vita.speech.voice import PIECE, SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Player:
    """The default output device. `write` never blocks, so that a text is not printed at the pace of its speech.

    Raises:
        ResourceError: sounddevice is not installed, or there is no device.
    """

    def __init__(self) -> None:
        try:
            import sounddevice
        except ImportError as error:
            raise ResourceError(
                "the package sounddevice is not installed", where="play", fix='run pip install "vita-engine[play]"'
            ) from error
        except OSError as error:
            raise ResourceError(f"{error}", where="play", fix="install the library PortAudio") from error
        try:
            self._stream = sounddevice.OutputStream(samplerate=SAMPLE_RATE, channels=1, dtype="float32")
            self._stream.start()
        except sounddevice.PortAudioError as error:
            raise ResourceError(
                f"there is no audio output device ({error})", where="play", fix="write a file instead"
            ) from error
        self._queue: queue.SimpleQueue[NDArray[np.float32] | None] = queue.SimpleQueue()
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._play, name="vita-play", daemon=True)
        self._thread.start()

    def _play(self) -> None:
        while (samples := self._queue.get()) is not None:
            if self._stopped:
                continue
            try:
                self._stream.write(samples[:, None])
            except BaseException as error:
                self._error, self._stopped = error, True

    def write(self, samples: NDArray[np.float32]) -> None:
        """Play mono audio at 24 kHz after what was written before.

        Raises:
            ResourceError: the device is gone.
        """
        if self._error is not None:
            raise ResourceError(f"the audio device failed ({self._error})", where="play") from self._error
        for start in range(0, len(samples), PIECE):
            self._queue.put(samples[start : start + PIECE])

    def stop(self) -> None:
        """Drop what is not played yet."""
        self._stopped = True

    def __enter__(self) -> Player:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all is played; after an error, stop at once."""
        if kind is not None:
            self.stop()
        self._queue.put(None)
        self._thread.join()
        if self._stopped:
            self._stream.abort()
        else:
            self._stream.stop()
        self._stream.close()
