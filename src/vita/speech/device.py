"""Audio devices, by the optional package sounddevice: playing, and recording while playing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vita.errors import ResourceError
from vita.speech.extras import install

Samples = NDArray[np.float32]
Direction = Literal["input", "output"]
NAMES: dict[Direction, str] = {"input": "microphone", "output": "loudspeaker"}
PORTAUDIO = "install it, for instance apt install libportaudio2"
# What works without a device.
INSTEAD: dict[Direction, str] = {
    "input": "pass a recording with --audio FILE", "output": "write a file: vita ask --speak FILE, vita say -o FILE"
}  # fmt: skip
USES = {"play": "playing on the audio device (--play)", "listen": "--listen"}
BLOCK_SECONDS = 0.01


class OutputDevice(Protocol):
    """A loudspeaker that is open.

    Attributes:
        latency: seconds from `write` until the audio is heard.
    """

    @property
    def latency(self) -> float: ...

    def write(self, samples: Samples) -> object:
        """Play mono audio, float32 `[n, 1]`; blocks while the device's buffer is full."""

    def stop(self) -> object:
        """End once all is played."""

    def abort(self) -> object:
        """End at once."""

    def close(self) -> object:
        """Free the device."""


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


def load_sounddevice(extra: str, instead: str = "") -> Any:
    """The package sounddevice.

    Args:
        extra: of this package that brings it: "play" or "listen".
        instead: what works without it, for the error.

    Raises:
        ResourceError: it, or the library PortAudio, is not installed.
    """
    try:
        import sounddevice
    except ImportError as error:
        what = f"{USES[extra]} needs the package sounddevice, which is not installed"
        raise ResourceError(what, fix=_or(install(extra), instead)) from error
    except OSError as error:
        what = f"{USES[extra]} needs the library PortAudio, which is not installed"
        raise ResourceError(what, fix=_or(PORTAUDIO, instead)) from error
    return sounddevice


def _or(fix: str, instead: str) -> str:
    return f"{fix}, or {instead}" if instead else fix


def default_device(library: Any, direction: Direction, fix: str = "attach one") -> dict[str, Any]:
    """What sounddevice says of the system's default device, such as its "name" and "default_samplerate".

    Args:
        library: sounddevice.
        direction: of the audio.
        fix: what to do if there is none.

    Raises:
        ResourceError: there is none.
    """
    try:
        return dict(library.query_devices(kind=direction))
    except (library.PortAudioError, ValueError) as error:
        raise ResourceError(f"this machine has no {NAMES[direction]}", fix=fix) from error


def open_output(sample_rate: int) -> OutputDevice:
    """The system's default loudspeaker, started.

    Args:
        sample_rate: of the audio, in Hz.

    Raises:
        ResourceError: sounddevice is not installed, or there is no such device, or another program holds it.
    """
    library = load_sounddevice("play", INSTEAD["output"])
    default_device(library, "output", _or("attach one", INSTEAD["output"]))
    stream: Any = None
    try:
        stream = library.OutputStream(samplerate=sample_rate, channels=1, dtype="float32")
        stream.start()
    except (library.PortAudioError, ValueError, OSError) as error:
        if stream is not None:
            stream.close()
        raise _in_use("output", error) from error
    device: OutputDevice = stream
    return device


def _in_use(direction: Direction, error: Exception) -> ResourceError:
    fix = _or("close what else uses it", INSTEAD[direction])
    return ResourceError(f"the {NAMES[direction]} cannot be used ({error})", fix=fix)


class DefaultDevice:
    """The system's default microphone and loudspeaker.

    Raises:
        ResourceError: sounddevice is not installed, or there is no such device.
    """

    def __init__(self) -> None:
        self._library = load_sounddevice("listen", INSTEAD["input"])
        self._stream: Any = None
        fix = _or("attach one", INSTEAD["input"])
        default_device(self._library, "input", fix)
        self.sample_rate = int(default_device(self._library, "output", fix)["default_samplerate"])

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
        except (self._library.PortAudioError, ValueError, OSError) as error:
            self.close()
            raise _in_use("input", error) from error

    def close(self) -> None:
        """See `DuplexDevice`."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
