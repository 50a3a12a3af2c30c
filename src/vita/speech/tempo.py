"""Change the tempo of speech without its pitch, for voices that have no such setting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST, MOST = 0.5, 2.0  # that one filter does well; a chain multiplies


def change_tempo(samples: NDArray[np.float32], rate: int, tempo: float) -> NDArray[np.float32]:
    """Play faster or slower by FFmpeg's `atempo`.

    Args:
        samples: mono, [n] float32.
        rate: samples per second.
        tempo: 2 halves the duration.

    Returns:
        [round(n / tempo)] float32.
    """
    length = round(len(samples) / tempo)
    if abs(tempo - 1) < 0.01 or not len(samples):
        return samples
    import av
    from av.filter import Graph

    graph = Graph()
    last = graph.add_abuffer(format="flt", sample_rate=rate, layout="mono", time_base=None)
    for factor in _factors(tempo):
        following = graph.add("atempo", f"{factor:.6f}")
        last.link_to(following)
        last = following
    last.link_to(graph.add("abuffersink"))
    graph.configure()
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate = rate
    graph.push(frame)
    graph.push(None)
    blocks: list[NDArray[np.float32]] = []
    while True:
        try:
            blocks.append(graph.pull().to_ndarray()[0])
        except (av.error.EOFError, av.error.BlockingIOError):
            break
    made = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return np.pad(made[:length], (0, max(0, length - len(made)))).astype(np.float32, copy=False)


def _factors(tempo: float) -> list[float]:
    """Factors within one filter's range whose product is the tempo."""
    factors: list[float] = []
    while not LEAST <= tempo <= MOST:
        step = LEAST if tempo < LEAST else MOST
        factors.append(step)
        tempo /= step
    return [*factors, tempo]
