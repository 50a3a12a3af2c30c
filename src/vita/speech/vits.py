"""VITS, the network of Piper's voices, in three parts: the audio of a sentence is made window by window.

phonemes → encoder → prior frames → flow → latent frames → decoder → audio. Piper's file holds one graph that makes a
whole sentence. It is cut before the flow and before the decoder, whose convolutions see some frames to both sides:
audio made in windows is that of the whole, and the first of it is there after a third of the time. Kim, Kong and Son
2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto
    from onnxruntime import InferenceSession

FLOW_WEIGHT, DECODER_WEIGHT = "flow.flows.6.pre.weight", "dec.conv_pre.weight"  # of their first convolutions
FLOW_CONTEXT, CONTEXT = 32, 12  # frames beside a window that the flow's and the decoder's results depend on
SILENT_KEPT = 6  # frames of the silence before a sentence, whose length is drawn: up to 0.4 s
# Frames of a window: of the first where nothing is heard yet, of the first otherwise, and the most. They double:
# while one is heard the next is made.
FIRST_FRAMES, LATER_FRAMES, MAX_FRAMES = 14, 32, 64


class VitsNetwork:
    """The three parts on onnxruntime, with one thread, so that the others are the model's.

    Args:
        path: an ONNX file that Piper exported.

    Raises:
        ValueError: the file is no ONNX graph, or the graph of another network.
        OSError, RuntimeError: it cannot be read, or onnxruntime refuses it.
    """

    def __init__(self, path: Path) -> None:
        from onnx.utils import Extractor

        model = _read(path)
        inputs, outputs = ([value.name for value in values] for values in (model.graph.input, model.graph.output))
        durations, prior, mask, latent = _borders(model)
        extractor = Extractor(model)
        self._encoder = _session(extractor.extract_model(inputs, [prior, durations]))
        self._flow = _session(extractor.extract_model([prior, mask], [latent]))
        self._decoder = _session(extractor.extract_model([latent], outputs[:1]))
        self._prior, self._mask, self._latent = prior, mask, latent  # names of the tensors

    def priors(self, phonemes: list[int], *, noise: float, length: float, noise_width: float) -> NDArray[np.float32]:
        """The prior frames of one sentence, without most of the silence before it: float32 `[1, channels, frames]`.

        Args:
            phonemes: ids; the first one is the silence.
            noise, length, noise_width: Piper's `noise_scale`, `length_scale` and `noise_w_scale`.
        """
        given = {
            "input": np.array([phonemes], np.int64),
            "input_lengths": np.array([len(phonemes)], np.int64),
            "scales": np.array([noise, length, noise_width], np.float32),
        }
        frames, durations = self._encoder.run(None, given)  # [1, channels, frames] and [1, 1, phonemes]
        silent = int(durations[0, 0, 0])
        cut: NDArray[np.float32] = frames[:, :, max(0, silent - SILENT_KEPT) :]
        return cut

    def decode(self, priors: NDArray[np.float32], *, first: bool) -> Iterator[NDArray[np.float32]]:
        """The audio of prior frames, window by window; the next one is computed when it is asked for.

        Args:
            priors: float32 `[1, channels, frames]`.
            first: nothing is heard yet: the first window is as short as possible.

        Yields:
            Mono audio, float32 `[n]`, in -1..1.
        """
        latents, frames = priors[:, :, :0], priors.shape[2]  # the latents so far, [1, channels, known]
        start, size = 0, FIRST_FRAMES if first else LATER_FRAMES
        while start < frames:
            end = start + size if start + size + CONTEXT < frames else frames  # a short rest goes along
            before, after = max(0, start - CONTEXT), min(frames, end + CONTEXT)
            known = latents.shape[2]
            if known < after:  # of all frames, unless the first window is in a hurry
                short = first and not known and after + FLOW_CONTEXT < frames
                more = self._latents(priors, known, after if short else frames)
                latents = np.concatenate([latents, more], axis=2)
            window = np.ascontiguousarray(latents[:, :, before:after])
            audio: NDArray[np.float32] = self._decoder.run(None, {self._latent: window})[0].reshape(-1)
            samples = len(audio) // (after - before)  # of a frame
            yield np.clip(audio[(start - before) * samples : (end - before) * samples], -1, 1)
            start, size = end, min(2 * size, MAX_FRAMES)

    def _latents(self, priors: NDArray[np.float32], start: int, end: int) -> NDArray[np.float32]:
        """The latent frames from `start` to `end`: float32 `[1, channels, end - start]`."""
        before, after = max(0, start - FLOW_CONTEXT), min(priors.shape[2], end + FLOW_CONTEXT)
        window = np.ascontiguousarray(priors[:, :, before:after])
        given = {self._prior: window, self._mask: np.ones((1, 1, after - before), np.float32)}
        latents: NDArray[np.float32] = self._flow.run(None, given)[0]
        return latents[:, :, start - before : end - before]


def _read(path: Path) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(path)
    except DecodeError as error:
        raise ValueError("it is no ONNX file") from error


def _borders(model: ModelProto) -> tuple[str, str, str, str]:
    """Names of the tensors where the graph is cut: the phonemes' durations, the prior frames, their mask and the latent
    frames."""
    producers = {name: node for node in model.graph.node for name in node.output}

    def convolution(weight: str) -> NodeProto:
        found = [node for node in model.graph.node if weight in node.input]
        if len(found) != 1:
            raise ValueError(f"its graph is not that of VITS: {weight} is used {len(found)} times, not once")
        return found[0]

    flow = convolution(FLOW_WEIGHT)
    masked = [node for node in model.graph.node if flow.output[0] in node.input and len(node.input) == 2]
    split = producers.get(flow.input[0])  # the flow takes one half of the channels,
    flipped = producers.get(split.input[0]) if split is not None else None  # which it has reversed
    if flipped is None or len(masked) != 1:
        raise ValueError("its graph is not that of VITS: the flow does not begin as it does there")
    rounded = [node for node in model.graph.node if node.op_type == "Ceil"]
    if len(rounded) != 1:
        raise ValueError("its graph is not that of VITS: durations are not made once")
    return rounded[0].output[0], flipped.input[0], masked[0].input[1], convolution(DECODER_WEIGHT).input[0]


def _session(part: ModelProto) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        part.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
    )
