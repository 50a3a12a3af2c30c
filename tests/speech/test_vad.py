"""Voice activity: the wheel's network frame by frame, streams of any cut, no threads, damaged weights."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.forks import Forks
from tests.speech.recordings import noise_bursts, questions, recording, silence

from vita.errors import CheckpointError, RequestError, ResourceError
from vita.speech.resample import StreamResampler
from vita.speech.torchscript import read_tensors
from vita.speech.vad import FRAME, SHAPES, SileroVad, VadStream, find_weights, load_vad


@pytest.fixture(scope="module")
def vad() -> SileroVad:
    return load_vad()


def jit_network() -> Any:
    return torch.jit.load(str(find_weights().with_name("silero_vad.jit")))


def jit_probabilities(network: Any, samples: np.ndarray) -> np.ndarray:
    network.reset_states()
    frames = torch.from_numpy(samples[: len(samples) // FRAME * FRAME]).split(FRAME)
    with torch.inference_mode():
        return np.array([network(frame[None], 16_000).item() for frame in frames])


def clips() -> list[np.ndarray]:
    return [*(recording(name) for name in questions(6)), noise_bursts(0), silence(0.5), 1.5 * noise_bursts(1)]


def test_the_network_is_that_of_the_package(vad: SileroVad) -> None:
    network = jit_network()
    for clip in clips():
        np.testing.assert_allclose(VadStream(vad).feed(clip), jit_probabilities(network, clip), atol=1e-5)


def test_the_weights_are_read_without_running_the_archive() -> None:
    state = jit_network().state_dict()
    tensors = read_tensors(find_weights())
    assert set(state) <= set(tensors)
    for name, value in state.items():
        np.testing.assert_array_equal(tensors[name], value.numpy())


@cache
def heard_at_once() -> tuple[np.ndarray, list[float]]:
    clip = recording("question03")[: 2 * 16_000]
    return clip, VadStream(load_vad()).feed(clip)


@given(st.lists(st.integers(0, 3_000), max_size=12))
@settings(max_examples=25, deadline=None)
def test_any_cut_gives_the_same_probabilities(pieces: list[int]) -> None:
    clip, whole = heard_at_once()
    stream, got = VadStream(load_vad()), []
    at = 0
    for size in [*pieces, len(clip)]:
        got += stream.feed(clip[at : at + size])
        at += size
    assert got == whole
    stream.reset()
    assert stream.feed(clip) == whole


@given(st.sampled_from((8_000, 11_025, 24_000, 44_100, 48_000)), st.lists(st.integers(0, 5_000), max_size=12))
@settings(max_examples=25, deadline=None)
def test_any_cut_is_resampled_alike(rate: int, pieces: list[int]) -> None:
    clip = np.random.default_rng(0).uniform(-1, 1, rate).astype(np.float32)
    stream = StreamResampler(rate, 16_000)
    whole = np.concatenate([stream.feed(clip), stream.finish()])
    got, at = [], 0
    for size in [*pieces, len(clip)]:
        got.append(stream.feed(clip[at : at + size]))
        at += size
    np.testing.assert_array_equal(np.concatenate([*got, stream.finish()]), whole)
    assert len(whole) == 16_000


def test_a_rate_of_no_device_is_refused() -> None:
    for rate in (0, -1, 3_999, 10**7):
        with pytest.raises(RequestError, match="sample rate"):
            StreamResampler(rate, 16_000)


NO_THREADS = """
import os, sys, threading
import numpy, torch
torch.ones(1 << 18).exp()  # PyTorch has its threads
count = torch.get_num_threads()
from vita.speech.torchscript import read_tensors
from vita.speech.vad import VadStream, load_vad
stream, counts = VadStream(load_vad()), []
def compute():
    counts.append(len(os.listdir("/proc/self/task")))
    stream.feed(numpy.random.default_rng(0).random(51_200, numpy.float32))
    counts.append(len(os.listdir("/proc/self/task")))
thread = threading.Thread(target=compute)
thread.start()
thread.join()
assert counts[0] == counts[1], f"voice activity started threads: {counts}"
assert torch.get_num_threads() == count, "voice activity changed PyTorch's number of threads"
assert "silero_vad" not in sys.modules, "the package was imported"
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads by /proc")
def test_it_computes_in_the_calling_thread_only() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"}
    subprocess.run([sys.executable, "-c", NO_THREADS], check=True, timeout=120, env=environment)


def test_wrong_weights_are_listed_in_one_sentence() -> None:
    weights = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    del weights["decoder.rnn.bias_ih"]
    weights["decoder.decoder.2.bias"] = np.zeros(2, np.float32)
    weights["extra"] = np.zeros(1, np.float32)
    with pytest.raises(CheckpointError) as caught:
        SileroVad(weights, name="weights")
    for part in ("decoder.rnn.bias_ih is missing", "extra is unknown", "decoder.decoder.2.bias is float32 [2]"):
        assert part in str(caught.value)


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("exit 1",)


def test_a_damaged_archive_is_one_sentence(tmp_path: Path) -> None:
    good, bad = find_weights().read_bytes(), tmp_path / "bad.jit"
    for content in (
        b"",
        good[:1000],
        good[:-1000],
        b"PX" + good[2:-1000],
        good.replace(b"FloatStorage", b"XloatStorage"),
    ):
        bad.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"bad\.jit: "):
            load_vad(bad)
    for content in (pickle.dumps(Harmful()), pickle.dumps({}), b"", b"\x80"):
        with zipfile.ZipFile(bad, "w") as archive:
            archive.writestr("model/data.pkl", content)
        with pytest.raises(CheckpointError, match=r"bad\.jit: "):
            load_vad(bad)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_vad(tmp_path / "missing.jit")


def test_without_the_package_there_is_one_sentence(forks: Forks) -> None:
    code = "import sys; sys.modules['silero_vad'] = None\nfrom vita.speech.vad import find_weights\nfind_weights()"
    result = forks.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ResourceError.__name__ in result.stderr and "vita-engine[listen]" in result.stderr
