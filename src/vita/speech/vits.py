"""VITS, the network of Piper's voices: phonemes to latent frames, and a decoder that makes audio window by window.

The file holds one graph that makes a whole sentence. It is cut where the latent frames enter the decoder, whose
convolutions see `CONTEXT` frames to both sides: audio made in windows is that of the whole, and the first of it is
there after a third of the time. Kim, Kong and Son 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

DECODER_WEIGHT = "dec.conv_pre.weight"  # of the decoder's first convolution
CONTEXT = 12  # frames beside a window that its audio depends on
# Frames of a window: of the first where nothing is heard yet, of the first otherwise, and the most. They double:
# while one is heard the next is made.
FIRST_FRAMES, LATER_FRAMES, MAX_FRAMES = 14, 32, 64


class VitsNetwork:
    """The two parts on onnxruntime, with one thread, so that the others are the model's.

    Args:
        path: an ONNX file that Piper exported.

    Raises:
        ValueError: the file is no ONNX graph, or has no such decoder.
        OSError, RuntimeError: it cannot be read, or onnxruntime refuses it.
    """

    def __init__(self, path: Path) -> None:
        encoder, decoder, self._latents = _cut(path)
        self._encoder, self._decoder = _session(encoder), _session(decoder)

    def latents(self, phonemes: list[int], *, noise: float, length: float, noise_width: float) -> NDArray[np.float32]:
        """The latent frames of one sentence: float32 `[1, channels, frames]`.

        Args:
            phonemes: ids.
            noise, length, noise_width: Piper's `noise_scale`, `length_scale` and `noise_w_scale`.
        """
        given = {
            "input": np.array([phonemes], np.int64),
            "input_lengths": np.array([len(phonemes)], np.int64),
            "scales": np.array([noise, length, noise_width], np.float32),
        }
        latents: NDArray[np.float32] = self._encoder.run(None, given)[0]
        return latents

    def decode(self, latents: NDArray[np.float32], *, first: bool) -> Iterator[NDArray[np.float32]]:
        """The audio of latent frames, window by window; the next one is computed when it is asked for.

        Args:
            latents: float32 `[1, channels, frames]`.
            first: nothing is heard yet: the first window is as short as possible.

        Yields:
            Mono audio, float32 `[n]`, in -1..1.
        """
        frames, start, size = latents.shape[2], 0, FIRST_FRAMES if first else LATER_FRAMES
        while start < frames:
            end = start + size if start + size + CONTEXT < frames else frames  # a short rest goes along
            before, after = max(0, start - CONTEXT), min(frames, end + CONTEXT)
            window = np.ascontiguousarray(latents[:, :, before:after])
            audio: NDArray[np.float32] = self._decoder.run(None, {self._latents: window})[0].reshape(-1)
            samples = len(audio) // (after - before)  # of a frame
            yield np.clip(audio[(start - before) * samples : (end - before) * samples], -1, 1)
            start, size = end, min(2 * size, MAX_FRAMES)


def _cut(path: Path) -> tuple[bytes, bytes, str]:
    """The two parts as ONNX files, and the name of the latent frames."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path)
    except DecodeError as error:
        raise ValueError("it is no ONNX file") from error
    convolutions = [node for node in model.graph.node if DECODER_WEIGHT in node.input]
    if len(convolutions) != 1:
        raise ValueError(f"its graph has no decoder that begins with {DECODER_WEIGHT}")
    latents = convolutions[0].input[0]
    inputs, outputs = ([value.name for value in values] for values in (model.graph.input, model.graph.output))
    extractor = onnx.utils.Extractor(model)
    parts = ((inputs, [latents]), ([latents], outputs[:1]))
    encoder, decoder = (extractor.extract_model(*part).SerializeToString() for part in parts)
    return encoder, decoder, latents


def _session(model: bytes) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])
