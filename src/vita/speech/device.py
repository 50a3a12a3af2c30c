"""Audio devices that record and play at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vita.errors import ResourceError

Samples = NDArray[np.float32]
INSTALL = "pip install 'vita-engine[listen]'"
BLOCK_SECONDS = 0.01


class DuplexDevice(Protocol):
    """A microphone and a loudspeaker that run by one clock.

    Attributes:
        sample_rate: of both, in Hz.
    """

    sample_rate: int

    def start(self, exchange: Callable[[Samples], Samples], stopped: Callable[[], None]) -> None:
        """Begin.

        Args:
            exchange: called in the device's thread for each block with what was recorded, float32 `[n]`; returns what
                is played at the same time, float32 `[n]`.
            stopped: called once the device runs no more, for instance since it was unplugged.

        Raises:
            ResourceError: the device cannot be used.
        """

    def close(self) -> None:
        """End; `exchange` is not called any more."""


class DefaultDevice:
    """The system's default microphone and loudspeaker, by the optional package sounddevice.

    Raises:
        ResourceError: the package or its library is missing, or there is no such device.
    """

    def __init__(self) -> None:
        try:
            import sounddevice
        except ImportError as error:
            raise ResourceError("listening needs the package sounddevice", fix=INSTALL) from error
        except OSError as error:
            raise ResourceError(
                "listening needs the library PortAudio", fix="install it, for instance apt install libportaudio2"
            ) from error
        self._library: Any = sounddevice
        self._stream: Any = None
        rates = []
        for kind, name in (("input", "microphone"), ("output", "loudspeaker")):
            try:
                rates.append(int(sounddevice.query_devices(kind=kind)["default_samplerate"]))
            except (sounddevice.PortAudioError, ValueError) as error:
                raise ResourceError(
                    f"this machine has no {name}", fix="attach one, or pass a recording with --audio FILE"
                ) from error
        self.sample_rate = rates[1]

    def start(self, exchange: Callable[[Samples], Samples], stopped: Callable[[], None]) -> None:
        """See `DuplexDevice`."""

        def block(recorded: Samples, played: Samples, frames: int, time: object, status: object) -> None:
            played[:, 0] = exchange(recorded[:, 0].copy())

        try:
            self._stream = self._library.Stream(
                samplerate=self.sample_rate, blocksize=int(self.sample_rate * BLOCK_SECONDS), channels=1,
                dtype="float32", callback=block, finished_callback=stopped,
            )  # fmt: skip
            self._stream.start()
        except self._library.PortAudioError as error:
            raise ResourceError(f"the microphone cannot be used ({error})", fix="close what else uses it") from error

    def close(self) -> None:
        """See `DuplexDevice`."""
        if self._stream is not None:
            self._stream.close()
