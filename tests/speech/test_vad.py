"""Voice activity: the wheel's network frame by frame, streams of any cut, no threads, damaged weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tests.speech.recordings import noise_bursts, questions, recording, silence

from vita.errors import CheckpointError, RequestError, ResourceError
from vita.speech.resample import StreamResampler
from vita.speech.vad import FRAME, SHAPES, SileroVad, VadStream, find_weights, load_vad

JIT_NAMES = {
    "stft_conv.weight": "stft.forward_basis_buffer",
    "final_conv.weight": "decoder.decoder.2.weight", "final_conv.bias": "decoder.decoder.2.bias",
    **{f"conv{n}.{kind}": f"encoder.{n - 1}.reparam_conv.{kind}" for n in range(1, 5) for kind in ("weight", "bias")},
    **{f"lstm_cell.{n}": f"decoder.rnn.{n}" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
}  # fmt: skip


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


def test_the_network_is_that_of_the_jit_file() -> None:
    """With the jit file's own weights, which are another training than the safetensors file's."""
    network = jit_network()
    state = network.state_dict()
    ours = SileroVad({name: state[f"_model.{theirs}"].numpy() for name, theirs in JIT_NAMES.items()})
    for clip in clips():
        np.testing.assert_allclose(VadStream(ours).feed(clip), jit_probabilities(network, clip), atol=1e-5)


def test_the_network_with_the_weights_it_is_used_with(vad: SileroVad) -> None:
    """The jit file's graph computes with the weights of the safetensors file."""
    network = jit_network()
    state = network.state_dict()
    for name, value in load_file(find_weights()).items():
        state[f"_model.{JIT_NAMES[name]}"].copy_(torch.from_numpy(value))
    for clip in clips():
        np.testing.assert_allclose(VadStream(vad).feed(clip), jit_probabilities(network, clip), atol=1e-5)


@given(st.lists(st.integers(0, 3_000), max_size=12))
@settings(max_examples=25, deadline=None)
def test_any_cut_gives_the_same_probabilities(pieces: list[int]) -> None:
    clip, stream, got = recording("question03")[: 2 * 16_000], VadStream(load_vad()), []
    whole = VadStream(load_vad()).feed(clip)
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


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    weights = load_file(find_weights())
    del weights["conv2.bias"]
    weights["conv1.weight"] = weights["conv1.weight"][:, :5].copy()
    weights["extra"] = np.zeros(1, np.float32)
    save_file(weights, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_vad(tmp_path / "bad.safetensors")
    for part in ("conv2.bias is missing", "extra is unknown", "conv1.weight is float32 [128, 5, 3]", "bad.safetensors"):
        assert part in str(caught.value)
    (tmp_path / "cut.safetensors").write_bytes(find_weights().read_bytes()[:1000])
    for name in ("cut.safetensors", "missing.safetensors"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_vad(tmp_path / name)
    assert set(SHAPES) == set(load_file(find_weights()))


def test_without_the_package_there_is_one_sentence() -> None:
    code = "import sys; sys.modules['silero_vad'] = None\nfrom vita.speech.vad import find_weights\nfind_weights()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ResourceError.__name__ in result.stderr and "vita-engine[listen]" in result.stderr
