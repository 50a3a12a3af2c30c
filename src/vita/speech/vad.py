"""Voice activity: the probability of speech for every 32 ms of audio.

The network is Silero's, its weights are those of the installed package `silero-vad`. The package is not imported: its
import sets the number of PyTorch threads of the whole process. The weights are read from its TorchScript file; those of
its safetensors file are another training, which takes three times as many bursts of noise for speech.

The network is computed with NumPy's `einsum`, which never starts threads. PyTorch's matrix products do, and then a
frame takes 13 to 18 ms instead of 0.2 ms on cores that other processes use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vita.errors import CheckpointError, ResourceError
from vita.speech.extras import install
from vita.speech.torchscript import read_tensors

Samples: TypeAlias = NDArray[np.float32]

SAMPLE_RATE = 16_000
FRAME = 512  # samples of a frame, 32 ms
CONTEXT = 64  # samples of the frame before that the network sees with each frame
WINDOW, HOP = 256, 128  # of the short-time Fourier transform, in samples
BINS = WINDOW // 2 + 1
WIDTH = 128  # of the LSTM

SHAPES: dict[str, tuple[int, ...]] = {
    "stft.forward_basis_buffer": (2 * BINS, 1, WINDOW),
    "encoder.0.reparam_conv.weight": (128, BINS, 3), "encoder.0.reparam_conv.bias": (128,),
    "encoder.1.reparam_conv.weight": (64, 128, 3), "encoder.1.reparam_conv.bias": (64,),
    "encoder.2.reparam_conv.weight": (64, 64, 3), "encoder.2.reparam_conv.bias": (64,),
    "encoder.3.reparam_conv.weight": (WIDTH, 64, 3), "encoder.3.reparam_conv.bias": (WIDTH,),
    "decoder.rnn.weight_ih": (4 * WIDTH, WIDTH), "decoder.rnn.bias_ih": (4 * WIDTH,),
    "decoder.rnn.weight_hh": (4 * WIDTH, WIDTH), "decoder.rnn.bias_hh": (4 * WIDTH,),
    "decoder.decoder.2.weight": (1, WIDTH, 1), "decoder.decoder.2.bias": (1,),
}  # fmt: skip
MODEL = "_model."  # of 16 kHz, in the file
STRIDES = (1, 2, 2, 1)  # of the convolutions


def find_weights() -> Path:
    """The file of weights in the installed package `silero-vad`, which is not imported.

    Raises:
        ResourceError: the package is not installed, or has no such file.
    """
    spec = find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise ResourceError("voice activity needs the package silero-vad", fix=install("listen"))
    path = Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.jit"
    if not path.is_file():
        raise ResourceError("this version of silero-vad has no such file", where=path, fix=f"{install('listen')} -U")
    return path


def load_vad(path: Path | None = None) -> SileroVad:
    """Read the weights.

    Args:
        path: a file of Silero's weights; None: that of the installed package.

    Raises:
        ResourceError: the package is not installed. CheckpointError: the file is damaged or holds another network.
    """
    path = path or find_weights()
    tensors = read_tensors(path)
    model = {name.removeprefix(MODEL): value for name, value in tensors.items() if name.startswith(MODEL)}
    return SileroVad({name: value for name, value in model.items() if value.size and name in SHAPES}, name=str(path))


@dataclass(frozen=True, eq=False)
class VadState:
    """What the network remembers of one stream. Never changed in place.

    Attributes:
        context: float32 `[64]`, the end of the frame before.
        hidden: float32 `[128]`, of the LSTM.
        cell: float32 `[128]`, of the LSTM.
    """

    context: Samples
    hidden: Samples
    cell: Samples

    @classmethod
    def initial(cls) -> VadState:
        """Before the first frame."""
        return cls(np.zeros(CONTEXT, np.float32), np.zeros(WIDTH, np.float32), np.zeros(WIDTH, np.float32))


class SileroVad:
    """The network. It holds weights only, so threads and streams may share it.

    Args:
        weights: by the names and shapes of `SHAPES`, float32.
        name: of the file, for errors.

    Raises:
        CheckpointError: weights that are missing, unknown, or of another shape or dtype; one error lists them all.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], name: str = "silero-vad") -> None:
        wrong = [f"{key} is missing" for key in SHAPES if key not in weights]
        wrong += [f"{key} is unknown" for key in weights if key not in SHAPES]
        for key, shape in SHAPES.items():
            value = weights.get(key)
            if value is not None and (value.shape != shape or value.dtype != np.float32):
                wrong.append(f"{key} is {value.dtype} {list(value.shape)}, not float32 {list(shape)}")
        if wrong:
            raise CheckpointError(f"does not hold Silero's network for 16 kHz: {'; '.join(wrong)}", where=name)
        self._fourier = weights["stft.forward_basis_buffer"][:, 0].copy()  # [258, 256]
        self._convolutions = []
        for number, stride in enumerate(STRIDES):
            weight, bias = (weights[f"encoder.{number}.reparam_conv.{kind}"] for kind in ("weight", "bias"))
            # Taps before channels, as the windows of `_convolve` have them: [out, 3 * in].
            self._convolutions.append((weight.transpose(0, 2, 1).reshape(len(weight), -1).copy(), bias, stride))
        self._recurrent = np.concatenate([weights["decoder.rnn.weight_ih"], weights["decoder.rnn.weight_hh"]], axis=1)
        self._recurrent_bias = weights["decoder.rnn.bias_ih"] + weights["decoder.rnn.bias_hh"]  # [512]
        self._output, self._output_bias = (
            weights["decoder.decoder.2.weight"][0, :, 0],
            weights["decoder.decoder.2.bias"],
        )

    def probability(self, frame: Samples, state: VadState) -> tuple[float, VadState]:
        """The probability that a frame holds speech.

        Args:
            frame: float32 `[512]` at 16 kHz.
            state: after the frame before.

        Returns:
            The probability, and the state after this frame.
        """
        window = np.concatenate([state.context, frame])  # [576]
        padded = np.concatenate([window, window[-2 : -CONTEXT - 2 : -1]])  # [640], reflected at the end
        spectrum = np.einsum("oi,ti->to", self._fourier, _windows(padded, WINDOW, HOP))  # [4, 258]
        x = np.sqrt(spectrum[:, :BINS] ** 2 + spectrum[:, BINS:] ** 2)  # [4, 129]
        for weight, bias, stride in self._convolutions:
            x = _convolve(x, weight, bias, stride)  # [4, 128], [2, 64], [1, 64], [1, 128]
        both = np.concatenate([x[0], state.hidden])  # [256]
        gates = np.einsum("oi,i->o", self._recurrent, both) + self._recurrent_bias  # [512]
        add, keep, new, out = gates[:WIDTH], gates[WIDTH : 2 * WIDTH], gates[2 * WIDTH : 3 * WIDTH], gates[3 * WIDTH :]
        cell = _sigmoid(keep) * state.cell + _sigmoid(add) * np.tanh(new)  # [128]
        hidden = _sigmoid(out) * np.tanh(cell)  # [128]
        logit = np.einsum("i,i->", np.maximum(hidden, 0), self._output) + self._output_bias
        return float(_sigmoid(logit)[0]), VadState(window[-CONTEXT:].copy(), hidden, cell)


class VadStream:
    """Probabilities of one stream of audio, fed in pieces of any length. One thread at a time.

    Args:
        vad: the network, which streams share.
    """

    def __init__(self, vad: SileroVad) -> None:
        self._vad = vad
        self.reset()

    def reset(self) -> None:
        """As before the first piece."""
        self.state = VadState.initial()
        self._pending = np.zeros(0, np.float32)  # less than a frame

    def feed(self, samples: Samples) -> list[float]:
        """Take the next samples, float32 `[n]` at 16 kHz, and return the probability of every frame they complete."""
        pending = np.concatenate([self._pending, samples])
        frames = len(pending) // FRAME
        probabilities = []
        for number in range(frames):
            value, self.state = self._vad.probability(pending[number * FRAME : (number + 1) * FRAME], self.state)
            probabilities.append(value)
        self._pending = pending[frames * FRAME :]
        return probabilities


def _windows(x: Samples, size: int, step: int) -> Samples:
    """Every `step`-th stretch of `size` values of `x`, one a row."""
    windows: Samples = np.lib.stride_tricks.sliding_window_view(x, size)[::step]
    return windows


def _convolve(x: Samples, weight: Samples, bias: Samples, stride: int) -> Samples:
    """A convolution of three taps, padded with zeros, and ReLU: `[t, in]` to `[t / stride, out]`."""
    frames, channels = x.shape
    padded = np.zeros((frames + 2, channels), np.float32)
    padded[1:-1] = x
    windows = _windows(padded.reshape(-1), 3 * channels, stride * channels)
    out: Samples = np.maximum(np.einsum("oi,ti->to", weight, windows) + bias, 0)
    return out


def _sigmoid(x: Samples) -> Samples:
    """Of any size without overflow."""
    out: Samples = 0.5 * (1 + np.tanh(0.5 * x))
    return out
